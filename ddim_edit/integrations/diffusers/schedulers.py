"""Schedulers of diffusers that integrate as `Editor` does: DPM-Solver++(2M) on a grid of ours, in both directions.

The pipeline evaluates its network, and a scheduler takes the steps. Both schedulers visit the same times, one in
reverse, so that what `DDIMEditInverseScheduler` made of an image is returned by `DDIMEditScheduler`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.diffusion.grids import Grid, find_grid, make_grid
from ddim_edit.diffusion.integration import add_noise, remove_noise
from ddim_edit.diffusion.schedules import Level, NoiseSchedule, Span
from ddim_edit.diffusion.solvers.registered.dpm2m import dpm2m_inverse_step, dpm2m_step, predict_state
from ddim_edit.diffusion.solvers.solver import reverse_spans
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import History
from ddim_edit.errors import ArgumentError
from ddim_edit.models.devices import state_device
from ddim_edit.models.pretrained import import_diffusers
from ddim_edit.models.scheduler_config import OWN_SCHEDULERS, SCHEDULERS, DiffusionProcess, read_process

DEFAULT_GRID = "karras:14"
"""From t = 1: a scheduler cannot give moved latents the detail that a higher start would leave out of them."""
DEFAULT_STEPS = InversionConfig.steps

_library = import_diffusers("Scheduling steps in diffusers")
SchedulerMixin: Any = _library.SchedulerMixin  # by this name diffusers finds that our classes are schedulers
_ConfigMixin: Any = _library.ConfigMixin
_register_to_config: Any = _library.configuration_utils.register_to_config
_SchedulerOutput: Any = _library.schedulers.scheduling_utils.SchedulerOutput


class _GridScheduler(SchedulerMixin, _ConfigMixin):  # type: ignore[misc]
    """What the two schedulers share.

    The sample of a pipeline is what its network is given: x = alpha x0 + sigma eps, on straight paths
    (1 - tau) x0 + tau eps. Between steps it is kept in float64, whatever the pipeline rounds it to.

    Attributes:
        timesteps: the network's time conditions, one for each step.
        num_inference_steps: number of steps of the grid.
        latest_sample: what the latest step returned, in float64.
    """

    order = 1
    init_noise_sigma = 1.0
    _compatibles: ClassVar[list[str]] = list(SCHEDULERS)
    _step_index: int | None
    _history: History
    _state: Tensor | None
    """x after the latest step, in float64."""
    _returned: Tensor | None
    """What the pipeline was given of it."""

    @_register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        trained_with: str = "DDPMScheduler",
        grid: str = DEFAULT_GRID,
    ) -> None:
        find_grid(grid)
        self.latest_sample: Tensor | None = None
        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0)
        self._times: list[float] = []
        self._spans: Sequence[Span] = ()
        self._start: Tensor | None = None
        self._begin_index: int | None = None
        self._forget()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Return a scheduler for the process in the config of any scheduler of diffusers.

        Args:
            config: as in `pipe.scheduler.config`.
            return_unused_kwargs: as in diffusers.
            **kwargs: entries of the config to replace, as `grid="karras:7"`.

        Raises:
            ModelError: the scheduler of a process that is not supported.
        """
        if isinstance(config, Mapping):
            # Entries at their defaults belong to the process too, since those of other classes differ.
            config = {name: value for name, value in config.items() if name != "_use_default_values"}
            config["trained_with"] = _find_class(config)
        made = super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)
        _ = (made[0] if return_unused_kwargs else made).process  # refused now rather than at the first image
        return made

    @cached_property
    def process(self) -> DiffusionProcess:
        """The noise schedule and the parametrization of the network, as the config has them."""
        return read_process({**self.config, "_class_name": type(self).__name__})

    @property
    def step_index(self) -> int | None:
        """Number of the next step; None before the first and after the last one."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Number of the first step, where a pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the number of the first step, as pipelines do that begin with a noisy image."""
        self._begin_index = begin_index

    def set_start(self, latents: Tensor | None) -> None:
        """Set what the next runs begin with, for pipelines without `latents=`, which always draw noise of their own.

        They take one evaluation more, the answer of which is thrown away together with that noise.

        Args:
            latents: [B, ...], or None to begin with what the pipeline draws.
        """
        self._start = latents

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Set the times of a run, which are those of the grid in the config.

        Args:
            num_inference_steps: number of steps.
            device: of `timesteps`.
            sigmas: of these, the number of steps alone is used. Pipelines of rectified flows give evenly spaced ones.
            mu: not used; pipelines of rectified flows give a shift for sigmas.

        Raises:
            ArgumentError: no number of steps, one that the grid does not have, or sigmas of your own.
        """
        if sigmas is not None:
            num_inference_steps = len(sigmas)
            even = torch.linspace(1, 1 / max(num_inference_steps, 1), num_inference_steps)
            if not torch.allclose(torch.as_tensor(sigmas, dtype=torch.float32), even, atol=1e-5):
                raise ArgumentError(
                    f"{type(self).__name__} visits the times of its grid and takes no sigmas. Make it with "
                    'grid="times:T,T,...".'
                )
        if num_inference_steps is None:
            raise ArgumentError("Give the number of steps, num_inference_steps.")
        schedule, parametrization = self.process
        self._spans = self._directed(schedule, make_grid(self.config.grid, schedule, num_inference_steps))
        self.num_inference_steps = num_inference_steps
        times = [parametrization.time_condition(span.here) for span in self._spans]
        if self._start is not None:
            times.insert(0, times[0])
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self._times = self.timesteps.tolist()
        self._begin_index = None
        self._forget()

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """Return the sample, which is what the network is given."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return noisy samples [B, ...] at some of `timesteps`.

        Args:
            original_samples: x0 [B, ...].
            noise: [B, ...].
            timesteps: [B] or [1].

        Raises:
            ArgumentError: a time that is not one of `timesteps`.
        """
        device = state_device(original_samples.device)
        x0, noise = original_samples.to(device).double(), noise.to(device).double()
        rows = []
        for row, time in enumerate(timesteps.flatten().expand(len(x0)).tolist()):
            level = self._span(self._find(time)).here
            rows.append(self._to_sample(add_noise(x0[row], level, noise[row]), level))
        return _hand_back(torch.stack(rows), original_samples)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Return noisy samples, as `add_noise` does; pipelines of rectified flows call it so."""
        return self.add_noise(sample, noise, timestep)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Take a step, and return the sample at its end.

        Args:
            model_output: what the network answers [B, ...]; of twice the channels, those of variances are left out.
            timestep: the next of `timesteps`. With another one of these a new run begins there.
            sample: what the network was given [B, ...].
            eta: must be 0.
            use_clipped_model_output: not used; x0 is never clipped.
            generator: not used; no noise is drawn.
            return_dict: whether to return a `SchedulerOutput`, or else a tuple.

        Raises:
            ArgumentError: times that were not set, another eta, or noise of another shape.
        """
        if eta:
            raise ArgumentError(f"{type(self).__name__} draws no noise, so eta must be 0, not {eta:g}.")
        index = self._find(float(timestep))
        if index != self._step_index:
            self._forget()
        if index == 0 and self._start is not None:
            exact = self._start.to(state_device(sample.device)).double()
            self._state = self._from_sample(exact, self._span(0).here)
        else:
            exact = self._advance(model_output, sample, index)
        returned = _hand_back(exact, sample)
        self.latest_sample = exact
        self._returned = returned.clone()  # which the pipeline cannot change
        self._step_index = index + 1
        if self._step_index == len(self._times):
            self._forget()
        return _SchedulerOutput(prev_sample=returned) if return_dict else (returned,)

    def __len__(self) -> int:
        """Return the number of levels that the network was trained on."""
        return int(self.config.num_train_timesteps)

    def _directed(self, schedule: NoiseSchedule, grid: Grid) -> Sequence[Span]:
        """Return the steps of a grid in the direction of the scheduler."""
        raise NotImplementedError

    def _take_step(self, known: TrackedDenoiser, x: Tensor, span: Span, following: Span | None) -> Tensor:
        """Return the state that the network is given next; after the last step, where none follows, the result."""
        raise NotImplementedError

    def _finish(self, x: Tensor, level: Level) -> Tensor:
        """Return the sample at the end of a run."""
        raise NotImplementedError

    def _advance(self, model_output: Tensor, sample: Tensor, index: int) -> Tensor:
        """Take a step with the network's answer, and return the sample at its end in float64."""
        span = self._span(index)
        x = self._state
        # What the pipeline hands back as it was returned goes on without its rounding.
        if x is None or self._returned is None or not _are_equal(sample, self._returned):
            x = self._from_sample(sample, span.here)
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        prediction = self.process.parametrization.to_prediction(model_output.to(x.device).double(), x, span.here)
        known = TrackedDenoiser.start(lambda x, level: prediction, len(x), x.device)
        following = None if index == len(self._times) - 1 else self._span(index + 1)
        x = self._take_step(known, x, span, following)
        self._state = x
        return self._finish(x, span.there) if following is None else self._to_sample(x, span.there)

    def _to_sample(self, x: Tensor, level: Level) -> Tensor:
        return self.process.parametrization.scale_input(x, level)

    def _from_sample(self, sample: Tensor, level: Level) -> Tensor:
        # Every parametrization multiplies x by a number.
        scale = float(self.process.parametrization.scale_input(torch.ones((), dtype=torch.float64), level))
        return sample.to(state_device(sample.device)).double() / scale

    def _span(self, index: int) -> Span:
        """Return the step at one of `timesteps`."""
        extra = len(self._times) - len(self._spans)
        return self._spans[max(index - extra, 0)]

    def _find(self, time: float) -> int:
        """Return the number of the step at one of `timesteps`: the next one if that is there, or else the first one."""
        expected = self._begin_index if self._step_index is None else self._step_index
        if expected is not None and expected < len(self._times) and self._times[expected] == time:
            return expected
        if time not in self._times:
            raise ArgumentError(
                f"{time:g} is none of the timesteps of this {type(self).__name__}. Call set_timesteps first, and give "
                "the network its timesteps."
            )
        return self._times.index(time)

    def _forget(self) -> None:
        """Forget the run so far."""
        self._step_index = None
        self._history = ()
        self._state = None
        self._returned = None


class DDIMEditInverseScheduler(_GridScheduler):
    """Integrates images up to their x_T inside a pipeline of diffusers: the inverse of `DDIMEditScheduler`.

    A run begins with images at the first level, which `add_noise` makes of x0, and ends with x_T, as `latents=` takes
    it. `latest_sample` is x_T in float64, also of pipelines that return images only.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: as in diffusers.
        trained_with: the class of diffusers whose process it is, which decides what the entries mean.
        grid: the name of a grid, as for `InversionConfig`.

    References:
        Lu, Zhou, Bao, Chen, Li, Zhu, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        2022, arXiv:2211.01095, algorithm 2.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> up = DDIMEditInverseScheduler.from_config(DDIMScheduler(beta_schedule="scaled_linear").config)
        >>> up.set_timesteps(3)
        >>> up.timesteps.tolist()[0]
        0.0
    """

    def _directed(self, schedule: NoiseSchedule, grid: Grid) -> Sequence[Span]:
        return schedule.spans(grid)

    def _take_step(self, known: TrackedDenoiser, x: Tensor, span: Span, following: Span | None) -> Tensor:
        x, self._history = dpm2m_inverse_step(known, x, span, self._history)
        return x if following is None else predict_state(x, following, self._history)

    def _finish(self, x: Tensor, level: Level) -> Tensor:
        return self._to_sample(x, level)


class DDIMEditScheduler(_GridScheduler):
    """Integrates x_T down to images inside a pipeline of diffusers: DPM-Solver++(2M) on a grid of ours.

    With `set_noise` a run ends as the inversion began: at the first level of the grid, where the noise is taken off.
    Without, it goes on to the clean image with one step more, which is what new images need.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type, trained_with, grid: as
            for `DDIMEditInverseScheduler`.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> down = DDIMEditScheduler.from_config(DDIMScheduler(beta_schedule="scaled_linear").config)
        >>> down.set_timesteps(3)
        >>> down.timesteps.tolist()[0]
        999.0
    """

    noise: Tensor | None = None
    """The noise of the first level that is taken off; None for none."""

    def set_noise(self, noise: Tensor | None) -> None:
        """Set the noise n of the first level, x = alpha (x0 + s n), that the next runs take off.

        Args:
            noise: [B, ...], shaped as the latents of the pipeline; zeros for an inversion without noise. None goes on
                to the clean image instead.
        """
        self.noise = noise

    def _directed(self, schedule: NoiseSchedule, grid: Grid) -> Sequence[Span]:
        return reverse_spans(schedule.spans(grid.to_clean() if self.noise is None else grid))

    def _take_step(self, known: TrackedDenoiser, x: Tensor, span: Span, following: Span | None) -> Tensor:
        x, self._history = dpm2m_step(known, x, span, self._history)
        return x

    def _finish(self, x: Tensor, level: Level) -> Tensor:
        if self.noise is not None and self.noise.shape != x.shape:
            raise ArgumentError(
                f"The noise has the shape {list(self.noise.shape)}, and the latents {list(x.shape)}. Give set_noise "
                "the noise of these latents."
            )
        return remove_noise(x, level, None if self.noise is None else self.noise.to(x.device).double())


def _find_class(config: Mapping[str, Any]) -> str:
    """Return the class of the scheduler that a config is of, or of the one whose place our own has taken."""
    named = config.get("_class_name")
    if named is not None and named not in OWN_SCHEDULERS:
        return str(named)
    if "trained_with" in config:
        return str(config["trained_with"])
    # The config of a scheduler that was not loaded does not name it, but it has all of its entries.
    entries = {name for name in config if not name.startswith("_")}
    for name in SCHEDULERS:
        kind = getattr(_library, name, None)
        if kind is not None and entries == inspect.signature(kind.__init__).parameters.keys() - {"self"}:
            return name
    return "DDPMScheduler"


def _hand_back(exact: Tensor, sample: Tensor) -> Tensor:
    """Return a copy in the dtype and on the device of a sample, rounded first: not every device has float64."""
    return exact.to(sample.dtype, copy=True).to(sample.device)


def _are_equal(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
