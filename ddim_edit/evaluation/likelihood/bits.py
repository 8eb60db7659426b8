"""Bits per dimension of 8-bit images under a model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, ProgressDenoiser
from ddim_edit.diffusion.noise import derive_seed
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.evaluation.likelihood.density import Density, RungeKuttaGrid, log_density
from ddim_edit.evaluation.likelihood.traces import FiniteDifferences, Hutchinson, TraceEstimator, exact_trace
from ddim_edit.images import Crop, default_crop
from ddim_edit.images.inputs import NO_IMAGES, Images, is_single
from ddim_edit.images.prepare import PreparedImage, prepare_images
from ddim_edit.memory import AdaptiveBatcher
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.finite import NETWORK, FirstLook, GuardedDenoiser, require_finite
from ddim_edit.models.model import Model

GREY_LEVELS = 127.5
"""Grey levels in a unit of x = p / 127.5 - 1."""


@dataclass(frozen=True)
class LikelihoodConfig:
    """Options of a likelihood.

    Args:
        steps: Runge-Kutta steps of 4 traces each. 20 leave at most 1e-3 bits per dimension of smooth closed forms.
        probes: vectors per trace, at least 2; None is all of them, exact and for tiny models only.
        seed: of dequantisation and probes, from which each image gets its own.
        dequantise: whether to spread each pixel evenly over its grey level. Without, p is the density at the grey
            levels themselves and bounds nothing discrete.
        start: the time at which the image stands. 0 is the clean image; 1, the first trained level, is for networks
            that cannot be evaluated below it.
        condition: the prompt or class; p is then that of samples under it, guidance included.
    """

    steps: int = 20
    probes: int | None = 2
    seed: int = 0
    dequantise: bool = True
    start: float = 0.0
    condition: Condition = NOTHING


DEFAULT = LikelihoodConfig()


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Likelihoods of B images; their errors are those of the probes, not of steps or network.

    Attributes:
        nats: ln p(x) of the dequantised x in [-1, 1], float64 [B].
        nats_error: its standard error, float64 [B].
        dim: D, numbers in an image.
        probes: vectors per trace.
        nfe: evaluations per image.
    """

    nats: Tensor
    nats_error: Tensor
    dim: int
    probes: int
    nfe: int

    @property
    def bits(self) -> Tensor:
        """Bits per dimension [B]: -log2 p(x) / D + log2(127.5), as a grey level is 1 / 127.5 wide in x."""
        return math.log2(GREY_LEVELS) - self.nats / (self.dim * math.log(2))

    @property
    def error(self) -> Tensor:
        """Standard error of `bits` [B]."""
        return self.nats_error / (self.dim * math.log(2))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean over images and its standard error, which is None for a single image."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def log_likelihood(
    model: Model,
    images: Images,
    config: LikelihoodConfig = DEFAULT,
    crop: Crop | None = None,
    batch_size: int | None = None,
    on_evaluation: Callable[[int], object] | None = None,
) -> Likelihood:
    """Return the bits per dimension of images under a model of pixels.

    The model's p is the density of x_0 for x_T ~ N(0, I) that flows down its ODE; see `log_density`. The ODE is the one
    that all grids discretise: between t = 1, the first trained level, and t = 0 the network is evaluated at its first
    index. A pixel p in 0..255 becomes x = (p + u) / 127.5 - 1 with u even in [-1/2, 1/2), so by Jensen's inequality the
    mean of `bits` is an upper bound on the bits per dimension of the discrete model P(p) = E_u p(x) / 127.5^D.

    Args:
        model: of pixels, with a float32 network.
        images: as for `Editor.invert`; tensors should hold 8-bit pixels as `images.to_float` makes them. The likelihood
            of a single image has no dimension B.
        config: steps, probes and so on.
        crop: the part of a file to keep, as for `Editor.invert`.
        batch_size: images per forward pass, at least 1; None is the default of the device. It changes no result beyond
            1e-5.
        on_evaluation: called after every network evaluation with the number of images in it.

    Raises:
        ModelError: a model with an autoencoder, whose density is one of latents, or a network not in float32.
        ArgumentError: no images, coloured ones for a grey model, or values that `LikelihoodConfig` cannot have.
        ImageError: a file that cannot be used.
        NonFiniteError: the density of an image is not finite.

    References:
        Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, "Score-Based Generative Modeling through Stochastic
        Differential Equations", ICLR 2021, arXiv:2011.13456, appendix D.
        Theis, van den Oord, Bethge, "A Note on the Evaluation of Generative Models", ICLR 2016, arXiv:1511.01844
        (dequantisation).
    """
    if isinstance(model.codec, AutoencoderCodec):
        raise ModelError(
            f"{model.name} diffuses the latents of an autoencoder, whose density is not one of images. Use a model that"
            " diffuses pixels."
        )
    if model.dtype != "float32":
        raise ModelError(
            f"{model.name} computes in {model.dtype}, whose rounding would drown the differences that Jacobian products"
            " are. Load it in float32."
        )
    denoiser: Denoiser = GuardedDenoiser(model.conditioned_on(config.condition), FirstLook(model))
    if on_evaluation is not None:
        denoiser = ProgressDenoiser(denoiser, on_evaluation)
    grid = RungeKuttaGrid.make(model.schedule, config.steps, config.start)
    linearization = FiniteDifferences(model.schedule.level(1).sigma)

    @torch.no_grad()
    def measure(batch: Sequence[PreparedImage]) -> Density:
        names = [image.origin["source"] for image in batch]
        pixels = torch.stack([image.pixels for image in batch])
        x0 = model.codec.encode(pixels)
        # A grey model would drop colours, and score another image than the one it was given.
        if (model.codec.decode(x0) - pixels).abs().max() * GREY_LEVELS > 1e-3:
            raise ArgumentError(f"{model.name} is a model of grey images. Convert coloured ones to grey first.")
        if config.dequantise:
            # By how much of a grey level each number moves, even in [-1/2, 1/2).
            shares = []
            for name in names:
                generator = torch.Generator().manual_seed(derive_seed(config.seed, f"{name} grey levels"))
                shares.append(torch.rand(*model.shape, generator=generator, dtype=torch.float64) - 0.5)
            x0 = x0 + torch.stack(shares) / GREY_LEVELS
        trace: TraceEstimator = exact_trace
        if config.probes is not None:
            trace = Hutchinson(config.probes, [derive_seed(config.seed, f"{name} probes") for name in names])
        density = log_density(denoiser, model.to_state_device(x0), grid, linearization, trace)
        require_finite(model, NETWORK, torch.stack([density.nats, density.variance], 1))
        return density

    batcher = AdaptiveBatcher(model.default_batch_size if batch_size is None else batch_size)
    found = list(batcher(measure, prepare_images(images, model.size, crop or default_crop(model.face_template))))
    if not found:
        raise ArgumentError(NO_IMAGES)
    nats = torch.cat([each.nats for each in found]).cpu()
    variance = torch.cat([each.variance for each in found]).cpu()
    if is_single(images):
        nats, variance = nats[0], variance[0]
    dim = math.prod(model.shape)
    return Likelihood(nats, variance.sqrt(), dim, config.probes or dim, found[0].nfe)
