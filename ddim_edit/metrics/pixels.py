"""How far pictures are apart, and how Gaussian a latent is; every figure is float64, one a picture."""

import warnings
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ddim_edit.errors import ArgumentError, ModelError

WINDOW, SIGMA = 11, 1.5
SHORTEST = 64
"""Pixels the short side of a picture must have for LPIPS: AlexNet's features shrink it to a sixteenth."""


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of two batches, with pictures taken as [0, 1].

    Args:
        a: pictures [B, 3, H, W] in [-1, 1].
        b: pictures of the same shape.

    Returns: [B], float64.

    Errors: ArgumentError for shapes that differ.
    """
    a, b = _paired(a, b)
    return (a - b).square().mean(dim=(1, 2, 3))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, infinite for equal pictures; arguments as for `mse`.

    -10 log10(mse)
    """
    return -10 * mse(a, b).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of two batches, each colour by itself, at most 1; arguments as for `mse`.

    (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2)), c1 = 0.01^2, c2 = 0.03^2, with
    means m and variances s under an 11x11 Gaussian window of deviation 1.5, averaged over all places where it
    lies inside the picture, as its authors and scikit-image do; torchmetrics 1.9 adds mirrored borders.

    Errors: ArgumentError for shapes that differ and for pictures under 11 pixels.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment".
    """
    a, b = _paired(a, b)
    if min(a.shape[-2:]) < WINDOW:
        raise ArgumentError(f"pictures of at least {WINDOW}x{WINDOW}", _shape(a), "compare them by mse")
    mean_a, mean_b = _windowed(a), _windowed(b)
    luminance = _agreement(mean_a * mean_b, mean_a.square() + mean_b.square(), 0.01**2)
    covariance = _windowed(a * b) - mean_a * mean_b
    variances = _windowed(a * a + b * b) - mean_a.square() - mean_b.square()
    return (luminance * _agreement(covariance, variances, 0.03**2)).mean(dim=(1, 2, 3))


class LPIPS:
    """Learned perceptual distance with AlexNet features, from the `lpips` package and features of our own.

    Downloads nothing. Pictures whose short side is under 64 pixels are enlarged to 64, bilinearly, for below
    that the features have no room; `size_used` tells.

    Args:
        device: where the features are computed.
        batch: how many pairs at a time, which bounds the memory.

    Errors: ModelError if the features are not exactly those the metric needs.

    Source: Zhang, Isola, Efros, Shechtman, Wang 2018, "The unreasonable effectiveness of deep features".
    """

    def __init__(self, device: torch.device | str = "cpu", batch: int = 16) -> None:
        self._device = torch.device(device)
        self._batch = batch
        self._network = _lpips_network().to(self._device)

    @staticmethod
    def size_used(shape: torch.Size | tuple[int, ...]) -> tuple[int, int]:
        """The (height, width) at which pictures of `shape` [..., H, W] are compared."""
        height, width = shape[-2:]
        scale = max(1, SHORTEST / min(height, width))
        return round(height * scale), round(width * scale)

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of two batches, 0 for equal pictures; arguments and result as for `mse`."""
        _check_pair(a, b)
        starts = range(0, len(a), self._batch)
        distances = [self._distance(a[i : i + self._batch], b[i : i + self._batch]) for i in starts]
        return torch.cat(distances) if distances else a.new_zeros(0).double()

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        distance: Tensor = self._network(self._ready(a), self._ready(b))
        return distance.flatten().double()

    def _ready(self, x: Tensor) -> Tensor:
        x, size = x.to(self._device, torch.float32), self.size_used(x.shape)
        if x.shape[-2:] == size:
            return x
        return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


@dataclass(frozen=True, eq=False)
class Health:
    """How close each latent of a batch is to white noise; float64 [B] each, listed with what noise has.

    Attributes:
        mean: 0.
        std: 1; with D, not D - 1, in the denominator.
        corr: 0; mean of the Pearson correlations of horizontal and of vertical neighbours.
        kurtosis: 3; fourth central moment over squared variance.
        norm: 1; length over sqrt(D).
    """

    mean: Tensor
    std: Tensor
    corr: Tensor
    kurtosis: Tensor
    norm: Tensor


def health(x: Tensor) -> Health:
    """The health of the latents `x` [B, C, H, W], over all D = C H W values of each.

    What is undefined is NaN: `corr` and `kurtosis` of a constant, `corr` of a single pixel. Where only one of
    the directions has neighbours, `corr` is that direction's.

    Errors: ArgumentError for another shape.
    """
    if x.ndim != 4:
        raise ArgumentError("latents of shape [B, C, H, W]", _shape(x), "add the batch dimension")
    x = x.double()
    flat = x.flatten(1)
    central = flat - flat.mean(dim=1, keepdim=True)
    variance = central.square().mean(dim=1)
    across = _correlation(x[..., :, :-1], x[..., :, 1:])
    down = _correlation(x[..., :-1, :], x[..., 1:, :])
    return Health(
        mean=flat.mean(dim=1),
        std=variance.sqrt(),
        corr=torch.stack([across, down]).nanmean(dim=0),
        kurtosis=central.pow(4).mean(dim=1) / variance.square(),
        norm=flat.square().mean(dim=1).sqrt(),
    )


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of two batches, value by value; NaN where it is undefined."""
    a, b = a.flatten(1), b.flatten(1)
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()


def _shape(x: Tensor) -> str:
    return f"shape {list(x.shape)}"


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
        given = f"{_shape(a)} and {_shape(b)}"
        raise ArgumentError("two batches of one shape [B, 3, H, W]", given, "pair the pictures up")


def _paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both batches in float64 and [0, 1]."""
    _check_pair(a, b)
    return (a.double() + 1) / 2, (b.double() + 1) / 2


def _agreement(product: Tensor, squares: Tensor, c: float) -> Tensor:
    return (2 * product + c) / (squares + c)


def _windowed(x: Tensor) -> Tensor:
    """Means of [B, 3, H, W] under the Gaussian window, wherever it lies inside: [B, 3, H - 10, W - 10]."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.softmax(-offsets.square() / (2 * SIGMA**2), dim=0)
    row = weights.expand(3, 1, 1, WINDOW)
    return F.conv2d(F.conv2d(x, row, groups=3), row.mT, groups=3)


def _lpips_network() -> Any:
    """The metric's network: its heads from the package `lpips`, its AlexNet features from our assets."""
    # lpips fills the features at random first, and torchvision warns about the way it is asked to.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", module=r"torchvision\.models\._utils")
        import lpips

        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    _load_features(network.net)
    if any((head.model[-1].weight < 0).any() for head in network.lins):
        # Only trained heads are free of negative weights: their authors cut them off at 0.
        raise ModelError("the trained heads of the lpips package", "random ones", "reinstall lpips")
    return network


def _load_features(network: torch.nn.Module) -> None:
    """Loads every feature weight strictly: torchvision's features.3.bias is slice2.3.bias to lpips."""
    file = resources.files("ddim_edit.assets") / "lpips" / "alexnet_features_fp16.safetensors"
    places = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}.items()
    names = {f"features.{i}.{part}": f"slice{j}.{i}.{part}" for i, j in places for part in ("weight", "bias")}
    try:
        weights = {names[key]: value.float() for key, value in load(file.read_bytes()).items()}
        network.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError, LookupError, RuntimeError) as error:
        given = f"{file.name}, which holds something else"
        raise ModelError("the five feature layers of AlexNet", given, "reinstall ddim-edit") from error
