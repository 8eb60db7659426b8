"""Stores: many images inverted into one folder of shards, by one process or several, and decoded from there."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddim_edit.errors import ArgumentError

from .command import Option, OptionGroup
from .progress import Progress
from .session import Session
from .store_reading import fail_shard
from .types import FiniteRange, Text, parse_share

if TYPE_CHECKING:
    from ddim_edit import InversionConfig
    from ddim_edit.distributed import Engine
    from ddim_edit.images import Crop

STORE = ".latents"
"""Suffix of the folders that `invert` makes stores of."""
SHOWN = 3
"""Names that a message lists."""


@dataclass(frozen=True)
class StoreOptions:
    """How a store is filled; None is the default.

    Attributes:
        shard_size: latents in a file.
        shard: "I/N", which shards this process fills.
        engine: one of `ENGINES`.
        workers, gpus_per_worker: for Ray.
        verify: whether to look at the contents of all images again.
    """

    shard_size: int | None = None
    shard: str | None = None
    engine: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    verify: bool = False

    def require_store(self, output: Path) -> None:
        """Refuse options that do not go together, or with an output that is not a store.

        Raises:
            UsageError: there are some.
        """
        given = [each.name for each in fields(self) if getattr(self, each.name) not in (None, False)]
        if given and output.suffix != STORE:
            flag = given[0].replace("_", "-")
            raise click.UsageError(f"--{flag} is for a store, an output whose name ends in {STORE}.")
        for name in ("workers", "gpus_per_worker"):
            if name in given and self.engine != "ray":
                raise click.UsageError(f"--{name.replace('_', '-')} goes with --engine ray.")
        if self.engine == "ray" and self.shard is not None:
            raise click.UsageError("--shard and --engine ray exclude each other.")


def store_group() -> OptionGroup:
    """Return the options of filling a store, which become the command's `store`."""
    options = [
        Option(
            "--shard-size",
            type=click.IntRange(1, 1_000_000),
            metavar="N",
            help="Latents in a file of a store. [default: 512]",
        ),
        Option(
            "--shard",
            type=Text(parse_share),
            metavar="I/N",
            help="Fill every N-th shard only, from the I-th on, from 0.",
        ),
        Option(
            "--engine", type=click.Choice(list(ENGINES)), help="What fills the store. [default: local, this process]"
        ),
        Option(
            "--workers",
            type=click.IntRange(1, 10_000),
            metavar="N",
            help="Processes of --engine ray. [default: all it has]",
        ),
        Option(
            "--gpus-per-worker",
            type=FiniteRange(0, 100),
            metavar="F",
            help="GPUs of each process of --engine ray; 0.5 is half of one.",
        ),
    ]
    options.append(
        Option(
            "--verify",
            is_flag=True,
            help="Compare the contents of all images with those that were inverted, and all latents with their "
            "checksums, and invert again what differs. [default: only images whose files changed since]",
        )
    )
    return OptionGroup("Store", options, "store", StoreOptions)


def is_store(path: Path) -> bool:
    """Return whether a path is a store of latents."""
    from ddim_edit.latents.store.files import is_store as has_settings

    return has_settings(path)


def fill_store(
    session: Session,
    images: Sequence[Path],
    output: Path,
    overwrite: bool,
    options: StoreOptions,
    config: "InversionConfig",
    crop: "Crop",
) -> None:
    """Invert images into a store, or continue one."""
    import torch

    from ddim_edit.distributed import (
        FillJob,
        choose_sizes,
        device_for_rank,
        fill_shards,
        find_rank,
        list_images,
        prepare_store,
        reopen_shards,
    )
    from ddim_edit.latents.store.files import StoreFiles

    # Ray places its own processes; the variables of a launcher are not meant for it.
    rank = find_rank({} if options.engine == "ray" else os.environ, options.shard)
    found = list_images(images, session.continue_on_error, session.recursive, session.note_skipped)
    if overwrite:
        if rank.count > 1:
            raise ArgumentError(
                f"{rank.count} processes cannot overwrite a store together. Remove it first, or use another name."
            )
        StoreFiles(output).remove()
    if not found.names:
        return
    size = choose_sizes(output, session.device, session.batch_size, options.shard_size)
    session.expected = len(found.names) * 2 * config.steps
    job = FillJob(
        root=found.root,
        store=output.absolute(),
        model=session.model,
        device=device_for_rank(rank, session.device, torch.cuda.device_count()),
        dtype=session.settled_dtype,
        size=session.size,
        offline=session.offline,
        compiled=session.compiled,
        batch_size=size.batch,
        threads=size.threads,
        config=config,
        crop=crop,
        parts=session.parts,
    )
    shards = prepare_store(job, found.names, size.shard, rank)
    if reopened := reopen_shards(job, shards, options.verify):
        session.note(f"{output.name}: inverted again: {_describe_reopened(reopened)}")

    count, failures = 0, dict[str, str]()
    with session.showing_progress() as progress:
        engine = ENGINES[options.engine or "local"](session, options, progress)
        for filled in fill_shards(job, shards, engine, partial(fail_shard, session, output)):
            count += filled.rows
            failures.update(filled.failures)
            file = StoreFiles(output).shard(filled.index)
            if filled.unconverged:
                session.warn(
                    f"{file.name}: {filled.unconverged:,} images did not converge, so their best latents were kept"
                )
            row = {"shard": filled.index, "rows": filled.rows, "failures": dict(filled.failures)}
            session.emit(row, file)
    for name, reason in failures.items():
        session.failures += 1
        click.echo(f"error: {name}: {reason}", err=True)
    failed = f", and {len(failures):,} failed" if failures else ""
    session.note(
        f"{output.name}: {count:,} latents in {len(shards):,} {'shard' if len(shards) == 1 else 'shards'}{failed}"
    )
    if rank.launched:
        session.failures = 0  # a launcher would end the other processes for an image that this one could not read


def adopt_settings(session: Session, output: Path, overwrite: bool) -> None:
    """Take over the dtype and the size that a store was begun with, unless others are asked for."""
    from ddim_edit.latents.store.files import StoreFiles, read_settings

    files = StoreFiles(output)
    kept = None if overwrite or files.is_empty else read_settings(files.model)
    if kept is not None:
        session.prefer_dtype(kept["dtype"])
        if session.size is None:
            session.size = kept["size"][0], kept["size"][1]


def _describe_reopened(reasons: Mapping[str, str]) -> str:
    """Return how many images are inverted again for each reason, with the names of some."""
    parts: list[str] = []
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, own in reasons.items() if own == reason]
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        parts.append(f"{len(names):,} that {reason} ({shown})")
    return ", ".join(parts)


def _local(session: Session, options: StoreOptions, progress: Progress) -> "Engine":
    from ddim_edit.distributed import FillJob, FinishedShard, Worker

    def engine(job: FillJob, indices: Sequence[int]) -> Iterator[FinishedShard]:
        worker = Worker(job, progress.count, progress.finish_images, progress.begin)
        missing = worker.count_missing(indices)
        model = worker.editor.model
        session.describe(model)
        passes = (3 if job.config.check or job.config.exact else 1) if "autoencoder" in model.components else 0
        progress.expect(missing, missing * job.config.inversion_workload(model.schedule), passes)
        return worker.fill_all(indices)

    return engine


def _ray(session: Session, options: StoreOptions, progress: Progress) -> "Engine":
    from ddim_edit import NoiseSchedule
    from ddim_edit.distributed import FillJob, FinishedShard, Worker
    from ddim_edit.distributed.ray_engine import RayEngine

    ray_engine = RayEngine(options.workers, options.gpus_per_worker)

    def engine(job: FillJob, indices: Sequence[int]) -> Iterator[FinishedShard]:
        missing = {index: Worker(job).count_missing([index]) for index in indices}
        # Only the workers load the model; the number of steps does not depend on its schedule.
        each = job.config.inversion_workload(NoiseSchedule.linear())
        progress.expect(sum(missing.values()), sum(missing.values()) * each)
        for filled in ray_engine(job, indices):
            images = missing[filled.index]
            progress.finish_images(images, images * each.expected)
            yield filled

    return engine


ENGINES: Mapping[str, Callable[[Session, StoreOptions, Progress], "Engine"]] = {"local": _local, "ray": _ray}
"""What can fill a store."""
