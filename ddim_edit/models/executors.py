"""Run networks faster: replay their kernels from CUDA graphs, or compile them."""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from ddim_edit.diffusion.bottleneck import require_bottleneck
from ddim_edit.errors import ModelError, first_line
from ddim_edit.memory import is_out_of_memory, register_cache

Call = Callable[..., Tensor]
"""A network as it is called: x [B, C, H, W], time conditions [B] and its conditioning by keyword, to one tensor."""
Executor = Callable[[Call], Call]
"""From a network to a call with the same output."""
Inputs = Mapping[str, Tensor]
"""The inputs of a network by keyword; x [B, ...] is one of them."""
Outputs = tuple[Tensor, ...]
Work = Callable[..., Outputs]
"""A network, or another of its methods, with all of its outputs, [B, ...] each."""

_LOCK = threading.RLock()
"""Held while a graph is captured or replayed: a process may capture one at a time, and all graphs of a device work in
the same memory. Apart from captures, the lock is held only while work is queued on the device."""


class CaptureError(RuntimeError):
    """A call that runs but cannot be captured; its cause, if it has one, is the reason."""


class Replay(Protocol):
    """A captured call: inputs of the captured shapes in, outputs out that the next replay may overwrite."""

    def __call__(self, inputs: Inputs) -> Outputs:
        """Return the outputs for these inputs."""
        ...


class _Pool:
    """The memory that the graphs of one device work in, and the streams that they are made on.

    The memory is about as much as the largest of them needs. Each overwrites what the others have left there, so they
    may only run in turn. To be made and used with its device selected.
    """

    def __init__(self) -> None:
        # Two, as cuBLAS keeps a workspace for each stream: the one that graphs use must be made in their own memory.
        self.warm_up, self.capture = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.graphs: WeakSet[CUDAGraph] = WeakSet()
        self._handle: Any = None
        self._last: torch.cuda.Stream | None = None

    def take(self) -> Any:
        """Return the handle of the memory for one capture, and forget it: a capture that fails leaves it unusable."""
        # torch frees memory that no graph uses any more, and its handle may not be used again.
        handle = self._handle if self.graphs and self._handle else torch.cuda.graph_pool_handle()
        self._handle = None
        return handle

    def give_back(self, handle: Any) -> None:
        """Let later graphs work in this memory too, after a capture in it has succeeded."""
        self._handle = handle

    def await_turn(self) -> None:
        """Make the current stream wait for the last replay, if that was on another stream."""
        current = torch.cuda.current_stream()
        if self._last is not None and self._last != current:
            current.wait_stream(self._last)
        self._last = current


@cache
def _pool(device: torch.device) -> _Pool:
    return _Pool()


class CUDAGraph:
    """One call of a network, captured on the device of its inputs; replays on equal shapes, and launches nothing else.

    Args:
        work: what to capture; it must not wait for the device, or read anything but its inputs.
        inputs: an example of them.

    Raises:
        CaptureError: work that runs but cannot be captured.
        RuntimeError: CUDA's own, where it does not even run.

    References:
        Gray, "Getting Started with CUDA Graphs", NVIDIA Technical Blog, 2019.
        Nguyen, Carilli et al., "Accelerating PyTorch with CUDA Graphs", PyTorch Blog, 2021.
    """

    WARM_UP = 3
    """Calls before the capture, in which libraries choose their kernels and make their workspaces."""

    def __init__(self, work: Work, inputs: Inputs) -> None:
        self._device = inputs["x"].device
        # A stream belongs to one device: those that torch makes by itself are on the current one, whichever that is.
        with torch.cuda.device(self._device):
            self._pool = _pool(self._device)
            self._inputs = {name: value.clone() for name, value in inputs.items()}
            self._warm_up(work)
            self._graph, self._outputs = self._captured(work)
            self._require_work()
            self._pool.graphs.add(self)

    def __call__(self, inputs: Inputs) -> Outputs:
        """Return the outputs for inputs of the same shapes."""
        with torch.cuda.device(self._device):
            self._pool.await_turn()
            for name, value in self._inputs.items():
                value.copy_(inputs[name], non_blocking=True)
            self._graph.replay()
        return self._outputs

    def _warm_up(self, work: Work) -> None:
        side = self._pool.warm_up
        current = torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(self.WARM_UP):
                work(**self._inputs)
        current.wait_stream(side)

    def _captured(self, work: Work) -> tuple[torch.cuda.CUDAGraph, Outputs]:
        graph = torch.cuda.CUDAGraph()
        handle = self._pool.take()
        side = self._pool.capture
        reason: RuntimeError | None = None
        try:
            # Where a capture fails, torch.cuda.graph leaves its stream selected. Other threads may go on meanwhile.
            with (
                torch.cuda.stream(side),
                torch.cuda.graph(graph, pool=handle, stream=side, capture_error_mode="thread_local"),
            ):
                try:
                    outputs = work(**self._inputs)
                except RuntimeError as error:
                    reason = error  # ending the capture then raises another, less helpful error
                    raise
        except RuntimeError as error:
            raise CaptureError("the call runs, but not while it is captured") from reason or error
        finally:
            del reason  # it holds the frames, and so the memory, of the attempt
        self._pool.give_back(handle)
        return graph, outputs

    def _require_work(self) -> None:
        """Check that a replay writes every output; an empty graph would return the first ones for ever."""
        self._pool.await_turn()
        marks = [torch.finfo(output.dtype).max for output in self._outputs]
        for output, mark in zip(self._outputs, marks, strict=True):
            output.fill_(mark)
        self._graph.replay()
        if any(bool((output == mark).all()) for output, mark in zip(self._outputs, marks, strict=True)):
            raise CaptureError("the graph is empty, as the work was done elsewhere")


class _Shape(NamedTuple):
    """What calls must have in common to be run by the same replay, but for the number of their rows."""

    kind: str
    device: torch.device
    inputs: tuple[tuple[str, bool, torch.Size, torch.dtype], ...]


class _Kept(NamedTuple):
    """How calls of a shape are run: by a replay of so many rows, or, where there is none, by the network."""

    rows: int
    replay: Replay | None


class GraphedNetwork:
    """A network that is captured for a few sizes of a batch, and replayed from then on; its outputs are copies.

    A batch is filled up to the next power of two with copies of its last row, but not beyond the largest batch so far,
    so that fixed points, which lose rows as they converge, need few graphs. The loop around the network stays in
    Python: what a step of a solver launches besides is done before a replay ends. May be called from several threads.

    Args:
        network: what to capture; a `Bottleneck`, if that is to be read or shifted. What cannot be captured is called as
            it is, with one RuntimeWarning.
        capture: makes a `Replay` of some work and example inputs, or raises a `CaptureError`.
        limit: so many replays are kept, the latest ones. They share the memory of their activations, but each holds its
            inputs and outputs. All are dropped where memory runs out.
    """

    def __init__(self, network: Call, capture: Callable[[Work, Inputs], Replay] = CUDAGraph, limit: int = 32) -> None:
        self._network = network
        self._capture = capture
        self._limit = limit
        self._kept: OrderedDict[tuple[_Shape, int], _Kept] = OrderedDict()
        self._largest: dict[_Shape, int] = {}
        self._refused: set[str] = set()
        register_cache(self)

    def __call__(self, x: Tensor, index: Tensor, **conditioning: Tensor) -> Tensor:
        """Return the network's output."""

        def work(**inputs: Tensor) -> Outputs:
            return (self._network(**inputs),)

        (output,) = self._run("output", work, {"x": x, "index": index, **conditioning})
        return output

    def read(self, x: Tensor, index: Tensor, **conditioning: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output and its bottleneck."""
        work = require_bottleneck(self._network).read
        output, h = self._run("bottleneck", work, {"x": x, "index": index, **conditioning})
        return output, h

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **conditioning: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output, and the one with the shift added to its bottleneck."""
        work = require_bottleneck(self._network).shifted
        # One shift for all images must not be taken for one of as many rows as it has channels.
        rows = shift if shift.ndim == x.ndim else shift[None]
        own, shifted = self._run("shifted output", work, {"x": x, "index": index, "shift": rows, **conditioning})
        return own, shifted

    @property
    def network(self) -> Call:
        """The network that is captured."""
        return self._network

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the replays, which are of this device's memory, out of copies and pickles."""
        return type(self), (self._network, self._capture, self._limit)

    def release(self) -> bool:
        """Drop all replays with their memory, and return whether there were any."""
        with _LOCK:
            held = any(kept.replay for kept in self._kept.values())
            self._kept.clear()
            self._largest.clear()  # batches may be smaller from now on
        return held

    def _run(self, kind: str, work: Work, inputs: Inputs) -> Outputs:
        n = len(inputs["x"])
        if n and kind not in self._refused:
            with _LOCK:
                rows, replay = self._kept_for(kind, work, inputs)
                if replay:
                    return tuple(output[:n].clone() for output in replay(_filled(inputs, rows)))
        return work(**inputs)

    def _kept_for(self, kind: str, work: Work, inputs: Inputs) -> _Kept:
        shape = _shape(kind, inputs)
        n = len(inputs["x"])
        largest = self._largest[shape] = max(n, self._largest.get(shape, 0))
        rows = min(1 << (n - 1).bit_length(), largest)
        if (shape, rows) not in self._kept:
            kept = self._made(shape, rows, work, inputs)
            while len(self._kept) >= self._limit:
                self._kept.popitem(last=False)
            self._kept[shape, rows] = kept
        self._kept.move_to_end((shape, rows))
        return self._kept[shape, rows]

    def _made(self, shape: _Shape, rows: int, work: Work, inputs: Inputs) -> _Kept:
        """Make a replay; where memory does not suffice, return that of a larger batch, or none if there is no such."""
        alike = [kept for (other, _), kept in self._kept.items() if other == shape and kept.replay]
        larger = min((kept for kept in alike if kept.rows > rows), key=lambda kept: kept.rows, default=None)
        try:
            return _Kept(rows, self._capture(work, _filled(inputs, rows)))
        except CaptureError as error:
            # The call itself has run, so memory suffices for it, though not for a graph.
            if not is_out_of_memory(error.__cause__ or error):
                self._refuse(shape.kind, error.__cause__ or error)
        except RuntimeError as error:
            if larger is None or not is_out_of_memory(error):
                raise
        return larger or _Kept(rows, None)

    def _refuse(self, kind: str, error: BaseException) -> None:
        self._refused.add(kind)
        warnings.warn(
            f"the {kind} of this network is computed without CUDA graphs, which is slower for small batches, as it "
            f"cannot be captured: {first_line(error)}",
            RuntimeWarning,
            stacklevel=2,
        )


def _has_rows(value: Tensor, n: int) -> bool:
    """Return whether an input has a row for each of n images; other inputs are for all of them."""
    return value.ndim > 0 and len(value) == n


def _shape(kind: str, inputs: Inputs) -> _Shape:
    x = inputs["x"]
    parts = []
    for name, value in inputs.items():
        by_row = _has_rows(value, len(x))
        parts.append((name, by_row, value.shape[1:] if by_row else value.shape, value.dtype))
    return _Shape(kind, x.device, tuple(parts))


def _filled(inputs: Inputs, rows: int) -> Inputs:
    """Return the inputs with copies of their last rows behind them; they change nothing in the other rows' outputs."""
    missing = rows - len(inputs["x"])
    if not missing:
        return inputs
    return {
        # Not expanded, which would lose the memory layout that kernels are chosen by.
        name: torch.cat([value, *[value[-1:]] * missing]) if _has_rows(value, len(inputs["x"])) else value
        for name, value in inputs.items()
    }


def compile_call(call: Call, what: str, remedy: str) -> Call:
    """Return a call that TorchInductor compiles when it is first called for a shape.

    Args:
        call: what to compile.
        what: its name, as the subject of the error.
        remedy: a sentence on what to do where it cannot be compiled.
    """
    compiled = torch.compile(call, dynamic=False)

    def run(*inputs: Tensor, **conditioning: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        try:
            return compiled(*inputs, **conditioning)
        except TorchDynamoException as error:
            raise ModelError(f"{what} cannot be compiled here ({first_line(error, 120)}). {remedy}") from error

    return run


class OutputExecutor:
    """Base of what computes the output of a network in another way; its bottleneck is the network's own.

    Args:
        network: whose bottleneck is read and shifted, if it has one.
    """

    def __init__(self, network: Call) -> None:
        self._network = network

    def read(self, x: Tensor, index: Tensor, **conditioning: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output and its bottleneck."""
        return require_bottleneck(self._network).read(x, index, **conditioning)

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **conditioning: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's output, and the one with the shift added to its bottleneck."""
        return require_bottleneck(self._network).shifted(x, index, shift, **conditioning)


class CompiledNetwork(OutputExecutor):
    """A network compiled by TorchInductor at its first call for each shape, which takes a minute or so.

    Raises:
        ModelError: when called, on a machine without a compiler, or for a network that cannot be compiled.

    References:
        Ansel et al., "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
        Compilation", ASPLOS 2024.
    """

    def __init__(self, network: Call) -> None:
        super().__init__(network)
        self._compiled = compile_call(network, "The network", "Leave --compile out.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave compiled code out of copies and pickles; it is made again."""
        return type(self), (self._network,)

    def __call__(self, x: Tensor, index: Tensor, **conditioning: Tensor) -> Tensor:
        """Return the network's output."""
        return self._compiled(x, index, **conditioning)


def executor_for(device: torch.device, compiled: bool) -> Executor:
    """Return how a network runs best on a device: in graphs on CUDA, as it is elsewhere; compiled first if asked to."""
    if device.type != "cuda":
        return CompiledNetwork if compiled else eager
    return (lambda network: GraphedNetwork(CompiledNetwork(network))) if compiled else GraphedNetwork


def is_compiled(run: Call | None) -> bool:
    """Return whether a network, as an executor made it, is compiled."""
    return isinstance(run.network if isinstance(run, GraphedNetwork) else run, CompiledNetwork)


def eager(network: Call) -> Call:
    """Return the network itself."""
    return network
