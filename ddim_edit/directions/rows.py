"""Codes that lie on disk, and passes over them in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import StandardScaler

from ddim_edit.directions.sample_space import Array, Units
from ddim_edit.errors import DirectionError

Block = NDArray[np.float32]
Respond = Callable[[slice, Array], Array]
"""From where a block lies and its scores [m, k] to what its rows are weighted with, [m, j]."""
ROOM = 2**24
"""Numbers in a block: 64 MiB of float32."""


class Rows(Protocol):
    """Codes of n pictures that are read a slice at a time; not by index lists, nor written.

    A `numpy.memmap` of shape [n, ...] is one, and so are the rows of a store of latents.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""
        ...

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, where: slice, /) -> NDArray[np.float32]:
        """Some consecutive codes, [m, ...]."""
        ...


@dataclass(frozen=True, eq=False)
class Picked:
    """Some of the rows, seen as codes of a shape; what lies between them is never read.

    Args:
        rows: all of them.
        indices: of those meant, increasing.
        code: the shape of one.
    """

    rows: Rows
    indices: NDArray[np.intp]
    code: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *code)."""
        return (len(self.indices), *self.code)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, where: slice, /) -> NDArray[np.float32]:
        wanted = self.indices[where]
        breaks = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
        runs = [self.rows[int(wanted[a]) : int(wanted[b - 1]) + 1] for a, b in pairwise(breaks) if b > a]
        together = np.concatenate(runs) if runs else np.empty(0, np.float32)
        return together.reshape(len(wanted), *self.code)


@dataclass(frozen=True, eq=False)
class Stream(Units):
    """Rows in `Units`, of mean squared length 1, in float32; holds two blocks at a time and is read anew in each pass.

    Mean and scale are those of all rows, whichever of them are learnt from: they do not look at labels.
    """

    rows: Rows
    room: int = ROOM

    @classmethod
    def of(cls, rows: Rows, standardize: bool, room: int = ROOM) -> Self:
        """The units of rows, in one pass: centred, columns that vary of deviation 1 if asked to, rows of length 1.

        Raises:
            DirectionError: numbers that are not finite.
        """
        scaler = StandardScaler()
        for _, block in _blocks(rows, room):
            _require_finite(block)
            scaler.partial_fit(block)
        scale = scaler.scale_ if standardize else np.ones_like(scaler.mean_)
        length = np.sqrt((scaler.var_ / scale**2).sum()) or 1.0
        return cls(scaler.mean_, length * scale, rows, room)

    @property
    def d(self) -> int:
        """Numbers of a code."""
        return len(self.mean)

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """Where each block lies, and its rows [m, d], good until the next one is asked for."""
        mean, rate = self.mean.astype(np.float32), (1 / self.scale).astype(np.float32)
        room = np.empty((_height(self.rows, self.room), self.d), np.float32)
        for where, block in _blocks(self.rows, self.room):
            scaled = np.subtract(block, mean, out=room[: len(block)])
            scaled *= rate
            yield where, scaled

    def gather(self, weights: Array, respond: Respond) -> Array:
        """The sum over blocks U^T respond(U weights) [d, j] for weights [d, k], in one pass."""
        single, total = weights.astype(np.float32), None
        for where, block in self.blocks():
            responses = respond(where, (block @ single).astype(np.float64))
            part = (block.T @ responses.astype(np.float32)).astype(np.float64)
            total = part if total is None else total + part
        assert total is not None
        return total

    def pull(self, responses: ArrayLike) -> Array:
        """U^T responses [d, j] for responses [n, j]."""
        all_of_them = np.asarray(responses)
        return self.gather(np.empty((self.d, 0)), lambda where, _: all_of_them[where])

    def project(self, directions: Array) -> Array:
        """X directions^T [n, k] for directions [k, d], in the units of X."""
        offset = directions @ self.mean
        weights = (directions * self.scale).T.astype(np.float32)
        return np.concatenate([(block @ weights).astype(np.float64) for _, block in self.blocks()]) + offset


def _height(rows: Rows, room: int) -> int:
    return max(1, room * len(rows) // max(1, int(np.prod(rows.shape, dtype=np.int64))))


def _blocks(rows: Rows, room: int) -> Iterator[tuple[slice, Block]]:
    height = _height(rows, room)
    for start in range(0, len(rows), height):
        block = rows[start : start + height]
        yield slice(start, start + len(block)), block.reshape(len(block), -1)


def _require_finite(block: Block) -> None:
    if not np.isfinite(block).all():
        raise DirectionError("codes of finite numbers", "some that are not", "leave these pictures out")
