"""Directions without labels: those in which a step in x moves the bottleneck h of the network most."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_edit.directions.direction import Direction, to_unit
from ddim_edit.directions.krylov import leading_eigenvectors
from ddim_edit.errors import ArgumentError, DirectionError, NonFiniteError
from ddim_edit.latents.cache import LatentArray
from ddim_edit.memory import AdaptiveBatcher
from ddim_edit.models.differentiation import BottleneckJacobian

STEP = 1.0
"""The sd of these directions: that of the noise in x_T along any unit vector."""


class _Pair(NamedTuple):
    """What one row of a batch multiplies: the Jacobian at an image, and a vector, by their numbers."""

    image: int
    vector: int


def jacobian_directions(
    jacobian: BottleneckJacobian,
    latents: LatentArray,
    count: int,
    *,
    batches: AdaptiveBatcher,
    iterations: int = 12,
    tolerance: float = 0.01,
    seed: int = 0,
    on_evaluation: Callable[[int], object] | None = None,
) -> list[Direction]:
    """Return the directions of x that move h most, by unit step: see `Editor.discover`.

    They are the leading eigenvectors of the mean of J^T J over the images, J = dh / dx: of one image its right singular
    vectors, of several the principal axes of those of all, each weighted by its singular value.

    Args:
        jacobian: at the level of the latents.
        latents: states x of n images.
        count: how many.
        batches: splits the products, each with one vector at one image.
        iterations: at most so many.
        tolerance: as for `leading_eigenvectors`.
        seed: as for `leading_eigenvectors`.
        on_evaluation: called after each pass through the network with the number of rows in it.

    Raises:
        ArgumentError: fewer than one direction, or more than there are dimensions.
        DirectionError: h does not depend on x in so many directions.
        NonFiniteError: a Jacobian that is not finite.
    """
    n, *shape = latents.values.shape
    x = latents.values.double()
    d = x[0].numel()
    if not 1 <= count <= d:
        raise ArgumentError(f"count must be from 1 to the {d} numbers of a latent, not {count}. 6 is a good start.")

    count_rows = on_evaluation or (lambda rows: None)

    def multiply(rows: Tensor) -> Tensor:
        v = rows.view(-1, *shape)

        def multiply_batch(pairs: Sequence[_Pair]) -> Tensor:
            images, vectors = map(list, zip(*pairs, strict=True))
            change = jacobian.times(x[images], v[vectors])
            count_rows(len(pairs))
            moved_back = jacobian.transposed_times(x[images], change)
            count_rows(len(pairs))
            if not moved_back.isfinite().all():
                raise NonFiniteError("The Jacobian of h has NaN or infinite values. Load the model in float32.")
            return moved_back.double()

        every = [_Pair(*each) for each in product(range(n), range(len(v)))]
        found = torch.cat(list(batches(multiply_batch, every)))
        return found.view(n, *v.shape).mean(0).flatten(1)

    found = leading_eigenvectors(multiply, d, count, iterations=iterations, tolerance=tolerance, seed=seed)
    singular_values = found.values.sqrt()
    # Products in float32 leave that much of a vector that does not move h at all.
    if not singular_values[-1] > 1e-5 * singular_values[0]:
        rank = int((singular_values > 1e-5 * singular_values[0]).sum())
        raise DirectionError(f"The number of directions that h changes along is {rank}, not {count}. Ask for fewer.")
    directions = []
    for number in range(count):
        vector = to_unit(found.vectors[number].view(shape))
        mean = float((x.flatten(1) @ vector.flatten()).mean())
        report = {
            "method": "jacobian",
            "d": d,
            "n": n,
            "singular_value": float(singular_values[number]),
            "residual": float(found.residuals[number]),
            "converged": bool(found.residuals[number] <= tolerance),
            "products": n * found.products,
        }
        directions.append(Direction(f"v{number + 1}", vector, -mean, mean, STEP, latents.recipe, report=report))
    return directions
