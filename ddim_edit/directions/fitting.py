"""Fit directions to latents: of labelled images, and of largest variance."""

import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import is_regressor
from torch import Tensor

from ddim_edit.directions.direction import Direction, to_unit
from ddim_edit.directions.groups import Groups, are_trivial, count_units, find_groups
from ddim_edit.directions.linear_models import Array
from ddim_edit.directions.principal import PrincipalDirections
from ddim_edit.directions.registry import estimator_name, make_estimator
from ddim_edit.directions.streaming import NOT_FINITE, LatentRows, RowStream
from ddim_edit.directions.validation import (
    NOT_MEASURED,
    DirectionEstimator,
    Validation,
    check_labels,
    fit_in_memory,
    fit_on_disk,
)
from ddim_edit.errors import DirectionError, InputWarning
from ddim_edit.latents.cache import LatentArray

IN_MEMORY = 2**26
"""Numbers of all latents on disk up to which they are read into memory; above, they are fitted in passes."""
FEW = 30
"""Images of a class below which a fit warns. By chance alone the AUC of m images against m has a standard deviation of
sqrt((2 m + 1) / (12 m^2)) (Mann and Whitney, 1947): 0.13 for 10, 0.075 for 30. Below 30, two of these reach beyond an
AUC of 0.65, which would pass for an attribute that was found."""


def fit_direction(
    name: str,
    latents: LatentArray,
    labels: Array,
    estimator: str | DirectionEstimator = "logistic",
    *,
    folds: int = 5,
    permutations: int = 5,
    seed: int = 0,
    groups: Sequence[Hashable] | Array | None = None,
) -> Direction:
    """Fit a direction to labelled latents at one level, and measure it by cross-validation.

    AUC is the chance that of two images the one with the larger label has the larger projection, held out fold by fold.
    The baseline is the same with shuffled labels, one fold for each shuffle, so about 0.5 means nothing was found. Both
    come with their standard deviation. The regularisation is chosen once, on all images, which flatters the AUC a
    little.

    No fold divides the copies of one image or the images of one group. Without groups, several images of one person
    would be on both sides, and what is held out would be known already. Fewer than 30 images (or groups) of a class
    give an `InputWarning`.

    Latents whose `values` are `LatentRows` on disk, such as a `numpy.memmap` [n, C, H, W] or those of `stored_latents`,
    are fitted in passes and bounded memory where they are more than 2^26 numbers: one tenth chooses the regularisation
    and another one, which neither fit nor choice has seen, gives the AUC, so that `folds` is 1 in the report.

    Args:
        name: of the attribute.
        latents: of n images, from `Editor.latents_at`, or on disk.
        labels: [n], 0 and 1, or numbers for an estimator that regresses.
        estimator: a name in `ESTIMATORS`, or any scikit-learn estimator whose fit leaves `direction_` and `intercept_`.
        folds: at most this many, fewer where a class is smaller.
        permutations: shuffles for the baseline.
        seed: of folds and shuffles.
        groups: [n], for example the person in each image; None for an image of no known group.

    Raises:
        DirectionError: fewer than two images, labels that are all the same, or latents that do not differ with them or
            are not finite.
        ArgumentError: an unknown estimator, labels or groups that do not pair up with latents, one image with two
            labels, labels that are not two classes where the estimator wants that, an estimator that cannot be fitted
            in passes, or latents too wide for that.

    Examples:
        >>> import numpy as np
        >>> from ddim_edit import Editor, fit_direction
        >>> editor = Editor.from_pretrained()
        >>> (latents,) = editor.latents_at(["smiling/", "serious/"], ["0.4T"])  # doctest: +SKIP
        >>> fit_direction("smile", latents, np.repeat([1, 0], 100), estimator="lda")  # doctest: +SKIP
    """
    if isinstance(estimator, str):
        estimator = cast(DirectionEstimator, make_estimator(estimator))
    n, *shape = latents.values.shape
    continuous = is_regressor(estimator)
    y = check_labels(labels, n, continuous)
    validation = Validation(folds, permutations, seed)
    values = cast("Tensor | LatentRows", latents.values)
    in_memory = _fits_in_memory(values)
    samples = _load(values) if in_memory else cast(LatentRows, values)
    together = find_groups(y, samples, latents.images, groups)
    if in_memory:
        fit = fit_in_memory(estimator, samples, y, together, validation)
    else:
        fit = fit_on_disk(estimator, samples, y, together, validation)
    projections = fit.projections
    report: dict[str, Any] = {"method": estimator_name(estimator), "d": math.prod(shape), "n": n}
    if continuous:
        report |= {"label_mean": float(y.mean()), "label_sd": float(y.std())}
    else:
        positive = y == y.max()
        report |= {"positive": int(positive.sum()), "negative": int((~positive).sum())}
        report["gap"] = float(projections[positive].mean() - projections[~positive].mean())
    if not are_trivial(together):
        report["groups"] = int(together.max()) + 1
    _warn_of_few(y, together, continuous)
    return Direction(
        name,
        to_unit(torch.from_numpy(fit.estimator.direction_).view(shape)),
        intercept=float(fit.estimator.intercept_),
        mean=float(projections.mean()),
        sd=float(projections.std()),
        recipe=latents.recipe,
        times=latents.times,
        report=report | fit.scores,
    )


def principal_directions(latents: LatentArray, k: int = 10, seed: int = 0) -> list[Direction]:
    """Return the k directions along which latents vary most, the first most of all.

    Each is of length 1 and orthogonal to the others, its sd that of the training projections. They are named pc1, pc2
    and so on; what they mean is unknown, and their signs are arbitrary.

    Args:
        latents: of n images, as `fit_direction` takes them.
        k: how many.
        seed: of the random projection.

    Raises:
        DirectionError: more directions than the images vary along, or latents that are not finite.

    References:
        Halko, Martinsson, Tropp, "Finding Structure with Randomness", SIAM Review 53, 2011, arXiv:0909.4061.
        Härkönen, Hertzmann, Lehtinen, Paris, "GANSpace: Discovering Interpretable GAN Controls", NeurIPS 2020,
        arXiv:2004.02546.
    """
    n, *shape = latents.values.shape
    values = cast("Tensor | LatentRows", latents.values)
    fitted = PrincipalDirections(k, random_state=seed)
    if _fits_in_memory(values):
        fitted.fit(_load(values))
    else:
        fitted.fit_stream(RowStream(cast(LatentRows, values), standardize=False))
    means = fitted.directions_ @ fitted.mean_
    report = {"method": "principal", "d": math.prod(shape), "n": n, **NOT_MEASURED}
    found = []
    for index, (vector, mean, sd) in enumerate(zip(fitted.directions_, means, fitted.sds_, strict=True), 1):
        direction = Direction(
            f"pc{index}",
            to_unit(torch.from_numpy(vector).view(shape)),
            intercept=-float(mean),
            mean=float(mean),
            sd=float(sd),
            recipe=latents.recipe,
            times=latents.times,
            report=report,
        )
        found.append(direction)
    return found


def _warn_of_few(labels: Array, groups: Groups, continuous: bool) -> None:
    units = count_units(labels, groups, continuous)
    if units >= FEW:
        return
    counted = "images" if are_trivial(groups) else "different images or groups"
    warnings.warn(
        f"{'The fit has' if continuous else 'The smaller class has'} only {units} {counted}. An AUC of so few tells "
        f"little. Label at least {FEW}{'' if continuous else ' of each class'}.",
        InputWarning,
        stacklevel=3,
    )


def _fits_in_memory(values: Tensor | LatentRows) -> bool:
    return isinstance(values, Tensor) or math.prod(values.shape) <= IN_MEMORY


def _load(values: Tensor | LatentRows) -> Any:
    """Return latents as a NumPy array [n, d].

    Raises:
        DirectionError: numbers that are not finite.
    """
    if isinstance(values, Tensor):
        rows = values.flatten(1).numpy()
    else:
        rows = np.array(values[0 : len(values)]).reshape(len(values), -1)
    if not np.isfinite(rows).all():
        raise DirectionError(NOT_FINITE)
    return rows
