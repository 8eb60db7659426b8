"""NaN and infinity: notice them early, and say which part of a model made them.

A network in float16 overflows beyond 65,504, and one broken weight makes all of its outputs NaN. What is integrated
from there is NaN to the end, so the first evaluation and the end of an integration are looked at, and nothing between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ModelError, NonFiniteError
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.model import Model

NETWORK, ENCODER, DECODER = "network", "encoder", "decoder"

_REMEDIES = {
    "float16": "float16 overflows beyond 65,504: load the model with --dtype bf16 or fp32.",
    "bfloat16": "Load the model with --dtype fp32.",
    "mixed": "Load the model with --dtype fp32.",
    "tf32": "Load the model with --dtype fp32.",
}


class FirstLook:
    """Looks at the first evaluation of a model's network, and at no other.

    This costs one reduction and one wait for the device. Where nothing is finite, the network is tried on noise, to
    tell a broken model from an image that it cannot take.

    Args:
        model: the model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.done = False


@dataclass(frozen=True)
class GuardedDenoiser:
    """A denoiser that refuses to go on where the first evaluation of its network is finite for no image.

    Args:
        denoiser: what is evaluated.
        look: shared by all denoisers of a model.
    """

    denoiser: Denoiser
    look: FirstLook

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x [B, ...].

        Raises:
            ModelError: at the first evaluation, if the network returns nothing finite for noise either.
        """
        prediction = self.denoiser(x, level)
        # At s = 0 there is no eps to speak of.
        if not self.look.done and level.s and len(x):
            self.look.done = True
            if not finite_rows(prediction.eps).any():
                noise = torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
                if not self.denoiser(noise.to(x.device, x.dtype), level).eps.isfinite().all():
                    raise ModelError(describe_nonfinite(self.look.model, NETWORK))
        return prediction


def finite_rows(x: Tensor) -> Tensor:
    """Return which rows of x [B, ...] are finite: [B], on the device of x."""
    return x.flatten(1).isfinite().all(1)


def describe_nonfinite(model: Model, part: str, rows: Sequence[int] = (), count: int = 1) -> str:
    """Return the message about a part of a model that returned NaN or infinity.

    Args:
        model: the model.
        part: NETWORK, ENCODER or DECODER.
        rows: for which of `count` images; none stands for all.
        count: how many images there were.
    """
    dtype = model.dtype if part == NETWORK else "float32"  # autoencoders run in float32 always
    remedy = _REMEDIES.get(dtype, "The checkpoint is broken, or the image is nothing like what it was trained on.")
    which = ""
    if rows and count > 1:
        which = f" for image {', '.join(str(row + 1) for row in rows[:5])}{', ...' if len(rows) > 5 else ''} of {count}"
    return f"the {part} of {model.name} returned NaN or infinite values{which} in {dtype}. {remedy}"


def require_finite(model: Model, part: str, values: Tensor) -> None:
    """Refuse values [B, ...] that a part of a model returned, if any is not finite; the host waits for the device.

    Raises:
        NonFiniteError: the message names the part, its dtype, and the images.
    """
    good = finite_rows(values)
    if not good.all():
        bad = (~good).nonzero().flatten().tolist()
        raise NonFiniteError(describe_nonfinite(model, part, bad, len(good)))


def find_failures(
    model: Model, encoded: Tensor, inverted: Sequence[Tensor], decoded: Sequence[Tensor | None]
) -> dict[int, str]:
    """Return what was not finite of images that were inverted, by their index; the host waits only if anything was not.

    Args:
        model: the model.
        encoded: x_0 [B, ...].
        inverted: the parts of the latents [B, ...], on the CPU.
        decoded: images that were made of both on the way [B, ...], on the CPU, if any.
    """
    failures: dict[int, str] = {}
    for images in decoded:
        if images is not None:
            failures |= dict.fromkeys(_failed_rows(images), DECODER)
    for part in inverted:
        failures |= dict.fromkeys(_failed_rows(part), NETWORK)
    if failures and isinstance(model.codec, AutoencoderCodec):
        failures |= dict.fromkeys(_failed_rows(encoded), ENCODER)
    return {row: describe_nonfinite(model, part) for row, part in failures.items()}


def _failed_rows(x: Tensor) -> list[int]:
    rows: list[int] = (~finite_rows(x)).nonzero().flatten().tolist()
    return rows
