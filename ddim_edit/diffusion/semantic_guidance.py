"""Semantic guidance: move predictions along differences of others, such as those of two prompts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level


@dataclass(frozen=True)
class Contrast:
    """A direction of predictions, from those of one denoiser to those of another.

    Args:
        to: where it leads.
        origin: what it leads away from.
    """

    to: Denoiser
    origin: Denoiser


@dataclass(frozen=True)
class SemanticTerm:
    """What one direction adds to a prediction.

    Args:
        contrast: the direction d.
        strength: what d is multiplied by.
        kept: directions k along which nothing is to change.
        mask_quantile: part of the cells of each image, those where d is weakest, that stay as they are; see
            `magnitude_mask`.
        latest: the time down from which it acts.
    """

    contrast: Contrast
    strength: float
    kept: Sequence[Contrast] = ()
    mask_quantile: float = 0.0
    latest: float = math.inf


@dataclass(frozen=True)
class SemanticDenoiser:
    """A denoiser whose predictions are moved along directions; for decoding, not for inversion.

        eps' = eps + sum_i s_i m_i (d_i - sum_j c_ij k_ij),  d = eps(to) - eps(origin),  and x0 alike,

    where m is the mask of d, and c makes the sum orthogonal to every kept direction k: <m (d - sum_j c_j k_j), k> = 0.
    The evaluations of one denoiser object at one level are shared.

    Args:
        denoiser: what is moved.
        terms: the directions with their strengths.

    References:
        Brack, Friedrich, Hintersdorf, Struppek, Schramowski, Kersting, "SEGA: Instructing Text-to-Image Models using
        Semantic Guidance", NeurIPS 2023, arXiv:2301.12247.
        Brack, Friedrich, Kornmeier, Tsaban, Schramowski, Kersting, Passos, "LEDITS++: Limitless Image Editing using
        Text-to-Image Models", CVPR 2024, arXiv:2311.16711.
    """

    denoiser: Denoiser
    terms: Sequence[SemanticTerm]

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x [B, C, H, W]."""
        own = self.denoiser(x, level)
        known = {id(self.denoiser): own}

        def predict(denoiser: Denoiser) -> Prediction:
            if id(denoiser) not in known:
                known[id(denoiser)] = denoiser(x, level)
            return known[id(denoiser)]

        def difference(contrast: Contrast) -> Prediction:
            to, origin = predict(contrast.to), predict(contrast.origin)
            return Prediction(to.x0 - origin.x0, to.eps - origin.eps)

        x0, eps = own
        for term in self.terms:
            if level.t > term.latest:
                continue
            along = difference(term.contrast)
            kept = [difference(each) for each in term.kept]
            # The two parts of a difference are multiples of each other, x0 = -s eps. Masks and shares are the same for
            # both, and are computed from the one that does not vanish at this end.
            part = 0 if level.s > 1 else 1
            mask = magnitude_mask(along[part], term.mask_quantile)
            shares = shares_of(along[part], [each[part] for each in kept], mask)
            moved = []
            for index in (0, 1):
                rest = along[index]
                for share, each in zip(shares, kept, strict=True):
                    rest = rest - share * each[index]
                moved.append(term.strength * mask * rest)
            x0, eps = x0 + moved[0], eps + moved[1]
        return Prediction(x0, eps)


def magnitude_mask(direction: Tensor, quantile: float) -> Tensor:
    """Return where a direction [B, C, H, W] is strong: [B, 1, H, W] from 0 to 1, with edges two cells wide.

    The mean of |d| over channels and 3x3 cells is compared with its quantile in each image, and the result smoothed
    over 3x3 cells. At 0 it is 1 everywhere.

    Examples:
        >>> import torch
        >>> d = torch.zeros(1, 4, 16, 16)
        >>> d[..., :8] = 1
        >>> mask = magnitude_mask(d, 0.5)
        >>> mask[0, 0, 0, ::3].tolist()
        [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    if not quantile:
        return torch.ones_like(direction[:, :1])
    magnitude = _smooth(direction.abs().mean(1, keepdim=True))
    threshold = magnitude.flatten(1).quantile(quantile, dim=1)
    return _smooth((magnitude >= threshold[:, None, None, None]).to(direction.dtype))


def shares_of(direction: Tensor, kept: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return how much of each kept direction to take off one, so that nothing along them is left: [k, B, 1, ...].

    They solve <w (d - sum_j c_j k_j), k_i> = 0 for all i, image by image; of several solutions they are the least.

    Args:
        direction: d [B, ...].
        kept: the directions k, of the same shape.
        weight: w, at least 0, of a shape that broadcasts to that of d.
    """
    if not kept:
        return direction.new_zeros(0)
    rows = torch.stack([each.flatten(1) for each in kept], 1)
    weighted = rows * weight.expand_as(direction).flatten(1)[:, None]
    inverse = torch.linalg.pinv(weighted @ rows.mT, hermitian=True)
    shares: Tensor = inverse @ weighted @ direction.flatten(1)[..., None]
    return shares[..., 0].T.reshape(len(kept), len(direction), *[1] * (direction.ndim - 1))


def _smooth(x: Tensor) -> Tensor:
    smoothed: Tensor = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return smoothed
