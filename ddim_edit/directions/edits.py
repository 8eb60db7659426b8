"""Edits: move latents along directions, on their own shell or in the network's bottleneck."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.bottleneck import FORMS, ShiftedDenoiser
from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES
from ddim_edit.directions.direction import Direction, to_unit
from ddim_edit.directions.geometry import complement, rotate
from ddim_edit.errors import ArgumentError, DirectionMismatchError, InputWarning
from ddim_edit.latents.latent import Latent, Latents
from ddim_edit.latents.provenance import EditOrigin, are_same_times, is_same_time

SOLVERS_REACHED: Mapping[str, Sequence[str]] = {
    "asymmetric": tuple(name for name, entry in SOLVER_ENTRIES.items() if entry.uses_x0),
    "plain": tuple(SOLVER_ENTRIES),
}
"""Solvers that notice a shift of the bottleneck, by its form: an asymmetric one changes x0 alone, which some ignore."""


class Edit(Protocol):
    """Anything that turns latents, and the denoiser that would decode them, into edited ones."""

    def __call__(self, latents: Latents, denoiser: Denoiser) -> tuple[Latents, Denoiser]:
        """Return the latents to decode, and the denoiser to decode them with."""
        ...


@dataclass(frozen=True)
class ShellEdit:
    """Moves latents x by sum_i s_i sd_i v_i along their own shells.

    The part of x in the span of the held directions stays, and so does the length of the rest: see `rotate`. Two-state
    latents keep their delta.

    Args:
        strengths: of each direction, in standard deviations of its training projections.
        held: directions whose linear scores are kept.

    References:
        White, "Sampling Generative Networks", 2016, arXiv:1609.04468.
        Shen, Gu, Tang, Zhou, "Interpreting the Latent Space of GANs for Semantic Face Editing", CVPR 2020,
        arXiv:1907.10786, for conditional manipulation.
    """

    strengths: Mapping[Direction, float]
    held: Sequence[Direction] = ()

    def __call__(self, latents: Latents, denoiser: Denoiser) -> tuple[Latents, Denoiser]:
        """Return the moved latents, and the same denoiser.

        Raises:
            DirectionMismatchError: latents of another level, grid or model than the directions were fitted at.
        """
        for latent in latents:
            require_compatible(latent, [*self.strengths, *self.held])
        flat = latents.x.flatten(1)
        held = torch.stack([each.vector.flatten() for each in self.held]) if self.held else flat[:0]
        step = torch.zeros_like(flat[0])
        for direction, strength in self.strengths.items():
            step = step + strength * direction.sd * direction.vector.flatten()
        moved = rotate(flat, step, held).view_as(latents.x)
        return record_edit(latents, moved, self.strengths, self.held), denoiser


@dataclass(frozen=True)
class BottleneckEdit:
    """Leaves latents x_T as they are, and shifts the bottleneck by sum_i s_i sd_i v_i while they are decoded.

    Args:
        strengths: of each direction, in standard deviations of its training projections.
        form: one of `FORMS`: "asymmetric" (Asyrp's) or "plain".

    References:
        Kwon, Jeong, Uh, "Diffusion Models Already Have a Semantic Latent Space", ICLR 2023, arXiv:2210.10960.
    """

    strengths: Mapping[Direction, float]
    form: str = "asymmetric"

    def __call__(self, latents: Latents, denoiser: Denoiser) -> tuple[Latents, Denoiser]:
        """Return the same latents, and a denoiser that shifts the bottleneck.

        Raises:
            DirectionMismatchError: latents of another grid or model; ModelError: a network without a bottleneck.
            ArgumentError: latents of a solver that the shift would not reach.
        """
        suitable = SOLVERS_REACHED[self.form]
        for latent in latents:
            require_compatible(latent, self.strengths)
            if latent.recipe.solver not in suitable:
                raise ArgumentError(
                    f"The solver {latent.recipe.solver} does not notice a shift of the bottleneck. Fit and invert with "
                    f"{' or '.join(suitable)}."
                )
        shifts: dict[float, Tensor] = {}
        # By the times of the latents, which are those of the steps; a direction's may differ in the last bits.
        for t in sorted(set().union(*(latent.recipe.times for latent in latents))):
            parts = []
            for direction, strength in self.strengths.items():
                for own_time, vector in zip(direction.times, direction.vector, strict=True):
                    if is_same_time(own_time, t):
                        parts.append(strength * direction.sd * vector)
            # Without a shift the network runs unchanged, so that the image is the same bit by bit.
            if any(part.any() for part in parts):
                shifts[t] = torch.stack(parts).sum(0)
        return latents.moved() if shifts else latents, ShiftedDenoiser(denoiser, shifts, FORMS[self.form])


def record_edit(
    latents: Latents, moved: Tensor, strengths: Mapping[Direction, float], held: Sequence[Direction]
) -> Latents:
    """Return the latents at their new states [B, ...], with what was done to them in their recipes."""
    named = {each.name: strength for each, strength in strengths.items()}
    held_names = tuple(each.name for each in held)
    edited = []
    for latent, x in zip(latents, moved, strict=True):
        kept = latent.moved() if any(named.values()) else latent
        recipe = replace(kept.recipe, origin=EditOrigin(named, held_names, latent.recipe.origin))
        edited.append(replace(kept, x=x, recipe=recipe, report={}))
    return Latents(edited)


def make_edit(strengths: Mapping[Direction, float], keep: Sequence[Direction] = (), conditional: bool = False) -> Edit:
    """Return the edit that moves along several directions at once.

    Args:
        strengths: in standard deviations of each direction's training projections; 0 changes nothing.
        keep: directions whose scores stay as they are.
        conditional: whether to move along each direction only as far as it is orthogonal to all the others.

    Warns:
        InputWarning: a strength beyond those that edits along the direction are measured for.

    Raises:
        ArgumentError: no directions, ones of x and of the bottleneck together, ones inside each other's span, or guided
            ones, which need the model: see `make_edits`.
    """
    everything = require_editable(strengths, keep)
    if everything[0].guided:
        raise ArgumentError(f"{everything[0].name} is guided by the network. Use make_edits, which has the model.")
    free: dict[Direction, float] = {}
    for direction, strength in strengths.items():
        others = list(keep)
        if conditional:
            others += [other for other in strengths if other is not direction]
        free[orthogonalize(direction, others)] = strength
    return BottleneckEdit(free) if everything[0].times else ShellEdit(free, tuple(keep))


def require_editable(strengths: Mapping[Direction, float], keep: Sequence[Direction]) -> list[Direction]:
    """Return all directions of an edit, those that move and those that are kept, once they are known to go together.

    Warns:
        InputWarning: a strength beyond those that edits along the direction are measured for.

    Raises:
        ArgumentError: no directions, strengths that are not finite, or directions of several kinds.
        DirectionMismatchError: directions that were not fitted at the same place.
    """
    everything = [*strengths, *keep]
    if not all(math.isfinite(strength) for strength in strengths.values()):
        given = ", ".join(f"{strength:g}" for strength in strengths.values())
        raise ArgumentError(f"Strengths must be finite numbers, not {given}. 2 is a good start.")
    if not strengths:
        raise ArgumentError("An edit needs a direction to move along. Name one with its strength.")
    if len({(bool(each.times), each.guided) for each in everything}) != 1:
        given = ", ".join(f"{each.name} of level {each.level}" for each in everything)
        raise ArgumentError(f"Directions of several kinds cannot be combined: {given}. Edit with one after the other.")
    _require_one_space(everything)
    for direction, strength in strengths.items():
        if abs(strength) > direction.strongest:
            limit = f"{direction.strongest:.3g}"
            warnings.warn(
                f"Edits along {direction.name} are measured for strengths from -{limit} to {limit}, not of "
                f"{strength:+g}, which may change everything else too.",
                InputWarning,
                stacklevel=3,
            )
    return everything


def orthogonalize(direction: Direction, against: Sequence[Direction]) -> Direction:
    """Return the direction without its part in the span of others, again of length 1; its sd stays what it was.

    v' = (I - N^+ N) v / |(I - N^+ N) v|, N the vectors of `against`. Moving along v' leaves their linear scores alone.

    Raises:
        ArgumentError: a direction inside that span, or others that are not independent.
        DirectionMismatchError: directions that were not fitted at the same place.

    References:
        Shen, Gu, Tang, Zhou, "Interpreting the Latent Space of GANs for Semantic Face Editing", CVPR 2020,
        arXiv:1907.10786: conditional manipulation, here for any number of conditions.
    """
    if not against:
        return direction
    _require_one_space([direction, *against])
    span = torch.stack([other.vector.flatten() for other in against])
    rest = to_unit(complement(direction.vector.flatten(), span)).view_as(direction.vector)
    report = {**direction.report, "orthogonal_to": [other.name for other in against]}
    return replace(direction, vector=rest, report=report)


def require_compatible(latent: Latent, directions: Mapping[Direction, float] | Sequence[Direction]) -> None:
    """Refuse a latent that does not stand where directions were fitted, or is of another shape.

    Raises:
        DirectionMismatchError: another model, level, grid or shape.
    """
    for direction in directions:
        direction.require_fits(latent.recipe)
        if not direction.times and direction.vector.shape != latent.x.shape:
            raise DirectionMismatchError(
                f"The direction {direction.name} moves latents of shape {list(direction.vector.shape)}, not "
                f"{list(latent.x.shape)}. Fit it again at this size."
            )


def _require_one_space(directions: Sequence[Direction]) -> None:
    first, *rest = directions
    for other in rest:
        first.require_fits(other.recipe)
        if not are_same_times(other.times, first.times):
            raise DirectionMismatchError(
                f"{first.name} has bottlenecks at times {first.times}, but {other.name} at {other.times}. Fit both at "
                "the same level."
            )
