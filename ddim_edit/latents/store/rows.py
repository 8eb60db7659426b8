"""The x of a store as the matrix that estimators fit on."""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ddim_edit.errors import ArgumentError

if TYPE_CHECKING:
    from ddim_edit.latents.store.store import LatentStore


class StoreRows:
    """All x of a store, flat, as float32 [n, d], read slice by slice; never whole unless asked for, never written.

    Args:
        store: where they are.
    """

    def __init__(self, store: "LatentStore") -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d), d = C * H * W."""
        return len(self), prod(self._store.shape)

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float32]:
        """Some rows as a new float32 array [m, d]; the file that they are in is mapped while they are read.

        Raises:
            ArgumentError: a slice with a step other than 1.
        """
        start, end, step = rows.indices(len(self))
        if step != 1:
            raise ArgumentError("a slice of neighbouring rows", f"one with step {step}", "slice first, then step")
        made = np.empty((max(end - start, 0), self.shape[1]), np.float32)
        for here, read in self._pieces(start, end):
            made[here : here + len(read)] = read
        return made

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        row = start
        while row < end:
            place = self._store.place(row)
            read = self._store.shard(place.shard).rows(slice(place.row, place.row + end - row))
            yield row - start, read
            row += len(read)
