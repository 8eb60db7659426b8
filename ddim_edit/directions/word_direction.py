"""Words as a direction, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ddim_edit.errors import ArgumentError

WORD_FORMS = ("guidance", "embedding")
"""How words act: on the predictions of the network, or on what it gets of the prompt."""


@dataclass(frozen=True)
class WordDirection:
    """A direction from one prompt to another, or from one class to another.

    Nothing is fitted, and the latent stays where it is: words act while it is decoded. A strength multiplies the whole
    way: under the prompt `from_`, 1 decodes as under the prompt `to`.

    - "guidance": at every evaluation, strength x (eps(to) - eps(from)) is added to eps. The network runs once more for
      each further prompt.
    - "embedding": strength x (e(to) - e(from)) is added to the encoded prompt e of the latent. Prompts only.

    Args:
        to: words, or the number of a class.
        from_: what it leads away from, words or the number of a class; by default the negative prompt of the latent,
            which is empty unless it has one, or no class.
        form: one of `WORD_FORMS`.
        mask_quantile: part of the image that stays as it is, where the direction is weakest, from 0 to below 1.
        warm_up: part of T, down from x_T, in which it does not act yet, from 0 to below 1. Coarse layout is made there.

    Raises:
        ArgumentError: no words, an unknown form, or a number outside of its range.

    References:
        Brack et al., "SEGA: Instructing Text-to-Image Models using Semantic Guidance", NeurIPS 2023, arXiv:2301.12247.
        Brack et al., "LEDITS++: Limitless Image Editing using Text-to-Image Models", CVPR 2024, arXiv:2311.16711, for
        the mask.

    Examples:
        >>> WordDirection("an old man", from_="a man").name
        'a man -> an old man'
    """

    to: str | int
    from_: str | int | None = None
    form: str = "guidance"
    mask_quantile: float = 0.0
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        if not str(self.to).strip() or self.to == self.from_:
            raise ArgumentError(f"Words lead from a prompt to another one, not from {self.from_!r} to {self.to!r}.")
        if self.form not in WORD_FORMS:
            raise ArgumentError(f"There is no form {self.form!r} of words. Choose one of {', '.join(WORD_FORMS)}.")
        for name in ("mask_quantile", "warm_up"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ArgumentError(f"{name} must be from 0 to below 1, not {value:g}.")
            if value and self.form != "guidance":
                raise ArgumentError(f"{name} is for the form 'guidance'. An embedding acts everywhere and always.")

    @property
    def name(self) -> str:
        """The words."""
        return str(self.to) if self.from_ is None else f"{self.from_} -> {self.to}"

    def to_json(self) -> dict[str, Any]:
        """Return all that differs from the defaults, as JSON types."""
        record = {each.name.rstrip("_"): getattr(self, each.name) for each in fields(self)}
        defaults = {each.name.rstrip("_"): each.default for each in fields(self)}
        return {name: value for name, value in record.items() if value != defaults[name]}
