"""What networks make of an index, in float32 whatever else they compute in."""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class TimeFeatures(nn.Module):
    """Frequencies that stay in float32 whatever the network is cast to: bfloat16 reads index 999 as 1000."""

    weight: Tensor

    def __init__(self, weight: Tensor, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.weight
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight = exact.to(self.weight.device)
        return self
