"""Where a training stands, in one file, so that it can go on as if it had never stopped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.io.tensorfile import TensorFormat
from ddim_edit.training.learner import TrainState

_AGAIN = "Train anew with --overwrite."
CHECKPOINT_FILE = TensorFormat(
    kind="checkpoint of a training",
    key="training",
    error=ModelError,
    remedy=_AGAIN,
    schema={
        "record": schema.table,
        "step": schema.count,
        # Step, training loss, held-out loss and learning rate.
        "rows": schema.list_of(schema.list_of(schema.optional(schema.number), 4)),
        "scale": schema.optional(schema.table),
    },
    version=1,
)


class Row(NamedTuple):
    """Losses after a step: mean in training since the row before, and the averaged weights' on held-out pictures."""

    step: int
    train: float | None
    held_out: float
    rate: float


class Checkpoint(NamedTuple):
    """A step of a training with all that the next one depends on.

    Fields: what the training was told and what it was shown; the step; losses so far; the scale of float16's losses;
    tensors, as a `TrainState` remembers them.
    """

    record: Mapping[str, Any]
    step: int
    rows: tuple[Row, ...]
    scale: Mapping[str, Any] | None
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, learner: TrainState, record: Mapping[str, Any], rows: tuple[Row, ...]) -> "Checkpoint":
        """Where a learner stands."""
        return cls(record, learner.step, rows, learner.scale, learner.remembered())

    def save(self, path: Path) -> None:
        """Write it, whole or not at all; equal states give equal bytes."""
        header = {"record": self.record, "step": self.step, "rows": self.rows, "scale": self.scale}
        CHECKPOINT_FILE.save(path, self.tensors, header)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read it back; nothing in it is executed.

        Raises:
            ModelError: another file, or one of another format.
        """
        tensors, header = CHECKPOINT_FILE.load(path)
        rows = tuple(Row(*row) for row in header["rows"])
        return cls(header["record"], header["step"], rows, header["scale"], tensors)

    def require(self, record: Mapping[str, Any]) -> None:
        """Insist that a training that wants to go on from here is the same one.

        Raises:
            ModelError: the first thing that differs, by name.
        """
        for name, value in record.items():
            if self.record.get(name) != value:
                kept, given = f"{self.record.get(name)!r:.80}", f"{value!r:.80}"
                remedy = "leave it as it was, write to another folder, or begin anew with --overwrite"
                raise ModelError(f"{name} {kept}, by which this training was begun", given, remedy)

    def restore(self, learner: TrainState) -> None:
        """Put a learner where this one stood.

        Raises:
            ModelError: tensors of another network.
        """
        try:
            learner.recall(self.tensors, self.step)
            learner.rescale(self.scale)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"the checkpoint of the training has the tensors of another network. {_AGAIN}") from error
