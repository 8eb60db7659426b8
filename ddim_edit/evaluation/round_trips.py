"""Round trips that can be evaluated: the editor's, and those of baselines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.integration import Inversion, RoundTripCheck
from ddim_edit.diffusion.workload import Workload
from ddim_edit.editor import DEFAULT, Editor
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.rows import EvaluationSetting
from ddim_edit.evaluation.settings import BASELINES
from ddim_edit.images.inputs import Images
from ddim_edit.metrics.reconstruction import InversionBatch, score_batch
from ddim_edit.metrics.registry import METRICS, ImageScorer
from ddim_edit.models.diffusers_inversion import DiffusersInversion, IndexedNetwork
from ddim_edit.models.model import Model


class RoundTrip(Protocol):
    """Inverts and decodes images at one setting, and scores the decoded images."""

    @property
    def setting(self) -> EvaluationSetting:
        """The setting."""
        ...

    @property
    def workload(self) -> Workload:
        """The evaluations that an image takes."""
        ...

    def __call__(self, images: Images, originals: Tensor) -> Sequence[Mapping[str, Any]]:
        """Return the scores of a batch, one mapping per image.

        Args:
            images: as the editor takes them.
            originals: the same as a tensor [B, 3, H, W] in [-1, 1].
        """
        ...


@dataclass(frozen=True)
class EditorRoundTrip:
    """`Editor.reconstruct` with one config."""

    setting: EvaluationSetting
    editor: Editor
    config: InversionConfig

    @property
    def workload(self) -> Workload:
        """The evaluations that an image takes."""
        return replace(self.config, check=True).inversion_workload(self.editor.model.schedule)

    def __call__(self, images: Images, originals: Tensor) -> Sequence[Mapping[str, Any]]:
        """Reconstruct and return the scores."""
        return self.editor.reconstruct(images, self.config).scores


@dataclass(frozen=True)
class BaselineRoundTrip:
    """A baseline's loop around the same network; one evaluation a step, nothing promised."""

    setting: EvaluationSetting
    model: Model
    loop: DiffusersInversion
    scorer: ImageScorer

    @property
    def workload(self) -> Workload:
        """The evaluations that an image takes."""
        return Workload.exactly(2 * self.setting.steps)

    def __call__(self, images: Images, originals: Tensor) -> Sequence[Mapping[str, Any]]:
        """Invert, decode and compare."""
        steps = self.setting.steps
        # Float32, as its users run it; what that costs is far below the errors of its steps.
        x = self.loop.encode(self.model.to_state_device(originals).float(), steps)
        decoded = self.loop.decode(x, steps).cpu().double()
        nfe = torch.full((len(x),), steps)
        error = (decoded - originals).flatten(1).abs().amax(1)
        finite = error.isfinite()
        check = RoundTripCheck(decoded, nfe, error, torch.ones_like(nfe))
        found = Inversion((x,), 2 * nfe, torch.zeros(len(x)), finite, check)
        # Metrics cannot take images that are not finite: grey stands in for them, and its scores are discarded.
        shown = torch.where(finite[:, None, None, None], decoded, 0.0)
        rows = score_batch(InversionBatch(originals, found, shown), self.scorer)
        for row, is_finite in zip(rows, finite.tolist(), strict=True):
            row["converged"] = is_finite
            if not is_finite:
                row.update(dict.fromkeys(METRICS))
        return rows


def _counted(network: IndexedNetwork, on_evaluation: Callable[[int], object]) -> IndexedNetwork:
    """Return a network that reports every evaluation."""

    def evaluate(x: Tensor, index: Tensor) -> Tensor:
        output = network(x, index)
        on_evaluation(len(x))
        return output

    return evaluate


def make_round_trips(
    editor: Editor,
    solvers: Sequence[str],
    grids: Sequence[str],
    steps: Sequence[int],
    config: InversionConfig = DEFAULT,
    against: Sequence[str] = (),
) -> list[RoundTrip]:
    """Return the round trips of every solver, grid and number of steps, then those of the baselines.

    Everything that cannot run is refused here, before anything is inverted.

    Args:
        editor: whose model is evaluated.
        solvers: names in `SOLVERS`; at least one of them or of `against`.
        grids: names, as `make_grid` takes them.
        steps: numbers of steps S, at least one.
        config: everything else about the editor's inversions: exact, tol, dequantise, condition.
        against: names in `BASELINES`; they choose their own grids.

    Raises:
        ArgumentError: nothing to do, or an unknown solver, grid, number of steps, condition or baseline.
        ModelError: a model that a baseline cannot run, or a baseline that is not installed.
    """
    schedule = editor.model.schedule
    editor.model.conditioned_on(config.condition)
    round_trips: list[RoundTrip] = []
    for solver, grid, S in product(dict.fromkeys(solvers), dict.fromkeys(grids), dict.fromkeys(steps)):
        one = replace(config, solver=solver, grid=grid, steps=S)
        one.make_grid(schedule)
        one.make_solver()
        round_trips.append(EditorRoundTrip(EvaluationSetting(solver, grid, S, one.exact), editor, one))
    for name in against:
        if name not in BASELINES:
            raise ArgumentError(f"There is no baseline {name!r}. Choose one of {', '.join(BASELINES)}.")
        if max(steps, default=0) > schedule.T:
            raise ArgumentError(f"{name} takes at most {schedule.T} steps with this model, not {max(steps)}.")
        baseline = BASELINES[name]
        loop = baseline.make(editor.model)
        if editor.on_evaluation is not None:
            loop = replace(loop, network=_counted(loop.network, editor.on_evaluation))
        scorer = ImageScorer(editor.model.device)
        for S in dict.fromkeys(steps):
            setting = EvaluationSetting(name, baseline.grid, S)
            round_trips.append(BaselineRoundTrip(setting, editor.model, loop, scorer))
    if not round_trips:
        raise ArgumentError("Nothing to evaluate: give at least one solver or baseline, grid and number of steps.")
    return round_trips
