"""Faster ways to a network's own answer: its kernels replayed from CUDA graphs, or compiled ones."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.models.memory import is_out_of_memory

Call = Callable[..., Tensor]
"""A network as it is called: x [B, C, H, W], indices [B] and what is given by keyword, to one tensor."""
Executor = Callable[[Call], Call]
"""From a network to a call that answers alike."""


class Replay(Protocol):
    """A captured call: inputs of the captured shapes in, an answer out that the next replay may overwrite."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The answer for these inputs."""
        ...


class CUDAGraph:
    """One call of a network, captured on the current CUDA device; replays on equal shapes, and launches nothing else.

    Args:
        network: what to capture; it must not wait for the device, or read anything but its inputs.
        inputs: an example of them, by keyword.

    Raises:
        RuntimeError: CUDA's own, where the network cannot be captured.

    Gray (2019), "Getting Started with CUDA Graphs"; Nguyen, Carilli et al. (2021) for PyTorch.
    """

    WARM_UP = 3
    """Calls before the capture, in which libraries choose their kernels and make their workspaces."""

    def __init__(self, network: Call, inputs: Mapping[str, Tensor]) -> None:
        self._inputs = {name: value.clone() for name, value in inputs.items()}
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.WARM_UP):
                network(**self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = network(**self._inputs)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The answer for inputs of the same shapes."""
        for name, value in self._inputs.items():
            value.copy_(inputs[name], non_blocking=True)
        self._graph.replay()
        return self._output


class GraphedNetwork:
    """A network that is captured once for each shape of its inputs, and replayed from then on; its answers are copies.

    The loop around it stays in Python: what a step of a solver launches besides is done before a replay ends.

    Args:
        network: what to capture. One that cannot be captured is called as it is.
        capture: makes a `Replay` of a network and example inputs.
        limit: so many shapes are kept, the latest ones, as each holds the memory of its activations.
    """

    def __init__(
        self, network: Call, capture: Callable[[Call, Mapping[str, Tensor]], Replay] = CUDAGraph, limit: int = 4
    ) -> None:
        self._network, self._capture, self._limit = network, capture, limit
        self._replays: OrderedDict[tuple[Any, ...], Replay] = OrderedDict()
        self._possible = True

    def __call__(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        """The network's output."""
        inputs = {"x": x, "index": index, **given}
        shapes = tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        replay = self._replays.get(shapes) or self._captured(shapes, inputs)
        if replay is None:
            return self._network(**inputs)
        self._replays.move_to_end(shapes)
        return replay(inputs).clone()

    def _captured(self, shapes: tuple[Any, ...], inputs: Mapping[str, Tensor]) -> Replay | None:
        if not self._possible:
            return None
        while len(self._replays) >= self._limit:
            self._replays.popitem(last=False)
        try:
            self._replays[shapes] = self._capture(self._network, inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._possible = False
            return None
        return self._replays[shapes]


class CompiledNetwork:
    """A network compiled by TorchInductor at its first call for each shape, which takes a minute or so.

    Raises:
        ModelError: when called, on a machine without a compiler, or for a network that cannot be compiled.

    Ansel et al. (2024), "PyTorch 2".
    """

    def __init__(self, network: Call) -> None:
        self._compiled = torch.compile(network, dynamic=False)

    def __call__(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        """The network's output."""
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._compiled(x, index, **given)
        except TorchDynamoException as error:
            given_ = str(error).strip().splitlines()[0][:120]
            raise ModelError("a network that can be compiled here", given_, "leave --compile out") from error


def executor_for(device: torch.device, compiled: bool) -> Executor:
    """How a network runs best on a device: in graphs on CUDA, as it is elsewhere, compiled first where asked to."""
    if device.type != "cuda":
        return CompiledNetwork if compiled else eager
    return (lambda network: GraphedNetwork(CompiledNetwork(network))) if compiled else GraphedNetwork


def eager(network: Call) -> Call:
    """The network itself."""
    return network
