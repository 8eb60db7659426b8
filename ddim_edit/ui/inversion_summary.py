"""Summarize an inversion in words that need no knowledge of the method."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ddim_edit.images.image_tensor import to_png
from ddim_edit.images.sheets import std_map
from ddim_edit.metrics import patch_std

INVISIBLE, CLOSE = 45.0, 35.0
"""PSNR in dB from which a difference cannot be seen, and from which it is hard to see."""
FAIR = 4.0
"""How far x_T may deviate from white noise before edits suffer; up to 1 is healthy, and portraits that are sharper than
those of the training have 3 to 4."""


def summarize_inversion(scores: Mapping[str, Any], notes: Sequence[str] = (), problems: Sequence[str] = ()) -> str:
    """Return a summary of round trip and latent, and of what was done to the file, as Markdown.

    Args:
        scores: as `Reconstruction` has them. What is not finite is None: the PSNR of equal images, the correlation of
            constant ones.
        notes: on the file, as `InputImage` has them.
        problems: what to warn of, as sentences, such as that the image is not typical for the model.
    """
    parts = [f"**Warning.** {problem[:1].upper()}{problem[1:]}" for problem in problems]
    parts += [
        f"**There and back.** {_summarize_round_trip(scores)}",
        f"**The latent x_T.** {_summarize_latent(scores)}",
    ]
    if notes:
        text = "; ".join(notes)
        parts.append(f"**The file.** {text[:1].upper()}{text[1:]}.")
    return "\n\n".join(parts)


def draw_patches(x: Tensor) -> str:
    """Return where a latent [C, H, W] is not white noise, as Markdown."""
    png = to_png(std_map(patch_std(x[None])[0], x.shape[-2:]) / 127.5 - 1)
    return (
        "**Where it is not noise.** Blue is too quiet, red too loud, white as noise.\n\n"
        f"![Standard deviation of x_T by patch](data:image/png;base64,{b64encode(png).decode()})"
    )


def _summarize_round_trip(scores: Mapping[str, Any]) -> str:
    psnr = scores["psnr"]
    identical = scores["identical_pixels"]
    figures = f"PSNR {'∞' if psnr is None else f'{psnr:.1f} dB'}, LPIPS {scores['lpips']:.4f}"
    if psnr is None or identical == 1:
        return f"Every pixel comes back ({figures})."
    if psnr >= INVISIBLE:
        words = "No eye will see a difference"
    elif psnr >= CLOSE:
        words = "The difference is hard to see"
    else:
        words = "Only a likeness comes back"
    return f"{words}: {figures}, {identical:.0%} of the pixels identical."


def _summarize_latent(scores: Mapping[str, Any]) -> str:
    deviation, std, corr, kurtosis = (scores[f"xt_{name}"] for name in ("deviation", "std", "corr", "kurtosis"))
    if std is None or corr is None or kurtosis is None:
        return "It is not noise at all, so edits mean little."
    if deviation <= 1:
        words = "It is as good as white noise, where edits work best"
    elif deviation <= FAIR:
        words = "It is nearly white noise"
    else:
        words = "It is not quite noise, so edits may go astray"
    low, high = scores["xt_patch_low"], scores["xt_patch_high"]
    return (
        f"{words} (deviation {deviation:.1f}, healthy up to 1): std {std:.3f} (ideal 1), of patches {low:.2f} to "
        f"{high:.2f}, neighbour correlation {corr:+.3f} (0), kurtosis {kurtosis:.2f} (3)."
    )
