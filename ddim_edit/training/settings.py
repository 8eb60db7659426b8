"""Settings of a training, as data; importable without torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ddim_edit.errors import ArgumentError
from ddim_edit.io import schema
from ddim_edit.training.networks import FreshNetwork, StartingNetwork

DECAYS: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "constant": lambda progress: 1.0,
}
"""The share of the learning rate that is left at a progress from 0 to 1."""

PRECISIONS = ("no", "bf16", "fp16")
"""Mixed precision while the network learns; its weights are float32 always."""

_NOT_RECORDED = ("size", "held_out", "save_every", "sample_every", "samples")
"""What no weight depends on, or what the network and the images record themselves."""

_SHARE = schema.Check(
    "a share between 0 and 1, or a folder",
    lambda value: isinstance(value, Path) or (schema.number.accepts(value) and 0 < value < 1),
)
# A number beyond these is a slip, and the run that it starts would end in no useful time, or in infinities.
_STEPS = schema.int_between(1, 10**9)
_STEPS_OR_NONE = schema.int_between(0, 10**9)
_IMAGES = schema.int_between(1, 10**6)
_POSITIVE = schema.Check(
    "a number above 0, 1e6 at most", lambda value: schema.number.accepts(value) and 0 < value <= 1e6
)
_NOT_NEGATIVE = schema.Check("a number from 0 to 1e6", lambda value: schema.number.accepts(value) and 0 <= value <= 1e6)
_EMA_DECAY = schema.Check("from 0 to below 1", lambda value: schema.number.accepts(value) and 0 <= value < 1)


def _option(check: schema.Check, help: str, choices: Sequence[str] = ()) -> dict[str, Any]:  # noqa: A002
    """Return the metadata of a field, from which the command line makes an option."""
    return {"help": help, "check": check, "choices": tuple(choices)}


@dataclass(frozen=True)
class Settings:
    """How to train, except for the images.

    The learning rate of step n = 1..steps is lr min(1, n / warm_up) decay((n - 1) / steps).

    Attributes:
        origin: the network to begin with, `FreshNetwork` or `FineTuning`.
        size: pixels of a side of the images; None is the network's own.
        steps: updates of the weights.
        batch_size: images in a step, over all processes and accumulated parts.
        accumulate: parts in which a process computes its share of a batch, for less memory.
        lr: learning rate.
        warm_up: steps until the learning rate is reached.
        decay: one of `DECAYS`.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        ema_decay: of the moving average of the weights, which is what is written, in [0, 1).
        precision: one of `PRECISIONS`.
        flip: whether images are mirrored at random.
        seed: of weights, order, noise, times and dropout.
        held_out: share of the images, in (0, 1), or a folder of others, for validation.
        save_every: steps from one checkpoint, with its losses and its model, to the next.
        sample_every: steps from one sheet of samples to the next.
        samples: images on a sheet; 0 makes none.

    Raises:
        ArgumentError: a value outside its range.

    References:
        Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, for AdamW.

    Examples:
        >>> Settings(steps=100, lr=1e-3, warm_up=10).learning_rate(5)
        0.0004980286...
    """

    origin: StartingNetwork = field(default_factory=FreshNetwork)
    size: int | None = field(
        default=None,
        metadata=_option(
            schema.optional(schema.int_between(1, 65_536)), "Side of the images in pixels. [the network's]"
        ),
    )
    steps: int = field(default=10_000, metadata=_option(_STEPS, "Number of steps in all."))
    batch_size: int = field(default=64, metadata=_option(_IMAGES, "Images in a step, on all devices."))
    accumulate: int = field(
        default=1, metadata=_option(_IMAGES, "Parts in which a device computes its share of a batch.")
    )
    lr: float = field(default=2e-4, metadata=_option(_POSITIVE, "Learning rate."))
    warm_up: int = field(default=100, metadata=_option(_STEPS_OR_NONE, "Steps until the learning rate is reached."))
    decay: str = field(
        default="cosine", metadata=_option(schema.one_of(*DECAYS), "Learning-rate schedule.", tuple(DECAYS))
    )
    weight_decay: float = field(default=1e-3, metadata=_option(_NOT_NEGATIVE, "AdamW weight decay."))
    clip: float = field(default=1.0, metadata=_option(_POSITIVE, "Largest norm of the gradient."))
    ema_decay: float = field(
        default=0.9995, metadata=_option(_EMA_DECAY, "Decay of the moving average of the weights, which is the model.")
    )
    precision: str = field(
        default="no", metadata=_option(schema.one_of(*PRECISIONS), "Mixed precision; weights stay float32.", PRECISIONS)
    )
    flip: bool = field(default=False, metadata=_option(schema.flag, "Mirror images at random."))
    seed: int = field(default=0, metadata=_option(schema.integer, "Random seed."))
    held_out: float | Path = field(
        default=0.05, metadata=_option(_SHARE, "Validation images: a share of all, or a folder.")
    )
    save_every: int = field(default=500, metadata=_option(_STEPS, "Steps between checkpoints."))
    sample_every: int = field(default=500, metadata=_option(_STEPS, "Steps between sheets of samples."))
    samples: int = field(
        default=16, metadata=_option(schema.int_between(0, 10_000), "Images on a sheet; 0 for no sheets.")
    )

    def __post_init__(self) -> None:
        checks = {each.name: each.metadata["check"] for each in fields(self) if "check" in each.metadata}
        if problem := schema.find_problem(vars(self), checks):
            raise ArgumentError(f"{problem}. Choose another value.")

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, the first being 1."""
        warm = min(1.0, step / self.warm_up) if self.warm_up else 1.0
        return self.lr * warm * DECAYS[self.decay]((step - 1) / self.steps)

    def is_due(self, step: int, every: int) -> bool:
        """Return whether something that is done every so many steps, and at the end, is done after this one."""
        return step % every == 0 or step == self.steps

    def record(self) -> dict[str, Any]:
        """Return what the weights depend on, besides the images and the initial network, as JSON types."""
        record = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _NOT_RECORDED}
        record["origin"] = {"kind": type(self.origin).__name__, **asdict(self.origin)}
        return record
