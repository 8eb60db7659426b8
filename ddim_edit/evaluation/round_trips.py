"""Round trips that can be evaluated, and their self-interpolations: the editor's, and those of baselines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.grids import STANDARD
from ddim_edit.diffusion.integration import Inversion, RoundTripCheck
from ddim_edit.diffusion.noise import SeededNoise
from ddim_edit.diffusion.workload import Workload
from ddim_edit.editor import DEFAULT, Editor
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.rows import EvaluationSetting
from ddim_edit.evaluation.settings import BASELINES
from ddim_edit.images.inputs import Images
from ddim_edit.latents.interpolation import slerp
from ddim_edit.latents.latent import Latents, interpolate
from ddim_edit.metrics.reconstruction import InversionBatch, score_batch
from ddim_edit.metrics.registry import METRICS, ImageScorer
from ddim_edit.models.diffusers_inversion import DiffusersInversion, IndexedNetwork
from ddim_edit.models.model import Model


class SelfInterpolated(NamedTuple):
    """Images sampled from known latents, and what is between these and the latents that are found by inverting them.

    Attributes:
        images: as they were sampled [B, 3, H, W], not clipped to [-1, 1].
        true: the x_T that they were sampled from [B, C, H, W].
        found: the x_T that inverting them gives.
        decoded: for each fraction, the images of slerp(true, found, w).
    """

    images: Tensor
    true: Tensor
    found: Tensor
    decoded: Sequence[Tensor]


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

    def self_interpolation_workload(self, fractions: int) -> Workload:
        """Return the evaluations that `self_interpolate` takes for a seed."""
        ...

    def self_interpolate(self, seeds: Sequence[int], fractions: Sequence[float]) -> SelfInterpolated:
        """Sample images from seeds, invert them, and decode what is between the true and the found x_T.

        Samples are taken at the first level of the grid, where inversions start, and no noise is added to them. A start
        above the image is left out.

        Args:
            seeds: one for each image.
            fractions: how far from the true to the found x_T.
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

    @property
    def _sampling_config(self) -> InversionConfig:
        """The config for samples, which are images only where the grid begins right above the image."""
        return replace(self.config.without_start(), dequantise=None)

    def self_interpolation_workload(self, fractions: int) -> Workload:
        """Return the evaluations that `self_interpolate` takes for a seed."""
        schedule, config = self.editor.model.schedule, self._sampling_config
        return (1 + fractions) * config.decoding_workload(schedule) + config.inversion_workload(schedule)

    def self_interpolate(self, seeds: Sequence[int], fractions: Sequence[float]) -> SelfInterpolated:
        """Sample, invert, and decode along the way by the editor."""
        config = self._sampling_config
        grid = config.make_grid(self.editor.model.schedule)
        true = []
        for latent in self.editor.noise(seeds, config):
            # Samples go on to t = 0, from where no inversion comes back to what they were at the first level.
            true.append(replace(latent, recipe=replace(latent.recipe, grid=grid.name, times=grid.times)))
        images = self.editor.decode(true)
        (found,) = self.editor.invert_batches([images], config, check_typicality=False)
        decoded = []
        for w in fractions:
            between = [interpolate(a, b, "slerp", w) for a, b in zip(true, found, strict=True)]
            decoded.append(self.editor.decode(between))
        return SelfInterpolated(images, Latents(true).x, found.x, decoded)


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

    def self_interpolation_workload(self, fractions: int) -> Workload:
        """Return the evaluations that `self_interpolate` takes for a seed."""
        return Workload.exactly((2 + fractions) * self.setting.steps)

    def self_interpolate(self, seeds: Sequence[int], fractions: Sequence[float]) -> SelfInterpolated:
        """Sample, invert, and decode along the way by the baseline's loop."""
        steps = self.setting.steps
        true = SeededNoise(seeds).draw(self.model.shape)

        def decode(x: Tensor) -> Tensor:
            return self.loop.decode(self.model.to_state_device(x).float(), steps).cpu().double()

        images = decode(true)
        found = self.loop.encode(self.model.to_state_device(images).float(), steps).cpu().double()
        return SelfInterpolated(images, true, found, [decode(slerp(true, found, w)) for w in fractions])


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
        made = one.make_grid(schedule)
        one.make_solver()
        name = made.name if grid == STANDARD else grid
        round_trips.append(EditorRoundTrip(EvaluationSetting(solver, name, S, one.exact), editor, one))
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
