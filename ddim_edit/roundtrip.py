"""Round trips of pictures through their codes, and the scores of what came back."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit import metrics
from ddim_edit.images import to_uint8
from ddim_edit.latent import Latent, Latents, Recipe
from ddim_edit.solve import Inversion


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Pictures, what came back of them, and how much.

    Attributes:
        originals: float64 [B, 3, H, W] in [-1, 1], as the network saw them.
        pictures: the same after a round trip.
        latents: the codes in between.
        scores: one mapping per picture: nfe_in and nfe_out, mse and psnr (pictures in [0, 1]), ssim, lpips, the
            fraction of identical_pixels, and what the latent reports of itself.
    """

    originals: Tensor
    pictures: Tensor
    latents: Latents
    scores: tuple[Mapping[str, Any], ...]


class Trip(NamedTuple):
    """One batch on its way: pictures [B, 3, H, W], what inverting them found, and what that decodes to, if known."""

    originals: Tensor
    found: Inversion
    decoded: Tensor | None

    def latents(self, recipes: list[Recipe]) -> list[Latent]:
        """The codes, one recipe each."""
        rows = zip(*(part.cpu() for part in self.found.parts), strict=True)
        reports = list(self._reports())
        return [
            Latent(x, recipe.times[-1], recipe, *delta, report=report)
            for (x, *delta), recipe, report in zip(rows, recipes, reports, strict=True)
        ]

    def scores(self, lpips: metrics.LPIPS) -> list[dict[str, Any]]:
        """How much came back, picture by picture; only for a trip that was decoded."""
        assert self.decoded is not None
        columns = {
            "nfe_in": self.found.nfe - self.found.nfe_decode,
            "nfe_out": self.found.nfe_decode,
            "mse": metrics.mse(self.originals, self.decoded),
            "psnr": metrics.psnr(self.originals, self.decoded),
            "ssim": metrics.ssim(self.originals, self.decoded),
            "lpips": lpips(self.originals, self.decoded),
            "identical_pixels": identical_pixels(self.originals, self.decoded),
        }
        return list(_rows(columns))

    def _reports(self) -> Iterator[dict[str, Any]]:
        health = {f"xt_{name}": value for name, value in asdict(metrics.health(self.found.parts[0])).items()}
        found = self.found._asdict()
        names = ("nfe", "nfe_decode", "residual", "converged", "error", "rounds")
        return _rows({name: found[name] for name in names if found[name] is not None} | health)


def identical_pixels(a: Tensor, b: Tensor) -> Tensor:
    """Fraction [B] of pixels that are the same in 8 bit, in all three channels; pictures [B, 3, H, W] in [-1, 1]."""
    return (to_uint8(a) == to_uint8(b)).all(1).double().mean((1, 2))


def _rows(columns: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Tensors [B] by name as B mappings of numbers; what is not finite has no place in JSON and becomes None."""
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        plain = (value if math.isfinite(value) else None for value in values)
        yield dict(zip(columns, plain, strict=True))
