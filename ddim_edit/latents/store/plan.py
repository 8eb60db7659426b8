"""Which pictures belong to which shard, fixed before the first is inverted."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import overload

from ddim_edit.errors import LatentError
from ddim_edit.io.atomic import atomic
from ddim_edit.io.schema import list_of, parse_json, text


class Plan(Sequence[list[str]]):
    """The names of the pictures of every shard, read one shard at a time; pictures that are gone stay in it.

    Args:
        file: one JSON list of names a line; no such file is a plan of nothing.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._starts = _line_starts(file)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[str]]: ...
    def __getitem__(self, index: int | slice) -> list[str] | list[list[str]]:
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return [self[each] for each in chosen]
        start, end = self._starts[chosen : chosen + 2]
        with self.file.open("rb") as file:
            file.seek(start)
            return self._names(file.read(end - start))

    def __iter__(self) -> Iterator[list[str]]:
        if self:
            with self.file.open("rb") as file:
                yield from map(self._names, file)

    def grow(self, names: Iterable[str], size: int) -> "Plan":
        """The plan with new shards of `size` for names that it lacks; the shards that it has stay as they are."""
        new = list(dict.fromkeys(names))
        if self:
            known = set(chain.from_iterable(self))
            new = [name for name in new if name not in known]
        if not new:
            return self
        with atomic(self.file) as temporary, temporary.open("wb") as file:
            file.write(self.file.read_bytes() if self else b"")
            for start in range(0, len(new), size):
                file.write(json.dumps(new[start : start + size]).encode() + b"\n")
        return Plan(self.file)

    def _names(self, line: bytes) -> list[str]:
        wanted, remedy = "the list of a store's pictures", "make the store anew"
        try:
            names = parse_json(line)
        except ValueError as error:
            raise LatentError(wanted, f"{self.file}, which is damaged", remedy) from error
        if list_of(text).find_problem(names, "names"):
            raise LatentError(wanted, f"{self.file}, which names other things", remedy)
        return list(names)


def _line_starts(file: Path) -> list[int]:
    starts = [0]
    try:
        with file.open("rb") as lines:
            for line in lines:
                starts.append(starts[-1] + len(line))
    except FileNotFoundError:
        pass
    return starts
