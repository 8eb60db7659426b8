"""Find images that a store missed, that changed or whose latents are damaged, and have them inverted again."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ddim_edit.distributed.job import FillJob
from ddim_edit.errors import ImageError, LatentError
from ddim_edit.images import read
from ddim_edit.io.digest import digest_file
from ddim_edit.io.locks import FolderLock
from ddim_edit.latents.store.files import ShardPlan, StoreFiles, read_settings
from ddim_edit.latents.store.shard import Shard, write_shard

RETURNED, CHANGED = "can be read now", "changed"
DAMAGED = "had a damaged latent, or that of another image"
"""Why an image is inverted again."""


def reopen_shards(job: FillJob, indices: Iterable[int], verify: bool = False) -> dict[str, str]:
    """Reopen the finished shards with images that must be inverted again, and return why, by their names.

    A shard is taken apart into its batches, without those of these images, so that only they are computed again. An
    image has changed if the digest of its file is another one. That is looked at where the file is newer than the
    shard, or everywhere.

    Args:
        job: what to do; its store must be prepared.
        indices: of the shards of this process.
        verify: whether to look at the contents of all images, and of all latents.
    """
    files = StoreFiles(job.store)
    model = read_settings(files.model)
    if model is None:
        return {}
    plan = ShardPlan(files.plan)
    height, width = model["size"]
    reopened: dict[str, str] = {}
    for index in indices:
        file = files.shard(index)
        if not file.exists():
            continue
        try:
            shard = Shard(file)
            rows = _match_rows(plan[index], shard)
        except LatentError:
            if verify:
                reopened.update(dict.fromkeys(plan[index], DAMAGED))
                file.unlink()
            continue  # else whoever reads the shard says what is wrong with it
        again = {
            name: RETURNED for name in shard.header.failures if _can_be_read(job.root / name, (height, width), job)
        }
        since = None if verify else file.stat().st_mtime
        for name, row in rows.items():
            if _has_changed(job.root / name, shard, row, since):
                again[name] = CHANGED
        if again or verify:  # what is damaged could not be kept where a shard is taken apart
            damaged = {
                name: DAMAGED for name, row in rows.items() if name not in again and not _is_whole(shard, row, name)
            }
            again.update(damaged)
        if again:
            _take_apart(job, index, plan[index], rows, shard, again)
            reopened.update(again)
    return reopened


def _match_rows(planned: Sequence[str], shard: Shard) -> dict[str, int]:
    """Return the rows of the images that did not fail.

    Raises:
        LatentError: the shard has another number of rows, as one of another place has.
    """
    names = [name for name in planned if name not in shard.header.failures]
    if len(names) != len(shard):
        raise LatentError(f"{shard.path}: it has {len(shard)} rows, not {len(names)}. Delete it and run again.")
    return {name: row for row, name in enumerate(names)}


def _can_be_read(file: Path, size: tuple[int, int], job: FillJob) -> bool:
    try:
        read(file, size, job.crop)
    except ImageError:
        return False
    return True


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
        return False  # a damaged record is looked for elsewhere


def _is_whole(shard: Shard, row: int, name: str) -> bool:
    """Return whether a row is as it was written, and of the image that the list of images has there."""
    try:
        shard.require_whole(row)
        return bool(shard.record(row)["name"] == name)
    except LatentError:
        return False


def _take_apart(
    job: FillJob, index: int, planned: Sequence[str], rows: Mapping[str, int], shard: Shard, again: Mapping[str, str]
) -> None:
    """Write the batches of a shard without images to invert again, and remove the shard."""
    files = StoreFiles(job.store)
    with FolderLock(files.parts(index)):
        for start in range(0, len(planned), job.batch_size):
            names = planned[start : start + job.batch_size]
            if again.keys().isdisjoint(names):
                good = {name: shard[rows[name]] for name in names if name in rows}
                failures = {name: shard.header.failures[name] for name in names if name in shard.header.failures}
                write_shard(files.batch(index, start // job.batch_size), good, failures, shard.shape)
        files.shard(index).unlink()
