"""Checkpoints: one file from which a training resumes as if it had never stopped, and the folder that holds it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io import schema
from ddim_edit.io.tensorfile import TensorFormat
from ddim_edit.training.train_state import TrainState

_REMEDY = "Train anew with --overwrite."
CHECKPOINT_FILE = TensorFormat(
    kind="checkpoint of a training",
    key="training",
    error=ModelError,
    remedy=_REMEDY,
    schema={
        "record": schema.table,
        "step": schema.count,
        # Step, training loss, validation loss and learning rate.
        "rows": schema.list_of(schema.list_of(schema.optional(schema.number), 4)),
        "scale": schema.optional(schema.table),
    },
    version=1,
)


class LossRow(NamedTuple):
    """Losses after a step.

    Attributes:
        step: the step.
        train: mean training loss since the row before.
        held_out: loss of the averaged weights on the validation images.
        rate: learning rate.
    """

    step: int
    train: float | None
    held_out: float
    rate: float


class Checkpoint(NamedTuple):
    """A step of a training with everything that the next step depends on.

    Attributes:
        record: settings, images and initial network.
        step: the step.
        rows: losses so far.
        scale: loss scale of float16.
        tensors: `TrainState.state_dict`.
    """

    record: Mapping[str, Any]
    step: int
    rows: tuple[LossRow, ...]
    scale: Mapping[str, Any] | None
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, state: TrainState, record: Mapping[str, Any], rows: tuple[LossRow, ...]) -> "Checkpoint":
        """Return the checkpoint of a state."""
        return cls(record, state.step, rows, state.scaler_state, state.state_dict())

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all; equal states give equal bytes."""
        header = {"record": self.record, "step": self.step, "rows": self.rows, "scale": self.scale}
        CHECKPOINT_FILE.save(path, self.tensors, header)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint; nothing in it is executed.

        Raises:
            ModelError: another file, or one of another format.
        """
        tensors, header = CHECKPOINT_FILE.load(path)
        rows = tuple(LossRow(*row) for row in header["rows"])
        return cls(header["record"], header["step"], rows, header["scale"], tensors)

    def require_record(self, record: Mapping[str, Any]) -> None:
        """Refuse a training that is not the one that was begun.

        Raises:
            ModelError: the first thing that differs, by name.
        """
        for name, value in record.items():
            if self.record.get(name) != value:
                raise ModelError(
                    f"This training was begun with {name} {self.record.get(name)!r:.80}, not {value!r:.80}. Leave it "
                    "as it was, write to another folder, or begin anew with --overwrite."
                )

    def restore(self, state: TrainState) -> None:
        """Load the checkpoint into a state.

        Raises:
            ModelError: tensors of another network.
        """
        try:
            state.load_state_dict(self.tensors, self.step)
            state.load_scaler_state(self.scale)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"The checkpoint has the tensors of another network. {_REMEDY}") from error


@dataclass(frozen=True)
class TrainingFolder:
    """The folder that a training writes; two trainings at once would not notice each other there.

    Raises:
        ArgumentError: a folder of something else, or a file.
    """

    path: Path

    def __post_init__(self) -> None:
        empty = not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))
        if not empty and not self.checkpoint.is_file():
            raise ArgumentError(f"{self.path}: it holds something else than a training. Write to a new folder.")

    @property
    def checkpoint(self) -> Path:
        """File of the checkpoint."""
        return self.path / "training" / "checkpoint.safetensors"

    @property
    def losses(self) -> Path:
        """File of all rows of losses, a CSV."""
        return self.path / "training" / "losses.csv"

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint, or None where there is none; errors as `Checkpoint.load`."""
        return Checkpoint.load(self.checkpoint) if self.checkpoint.is_file() else None

    def remove_temporaries(self) -> None:
        """Remove what killed processes left behind."""
        self._remove(".ddim-edit-*")
        self._remove("training/.ddim-edit-*")

    def remove_sheets(self) -> None:
        """Remove sheets of samples."""
        self._remove("training/samples-*.png")

    def _remove(self, pattern: str) -> None:
        for path in self.path.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
