"""Fill a store: plan its shards, find those that are missing, and have an engine make them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddim_edit.distributed.job import Engine, FillJob, FinishedShard
from ddim_edit.distributed.ranks import ALONE, Rank
from ddim_edit.distributed.worker import Worker, finish_shard
from ddim_edit.errors import LatentError
from ddim_edit.io.locks import FolderLock
from ddim_edit.latents.store.files import ShardPlan, StoreFiles, ensure_settings, read_settings, require_settings
from ddim_edit.models.devices import dtype_name, find_device
from ddim_edit.models.packaged import DEFAULT_MODEL

_HOUR = 3600.0


class FillSizes(NamedTuple):
    """Images in a batch, which goes through the network at once, and in a shard, which is one file; CPU threads."""

    batch: int = 8
    shard: int = 512
    threads: int | None = None


def choose_sizes(store: Path, device: str, batch: int | None = None, shard: int | None = None) -> FillSizes:
    """Return the sizes that are asked for, else those that the store has, else what suits the device."""
    kept = read_settings(StoreFiles(store).settings) or {}
    on_cpu = find_device(device).type == "cpu"
    usual = FillSizes(threads=torch.get_num_threads()) if on_cpu else FillSizes(batch=64)
    return FillSizes(
        batch or kept.get("batch_size", usual.batch),
        shard or kept.get("shard_size", usual.shard),
        kept.get("threads", usual.threads),
    )


def prepare_store(
    job: FillJob, names: Iterable[str], shard_size: int = FillSizes().shard, rank: Rank = ALONE
) -> list[int]:
    """Make the store, or extend it by shards for images that it lacks; return the shards of this process.

    Several processes that prepare the same job with the same names make the same plan. A store in which nothing was
    computed yet takes new settings.

    Args:
        job: what to do.
        names: of all images, relative to the job's root.
        shard_size: latents of a shard, at most.
        rank: which shards to return: every `rank.count`-th shard from `rank.index` on.

    Raises:
        ArgumentError: a folder that is not a store; LatentMismatchError: a store that was begun by other settings.
    """
    layout = StoreFiles(job.store)
    settings = {"shard_size": shard_size, **job.settings}
    layout.require_usable()
    # Another process may prepare the same store now, which takes it seconds.
    with FolderLock(job.store):
        kept = read_settings(layout.settings)
        if layout.is_empty and kept is not None and not settings.items() <= kept.items():
            layout.remove()
        ensure_settings(layout.settings, settings)
    _require_model(layout, job)
    with FolderLock(job.store):
        layout.remove_temporaries(0 if rank.count == 1 else _HOUR)
        plan = ShardPlan(layout.plan).extend(names, shard_size)
    return list(range(rank.index, len(plan), rank.count))


def finished_shards(job: FillJob, indices: Sequence[int]) -> list[int]:
    """Return those of the shards that are there."""
    return [index for index in indices if StoreFiles(job.store).shard(index).exists()]


def fill_shards(
    job: FillJob,
    indices: Sequence[int],
    engine: Engine,
    on_damage: Callable[[Path, LatentError], object] | None = None,
) -> Iterator[FinishedShard]:
    """Fill shards of a prepared store; yield those that are there first, then the others as the engine makes them.

    Args:
        job: what to do.
        indices: of the shards.
        engine: what fills them.
        on_damage: called with the file of a shard that is there and cannot be read, and the error, which is raised
            without it.
    """
    there = finished_shards(job, indices)
    for index in there:
        try:
            yield finish_shard(job, index)
        except LatentError as error:
            if on_damage is None:
                raise
            on_damage(StoreFiles(job.store).shard(index), error)
    missing = sorted(set(indices) - set(there))
    if missing:
        yield from engine(job, missing)
    plan = ShardPlan(StoreFiles(job.store).plan)
    if len(finished_shards(job, range(len(plan)))) == len(plan):
        with suppress(OSError):  # another process is still removing its parts
            (job.store / "parts").rmdir()


def local_engine(
    job: FillJob,
    indices: Sequence[int],
    on_evaluation: Callable[[int], object] | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> Iterator[FinishedShard]:
    """Fill shards in this process, by one `Worker`."""
    return Worker(job, on_evaluation, on_batch).fill_all(indices)


def _require_model(layout: StoreFiles, job: FillJob) -> None:
    """Refuse another model as far as that can be seen without loading it; workers check all of it."""
    kept = read_settings(layout.model)
    if kept is None or layout.is_empty:
        return
    asked: dict[str, Any] = {}
    if job.dtype != "auto":
        asked["dtype"] = dtype_name(job.dtype)
    if job.size is not None:
        asked["size"] = list(job.size)
    require_settings(layout.model, kept, asked)
    name = job.model or DEFAULT_MODEL
    path = Path(name)
    # What a loaded model is called: files and folders by their last part.
    if path.is_file():
        name = path.resolve().stem
    elif path.is_dir():
        name = path.resolve().name
    if kept.get("name") != name:
        # Under another name it may still be the same model, which only its contents tell.
        _ = Worker(job).editor
