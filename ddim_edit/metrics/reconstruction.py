"""Round trips of pictures through their codes, and the scores of what came back."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit import metrics
from ddim_edit.diffusion.integration import Inversion
from ddim_edit.images import to_uint8
from ddim_edit.latents.latent import Latent, Latents
from ddim_edit.latents.provenance import Recipe


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Pictures, what came back of them, and how much.

    Attributes:
        originals: float64 [B, 3, H, W] in [-1, 1], as the network saw them.
        pictures: the same after a round trip.
        latents: the codes in between.
        scores: one mapping per picture: nfe_in and nfe_out, mse and psnr (pictures in [0, 1]), ssim, lpips, the
            fraction of identical_pixels, what the latent reports of itself (its error is that of the walk, in units
            of x_0) and, of a lossy codec, codec_psnr and codec_error: how far it alone takes the pictures.
    """

    originals: Tensor
    pictures: Tensor
    latents: Latents
    scores: tuple[Mapping[str, Any], ...]


class InversionBatch(NamedTuple):
    """One batch on its way: pictures [B, 3, H, W], what inverting them found, and what that decodes to, if known.

    Of a lossy codec also what it alone makes of the pictures, without any walk, where decoding was asked for.
    """

    originals: Tensor
    found: Inversion
    decoded: Tensor | None
    coded: Tensor | None = None

    def latents(self, recipes: list[Recipe]) -> list[Latent]:
        """The codes, one recipe each."""
        x, *rest = (part.cpu() for part in self.found.parts)
        deltas = rest[0] if rest else [None] * len(x)
        rows = zip(x, recipes, deltas, _reports(self), strict=True)
        return [Latent(each, recipe.times[-1], recipe, delta, report) for each, recipe, delta, report in rows]


def _reports(trip: InversionBatch) -> Iterator[dict[str, Any]]:
    """What each latent will say of itself."""
    found = trip.found
    columns = {"nfe": found.nfe, "residual": found.residual, "converged": found.converged}
    if found.trip is not None:
        columns |= {"error": found.trip.error, "rounds": found.trip.rounds}
    if trip.coded is not None:
        columns |= {"codec_error": (trip.coded - trip.originals).flatten(1).abs().amax(1)}
    health = asdict(metrics.health(found.parts[0]))
    return _rows(columns | {f"xt_{name}": value for name, value in health.items()})


def scores(trip: InversionBatch, lpips: metrics.LPIPS) -> Iterator[dict[str, Any]]:
    """How much of each picture came back; of a trip that was decoded."""
    assert trip.found.trip is not None
    assert trip.decoded is not None
    pair = trip.originals, trip.decoded
    columns = {
        "nfe_in": trip.found.nfe - trip.found.trip.nfe,
        "nfe_out": trip.found.trip.nfe,
        "mse": metrics.mse(*pair),
        "psnr": metrics.psnr(*pair),
        "ssim": metrics.ssim(*pair),
        "lpips": lpips(*pair),
        "identical_pixels": identical_pixels(*pair),
    }
    if trip.coded is not None:
        columns |= {"codec_psnr": metrics.psnr(trip.originals, trip.coded)}
    return _rows(columns)


def identical_pixels(a: Tensor, b: Tensor) -> Tensor:
    """Fraction [B] of pixels that are the same in 8 bit, in all three channels; pictures [B, 3, H, W] in [-1, 1]."""
    return (to_uint8(a) == to_uint8(b)).all(1).double().mean((1, 2))


def _rows(columns: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Tensors [B] by name as B mappings of numbers; what is not finite has no place in JSON and becomes None."""
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        plain = (value if math.isfinite(value) else None for value in values)
        yield dict(zip(columns, plain, strict=True))
