"""Reconstructions: images that were inverted and decoded, and their scores."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddim_edit.diffusion.integration import Inversion
from ddim_edit.images.image_tensor import SHOWN, ImageTensor, PilImages
from ddim_edit.latents.latent import Latent, Latents
from ddim_edit.latents.provenance import Recipe
from ddim_edit.metrics.image_metrics.peak_signal_to_noise import psnr
from ddim_edit.metrics.latent_health import Health
from ddim_edit.metrics.registry import ImageScorer


@dataclass(frozen=True, eq=False)
class ReconstructedImage:
    """An image before and after a round trip through its latent, with scores.

    Attributes:
        original: float64 [3, H, W] in [-1, 1], as the network saw it.
        decoded: the same after the round trip.
        latent: the latent in between.
        scores: nfe_in and nfe_out, every metric of `metrics.METRICS`, what the latent reports of itself (its error is
            that of the solver, in units of x_0) and, of a lossy codec, codec_psnr and codec_error: what encoding and
            decoding alone cost. Metrics are of `decoded` clipped to [-1, 1] as for writing, but not rounded to 8 bit,
            which identical_pixels alone is of.
    """

    original: ImageTensor
    decoded: ImageTensor
    latent: Latent
    scores: Mapping[str, Any]

    def to_pil(self) -> PilImages:
        """Return the decoded image as Pillow's."""
        return self.decoded.to_pil()

    def __repr__(self) -> str:
        return f"ReconstructedImage({_describe_scores(self.scores)}, {self.latent!r})"

    def _repr_png_(self) -> bytes | None:
        """Return the image before and after the round trip as a PNG, which notebooks show."""
        return torch.stack([self.original, self.decoded]).as_subclass(ImageTensor)._repr_png_()


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Images before and after a round trip through their latents, with scores; its items are `ReconstructedImage`s.

    Attributes:
        originals: float64 [B, 3, H, W] in [-1, 1], as the network saw them.
        decoded: the same after the round trip.
        latents: the latents in between.
        scores: one mapping per image, as `ReconstructedImage` has it.
    """

    originals: ImageTensor
    decoded: ImageTensor
    latents: Latents
    scores: tuple[Mapping[str, Any], ...]

    def to_pil(self) -> PilImages:
        """Return the decoded images as a list of Pillow's."""
        return self.decoded.to_pil()

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> ReconstructedImage:
        original, decoded = (x[index].as_subclass(ImageTensor) for x in (self.originals, self.decoded))
        return ReconstructedImage(original, decoded, self.latents[index], self.scores[index])

    def __repr__(self) -> str:
        described = "; ".join(map(_describe_scores, self.scores[:SHOWN]))
        return f"Reconstruction of {len(self)} images ({described}{'; ...' if len(self) > SHOWN else ''})"

    def _repr_png_(self) -> bytes | None:
        """Return the first images before and, below, after the round trip as a PNG, which notebooks show."""
        rows = torch.cat([self.originals[:SHOWN], self.decoded[:SHOWN]], -2)
        return rows.as_subclass(ImageTensor)._repr_png_()


def _describe_scores(scores: Mapping[str, Any]) -> str:
    psnr_text = "identical" if scores["psnr"] is None else f"PSNR {scores['psnr']:.1f} dB"
    return psnr_text if scores.get("lpips") is None else f"{psnr_text}, LPIPS {scores['lpips']:.2g}"


class InversionBatch(NamedTuple):
    """An inverted batch.

    Attributes:
        originals: the images [B, 3, H, W].
        found: the inversion.
        decoded: what its latents decode to, where the solver checked itself.
        coded: what a lossy codec alone makes of the images, likewise.
        health: how close the latents are to white noise, where that was measured.
        atypicality: how far each image is from typical ones of the model [B], where that was checked.
    """

    originals: Tensor
    found: Inversion
    decoded: Tensor | None
    coded: Tensor | None = None
    health: Health | None = None
    atypicality: Tensor | None = None

    def latents(self, recipes: list[Recipe]) -> list[Latent]:
        """Return the latents, one recipe each, with what the inversion reports of them; all of it is on the CPU."""
        state, details = self.found.state, self.found.detail
        reports = self._reports()
        latents = []
        for index, recipe in enumerate(recipes):
            delta = state[1][index] if len(state) > 1 else None
            detail = None if details is None else details[index].float()
            latents.append(Latent(state[0][index], recipe.times[-1], recipe, delta, reports[index], detail))
        return latents

    def _reports(self) -> list[dict[str, Any]]:
        columns = {"nfe": self.found.nfe, "residual": self.found.residual, "converged": self.found.converged}
        if self.found.check is not None:
            columns["error"] = self.found.check.error
            columns["rounds"] = self.found.check.rounds
        if self.coded is not None:
            columns["codec_error"] = (self.coded - self.originals).flatten(1).abs().amax(1)
        if self.health is not None:
            columns |= {f"xt_{name}": value for name, value in asdict(self.health).items()}
        if self.atypicality is not None:
            columns["atypicality"] = self.atypicality
        return to_json_rows(columns)


def score_batch(batch: InversionBatch, scorer: ImageScorer) -> list[dict[str, Any]]:
    """Return the scores of every image of a batch that was decoded, as JSON types.

    What is outside of [-1, 1] is clipped, as it is when an image is written: nobody sees by how much black overshoots.
    Rounding to 8 bit is left out, so that solvers can be told apart whose images are the same in 8 bit.
    """
    assert batch.found.check is not None
    assert batch.decoded is not None
    columns = {
        "nfe_in": batch.found.nfe - batch.found.check.nfe,
        "nfe_out": batch.found.check.nfe,
        **scorer(batch.originals, batch.decoded.clamp(-1, 1)),
    }
    if batch.coded is not None:
        columns["codec_psnr"] = psnr(batch.originals, batch.coded.clamp(-1, 1))
    return to_json_rows(columns)


def to_json_rows(columns: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Return tensors [B] by name as B mappings; values that are not finite, which JSON cannot hold, become None."""
    rows: list[dict[str, Any]] = [{} for _ in next(iter(columns.values()))]
    for name, column in columns.items():
        for row, value in zip(rows, column.tolist(), strict=True):
            row[name] = value if math.isfinite(value) else None
    return rows
