"""Streams, captures and graphs of torch.cuda on a CPU: what is done while a graph is captured is recorded and repeated.

Tensors stay on the CPU, which stands for a card of its own, `CARD`; the one selected at first is another. As in CUDA

- a stream belongs to the card that is selected when it is made, and only work of that card is captured on it,
- what waits for the card may not be captured, spoils the capture, and the error at its end leaves its stream selected,
- graphs of one pool work in the same memory: a replay of one overwrites what the others answered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD, SELECTED = torch.device("cpu"), torch.device("cuda", 0)
WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Stream:
    def __init__(self, device: torch.device) -> None:
        self.device, self.waited_for = device, []

    def wait_stream(self, other: "Stream") -> None:
        self.waited_for.append(other)


class Graph(TorchDispatchMode):
    """A captured graph, and what records it; its own tensors are in the memory of its pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stream, self.pool, self.spoilt, self.replays = None, None, False, 0
        self.work: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.own: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITS:
            self.spoilt = True
            raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")
        made = func(*args, **(kwargs or {}))
        if self.stream.device == CARD:
            self.work.append((func, args, kwargs or {}, made))
            known = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
            self.own += [tensor for tensor in tensors(made) if tensor.untyped_storage().data_ptr() not in known]
        return made


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class PretendCard:
    """Takes the place of torch.cuda for a test."""

    def __init__(self) -> None:
        self.device = SELECTED
        self.streams = {device: Stream(device) for device in (CARD, SELECTED)}
        self.graphs: list[Graph] = []
        self.handles = count(1)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch.cuda, "device", self.device_selected)
        patch.setattr(torch.cuda, "stream", self.stream_selected)
        patch.setattr(torch.cuda, "graph", self.captured)
        patch.setattr(torch.cuda, "Stream", lambda: Stream(self.device))
        patch.setattr(torch.cuda, "current_stream", lambda: self.streams[self.device])
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: next(self.handles))
        patch.setattr(torch.cuda, "CUDAGraph", self.graph)

    def graph(self) -> Any:
        made = Graph()
        made.replay = lambda: self.replay(made)
        self.graphs.append(made)
        return made

    @contextmanager
    def device_selected(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, device
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def stream_selected(self, stream: Stream) -> Iterator[None]:
        before, self.streams[stream.device] = self.streams[stream.device], stream
        try:
            yield
        finally:
            self.streams[stream.device] = before

    @contextmanager
    def captured(
        self, graph: Graph, pool: int | None = None, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        graph.pool, graph.stream = pool, stream or Stream(self.device)
        before, self.streams[graph.stream.device] = self.streams[graph.stream.device], graph.stream
        try:
            with graph:
                yield
        finally:
            if graph.spoilt:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.streams[graph.stream.device] = before

    def replay(self, graph: Graph) -> None:
        for other in self.graphs:
            if other is not graph and other.pool == graph.pool:
                for tensor in other.own:
                    tensor.fill_(torch.nan)
        for func, args, kwargs, made in graph.work:
            for old, new in zip(tensors(made), tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # a view is one already
                    old.copy_(new)
        graph.replays += 1
