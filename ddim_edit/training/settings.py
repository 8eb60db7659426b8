"""What a training shall do, as data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ddim_edit.errors import ArgumentError
from ddim_edit.training.origins import FreshNetwork, Origin

DECAYS: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "constant": lambda progress: 1.0,
}
"""The share of the learning rate that is left at a progress from 0 to 1."""

PRECISIONS = ("no", "bf16", "fp16")
"""What the network computes in while it learns; its weights are float32 always."""

_LEFT_OUT = ("size", "held_out", "save_every", "sample_every", "samples")
"""What the network and the pictures tell themselves, and what no weight depends on."""


@dataclass(frozen=True)
class Settings:
    """How to train, all but the pictures; cannot tell which settings are good ones.

    The learning rate of step n = 1..steps is lr min(1, n / warm_up) decay((n - 1) / steps).

    Attributes:
        origin: the network to begin with, `FreshNetwork` or `FineTuning`.
        size: pixels of a side of the pictures; None is the network's own.
        steps: updates of the weights.
        batch_size: pictures in a step, over all processes and accumulated parts.
        accumulate: parts that a process takes its share of a batch in, for less memory.
        lr: learning rate, above 0.
        warm_up: steps until the learning rate is reached.
        decay: one of `DECAYS`.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        ema_decay: of the moving average of the weights, which is what is kept, in [0, 1).
        precision: one of `PRECISIONS`.
        flip: whether pictures are mirrored at random.
        seed: of weights, order, noise, times and dropout.
        held_out: share of the pictures, in (0, 1), or a folder of others, that only measure.
        save_every: steps from one checkpoint, with its losses and its model, to the next.
        sample_every: steps from one sheet of samples to the next.
        samples: pictures on a sheet; 0 makes none.

    Raises:
        ArgumentError: a value outside its range.

    AdamW: Loshchilov and Hutter (2019).
    """

    origin: Origin = field(default_factory=FreshNetwork)
    size: int | None = None
    steps: int = 10_000
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 2e-4
    warm_up: int = 100
    decay: str = "cosine"
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema_decay: float = 0.9995
    precision: str = "no"
    flip: bool = False
    seed: int = 0
    held_out: float | Path = 0.05
    save_every: int = 500
    sample_every: int = 500
    samples: int = 16

    def __post_init__(self) -> None:
        for name, wanted, holds in self._ranges():
            if not holds:
                raise ArgumentError(f"{name} to be {wanted}", f"{getattr(self, name)!r}", "choose another value")

    def _ranges(self) -> list[tuple[str, str, bool]]:
        counts = ("steps", "batch_size", "accumulate", "save_every", "sample_every")
        share = self.held_out
        return [
            *((name, "a whole number of at least 1", getattr(self, name) >= 1) for name in counts),
            *((name, "a finite number above 0", 0 < getattr(self, name) < math.inf) for name in ("lr", "clip")),
            *((name, "at least 0", getattr(self, name) >= 0) for name in ("warm_up", "weight_decay", "samples")),
            ("size", "at least 1 pixel", self.size is None or self.size >= 1),
            ("ema_decay", "from 0 to below 1", 0 <= self.ema_decay < 1),
            ("decay", f"one of {', '.join(DECAYS)}", self.decay in DECAYS),
            ("precision", f"one of {', '.join(PRECISIONS)}", self.precision in PRECISIONS),
            ("held_out", "a share between 0 and 1, or a folder", isinstance(share, Path) or 0 < share < 1),
        ]

    def rate(self, step: int) -> float:
        """The learning rate of a step, the first being 1."""
        warm = min(1.0, step / self.warm_up) if self.warm_up else 1.0
        return self.lr * warm * DECAYS[self.decay]((step - 1) / self.steps)

    def due(self, step: int, every: int) -> bool:
        """Whether something is to be done after this step: every so many, and at the end."""
        return step % every == 0 or step == self.steps

    def record(self) -> dict[str, Any]:
        """What decides the weights, as JSON can say it, besides the pictures and the network that is begun with."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _LEFT_OUT}
        return told | {"origin": {"kind": type(self.origin).__name__, **asdict(self.origin)}}
