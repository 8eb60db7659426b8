"""Find images that a store missed or that changed since, and reopen their shards so that they are inverted again."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ddim_edit.distributed.job import FillJob
from ddim_edit.errors import ImageError, LatentError
from ddim_edit.images import read
from ddim_edit.io.digest import digest_file
from ddim_edit.io.locks import FolderLock
from ddim_edit.latents.store.files import ShardPlan, StoreFiles, read_settings
from ddim_edit.latents.store.shard import Shard, write_shard


def reopen_shards(job: FillJob, indices: Iterable[int], verify: bool = False) -> list[str]:
    """Reopen the finished shards with images that can be read again or have other contents, and return their names.

    A shard is taken apart into its batches, without those of these images, so that only they are computed again. An
    image has changed if the digest of its file is another one. That is looked at where the file is newer than the
    shard, or everywhere.

    Args:
        job: what to do; its store must be prepared.
        indices: of the shards of this process.
        verify: whether to look at the contents of all images.
    """
    files = StoreFiles(job.store)
    model = read_settings(files.model)
    if model is None:
        return []
    plan = ShardPlan(files.plan)
    height, width = model["size"]
    reopened: list[str] = []
    for index in indices:
        if not files.shard(index).exists():
            continue
        try:
            shard = Shard(files.shard(index))
        except LatentError:
            continue  # the damage is reported where the shard is read
        failures = shard.header.failures
        rows = {name: row for row, name in enumerate(name for name in plan[index] if name not in failures)}
        since = None if verify else files.shard(index).stat().st_mtime
        names: list[str] = []
        for name in failures:
            with suppress(ImageError):
                read(job.root / name, (height, width), job.crop)
                names.append(name)
        for name, row in rows.items():
            if _has_changed(job.root / name, shard, row, since):
                names.append(name)
        if names:
            _take_apart(job, index, plan[index], rows, shard, set(names))
            reopened += names
    return reopened


def _has_changed(file: Path, shard: Shard, row: int, since: float | None) -> bool:
    """Return whether a file has other contents than the image of a row; one that is gone has not changed."""
    try:
        stat = file.stat()
        # The time of the change of the inode too: a file that is moved or copied here may be of any age.
        if not file.is_file() or (since is not None and max(stat.st_mtime, stat.st_ctime) <= since):
            return False
        digest = digest_file(file)
    except OSError:
        return False
    try:
        return bool(digest != shard.record(row)["origin"]["source"])
    except (LatentError, KeyError, TypeError):
        return False  # a damaged record is reported where it is read


def _take_apart(
    job: FillJob, index: int, planned: Sequence[str], rows: Mapping[str, int], shard: Shard, again: set[str]
) -> None:
    """Write the batches of a shard without images to invert again, and remove the shard."""
    files = StoreFiles(job.store)
    with FolderLock(files.parts(index)):
        for start in range(0, len(planned), job.batch_size):
            names = planned[start : start + job.batch_size]
            if again.isdisjoint(names):
                good = {name: shard[rows[name]] for name in names if name in rows}
                failures = {name: shard.header.failures[name] for name in names if name in shard.header.failures}
                write_shard(files.batch(index, start // job.batch_size), good, failures, shard.shape)
        files.shard(index).unlink()
