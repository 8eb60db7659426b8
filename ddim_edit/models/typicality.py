"""Whether images look like those that a model was trained on.

Two questions are asked of an image. Is it harder to denoise than typical images with as much detail? Seeded noise is
added to x_0 at a few levels, the network predicts it, and the logarithms of its mean squared errors are compared with a
linear regression on the detail of the image. That finds faces that are cropped badly or tilted, and objects that look
a little like faces. And is its detail spread over the scales as in typical images? That needs no network, and finds
flat colours, text and textures, which are easily denoised. docs/explanation/typicality.md has the measurements.

References:
    Graham, Pinaya, Tudosiu, Nachev, Ourselin, Cardoso, "Denoising Diffusion Models for Out-of-Distribution Detection",
    CVPR Workshops 2023, arXiv:2211.07740.
    Serra, Alvarez, Gomez, Slizovskaia, Nunez, Luque, "Input Complexity and Out-of-Distribution Detection with
    Likelihood-Based Generative Models", ICLR 2020, arXiv:1909.11480.
    Heng, Thiery, Soh, "Out-of-Distribution Detection with a Single Unconditional Diffusion Model", NeurIPS 2024,
    arXiv:2405.11881.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ddim_edit.diffusion.noise import SeededNoise
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io import schema
from ddim_edit.io.atomic import atomic

if TYPE_CHECKING:
    from ddim_edit.models.model import Model

FILE = "typicality.json"
"""Name of the file in a model's folder. Beside a checkpoint file NAME.pt it is NAME.typicality.json."""
LEVELS = (2.0, 8.0)
"""Noise-to-signal ratios at which images are denoised."""
SCALES = (1, 2, 4, 8)
"""By how much images are shrunk to measure their detail."""
FAINT = 1e-4
"""Mean square of what counts as no detail, about one level of 255."""
FEWEST = 50
"""Images that a range can be measured on."""
QUANTILE = 0.995
"""The limit is this quantile of the distances of typical images."""

_REMEDY = "Measure it again with `ddim-edit calibrate`, or remove the file."
_NUMBERS = schema.list_of(schema.number)
_SCHEMA = {
    "levels": schema.list_of(schema.positive_number),
    "coefficients": schema.list_of(_NUMBERS),
    "spread": schema.list_of(schema.positive_number),
    "detail": schema.list_of(schema.number, len(SCALES)),
    "precision": schema.list_of(schema.list_of(schema.number, len(SCALES)), len(SCALES)),
    "limit": schema.positive_number,
    "images": schema.count,
    "shape": schema.list_of(schema.positive_int, 3),
    "network": schema.text,
    "advice": schema.text,
}


@dataclass(frozen=True)
class Typicality:
    """What is typical of the images of a model: their denoising errors, and their detail.

    Attributes:
        levels: noise-to-signal ratios [K].
        coefficients: of the regression of the logarithms of errors on 1 and on the detail [K, 1 + D].
        spread: standard deviation of what it leaves [K].
        detail: mean of the detail at each scale relative to the variance of the image [D - 1].
        precision: inverse of its covariance [D - 1, D - 1].
        limit: largest distance that is still typical.
        images: on how many it was measured.
        shape: of x_0, (C, H, W).
        network: digest of the network that it was measured with.
        advice: a sentence on what to do about an image that is not typical, or nothing.
    """

    levels: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    spread: tuple[float, ...]
    detail: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float
    images: int
    shape: tuple[int, int, int]
    network: str
    advice: str = ""

    @classmethod
    def fit(cls, features: Tensor, model: Model, levels: Sequence[float] = LEVELS, advice: str = "") -> Typicality:
        """Return what is typical of images, from `typicality_features` of each of them [N, K + D].

        Raises:
            ArgumentError: too few images, or images that do not differ or cannot be denoised.
        """
        if len(features) < FEWEST:
            raise ArgumentError(f"It takes at least {FEWEST} images, not {len(features)}. Name more.")
        errors, detail = features[:, : len(levels)].double(), features[:, len(levels) :].double()
        relative = detail[:, :-1] - detail[:, -1:]
        covariance = torch.cov(relative.T)
        if not features.isfinite().all() or torch.linalg.matrix_rank(covariance) < len(SCALES):
            raise ArgumentError("The images do not differ, or are not denoised to finite numbers. Name other ones.")
        design = F.pad(detail, (1, 0), value=1.0)
        coefficients = torch.linalg.lstsq(design, errors, driver="gelsd").solution
        spread = (errors - design @ coefficients).std(dim=0)
        unlimited = cls(
            levels=tuple(levels),
            coefficients=_to_tuples(coefficients.T),
            spread=tuple(spread.tolist()),
            detail=tuple(relative.mean(dim=0).tolist()),
            precision=_to_tuples(torch.linalg.inv(covariance)),
            limit=1.0,
            images=len(features),
            shape=model.shape,
            network=model.components["network"],
            advice=advice,
        )
        return replace(unlimited, limit=torch.quantile(unlimited.score(features), QUANTILE).item())

    def score(self, features: Tensor) -> Tensor:
        """Return how far images are from typical ones, above 1 for strange ones, from their `typicality_features`: [N].

        It is the sum of two distances, as a share of the limit: by how many standard deviations, over all levels, the
        image is harder to denoise than typical ones with its detail, and how far its detail is from theirs. An image
        that is easier to denoise is no worse for it.
        """
        features = features.double().cpu()
        errors, detail = features[:, : len(self.levels)], features[:, len(self.levels) :]
        expected = F.pad(detail, (1, 0), value=1.0) @ torch.tensor(self.coefficients, dtype=torch.float64).T
        excess = ((errors - expected) / torch.tensor(self.spread, dtype=torch.float64)).sum(dim=1)
        offset = detail[:, :-1] - detail[:, -1:] - torch.tensor(self.detail, dtype=torch.float64)
        precision = torch.tensor(self.precision, dtype=torch.float64)
        distance = torch.einsum("nj,jk,nk->n", offset, precision, offset).sqrt()
        return (excess.clamp(min=0) + distance) / self.limit

    def describe(self, score: float | None, model: str) -> str | None:
        """Return a warning of an image with this score, or None for one that is typical or has no finite score."""
        if score is None or not 1 < score < math.inf:
            return None
        return (
            f"does not look like the images that {model} was trained on (score {score:.2f}, typical up to 1). "
            f"Edits will be poor. {self.advice}"
        ).rstrip()

    def save(self, path: str | Path) -> None:
        """Write a JSON file, atomically; `FILE` in a model's folder is where `load_model` finds it.

        Raises:
            OSError: as the system raised it.
        """
        with atomic(Path(path)) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Typicality:
        """Read a file that `save` wrote.

        Raises:
            ModelError: another file, or one that contradicts itself.
        """
        content = schema.read_json(path, ModelError, _REMEDY)
        record = schema.validate(content, _SCHEMA, str(path), ModelError, _REMEDY, closed=True)
        count = len(record["levels"])
        if len(record["spread"]) != count or [len(row) for row in record["coefficients"]] != [len(SCALES) + 2] * count:
            raise ModelError(f"{path}: its levels, coefficients and spread are of different sizes. {_REMEDY}")
        for name in ("levels", "spread", "detail", "shape"):
            record[name] = tuple(record[name])
        for name in ("coefficients", "precision"):
            record[name] = tuple(map(tuple, record[name]))
        return cls(**record)


def _to_tuples(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))


def find_typicality(path: Path, network: str, shape: tuple[int, int, int]) -> Typicality | None:
    """Return the range of typical images beside a checkpoint file or in a folder, if there is one for that shape.

    Raises:
        ModelError: a file that cannot be used, or that was measured with another network.
    """
    file = path / FILE if path.is_dir() else path.with_suffix(f".{FILE}")
    if not file.is_file():
        return None
    found = Typicality.load(file)
    if found.network != network:
        raise ModelError(f"{file}: it was measured with other weights than those beside it. {_REMEDY}")
    return found if found.shape == shape else None


def typicality_features(model: Model, x0: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """Return what `Typicality` compares of images: logarithms of denoising errors and of detail, [B, K + D] beside x0.

    An error is the mean square of that of eps. The noise is the same for all images, so that those of one
    depends neither on its batch nor on the device. The detail is the mean square of the differences of neighbours in
    the image shrunk by each of `SCALES`, and its variance.

    Args:
        model: its unconditional denoiser is evaluated once per level.
        x0: [B, C, H, W], on the state device.
        levels: noise-to-signal ratios.
    """
    columns = []
    for seed, s in enumerate(levels):
        level = model.schedule.level(model.schedule.time(s))
        noise = model.to_state_device(_draw_noise(seed, model.shape))
        eps = model.denoiser(level.alpha * x0 + level.sigma * noise, level).eps
        columns.append((eps - noise).square().mean(dim=(1, 2, 3)))
    for scale in SCALES:
        shrunk = F.avg_pool2d(x0, min(scale, min(x0.shape[-2:]) // 2))
        across = shrunk.diff(dim=3).square().mean(dim=(1, 2, 3))
        columns.append(across + shrunk.diff(dim=2).square().mean(dim=(1, 2, 3)) + FAINT)
    columns.append(x0.var(dim=(1, 2, 3), correction=0) + FAINT)
    return torch.stack(columns, dim=1).log()


@lru_cache(maxsize=len(LEVELS))
def _draw_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise of a level, [1, C, H, W]; it is drawn once, as every batch needs the same."""
    return SeededNoise([seed]).draw(shape)
