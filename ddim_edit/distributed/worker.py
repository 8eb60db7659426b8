"""Invert the images of one shard after another, so that a killed run resumes where it stopped."""

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, tee
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddim_edit.distributed.job import FillJob, FinishedShard
from ddim_edit.editor import Editor
from ddim_edit.errors import ImageError, LatentError, LatentMismatchError
from ddim_edit.images import InputImage, read_all
from ddim_edit.io import schema
from ddim_edit.io.locks import FolderLock
from ddim_edit.io.prefetch import prefetch_map
from ddim_edit.latents.latent import NONFINITE, Latent
from ddim_edit.latents.store.files import TEMPORARY, ShardPlan, StoreFiles, ensure_settings, read_settings
from ddim_edit.latents.store.shard import Shard, join_shards, write_shard
from ddim_edit.models.identity import COMPONENTS, find_difference
from ddim_edit.models.model import Model

# Errors of a single image. Any other error of the system is one of the disk, and would fail all images.
_FILE_ERRORS = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
}


class _ShardBatch(NamedTuple):
    """Images that go through the network together; none, after the last of a shard, to have it joined."""

    shard: int
    number: int
    names: Sequence[str]


class _InvertedBatch(NamedTuple):
    """A batch with its latents by name, and why other images have none."""

    batch: _ShardBatch
    latents: Mapping[str, Latent]
    failures: Mapping[str, str]


class Worker:
    """Fills shards, one at a time; two workers must not fill the same one. Loads the model when it is first needed.

    A batch is a fixed run of the shard's images and is written as soon as it is inverted, so that a worker that is
    killed loses one batch, and the next worker makes the same bytes. Images are read ahead while the network runs.

    Args:
        job: what to do; its store must be prepared.
        on_evaluation: called after every network evaluation with its number of images.
        on_batch: called after every batch with its number of images.
        on_stage: as for `Editor`.
    """

    def __init__(
        self,
        job: FillJob,
        on_evaluation: Callable[[int], object] | None = None,
        on_batch: Callable[[int], object] | None = None,
        on_stage: Callable[[str], object] | None = None,
    ) -> None:
        self.job = job
        self._layout = StoreFiles(job.store)
        self._on_evaluation = on_evaluation
        self._on_batch = on_batch
        self._on_stage = on_stage
        self._locks: dict[int, FolderLock] = {}

    @cached_property
    def editor(self) -> Editor:
        """The editor on the job's model, which must be the one that the store was begun with.

        Raises:
            LatentMismatchError: another model; else as `load_model`.
        """
        job = self.job
        editor = Editor.from_pretrained(
            job.model,
            job.device,
            job.dtype,
            job.size,
            job.offline,
            job.compiled,
            batch_size=job.batch_size,
            on_evaluation=self._on_evaluation,
            on_stage=self._on_stage,
            **job.parts,
        )
        with FolderLock(job.store):
            ensure_settings(self._layout.model, _describe_model(editor.model, self._layout))
        return editor

    def count_missing(self, indices: Iterable[int]) -> int:
        """Return how many images of these shards have not been inverted yet."""
        missing = 0
        for index in indices:
            if not self._layout.shard(index).exists():
                missing += sum(len(batch.names) for batch in self._batches(index) if not self._file(batch).exists())
        return missing

    def fill(self, index: int) -> FinishedShard:
        """Make a shard, or finish making it; one that is there is left alone.

        An `ImageError` is a failure of its image alone; all other errors are raised.
        """
        (one,) = self.fill_all([index])
        return one

    def fill_all(self, indices: Iterable[int]) -> Iterator[FinishedShard]:
        """Yield one shard after another, as `fill`; while one is joined, the next is in the network."""
        if self.job.threads is not None:
            torch.set_num_threads(self.job.threads)
        try:
            # Written by one thread, and so in order, while the next batch is inverted.
            for inverted, written in prefetch_map(self._write, self._invert(self._missing_batches(indices)), 1, 1):
                finished = written()
                if finished is not None:
                    yield finished
                elif self._on_batch is not None:
                    self._on_batch(len(inverted.batch.names))
        finally:
            for lock in self._locks.values():
                lock.release()
            self._locks.clear()

    def _missing_batches(self, indices: Iterable[int]) -> Iterator[_ShardBatch]:
        """Yield the batches of shards that are not there yet, and after those of each shard an empty one."""
        for index in indices:
            if not self._layout.shard(index).exists():
                self._lock(index)
            if not self._layout.shard(index).exists():  # nor made by the process that had the lock
                for path in self._layout.parts(index).glob(f"{TEMPORARY}*"):
                    path.unlink(missing_ok=True)
                missing = []
                for batch in self._batches(index):
                    try:
                        Shard(self._file(batch))
                    except LatentError:  # absent, or damaged when a process was killed
                        missing.append(batch)
                if missing:
                    _ = self.editor  # loaded here, by this thread, before those that read images ask for it
                yield from missing
            yield _ShardBatch(index, -1, ())

    def _lock(self, index: int) -> None:
        """Keep other processes from a shard until it is there.

        Raises:
            LatentError: another process is making it.
        """
        lock = FolderLock(self._layout.parts(index))
        if not lock.acquire():
            raise LatentError(
                f"{self.job.store.name}: another process is filling shard {index}. Wait until it has ended, or give"
                " each process a share of its own with --shard I/N."
            )
        self._locks[index] = lock

    def _batches(self, index: int) -> list[_ShardBatch]:
        names = self._plan[index]
        size = self.job.batch_size
        return [_ShardBatch(index, start // size, names[start : start + size]) for start in range(0, len(names), size)]

    def _file(self, batch: _ShardBatch) -> Path:
        return self._layout.batch(batch.shard, batch.number)

    @cached_property
    def _plan(self) -> ShardPlan:
        return ShardPlan(self._layout.plan)

    def _invert(self, batches: Iterable[_ShardBatch]) -> Iterator[_InvertedBatch]:
        """Yield each batch with its latents, and why images have none."""
        # The editor gets the images of all batches as one stream, so that it prepares one batch while another is in the
        # network. Their names and failures take the other branch of the stream, and meet the latents again here.
        read, to_invert = tee(self._read_batches(batches))

        def invert_images() -> Iterator[Sequence[Latent]]:
            images_of_batches = (list(good.values()) for _, good, _ in to_invert)
            for images in images_of_batches:
                if images:  # the model is needed from here on, and is not loaded if there is nothing to invert
                    yield from self.editor.invert_batches(
                        chain([images], images_of_batches), self.job.config, check_typicality=False
                    )
                else:
                    yield ()

        for (batch, good, failures), found in zip(read, invert_images(), strict=True):
            kept: dict[str, Latent] = {}
            for name, latent in zip(good, found, strict=True):
                if problem := latent.report.get(NONFINITE):
                    failures[name] = problem
                else:
                    kept[name] = latent
            yield _InvertedBatch(batch, kept, failures)

    def _read_batches(
        self, batches: Iterable[_ShardBatch]
    ) -> Iterator[tuple[_ShardBatch, dict[str, InputImage], dict[str, str]]]:
        """Yield each batch with its images by name, and why others could not be read."""
        # Files of all batches are read ahead as one stream too; each batch takes its own images off it.
        batches, batches_to_read = tee(batches)
        root = self.job.root
        reasons: dict[Path, str] = {}

        def note_failure(file: Path, error: ImageError) -> None:
            # A failure is kept for good, so an error of the disk, which would fail every image, ends the run instead.
            number = getattr(error.__cause__, "errno", None)
            if (number is not None and number not in _FILE_ERRORS) or not root.is_dir():
                raise error
            # Without the path: the store is the same wherever the folder is moved.
            reasons[file] = str(error).removeprefix(f"{file}: ")

        def read_lazily() -> Iterator[tuple[Path, InputImage | None]]:
            # A generator, so that the model is loaded only if there is an image to invert.
            files = (root / name for batch in batches_to_read for name in batch.names)
            yield from read_all(files, self.editor.model.size, self.job.crop, note_failure, 2 * self.job.batch_size)

        images = read_lazily()
        for batch in batches:
            good: dict[str, InputImage] = {}
            failures: dict[str, str] = {}
            for name, (file, image) in zip(batch.names, images, strict=False):
                if image is None:
                    failures[name] = reasons.pop(file)
                else:
                    good[name] = image
            yield batch, good, failures

    def _write(self, inverted: _InvertedBatch) -> FinishedShard | None:
        """Write a batch, or join the batches of a shard after its last one."""
        if inverted.batch.names:
            write_shard(self._file(inverted.batch), inverted.latents, inverted.failures, self.editor.model.shape)
            return None
        index = inverted.batch.shard
        if not self._layout.shard(index).exists():
            # Not straight to its place, so that what a killed process leaves is where only this shard's workers look.
            whole = self._layout.parts(index) / "whole.safetensors"
            join_shards(whole, [self._file(batch) for batch in self._batches(index)])
            whole.replace(self._layout.shard(index))
        finished = finish_shard(self.job, index)
        if lock := self._locks.pop(index, None):
            lock.release()
        return finished


def finish_shard(job: FillJob, index: int) -> FinishedShard:
    """Remove the parts of a shard that is there, and return what its header says."""
    layout = StoreFiles(job.store)
    shutil.rmtree(layout.parts(index), ignore_errors=True)
    header = Shard(layout.shard(index)).header
    return FinishedShard(index, header.rows, header.failures, header.unconverged)


def _describe_model(model: Model, layout: StoreFiles) -> dict[str, Any]:
    """Return what must stay the same of a model; of one that is equal, such as a copy in float16, as the store has it.

    Raises:
        LatentMismatchError: the store was begun with another model.
    """
    named: dict[str, Any] = {"name": model.name, "components": dict(model.components)}
    kept = read_settings(layout.model)
    if kept is not None and not layout.is_empty:
        schema.validate(kept, {"name": schema.text, "components": COMPONENTS}, str(layout.model), LatentError)
        if difference := find_difference(model.components, kept["components"]):
            raise LatentMismatchError(
                f"{layout.folder.name} was begun with the model {kept['name']}, which has {difference} than "
                f"{model.name}. Use that model, write to another name, or use --overwrite."
            )
        named = {name: kept[name] for name in named}
    return {
        **named,
        "schedule": dict(model.schedule.description),
        "prediction": model.prediction,
        "dtype": model.dtype,
        "size": list(model.size),
        "shape": list(model.shape),
    }
