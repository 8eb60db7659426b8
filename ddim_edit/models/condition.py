"""What a model is asked for: a prompt or a class, and how strongly."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ddim_edit.errors import ArgumentError


@dataclass(frozen=True)
class Condition:
    """A prompt or a class, as plain data; whether a model can follow it only the model knows.

    Args:
        prompt: text; empty for none.
        negative_prompt: what guidance leads away from; the empty prompt by default.
        label: number of a class, from 0; None for none.
        guidance_scale: how far beyond the condition to go; 1 is the condition alone, without guidance.

    Raises:
        ArgumentError: a negative label, or a scale that is not finite.

    Ho and Salimans (2022) for guidance.
    """

    prompt: str = ""
    negative_prompt: str = ""
    label: int | None = None
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if (self.label is not None and self.label < 0) or not math.isfinite(self.guidance_scale):
            given = f"label {self.label} and guidance_scale {self.guidance_scale:g}"
            raise ArgumentError("a label from 0 and a finite guidance_scale", given, "correct that")

    @property
    def guided(self) -> bool:
        """Whether it takes two predictions, with and without."""
        return self.guidance_scale != 1

    def as_dict(self) -> dict[str, Any]:
        """All that differs from no condition, as JSON types."""
        nothing = asdict(Condition())
        return {name: value for name, value in asdict(self).items() if value != nothing[name]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The condition of such a record.

        Raises:
            ArgumentError: unknown entries, or values that make no condition.
        """
        names = [each.name for each in fields(cls)]
        if unknown := sorted(set(record) - set(names)):
            raise ArgumentError(f"a condition out of {', '.join(names)}", ", ".join(unknown), "leave that out")
        return cls(**record)


NOTHING = Condition()
