"""From a job to a full store: what is planned, what is left to do, and who does it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddim_edit.distributed.job import Engine, Filled, Job
from ddim_edit.distributed.ranks import Rank
from ddim_edit.distributed.worker import Worker, filled
from ddim_edit.latents.store.files import ShardPlan, StoreFiles, ensure_settings, read_settings, require_settings
from ddim_edit.models.devices import dtype_name, find_device
from ddim_edit.models.packaged import DEFAULT_MODEL

ALONE = Rank(0, 1, 0)
_HOUR = 3600.0


class Sizes(NamedTuple):
    """Pictures in a batch, which goes through the network at once, and in a shard, one file; threads on a CPU."""

    batch: int = 8
    shard: int = 512
    threads: int | None = None


def sizes(store: Path, device: str, batch: int | None = None, shard: int | None = None) -> Sizes:
    """The sizes that are asked for, else those that the store has, else what suits the device."""
    kept = read_settings(StoreFiles(store).settings) or {}
    usual = Sizes(threads=torch.get_num_threads()) if find_device(device).type == "cpu" else Sizes(batch=64)
    return Sizes(
        batch or kept.get("batch_size", usual.batch),
        shard or kept.get("shard_size", usual.shard),
        kept.get("threads", usual.threads),
    )


def begin(job: Job, names: Iterable[str], shard_size: int = Sizes().shard, rank: Rank = ALONE) -> list[int]:
    """Make the store, or go on with it: plan shards for pictures that it lacks, and say which are this process's.

    Several processes that begin the same job from the same names make the same plan. Where nothing was computed yet,
    a store takes new settings.

    Args:
        job: what to do.
        names: of all pictures, relative to the job's root.
        shard_size: how many latents a shard holds at most.
        rank: which share to return, every `rank.count`-th shard from `rank.index` on.

    Raises:
        ArgumentError: a folder that is not a store; LatentMismatchError: a store that was begun by other settings.
    """
    layout, settings = StoreFiles(job.store), {"shard_size": shard_size, **job.settings}
    layout.require_usable()
    if layout.is_empty and not _agrees(layout, settings):
        layout.remove()
    ensure_settings(layout.settings, settings)
    _require_model(layout, job)
    # Of several processes another one may be writing now, which takes seconds.
    layout.remove_temporaries(0 if rank.count == 1 else _HOUR)
    return list(range(rank.index, len(ShardPlan(layout.plan).extend(names, shard_size)), rank.count))


def finished(job: Job, indices: Sequence[int]) -> list[int]:
    """Those of the shards that are there."""
    return [index for index in indices if StoreFiles(job.store).shard(index).exists()]


def fill(job: Job, indices: Sequence[int], engine: Engine) -> Iterator[Filled]:
    """Fill shards of a store that was begun: those that are there first, then the others as the engine makes them."""
    there = finished(job, indices)
    yield from (filled(job, index) for index in there)
    if left := sorted(set(indices) - set(there)):
        yield from engine(job, left)
    plan = ShardPlan(StoreFiles(job.store).plan)
    if len(finished(job, range(len(plan)))) == len(plan):
        with suppress(OSError):  # another process is still at it
            (job.store / "parts").rmdir()


def local(
    job: Job,
    indices: Sequence[int],
    on_evaluation: Callable[[int], object] | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> Iterator[Filled]:
    """The engine of this process alone: one `Worker`."""
    return Worker(job, on_evaluation, on_batch).fill_all(indices)


def _agrees(layout: StoreFiles, settings: dict[str, Any]) -> bool:
    kept = read_settings(layout.settings)
    return kept is None or settings.items() <= kept.items()


def _require_model(layout: StoreFiles, job: Job) -> None:
    """Refuse early what can be told without the model; workers look at all of it."""
    kept = read_settings(layout.model)
    if kept is None or layout.is_empty:
        return
    asked: dict[str, Any] = {"name": _title(job.model or DEFAULT_MODEL)}
    asked |= {} if job.dtype == "auto" else {"dtype": dtype_name(job.dtype)}
    asked |= {} if job.size is None else {"size": list(job.size)}
    require_settings(layout.model, kept, asked)


def _title(model: str) -> str:
    """What a model of this name calls itself."""
    path = Path(model)
    return path.resolve().stem if path.is_file() else path.resolve().name if path.is_dir() else model
