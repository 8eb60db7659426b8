"""What an inversion is worth, in words that need no paper beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

CLEAR, CLOSE = 45.0, 35.0
"""PSNR in dB from which nobody sees a difference, and from which one has to look for it."""
CALM, LOOSE = 0.05, 0.15
"""How far std, correlation and mean of x_T may be from a Gaussian's, and how far before edits suffer."""


def verdict(scores: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Two findings and what was done to the file, as Markdown; scores as `Reconstruction` has them.

    What is not finite is None there: the PSNR of equal pictures, the correlation of constant ones.
    """
    lines = [f"**There and back.** {_returned(scores)}", f"**The code x_T.** {_healthy(scores)}"]
    return "\n\n".join(lines + ([f"**The file.** {_sentence(notes)}"] if notes else []))


def _returned(scores: Mapping[str, Any]) -> str:
    psnr, same = scores["psnr"], scores["identical_pixels"]
    figures = f"PSNR {'∞' if psnr is None else f'{psnr:.1f} dB'}, LPIPS {scores['lpips']:.4f}"
    if psnr is None or same == 1:
        return f"Every pixel comes back ({figures})."
    if psnr >= CLEAR:
        words = "No eye will see a difference"
    else:
        words = "The difference is hard to see" if psnr >= CLOSE else "Only a likeness comes back"
    return f"{words}: {figures}, {same:.0%} of the pixels identical."


def _healthy(scores: Mapping[str, Any]) -> str:
    mean, std, corr, kurtosis = (scores[f"xt_{name}"] for name in ("mean", "std", "corr", "kurtosis"))
    if std is None or corr is None or kurtosis is None:
        return "It is no noise at all, so edits mean little."
    # Kurtosis strays easily, on clipped backgrounds for one, and edits bear a tenfold of it.
    off = max(abs(mean), abs(std - 1), abs(corr), abs(kurtosis - 3) / 10)
    if off <= CALM:
        words = "It is as good as white noise, where edits work best"
    else:
        words = "It is nearly white noise" if off <= LOOSE else "It is not quite noise, so edits may go astray"
    return f"{words}: std {std:.3f} (ideal 1), neighbour correlation {corr:+.3f} (0), kurtosis {kurtosis:.2f} (3)."


def _sentence(notes: Sequence[str]) -> str:
    text = "; ".join(notes)
    return f"{text[:1].upper()}{text[1:]}."
