"""The device under test: how to wait for it, take times on it, and find out what fits it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Network
from ddim_edit.memory import is_out_of_memory
from ddim_edit.models.devices import find_device

Value = TypeVar("Value")
DTYPES = {
    "cuda": ("float32", "tf32", "bfloat16", "float16"),
    "mps": ("float32",),
    "cpu": ("float32", "mixed", "bfloat16"),
}
"""What a network is measured in, the first of them first; on processors float16 is slower than float32."""


@dataclass(frozen=True)
class Place:
    """A device, named as `--device` takes it."""

    name: str = "auto"

    @cached_property
    def device(self) -> torch.device:
        """The device itself."""
        return find_device(self.name)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes worth measuring here."""
        return DTYPES[self.device.type]

    def wait(self) -> None:
        """Return when the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def timed(self, work: Callable[[], Value]) -> tuple[float, Value]:
        """Return the wall seconds of some work, from an idle device to an idle device, and what it returned."""
        self.wait()
        start = time.perf_counter()
        result = work()
        self.wait()
        return time.perf_counter() - start, result

    def tried(self, work: Callable[[], Value]) -> Value | None:
        """Return the result of some work, or None if memory ran out."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Here, where the failed attempt and all that it held have gone.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def watch(self, network: Network) -> "Watched":
        """Return the network with a timer on every call."""
        return Watched(network, _DeviceClock(self.device) if self.device.type == "cuda" else _WallClock())


class _WallClock:
    """Times calls that are over when they return."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def __call__(self, work: Callable[[], Value]) -> Value:
        start = time.perf_counter()
        result = work()
        self.calls.append(time.perf_counter() - start)
        return result

    def seconds(self) -> list[float]:
        return self.calls


class _DeviceClock:
    """Times what calls queue, on the device and without waiting for it, so that nothing runs slower for being timed."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.current_stream(device)
        self.pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, work: Callable[[], Value]) -> Value:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record(self.stream)
        result = work()
        end.record(self.stream)
        self.pairs.append((start, end))
        return result

    def seconds(self) -> list[float]:
        self.stream.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in self.pairs]


@dataclass(frozen=True)
class Watched:
    """A network, and how long each of its calls took.

    On CUDA a call lasts from its first kernel to its last, the gaps between them included: what a network that is bound
    by its launches costs is all counted as the network's.
    """

    network: Network
    clock: _WallClock | _DeviceClock = field(default_factory=_WallClock)

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the network's output."""
        return self.clock(partial(self.network, x, index))

    def seconds(self) -> list[float]:
        """Return the time of each call so far."""
        return self.clock.seconds()
