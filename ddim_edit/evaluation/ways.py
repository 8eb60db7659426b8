"""Ways there and back that can be measured: the editor's, and those that it is compared with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.integration import Inversion, RoundTripCheck
from ddim_edit.editor import DEFAULT, Editor
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.rows import FIGURES, Setting
from ddim_edit.images.prepare import Images
from ddim_edit.metrics.pixels import LPIPS
from ddim_edit.metrics.reconstruction import InversionBatch, scores
from ddim_edit.models.inverse_scheduler import InverseScheduler
from ddim_edit.models.model import Model

Scores = Sequence[Mapping[str, Any]]


class Way(Protocol):
    """Takes pictures there and back."""

    @property
    def setting(self) -> Setting:
        """What to call it."""
        ...

    def __call__(self, pictures: Images, originals: Tensor) -> Scores:
        """The scores of a batch, one mapping a picture.

        Args:
            pictures: as the editor takes them.
            originals: the same as a tensor [B, 3, H, W] in [-1, 1].
        """
        ...


@dataclass(frozen=True)
class Ours:
    """The editor's `reconstruct` by one method."""

    setting: Setting
    editor: Editor
    method: InversionConfig

    def __call__(self, pictures: Images, originals: Tensor) -> Scores:
        """Reconstruct."""
        return self.editor.reconstruct(pictures, self.method).scores


@dataclass(frozen=True)
class Theirs:
    """A loop of somebody else's around the same network."""

    setting: Setting
    model: Model
    loop: InverseScheduler
    lpips: LPIPS

    def __call__(self, pictures: Images, originals: Tensor) -> Scores:
        """Walk up, walk down, and compare."""
        steps = self.setting.steps
        # Float32, as its users run it; what that costs is far below the errors of its steps.
        x = self.loop.encode(self.model.to_state_device(originals).float(), steps)
        back = self.loop.decode(x, steps).cpu().double()
        found = _found(x, originals, back, steps)
        # What is no picture has no scores: it is measured as a grey one, and that is forgotten.
        shown = torch.where(found.converged[:, None, None, None], back, 0.0)
        measured = scores(InversionBatch(originals, found, shown), self.lpips)
        return [_told(score, done) for score, done in zip(measured, found.converged.tolist(), strict=True)]


def _told(score: Mapping[str, Any], converged: bool) -> Mapping[str, Any]:
    return {**score, "converged": converged, **({} if converged else dict.fromkeys(FIGURES))}


def _found(x: Tensor, originals: Tensor, back: Tensor, steps: int) -> Inversion:
    """The account of a loop with one evaluation a step, which promises nothing."""
    once = torch.full((len(x),), steps)
    error = (back - originals).flatten(1).abs().amax(1)
    trip = RoundTripCheck(back, once, error, torch.ones_like(once))
    return Inversion((x,), 2 * once, torch.zeros(len(x)), error.isfinite(), trip)


@dataclass(frozen=True)
class Opponent:
    """Somebody else's way: how to make it for a model, and the grid that it walks."""

    make: Callable[[Model], InverseScheduler]
    grid: str


OPPONENTS: Mapping[str, Opponent] = {"diffusers": Opponent(InverseScheduler.of, "leading")}
"""Whom the editor can be compared with."""


def make_ways(
    editor: Editor,
    solvers: Sequence[str],
    grids: Sequence[str],
    steps: Sequence[int],
    method: InversionConfig = DEFAULT,
    against: Sequence[str] = (),
) -> list[Way]:
    """All ways of the product of solvers, grids and steps, then the opponents'; what cannot be walked is refused here.

    Args:
        editor: what to walk with.
        solvers: of `SOLVERS`; at least one of them or of `against`.
        grids: names, as `make_grid` takes them.
        steps: numbers S, at least one.
        method: everything else about the editor's walks: exact, tol, dequantise, condition.
        against: of `OPPONENTS`; they choose their own grids.

    Raises:
        ArgumentError: nothing to do, or a solver, grid, number of steps, condition or opponent that cannot be.
        ModelError: a model that an opponent cannot run, or an opponent that is not installed.
    """
    editor.model.conditioned_on(method.condition)
    ours = [replace(method, solver=solver, grid=grid, steps=S) for solver, grid, S in _each(solvers, grids, steps)]
    ways = [_ours(editor, one) for one in ours] + [way for name in against for way in _theirs(editor, name, steps)]
    if not ways:
        raise ArgumentError("at least one solver, grid and number of steps", "none", "leave out those options")
    return ways


def _each(solvers: Sequence[str], grids: Sequence[str], steps: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    once = [dict.fromkeys(solvers), dict.fromkeys(grids)]
    return ((solver, grid, S) for solver, grid in product(*once) for S in dict.fromkeys(steps))


def _ours(editor: Editor, method: InversionConfig) -> Way:
    method.make_grid(editor.model.schedule)
    method.make_solver()
    return Ours(Setting(method.solver, str(method.grid), method.steps, method.exact), editor, method)


def _theirs(editor: Editor, name: str, steps: Sequence[int]) -> list[Way]:
    if name not in OPPONENTS:
        raise ArgumentError(f"a comparison with one of {', '.join(OPPONENTS)}", name, "choose one of these")
    opponent, T = OPPONENTS[name], editor.model.schedule.T
    if max(steps, default=0) > T:
        raise ArgumentError(f"at most {T} steps for {name}, one for each level", str(max(steps)), "take fewer")
    loop, lpips = opponent.make(editor.model), LPIPS()
    return [Theirs(Setting(name, opponent.grid, S), editor.model, loop, lpips) for S in dict.fromkeys(steps)]
