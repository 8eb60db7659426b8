"""Bits per dimension of 8-bit pictures under a model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, ProgressDenoiser
from ddim_edit.diffusion.noise import derive_seed
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.evaluation.likelihood.density import Density, Ladder, log_density
from ddim_edit.evaluation.likelihood.traces import Differences, Hutchinson, Tracer, every_unit
from ddim_edit.images import CentreSquare, Crop
from ddim_edit.images.prepare import Images, PreparedImage, prepare_images
from ddim_edit.memory import AdaptiveBatcher
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.model import Model

LEVELS = 127.5
"""Grey levels in a unit of x = p / 127.5 - 1."""


@dataclass(frozen=True)
class Integration:
    """How to integrate a likelihood, as plain data.

    Args:
        steps: Runge-Kutta steps, of 4 traces each. 20 leave 1e-3 bits per dimension of smooth closed forms or less.
        probes: vectors for each trace, at least 2; None is all of them, exact and for tiny models only.
        seed: of dequantisation and probes, from which each picture gets its own.
        dequantise: whether to spread each pixel evenly over its grey level; without, p is the density at the grey
            levels themselves, and no bound on anything discrete.
        start: the time at which the picture stands. 0 is the clean image; 1, the first trained level, is for networks
            that cannot be asked below it.
        condition: the prompt or class; p is then that of samples under it, guidance included.
    """

    steps: int = 20
    probes: int | None = 2
    seed: int = 0
    dequantise: bool = True
    start: float = 0.0
    condition: Condition = NOTHING


DEFAULT, CENTRE = Integration(), CentreSquare()


@dataclass(frozen=True, eq=False)
class Likelihood:
    """How probable a model makes each of B pictures; the errors are those of the probes, not of steps or network.

    Attributes:
        nats: ln p(x) of the dequantised x in [-1, 1], float64 [B].
        nats_error: its standard error, float64 [B].
        dim: D, numbers in a picture.
        probes: vectors for each trace.
        nfe: evaluations for each picture.
    """

    nats: Tensor
    nats_error: Tensor
    dim: int
    probes: int
    nfe: int

    @property
    def bits(self) -> Tensor:
        """Bits per dimension [B]: -log2 p(x) / D + log2(127.5), as a grey level is 1 / 127.5 wide in x."""
        return math.log2(LEVELS) - self.nats / (self.dim * math.log(2))

    @property
    def error(self) -> Tensor:
        """Standard error of `bits` [B]."""
        return self.nats_error / (self.dim * math.log(2))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over pictures and its standard error, None of a single one; knows nothing of errors within pictures."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def log_likelihood(
    model: Model,
    images: Images,
    integration: Integration = DEFAULT,
    crop: Crop = CENTRE,
    batch_size: int | None = None,
    on_evaluation: Callable[[int], object] | None = None,
) -> Likelihood:
    """Bits per dimension of pictures under a pixel model; not of latents, and not in 16 bits.

    The model's p is the density of x_0 for x_T ~ N(0, I) that flows down its ODE: `log_density`. The ODE is the one
    that all grids discretise, so between t = 1, the first trained level, and t = 0 the network is asked at its first
    index. A pixel p in 0..255 becomes x = (p + u) / 127.5 - 1, u even in [-1/2, 1/2), so that the mean of `bits` is an
    upper bound on the bits per dimension of the discrete model P(p) = E_u p(x) / 127.5^D, by Jensen.

    Args:
        model: of pixels, with a float32 network.
        images: as for `Editor.invert`; tensors should hold 8-bit pixels as `images.to_float` makes them.
        integration: steps, probes and so on.
        crop: what to keep of a file whose shape is not the model's.
        batch_size: how many pictures at once, at least 1; None is what suits the device. Changes no result beyond 1e-5.
        on_evaluation: told after every evaluation how many pictures it was for, or None.

    Raises:
        ModelError: an autoencoder, whose latents would be measured, or a network that is not in float32.
        ArgumentError: no pictures, coloured ones for a grey model, or what `Integration` cannot be.
        ImageError: a file that cannot be used.

    Song et al. (2021), appendix D; Theis, van den Oord, Bethge (2016) for dequantisation.
    """
    _require_measurable(model)
    watch = on_evaluation or (lambda pictures: None)
    denoiser = ProgressDenoiser(model.conditioned_on(integration.condition), watch)
    meter = _Meter(model, denoiser, Ladder.of(model.schedule, integration.steps, integration.start), integration)
    batches = AdaptiveBatcher(model.default_batch_size if batch_size is None else batch_size)
    found = list(batches(meter, prepare_images(images, model.size, crop)))
    if not found:
        raise ArgumentError("at least one picture", "none", "hand in a file, a folder or a tensor")
    nats = torch.cat([each.nats for each in found]).cpu()
    variance = torch.cat([each.variance for each in found]).cpu()
    dim = math.prod(model.shape)
    return Likelihood(nats, variance.sqrt(), dim, integration.probes or dim, found[0].nfe)


def _require_measurable(model: Model) -> None:
    if isinstance(model.codec, AutoencoderCodec):
        given = f"{model.name}, which diffuses the latents of an autoencoder"
        raise ModelError("a model that diffuses pixels", given, "a density of latents is none of pictures")
    if model.dtype != "float32":
        remedy = "load it in float32: products with J are differences, which rounding would swamp"
        raise ModelError("a network in float32", f"{model.name} in {model.dtype}", remedy)


@dataclass(frozen=True)
class _Meter:
    """Measures one batch after another."""

    model: Model
    denoiser: Denoiser
    ladder: Ladder
    integration: Integration

    def __call__(self, pictures: Sequence[PreparedImage]) -> Density:
        names = [picture.origin["source"] for picture in pictures]
        x0 = self._encoded(torch.stack([picture.pixels for picture in pictures]))
        if self.integration.dequantise:
            x0 = x0 + self._shares(names) / LEVELS
        slope = Differences(self.model.schedule.level(1).sigma)
        return log_density(self.denoiser, self.model.to_state_device(x0), self.ladder, slope, self._tracer(names))

    def _encoded(self, pictures: Tensor) -> Tensor:
        x0 = self.model.codec.encode(pictures)
        if (self.model.codec.decode(x0) - pictures).abs().max() * LEVELS > 1e-3:
            given = f"coloured ones for {self.model.name}"
            raise ArgumentError("grey pictures for a model of grey ones", given, "take their colour off first")
        return x0

    def _shares(self, names: Sequence[str]) -> Tensor:
        """By how much of a grey level each number moves, evenly from -1/2 to 1/2."""
        return torch.stack([self._drawn(derive_seed(self.integration.seed, f"{name} grey levels")) for name in names])

    def _drawn(self, seed: int) -> Tensor:
        return torch.rand(self.model.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5

    def _tracer(self, names: Sequence[str]) -> Tracer:
        if self.integration.probes is None:
            return every_unit
        seeds = [derive_seed(self.integration.seed, f"{name} probes") for name in names]
        return Hutchinson(self.integration.probes, seeds)
