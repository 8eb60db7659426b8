"""Inversion and decoding of LATENTs by a MODEL of ComfyUI, with its guidance and its patches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ddim_edit.batching import BatchRunner
from ddim_edit.config import InversionConfig
from ddim_edit.directions import Direction, fit_direction, make_edit
from ddim_edit.errors import ArgumentError, LatentMismatchError
from ddim_edit.images.prepare import PreparedImage
from ddim_edit.integrations.comfyui.identity import find_components, find_condition
from ddim_edit.integrations.comfyui.process import (
    GuiderDenoiser,
    SamplingProcess,
    read_sampling,
    with_fractional_times,
)
from ddim_edit.latents.cache import LatentArray
from ddim_edit.latents.latent import Latents, require_compatible
from ddim_edit.latents.provenance import DTYPES, LatentArrayOrigin
from ddim_edit.models.condition import Condition
from ddim_edit.models.devices import is_native, state_device
from ddim_edit.models.model import Model

Conditioning = list[Any]
"""A CONDITIONING of ComfyUI: pairs of a tensor and a mapping."""
Callback = Callable[[int, Tensor, Tensor, int], object]
"""What ComfyUI calls after a step: with its number from 0, x_0, the state, and the number of steps."""
T = TypeVar("T")


class _LatentCodec(NamedTuple):
    """The codec of LATENTs, which ComfyUI encodes and decodes by nodes of its own: the identity."""

    factor: int = 1
    lossy: bool = False
    component: str = "latents of ComfyUI"

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, x0: Tensor) -> Tensor:
        return x0


def invert(
    model: Any,
    positive: Conditioning,
    negative: Conditioning | None,
    samples: Tensor,
    config: InversionConfig,
    cfg: float = 1.0,
    callback: Callback | None = None,
) -> Latents:
    """Invert the samples of a LATENT.

    The network runs as ComfyUI's own samplers run it: loaded by its model management, with the patches, hooks and
    wrappers of the MODEL and with its progress and its interruption.

    Args:
        model: a MODEL.
        positive: the CONDITIONING.
        negative: the other one, which is used unless cfg is 1; None for none.
        samples: [B, C, H, W], or with one frame [B, C, 1, H, W], as an autoencoder of ComfyUI gives them.
        config: solver, grid, steps and so on; the condition is replaced.
        cfg: guidance scale, 1 is off. The stronger, the less exactly images return.
        callback: of ComfyUI, called after every evaluation.

    Raises:
        ArgumentError: samples that this MODEL does not take, or a config that does not exist.
        ModelError: a MODEL whose process is not supported.
        NonFiniteError: the network returned NaN or infinity.
    """
    session = _Session(model, positive, negative, cfg, _frames(samples, model))
    config = replace(config, condition=session.condition)
    x0 = model.model.process_latent_in(samples.float().cpu())
    rows = [PreparedImage(row, {"source": "", "preprocessing": None}) for row in x0.double().reshape(session.flat)]
    rows = [row._replace(origin={**row.origin, "source": row.digest}) for row in rows]
    total = config.inversion_workload(session.process.schedule).expected * len(rows)

    def run(runner: BatchRunner) -> Latents:
        batches = runner.invert_chunks([rows], list, config)
        return Latents(chain.from_iterable(latents for _, latents in chain.from_iterable(batches)))

    latents = session.run(run, total, callback)
    for latent in latents:
        latent.require_finite()
    return latents


def decode(
    model: Any,
    positive: Conditioning,
    negative: Conditioning | None,
    latents: Latents,
    samples: Tensor | None = None,
    cfg: float | None = None,
    force: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Decode latents to the samples of a LATENT, by their own recipes; what `invert` inverted comes back.

    Under another condition than the inversion's the latents are edited (`Latent.with_condition`).

    Args:
        model: the MODEL of the inversion.
        positive: as for `invert`.
        negative: as for `invert`.
        latents: from `invert`, from files, or mixed or moved.
        samples: takes the place of their x_T [B, C, H, W], if it was changed.
        cfg: guidance scale; None is that of the inversion.
        force: decode even latents of another MODEL.
        callback: as for `invert`.

    Returns:
        samples [B, C, H, W], or with one frame [B, C, 1, H, W] for MODELs that take these, float32.

    Raises:
        ArgumentError: no latents, or samples of another shape.
        LatentMismatchError: latents of another MODEL, without `force`, or of another shape.
        ModelError: as `invert`.
    """
    if not latents:
        raise ArgumentError("There are no latents to decode. Invert an image first.")
    if samples is not None:
        latents = replace_states(latents, samples)
    # Video MODELs take one frame.
    frames = [1] if _dimensions(model) == 3 else []
    rows, (channels, *sides) = len(latents), latents[0].x.shape
    guidance = latents[0].recipe.condition.guidance_scale if cfg is None else cfg
    session = _Session(model, positive, negative, guidance, (rows, channels, *frames, *sides))
    latents = Latents(latent.with_condition(session.condition) for latent in latents)
    require_compatible(latents)
    recipe = latents[0].recipe
    total = rows * (len(recipe.times) - 1)

    def run(runner: BatchRunner) -> Tensor:
        for latent in latents:
            runner.require_own(latent, force)
        return runner.decode(latents)

    x0 = session.run(run, total, callback).float().reshape(session.shape)
    return model.model.process_latent_out(x0)  # type: ignore[no-any-return]


def replace_states(latents: Latents, samples: Tensor) -> Latents:
    """Return latents with other states; where one is the same to float32, the latent stays as it is.

    Raises:
        ArgumentError: samples of another shape.
    """
    x = samples.cpu().double()
    if x.numel() != latents.x.numel() or len(x) != len(latents):
        raise ArgumentError(
            f"The samples have the shape {list(samples.shape)}, and the latents {list(latents.x.shape)}. Give both "
            "from one node."
        )
    found = []
    for latent, row in zip(latents, x.reshape(latents.x.shape), strict=True):
        same = torch.equal(latent.x.float(), row.float())
        found.append(latent if same else replace(latent.moved(), x=row, report={}))
    return Latents(found)


def move(latents: Latents, direction: Direction, strength: float) -> Latents:
    """Move latents along a direction, by so many of its standard deviations.

    Raises:
        DirectionMismatchError: latents of another MODEL, grid, level or condition than the direction was fitted to.
        ArgumentError: a direction of the bottleneck, which ComfyUI has no way into.
    """
    if direction.times:
        raise ArgumentError(f"{direction.name} is a direction of h, the bottleneck. Use one of x here.")
    step = make_edit({direction: strength})
    return step(latents, None)[0]  # type: ignore[arg-type]  # directions of x leave the denoiser alone


def fit(name: str, having: Latents, lacking: Latents, estimator: str = "mean") -> Direction:
    """Fit a direction from latents of images without an attribute to those of images with it.

    Args:
        name: of the attribute.
        having: latents of images that have it.
        lacking: of images that do not.
        estimator: a name in `ESTIMATORS`.

    Raises:
        LatentMismatchError: latents that were not inverted alike.
        DirectionError: latents that do not differ.
        ArgumentError: an unknown estimator.
    """
    together = [*having, *lacking]
    require_compatible(together)
    recipe = replace(together[0].recipe, origin=LatentArrayOrigin(), dequantise=(), detail=None)
    labels = torch.tensor([1] * len(having) + [0] * len(lacking)).numpy()
    return fit_direction(name, LatentArray(Latents(together).x.float(), recipe), labels, estimator)


@dataclass(frozen=True, eq=False)
class LatentNoise:
    """Latents as a NOISE of ComfyUI: samplers that begin with pure noise begin with their x_T.

    Their LATENT must be an empty one. What they end on has no certificate, and is as close to the image as their own
    sampler and steps are.

    Attributes:
        latents: at x_T.
        seed: as every NOISE has one; it is not used.
    """

    latents: Latents
    seed: int = 0

    def generate_noise(self, input_latent: Any) -> Tensor:
        """Return x_T in the shape of the samples of a LATENT.

        Raises:
            LatentMismatchError: another number of latents, or another shape.
        """
        samples = input_latent["samples"]
        x = self.latents.x
        # Of nodes for empty LATENTs, samplers correct the number of channels later.
        if len(samples) != len(x) or samples.shape[-2:] != x.shape[-2:]:
            raise LatentMismatchError(
                f"The LATENT has the shape {list(samples.shape)}, and the latents {list(x.shape)}. Give the sampler an "
                "empty LATENT of their size."
            )
        return x.float().reshape(len(x), x.shape[1], *samples.shape[2:])


class _Session:
    """One use of a MODEL under a condition.

    Args:
        model: a MODEL.
        positive, negative, cfg: as for `invert`.
        shape: of all samples, [B, C, H, W] or [B, C, 1, H, W].
    """

    def __init__(
        self, model: Any, positive: Conditioning, negative: Conditioning | None, cfg: float, shape: Sequence[int]
    ) -> None:
        if negative is None and cfg != 1:
            raise ArgumentError(
                f"A guidance of {cfg:g} needs a negative CONDITIONING too. Connect one, or set cfg to 1."
            )
        self.process: SamplingProcess = read_sampling(model.get_model_object("model_sampling"))
        self.condition: Condition = find_condition(positive, negative, cfg)
        self.shape = tuple(shape)
        self.flat = (shape[0], shape[1], *shape[-2:])
        self._components = find_components(model, self.process)
        self._model = with_fractional_times(model)
        self._conds = positive, negative, cfg

    def run(self, task: Callable[[BatchRunner], T], total: int, callback: Callback | None) -> T:
        """Return what a task does with the runner of the MODEL, while ComfyUI has it loaded.

        Args:
            task: called with the runner.
            total: evaluations that are expected, one for each image in a batch.
            callback: of ComfyUI.
        """
        import comfy.samplers

        positive, negative, cfg = self._conds
        guider = comfy.samplers.CFGGuider(self._model)
        guider.set_conds(positive, positive if negative is None else negative)
        guider.set_cfg(cfg)
        sampler = _TaskSampler(partial(self._work, task, total, callback))
        # ComfyUI scales this LATENT, and what a sampler returns, as it does an image's, so both are empty here.
        empty = torch.zeros(self.shape)
        sigmas = self._model.get_model_object("model_sampling").sigmas.float().flip(0)
        guider.sample(empty, empty, sampler, sigmas, disable_pbar=True, seed=0)
        found: T = sampler.found
        return found

    def _work(
        self,
        task: Callable[[BatchRunner], T],
        total: int,
        callback: Callback | None,
        guider: Callable[..., Tensor],
        extra: dict[str, Any],
    ) -> T:
        from comfy.model_management import throw_exception_if_processing_interrupted

        done = 0

        def report(x0: Tensor | None) -> None:
            nonlocal done
            if x0 is None:
                throw_exception_if_processing_interrupted()
            elif callback is not None:
                done += len(x0)
                # A tolerance may take more evaluations than expected.
                callback(done - 1, x0.float(), x0, max(total, done))

        device = torch.device(self._model.load_device)
        denoiser = GuiderDenoiser(guider, extra, self.process.straight, device, self.shape, report)
        computed = self._model.model.get_dtype_inference()
        dtype = str(computed).removeprefix("torch.")
        model = Model(
            denoiser=denoiser,
            codec=_LatentCodec(),
            schedule=self.process.schedule,
            shape=(self.flat[1], self.flat[2], self.flat[3]),
            name=type(self._model.model).__name__,
            components=self._components,
            prediction=self.process.prediction,
            dtype=dtype if dtype in DTYPES else "mixed",
            device=device,
            native=is_native(device, computed),
            state_device=state_device(device),
            conditioner=lambda condition: denoiser,
            follows="CONDITIONING",
        )
        # All at once, as CONDITIONINGs may have a row for each.
        return task(BatchRunner(model, batch_size=self.shape[0]))


class _TaskSampler:
    """A sampler of ComfyUI that does something with the guided MODEL, and keeps what comes of it as `found`."""

    found: Any

    def __init__(self, work: Callable[[Callable[..., Tensor], dict[str, Any]], object]) -> None:
        self._work = work

    def sample(
        self,
        model_wrap: Callable[..., Tensor],
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: object,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Do the work, as ComfyUI calls its samplers."""
        self.found = self._work(model_wrap, extra_args)
        return noise


def _dimensions(model: Any) -> int:
    """Return how many dimensions a MODEL's samples have beside batch and channels."""
    return int(getattr(model.get_model_object("latent_format"), "latent_dimensions", 2))


def _frames(samples: Tensor, model: Any) -> tuple[int, ...]:
    """Return the shape of samples as the MODEL takes them.

    Raises:
        ArgumentError: nested or several frames, or another number of channels.
    """
    channels = int(model.get_model_object("latent_format").latent_channels)
    dimensions = _dimensions(model)
    shape = tuple(samples.shape)
    fits = len(shape) in (4, 5) and shape[1] == channels and (len(shape) == 4 or shape[2] == 1) and dimensions < 4
    if getattr(samples, "is_nested", False) or not fits or not len(samples):
        wanted = f"[B, {channels}, {'1, ' * (dimensions == 3)}H, W]"
        raise ArgumentError(
            f"This MODEL takes latents of images {wanted}, not {list(shape)}. Encode one image with its own VAE."
        )
    frames = [1] if dimensions == 3 else []
    return (shape[0], channels, *frames, *shape[-2:])
