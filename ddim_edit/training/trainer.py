"""The training loop: steps, validation, checkpoints and sheets of samples."""

from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from ddim_edit.errors import ArgumentError
from ddim_edit.io.extras import import_extra
from ddim_edit.io.prefetch import prefetch_map
from ddim_edit.training.checkpoint import Checkpoint, LossRow, TrainingFolder
from ddim_edit.training.data import Batch, BatchSampler, BatchShare, Split
from ddim_edit.training.export import write_model, write_sheet
from ddim_edit.training.interrupts import InterruptGuard
from ddim_edit.training.loss import ValidationBatch
from ddim_edit.training.settings import Settings
from ddim_edit.training.train_state import TrainState

_VALIDATION_CHUNK = 32
"""Images that are validated at once, at least; without gradients they take little memory."""
_AHEAD = 4
"""Parts of batches that are made ahead of the network, each in a thread of its own."""


class Trainer:
    """Trains an unconditional pixel UNet on a folder of images and writes a diffusers folder.

    The same call resumes where a run stopped: after `kill -9` from the last checkpoint, after Ctrl-C from the last
    step. On a CPU, in one process, the weights are then those of a run that was never stopped, bit by bit.

    Args:
        images: the folder.
        model: the folder to write; one that holds something else is left alone.
        settings: how to train.
        device: "auto" is what accelerate finds, "cpu" is that.
        overwrite: whether to begin anew where a training was written.

    Attributes:
        split: the images for training and validation, and why others could not be read.
        record: all that the weights depend on.
        rows: losses so far, on the main process.
        is_main_process: whether this process is the one that validates and writes.

    Raises:
        ImageError: fewer than two usable images.
        ModelError: nothing to begin with, or a training by other settings in the folder.
        MissingExtraError: no diffusers or no accelerate.
        ArgumentError: a batch that the processes cannot share, a precision that the device does not have, or a folder
            of something else.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    """

    def __init__(
        self, images: Path, model: Path, settings: Settings, device: str = "auto", overwrite: bool = False
    ) -> None:
        self._folder = TrainingFolder(model)
        self._settings = settings
        self._accelerator = _make_accelerator(settings, device)
        self.is_main_process = bool(self._accelerator.is_main_process)
        self._share = BatchShare(self._accelerator.process_index, self._accelerator.num_processes, settings.accumulate)
        if settings.batch_size % (self._share.processes * self._share.accumulate):
            raise ArgumentError(
                f"A batch of {settings.batch_size} images cannot be shared by {self._share.processes} processes in "
                f"{self._share.accumulate} parts each. Choose a multiple of "
                f"{self._share.processes * self._share.accumulate}."
            )
        checkpoint = None if overwrite else self._folder.load_checkpoint()
        initial = settings.origin.initialize(settings.size, settings.seed)
        self.split = Split.read(images, settings.held_out, initial.record["size"], settings.seed)
        self.record = {**settings.record(), **self.split.record(), **initial.record}
        T = initial.scheduler.config.num_train_timesteps
        self._batches = BatchSampler(self.split.train, settings.batch_size, settings.flip, T, settings.seed)
        self._validation = ValidationBatch.of(self.split.validation, T, settings.seed)
        self._state = TrainState(initial, settings, self._accelerator)
        self.rows: tuple[LossRow, ...] = ()
        if checkpoint is not None:
            checkpoint.require_record(self.record)
            checkpoint.restore(self._state)
            self.rows = checkpoint.rows

    @property
    def step(self) -> int:
        """Steps taken, in earlier runs too."""
        return self._state.step

    @property
    def device(self) -> str:
        """Where it computes, and how many processes do."""
        processes = f" in each of {self._share.processes} processes" if self._share.processes > 1 else ""
        return f"{self._accelerator.device}{processes}"

    def run(
        self, on_row: Callable[[LossRow], object] = lambda row: None, on_step: Callable[[], object] = lambda: None
    ) -> tuple[LossRow, ...]:
        """Take all steps that are left, and return the losses from the first step of the first run on.

        Args:
            on_row: called after each validation, once its losses are in the checkpoint.
            on_step: called after every step.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; the model and a checkpoint of the last step were saved.
        """
        settings = self._settings
        self._accelerator.wait_for_everyone()  # until all processes have read the checkpoint
        if self.is_main_process:
            self._folder.remove_temporaries()
            if not self.rows:
                self._folder.remove_sheets()
                # At once, so that a run killed before its first validation can go on.
                self._save_checkpoint()
                self._validate(None, on_row)
        with InterruptGuard() as guard:
            for parts in self._prefetch():
                self._state.update(parts)
                on_step()
                if self.is_main_process and settings.samples and settings.is_due(self.step, settings.sample_every):
                    self._write_model()
                    write_sheet(self._folder.path, self.step, settings.samples, self._accelerator.device.type)
                # The checkpoint comes last: what is lost before it is written is made again.
                if settings.is_due(self.step, settings.save_every):
                    train_loss = self._state.pop_mean_loss()  # a sum over all processes
                    if self.is_main_process:
                        self._validate(train_loss, on_row)
                if guard.is_interrupted(self._accelerator):
                    if self.is_main_process:
                        self._write_model()
                        self._save_checkpoint()
                    raise KeyboardInterrupt
        self._accelerator.wait_for_everyone()
        return self.rows

    def _prefetch(self) -> Iterator[Iterator[Callable[[], Batch]]]:
        """Return the parts of every step that is left, made in threads while the network computes."""
        share = self._share
        batch_size = self._settings.batch_size
        steps = range(self.step + 1, self._settings.steps + 1)
        on_cuda = self._accelerator.device.type == "cuda"

        def make_batch(step_and_part: tuple[int, int]) -> Batch:
            step, part = step_and_part
            batch = self._batches(step, share.rows(batch_size, part))
            return batch.pinned() if on_cuda else batch

        parts = product(steps, range(share.accumulate))
        made = (batch for _, batch in prefetch_map(make_batch, parts, depth=_AHEAD, threads=_AHEAD))
        return (islice(made, share.accumulate) for _ in steps)

    def _validate(self, train_loss: float | None, on_row: Callable[[LossRow], object]) -> None:
        """Add a row of losses, save everything, and report the row."""
        state = self._state
        settings = self._settings
        chunk = max(_VALIDATION_CHUNK, len(self._share.rows(settings.batch_size, 0)))
        validation_loss = self._validation.mean_loss(state.ema.network, state.loss, self._accelerator.device, chunk)
        rate = settings.learning_rate(self.step) if self.step else 0.0
        self.rows += (LossRow(self.step, train_loss, validation_loss, rate),)
        self._write_model()
        self._save_checkpoint()
        on_row(self.rows[-1])

    def _write_model(self) -> None:
        write_model(self._folder, self._state, self.record, self.rows)

    def _save_checkpoint(self) -> None:
        Checkpoint.of(self._state, self.record, self.rows).save(self._folder.checkpoint)


def _make_accelerator(settings: Settings, device: str) -> Any:
    accelerate = import_extra("accelerate", "diffusers", "A training")
    try:
        return accelerate.Accelerator(
            mixed_precision=settings.precision,
            gradient_accumulation_steps=settings.accumulate,
            cpu=device == "cpu",
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ArgumentError(
            f"This device cannot train in {settings.precision}: {reason.rstrip('.')}. Use --precision no, and one "
            "precision in one process."
        ) from error
