"""The loop of a training, and what happens beside it."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io.prefetch import prefetch_map
from ddim_edit.training.batches import Batch, Batches, Share, ValidationBatch
from ddim_edit.training.checkpoint import Checkpoint, Row
from ddim_edit.training.export import write_model, write_sheet
from ddim_edit.training.learner import TrainState
from ddim_edit.training.pictures import Split
from ddim_edit.training.place import Place
from ddim_edit.training.settings import Settings
from ddim_edit.training.stopping import Stopping

INSTALL = "pip install 'ddim-edit[diffusers]'"
_CHUNK = 32
"""Pictures that are measured at once, at least; without gradients they take little memory."""
_AHEAD = 4
"""Parts of batches that are made at once, each in a thread of its own, before the network asks for them."""
Parts = Iterator[Callable[[], Batch]]


class Trainer:
    """Trains a pixel UNet on a folder of pictures and writes a diffusers folder; knows no classes and no prompts.

    The same call goes on where a run stopped: after `kill -9` from the last checkpoint, after Ctrl-C from the last
    step. On a CPU, in one process, the weights are then those of a run that was never stopped, bit by bit.

    Args:
        pictures: the folder.
        model: the folder to write; one that holds something else is left alone.
        settings: how to train.
        device: "auto" is what accelerate finds, "cpu" is that.
        overwrite: whether to begin anew where a training was written.

    Attributes:
        split: the pictures that teach, those that measure, and why others could not be read.
        record: all that decides the weights.
        rows: losses so far, on the process that leads.
        leads: whether this process is the one that writes and measures.

    Raises:
        ImageError: fewer than two usable pictures; ModelError: nothing to begin with, a training by other settings in
            the folder, or no accelerate here; ArgumentError: a batch that the processes cannot share, a precision that
            the device has not, or a folder of something else.

    Ho, Jain, Abbeel (2020).
    """

    def __init__(
        self, pictures: Path, model: Path, settings: Settings, device: str = "auto", overwrite: bool = False
    ) -> None:
        self._place, self._settings = Place(model), settings
        self._accelerator = _accelerator(settings, device)
        self._share = _share(settings, self._accelerator)
        kept = None if overwrite else self._place.kept()
        beginning = settings.origin.begin(settings.size, settings.seed)
        self.split = Split.read(pictures, settings.held_out, beginning.facts["size"], settings.seed)
        self.record = {**settings.record(), **self.split.facts(), **beginning.facts}
        T = beginning.scheduler.config.num_train_timesteps
        self._batches = Batches(self.split.teaching, settings.batch_size, settings.flip, T, settings.seed)
        self._yardstick = ValidationBatch.of(self.split.measuring, T, settings.seed)
        self._learner = TrainState(beginning, settings, self._accelerator)
        self.rows: tuple[Row, ...] = ()
        self.leads = bool(self._accelerator.is_main_process)
        if kept is not None:
            self._go_on(kept)

    def _go_on(self, kept: Checkpoint) -> None:
        kept.require(self.record)
        kept.restore(self._learner)
        self.rows = kept.rows

    @property
    def step(self) -> int:
        """Steps taken, in earlier runs too."""
        return self._learner.step

    @property
    def device(self) -> str:
        """Where it computes, and how many processes do."""
        processes = f" in each of {self._share.processes} processes" if self._share.processes > 1 else ""
        return f"{self._accelerator.device}{processes}"

    def run(
        self, on_row: Callable[[Row], object] = lambda row: None, on_step: Callable[[], object] = lambda: None
    ) -> tuple[Row, ...]:
        """Take all steps that are left; the losses from the first step of the first run on.

        Args:
            on_row: called where losses were measured, once they are in the checkpoint.
            on_step: called after every step.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; the model and a checkpoint of the last step were saved.
        """
        self._accelerator.wait_for_everyone()  # until all have looked into the folder
        self._lead(self._prepare, on_row)
        habits = self._habits(on_row)
        with Stopping() as stopping:
            for parts in self._coming():
                self._learner.update(parts)
                on_step()
                for every, act in habits:
                    if self._settings.due(self.step, every):
                        act()
                if stopping.asked(self._accelerator):
                    self._lead(self._save)
                    raise KeyboardInterrupt
        self._accelerator.wait_for_everyone()
        return self.rows

    def _lead(self, act: Callable[..., object], *arguments: object) -> None:
        """Do what only one process does."""
        if self.leads:
            act(*arguments)

    def _prepare(self, on_row: Callable[[Row], object]) -> None:
        """Measure the network before its first step, if this is it; from the start there is something to go on from."""
        if self.rows:
            self._place.sweep()
            return
        self._place.sweep("training/samples-*.png")
        self._checkpoint()
        self._measure(None, on_row)

    def _habits(self, on_row: Callable[[Row], object]) -> list[tuple[int, Callable[[], None]]]:
        """What is done every so many steps. The checkpoint comes last: what is lost before it is made again."""

        def take_stock() -> None:
            train = self._learner.mean_loss()
            self._lead(self._measure, train, on_row)

        sheets = (self._settings.sample_every, lambda: self._lead(self._draw))
        return [*[sheets] * bool(self._settings.samples), (self._settings.save_every, take_stock)]

    def _coming(self) -> Iterator[Parts]:
        """The parts of every step that is left, made in threads while the network learns."""
        settings, share = self._settings, self._share
        left = range(self.step + 1, settings.steps + 1)
        work = ((step, share.rows(settings.batch_size, part)) for step in left for part in range(share.accumulate))
        made = (batch for _, batch in prefetch_map(self._made, work, depth=_AHEAD, threads=_AHEAD))
        return (islice(made, share.accumulate) for _ in left)

    def _made(self, part: tuple[int, range]) -> Batch:
        batch = self._batches(*part)
        return batch.pinned() if self._accelerator.device.type == "cuda" else batch

    def _measure(self, train: float | None, on_row: Callable[[Row], object]) -> None:
        learner, settings = self._learner, self._settings
        chunk = max(_CHUNK, len(self._share.rows(settings.batch_size, 0)))
        held_out = self._yardstick.measure(learner.ema.network, learner.lesson, self._accelerator.device, chunk)
        rate = settings.rate(self.step) if self.step else 0.0
        self.rows += (Row(self.step, train, held_out, rate),)
        self._save()
        on_row(self.rows[-1])

    def _draw(self) -> None:
        self._write()
        write_sheet(self._place.folder, self.step, self._settings.samples, self._accelerator.device.type)

    def _save(self) -> None:
        self._write()
        self._checkpoint()

    def _write(self) -> None:
        write_model(self._place.folder, self._learner, self.record, self.rows)

    def _checkpoint(self) -> None:
        Checkpoint.of(self._learner, self.record, self.rows).save(self._place.checkpoint)


def _accelerator(settings: Settings, device: str) -> Any:
    try:
        import accelerate
    except ImportError as error:
        wanted = "accelerate, to train"
        raise ModelError(wanted, f"an installation without ({error.name})", INSTALL) from error
    try:
        return accelerate.Accelerator(
            mixed_precision=settings.precision,
            gradient_accumulation_steps=settings.accumulate,
            cpu=device == "cpu",
        )
    except ValueError as error:
        wanted, given = "a precision that this device has", f"{settings.precision} ({' '.join(str(error).split())})"
        raise ArgumentError(wanted, given, "use --precision no, and one precision in one process") from error


def _share(settings: Settings, accelerator: Any) -> Share:
    share = Share(accelerator.process_index, accelerator.num_processes, settings.accumulate)
    if settings.batch_size % (share.processes * share.accumulate):
        wanted = f"a batch that {share.processes} processes can share in {share.accumulate} parts each"
        raise ArgumentError(wanted, f"{settings.batch_size} pictures", "choose a multiple of them")
    return share
