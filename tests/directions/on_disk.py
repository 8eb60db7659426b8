"""Rows that say what was asked of them."""

import numpy as np
from numpy.typing import NDArray


class CountedRows:
    """Rows in memory that remember every slice that was read."""

    def __init__(self, values: NDArray[np.floating]) -> None:
        self.values = values.astype(np.float32)
        self.shape = self.values.shape
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, where: slice, /) -> NDArray[np.float32]:
        assert isinstance(where, slice)
        found = self.values[where]
        self.read.append(len(found))
        return found

    @property
    def passes(self) -> float:
        return sum(self.read) / len(self)
