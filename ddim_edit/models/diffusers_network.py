"""Networks of diffusers behind our own call: x, time and conditioning by keyword, one tensor back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddim_edit.models.families.family import DiffusersFamily, NetworkShape
from ddim_edit.models.pretrained import find_class, import_diffusers, load_pretrained_network
from ddim_edit.models.unet.base import require_shift


class DiffusersNetwork(nn.Module):
    """A diffusers network that is called as ours are; its bottleneck cannot be read, so there is no h-space.

    Args:
        inner: the network.
        family: how it is called.
    """

    def __init__(self, inner: Any, family: DiffusersFamily) -> None:
        super().__init__()
        self.inner = inner
        self.family = family

    def forward(self, x: Tensor, index: Tensor, **conditioning: Tensor) -> Tensor:
        """Return the raw output."""
        return self.family.call(self.inner, x, index, conditioning)

    @property
    def config(self) -> NetworkShape:
        """Its channels and its size."""
        return self.family.shape(self.inner.config)


class DiffusersUNet(DiffusersNetwork):
    """A diffusers UNet that is called as ours are; its bottleneck h is the output of its middle block."""

    def read(self, x: Tensor, index: Tensor, **conditioning: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw output, and h."""
        seen: list[Tensor] = []
        output = self._hooked(lambda h: seen.append(h.clone()), x, index, **conditioning)
        return output, seen[0]

    def bottleneck(self, x: Tensor, index: Tensor, **conditioning: Tensor) -> Tensor:
        """Return h alone, without running the rest of the network."""

        def stop(h: Tensor) -> None:
            raise _BottleneckReachedError(h)

        try:
            self._hooked(stop, x, index, **conditioning)
        except _BottleneckReachedError as reached:
            return reached.h
        raise AssertionError("a UNet without a middle block")

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **conditioning: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw output, and the one with the shift added to h; both take a whole evaluation.

        Raises:
            ArgumentError: a shift of another shape.
        """

        def add_shift(h: Tensor) -> Tensor:
            require_shift(shift, h)
            return h + shift

        return self(x, index, **conditioning), self._hooked(add_shift, x, index, **conditioning)

    def _hooked(
        self, hook: Callable[[Tensor], Tensor | None], x: Tensor, index: Tensor, **conditioning: Tensor
    ) -> Tensor:
        handle = self.inner.mid_block.register_forward_hook(lambda module, inputs, h: hook(h))
        try:
            output: Tensor = self(x, index, **conditioning)
        finally:
            handle.remove()
        return output


class _BottleneckReachedError(Exception):
    """Ends an evaluation at the bottleneck."""

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        self.h = h


def load_diffusers_network(
    folder: Path,
    family: DiffusersFamily,
    dtype: torch.dtype | None = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> DiffusersNetwork:
    """Return the network in a component's folder of a diffusers checkpoint, on the CPU, as `load_pretrained_network`.

    Raises:
        MissingExtraError: diffusers or transformers is not installed.
        ModelError: the folder does not hold the network that its config describes.
    """
    kind = find_class(import_diffusers(f"Running a {family.network}"), family.network)
    return adapt_network(load_pretrained_network(kind, folder, dtype, memory_format), family)


def adapt_network(network: Any, family: DiffusersFamily) -> DiffusersNetwork:
    """Return a network of diffusers behind our own call; its weights are shared."""
    return (DiffusersUNet if family.bottleneck else DiffusersNetwork)(network, family)
