"""Edits: codes moved along directions, on their own shell or in the network's bottleneck."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.bottleneck import FORMS, ShiftedDenoiser
from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.solvers.registry import SOLVER_ENTRIES
from ddim_edit.directions.direction import Direction, unit
from ddim_edit.directions.geometry import complement, rotate
from ddim_edit.errors import ArgumentError, DirectionMismatchError
from ddim_edit.latents.latent import Latent, Latents
from ddim_edit.latents.provenance import EditOrigin


class Edit(Protocol):
    """Anything that turns codes and the denoiser that would decode them into edited ones."""

    def __call__(self, latents: Latents, denoiser: Denoiser) -> tuple[Latents, Denoiser]:
        """What to decode, and with what."""
        ...


@dataclass(frozen=True)
class ShellEdit:
    """Moves codes x by sum_i s_i sd_i v_i along their own shells; cannot change their length, nor what is held.

    The part of x in the span of the held directions stays, and so does the length of the rest: see `rotate`. Two-state
    codes keep their delta.

    Args:
        strengths: of each direction, in standard deviations of its training projections.
        held: directions whose linear scores are kept.

    White (2016); conditional: Shen, Gu, Tang, Zhou (2020).
    """

    strengths: Mapping[Direction, float]
    held: Sequence[Direction] = ()

    def __call__(self, latents: Latents, denoiser: Denoiser) -> tuple[Latents, Denoiser]:
        """The moved codes, for the same denoiser.

        Raises:
            DirectionMismatchError: codes of another level, grid or model than the directions were fitted at.
        """
        for latent in latents:
            _require_home(latent, [*self.strengths, *self.held])
        flat = latents.x.flatten(1)
        held = torch.stack([each.vector.flatten() for each in self.held]) if self.held else flat[:0]
        step = sum((s * d.sd * d.vector.flatten() for d, s in self.strengths.items()), torch.zeros_like(flat[0]))
        moved = rotate(flat, step, held).view_as(latents.x)
        return Latents(self._noted(latent, x) for latent, x in zip(latents, moved, strict=True)), denoiser

    def _noted(self, latent: Latent, x: Tensor) -> Latent:
        strengths = {each.name: strength for each, strength in self.strengths.items()}
        held = tuple(each.name for each in self.held)
        origin = EditOrigin(strengths, held, latent.recipe.origin)
        return replace(latent, x=x, recipe=replace(latent.recipe, origin=origin), report={})


SOLVERS_REACHED: Mapping[str, Sequence[str]] = {
    "asymmetric": tuple(name for name, entry in SOLVER_ENTRIES.items() if entry.uses_x0),
    "plain": tuple(SOLVER_ENTRIES),
}
"""Solvers that notice a shift of the bottleneck, by its form: an asymmetric one changes x0 alone, which some ignore."""


@dataclass(frozen=True)
class BottleneckEdit:
    """Leaves codes x_T as they are and shifts the bottleneck while they are decoded, by sum_i s_i sd_i v_i.

    Args:
        strengths: of each direction, in standard deviations of its training projections.
        form: one of `FORMS`: "asymmetric" (Asyrp's) or "plain".

    Kwon, Jeong, Uh (2023).
    """

    strengths: Mapping[Direction, float]
    form: str = "asymmetric"

    def __call__(self, latents: Latents, denoiser: Denoiser) -> tuple[Latents, Denoiser]:
        """The same codes, and the denoiser that shifts.

        Raises:
            DirectionMismatchError: codes of another grid or model; ModelError: a network without a bottleneck.
            ArgumentError: codes of a solver that the shift would not reach.
        """
        for latent in latents:
            _require_home(latent, self.strengths)
            if latent.recipe.solver not in SOLVERS_REACHED[self.form]:
                wanted = f"codes of {' or '.join(SOLVERS_REACHED[self.form])}, which a shift of h reaches"
                raise ArgumentError(wanted, f"ones of {latent.recipe.solver}", "fit and invert with one of these")
        return latents, ShiftedDenoiser(denoiser, dict(self._shifts()), FORMS[self.form])

    def _shifts(self) -> Iterator[tuple[float, Tensor]]:
        for t in sorted({t for each in self.strengths for t in each.times}):
            shifts = [s * d.sd * d.vector[d.times.index(t)] for d, s in self.strengths.items() if t in d.times]
            if any(shift.any() for shift in shifts):
                yield t, torch.stack(shifts).sum(0)


def make_edit(strengths: Mapping[Direction, float], keep: Sequence[Direction] = (), conditional: bool = False) -> Edit:
    """The edit that moves along several directions at once; not along ones of x and of the bottleneck together.

    Args:
        strengths: in standard deviations of each direction's training projections; 0 changes nothing.
        keep: directions whose scores stay as they are.
        conditional: move along each only as far as it is orthogonal to all the others.

    Raises:
        ArgumentError: no directions, mixed spaces, or directions inside each other's span.
    """
    everything = [*strengths, *keep]
    if not all(math.isfinite(strength) for strength in strengths.values()):
        given = ", ".join(f"{strength:g}" for strength in strengths.values())
        raise ArgumentError("strengths that are finite numbers", given, "2 is a good start")
    if not strengths or len({bool(each.times) for each in everything}) != 1:
        given = ", ".join(f"{each.name} of level {each.level}" for each in everything) or "none"
        raise ArgumentError("directions of one space", given, "set those of x and of h one after the other")
    _require_one_home(everything)
    others = {each: [*keep, *(o for o in strengths if conditional and o is not each)] for each in strengths}
    free = {orthogonalize(each, others[each]): strength for each, strength in strengths.items()}
    if not everything[0].times:
        return ShellEdit(free, tuple(keep))
    return BottleneckEdit(free)


def orthogonalize(direction: Direction, against: Sequence[Direction]) -> Direction:
    """The direction with its part in the span of others taken out, again of length 1; its unit sd stays what it was.

    v' = (I - N^+ N) v / |(I - N^+ N) v|, N the vectors of `against`. Moving along v' leaves their linear scores alone.

    Raises:
        ArgumentError: a direction inside that span, or others that are not independent.
        DirectionMismatchError: directions of different homes.

    Shen, Gu, Tang, Zhou (2020), conditional manipulation, for any number of conditions.
    """
    if not against:
        return direction
    _require_one_home([direction, *against])
    span = torch.stack([other.vector.flatten() for other in against])
    rest = unit(complement(direction.vector.flatten(), span)).view_as(direction.vector)
    report = {**direction.report, "orthogonal_to": [other.name for other in against]}
    return replace(direction, vector=rest, report=report)


def _require_home(latent: Latent, directions: Mapping[Direction, float] | Sequence[Direction]) -> None:
    for direction in directions:
        direction.require_fits(latent.recipe)
        if not direction.times and direction.vector.shape != latent.x.shape:
            given = f"codes of shape {list(latent.x.shape)}"
            wanted = f"codes of shape {list(direction.vector.shape)}, as the direction {direction.name} has"
            raise DirectionMismatchError(wanted, given, "fit the direction again")


def _require_one_home(directions: Sequence[Direction]) -> None:
    first, *rest = directions
    for each in rest:
        first.require_fits(each.recipe)
        if each.times != first.times:
            raise DirectionMismatchError(f"directions at times {first.times}", f"{each.times}", "fit them alike")
