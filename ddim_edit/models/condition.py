"""Conditions: a prompt or a class, and the strength of guidance."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ddim_edit.errors import ArgumentError


@dataclass(frozen=True)
class Condition:
    """A prompt or a class, as plain data; only the model knows whether it can follow it.

    Args:
        prompt: text; empty for none.
        negative_prompt: what guidance leads away from; the empty prompt by default.
        label: number of a class, from 0; None for none.
        guidance_scale: how far to go beyond the condition; 1 is the condition alone, without guidance.

    Raises:
        ArgumentError: a negative label, or a scale that is not finite.

    Examples:
        >>> Condition("a dog", guidance_scale=3.0).as_dict()
        {'prompt': 'a dog', 'guidance_scale': 3.0}

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", NeurIPS 2021 workshop, arXiv:2207.12598.
    """

    prompt: str = ""
    negative_prompt: str = ""
    label: int | None = None
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.label is not None and self.label < 0:
            raise ArgumentError(f"The label of a class must be at least 0, not {self.label}.")
        if not math.isfinite(self.guidance_scale):
            raise ArgumentError(f"guidance_scale must be finite, not {self.guidance_scale:g}.")

    @property
    def guided(self) -> bool:
        """Whether it takes two predictions, with and without the condition."""
        return self.guidance_scale != 1

    def as_dict(self) -> dict[str, Any]:
        """Return all that differs from no condition, as JSON types."""
        nothing = asdict(Condition())
        return {name: value for name, value in asdict(self).items() if value != nothing[name]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the condition of such a record.

        Raises:
            ArgumentError: unknown entries, or values that make no condition.
        """
        names = [each.name for each in fields(cls)]
        if unknown := sorted(set(record) - set(names)):
            raise ArgumentError(f"A condition has no {', '.join(unknown)}. Its entries are {', '.join(names)}.")
        return cls(**record)


NOTHING = Condition()
