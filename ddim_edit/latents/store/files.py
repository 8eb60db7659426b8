"""The files of a store: where they lie, the settings it was begun with, and which images belong to which shard."""

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, overload

from ddim_edit.errors import ArgumentError, LatentError, LatentMismatchError
from ddim_edit.io import schema
from ddim_edit.io.atomic import atomic
from ddim_edit.io.locks import FolderLock
from ddim_edit.io.regular import require_regular
from ddim_edit.io.schema import parse_json

FORMAT = 2
"""Version of the settings and shards of a store. Shards of version 1 had no checksums."""
TEMPORARY = ".ddim-edit-"
"""How the names of temporary files begin, as `io.atomic` makes them."""


LARGEST_BATCH = 1 << 16
"""Images of a batch, and shards and threads within the same reason, that settings may ask for."""
MOST_THREADS = 1024

_METHOD = schema.table_of(
    {
        "solver": schema.text,
        "grid": schema.either(schema.text, schema.table),
        "steps": schema.int_between(1, 10_000),
        "exact": schema.flag,
        "tol": schema.positive_number,
        "check": schema.flag,
        "dequantise": schema.optional(schema.integer),
        "level": schema.either(schema.text, schema.number, schema.one_of(None)),
        "condition": schema.table,
        "refine": schema.optional(schema.text),
    }
)
_SETTINGS: schema.Schema = {
    "shard_size": schema.int_between(1, 1 << 24),
    "batch_size": schema.int_between(1, LARGEST_BATCH),
    "threads": schema.int_between(1, MOST_THREADS),
    "crop": schema.table,
    "method": _METHOD,
}
_MODEL: schema.Schema = {
    "name": schema.text,
    "components": schema.table,
    "schedule": schema.table,
    "prediction": schema.text,
    "dtype": schema.one_of("float32", "tf32", "bfloat16", "float16", "mixed"),
    "size": schema.list_of(schema.int_between(1, 1 << 16), 2),
    "shape": schema.list_of(schema.int_between(1, 1 << 16), 3),
}
_OPTIONAL = {"threads"}
"""Entries that only stores of some machines have."""


def is_store(folder: Path) -> bool:
    """Return whether a folder is a store, finished or not; its contents are not looked at."""
    return StoreFiles(folder).settings.is_file()


class StoreFiles(NamedTuple):
    """The paths of all files of a store; most of them need not exist."""

    folder: Path

    @property
    def settings(self) -> Path:
        """How images are cropped, inverted and gathered. This file makes the folder a store."""
        return self.folder / "store.json"

    @property
    def model(self) -> Path:
        """The model that was loaded: its name, weights and so on."""
        return self.folder / "model.json"

    @property
    def plan(self) -> Path:
        """Which images belong to which shard."""
        return self.folder / "pictures.jsonl"

    def shard(self, index: int) -> Path:
        """Return the file of a finished shard."""
        return self.folder / f"shard-{index:05}.safetensors"

    def parts(self, index: int) -> Path:
        """Return the folder of a shard in progress; only the process that computes it writes there."""
        return self.folder / "parts" / f"shard-{index:05}"

    def batch(self, index: int, number: int) -> Path:
        """Return the file of one batch of a shard in progress."""
        return self.parts(index) / f"batch-{number:04}.safetensors"

    @property
    def is_empty(self) -> bool:
        """Whether nothing was computed yet, so that nothing is lost if the store is begun anew."""
        try:
            return not any(self.folder.glob("shard-*.safetensors")) and not any(self.folder.glob("parts/*/batch-*"))
        except FileNotFoundError:  # another process has just finished a shard, and removes its parts
            return False

    def require_usable(self) -> None:
        """Refuse a folder that is not a store and has other files in it.

        Raises:
            ArgumentError: a folder with other files, or not a folder.
        """
        if not self.folder.exists() or is_store(self.folder):
            return
        if not self.folder.is_dir() or any(not path.name.startswith(TEMPORARY) for path in self.folder.iterdir()):
            raise ArgumentError(f"{self.folder} exists and is not a store of latents. Choose another name.")

    def remove_temporaries(self, age: float) -> None:
        """Remove the temporary files of killed runs beside the shards.

        Args:
            age: in seconds, above which they are removed: younger ones may belong to another process.
        """
        for path in self.folder.glob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):  # another process has just renamed it
                if time.time() - path.stat().st_mtime >= age:
                    path.unlink()

    def remove(self) -> None:
        """Remove the store, and no file that it did not write.

        Raises:
            ArgumentError: the folder is not a store.
        """
        self.require_usable()
        for parts in self.folder.glob("parts/*"):
            lock = FolderLock(parts)
            if not lock.acquire():
                raise ArgumentError(f"{self.folder.name} is being filled by another process. Wait until it has ended.")
            lock.release()
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        # The settings go last: until then the folder is a store, and an interrupted removal can be repeated.
        for path in (*self.folder.glob("shard-*.safetensors"), self.plan, self.model, self.settings):
            path.unlink(missing_ok=True)
        self.remove_temporaries(0)


def read_settings(file: Path) -> dict[str, Any] | None:
    """Return the settings in a JSON file of a store, or None where there is no such file.

    Raises:
        LatentError: the file holds something else, or is of another format.
    """
    require_regular(file, LatentError)
    try:
        record = parse_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LatentError(f"{file}: it is damaged. Make the store anew.") from error
    settings = schema.validate(record, {"format": schema.anything}, str(file), LatentError, "Make the store anew.")
    if settings["format"] != FORMAT:
        raise LatentError(
            f"{file}: this version of ddim-edit reads format {FORMAT} of a store, not"
            f" {schema.describe(settings['format'])}. Use the version that wrote it, or make the store anew."
        )
    known = _MODEL if file.name == StoreFiles(file.parent).model.name else _SETTINGS
    wanted = {name: check for name, check in known.items() if name in settings or name not in _OPTIONAL}
    return schema.validate(settings, wanted, str(file), LatentError, "Restore the file, or make the store anew.")


def ensure_settings(file: Path, wanted: Mapping[str, Any]) -> None:
    """Write the settings of a new store, or compare them with those of an existing one.

    Settings by which nothing was computed yet are replaced.

    Raises:
        LatentMismatchError: the message names the first setting that differs.
    """
    record = {"format": FORMAT, **wanted}
    kept = read_settings(file)
    if kept is None or (kept != record and StoreFiles(file.parent).is_empty):
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    else:
        require_settings(file, kept, record)


def require_settings(file: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare settings with those of an existing store; what it has beyond them is not looked at.

    Args:
        file: where those of the store are, for the message.
        kept: the settings of the store.
        wanted: those to compare.

    Raises:
        LatentMismatchError: the message names the first setting that differs.
    """
    present = dict(_flatten(kept))
    for name, value in _flatten(wanted):
        if present.get(name) != value:
            kept_text, wanted_text = (schema.shorten(json.dumps(each)) for each in (present.get(name), value))
            raise LatentMismatchError(
                f"{file.parent.name} was begun with {name} {kept_text}, not {wanted_text}."
                " Keep that setting, write to another name, or use --overwrite."
            )


def _flatten(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class ShardPlan(Sequence[list[str]]):
    """The names of the images of every shard, fixed before the first is inverted.

    It is read one shard at a time, so that plans of millions of images take no memory. Images that were deleted since
    stay in it.

    Args:
        file: one JSON list of names per line; where there is no such file, the plan is empty.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._line_starts = [0]
        require_regular(file, LatentError)
        with suppress(FileNotFoundError), file.open("rb") as lines:
            for line in lines:
                self._line_starts.append(self._line_starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._line_starts) - 1

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[str]]: ...
    def __getitem__(self, index: int | slice) -> list[str] | list[list[str]]:
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return [self[each] for each in chosen]
        start, end = self._line_starts[chosen : chosen + 2]
        with self.file.open("rb") as file:
            file.seek(start)
            return self._parse(file.read(end - start))

    def __iter__(self) -> Iterator[list[str]]:
        if self:
            with self.file.open("rb") as file:
                yield from map(self._parse, file)

    def extend(self, names: Iterable[str], size: int) -> "ShardPlan":
        """Write the plan with new shards for the names that it lacks, and return it; its shards stay as they are.

        Args:
            names: of images; those that it has already are skipped.
            size: number of images in a new shard.
        """
        new = list(dict.fromkeys(names))
        if self:
            known = set(chain.from_iterable(self))
            new = [name for name in new if name not in known]
        if not new:
            return self
        with atomic(self.file) as temporary, temporary.open("wb") as file:
            if self:
                file.write(self.file.read_bytes())
            for start in range(0, len(new), size):
                file.write(json.dumps(new[start : start + size]).encode() + b"\n")
        return ShardPlan(self.file)

    def _parse(self, line: bytes) -> list[str]:
        try:
            names = parse_json(line)
        except ValueError as error:
            raise LatentError(f"{self.file}: the list of images is damaged. Make the store anew.") from error
        if problem := schema.list_of(schema.text).find_problem(names, "the list of images"):
            raise LatentError(f"{self.file}: {problem}. Make the store anew.")
        return list(names)
