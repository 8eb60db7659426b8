"""Set torch's flags for float32 precision, which hold for the whole process, for a block of work."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Restore = Callable[[], None]
"""Restores the flags."""

HAS_FP32_PRECISION = hasattr(torch._C, "_set_fp32_precision_setter")
"""Whether torch has `fp32_precision` (2.9 and later) besides the older `allow_tf32`."""

_BACKENDS = ("cuda", "mkldnn")


class _Flags:
    """Torch's flags, which any number of threads may hold at once as long as they want the same."""

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._changed = threading.Condition()
        self._own = threading.local()
        self._inside = 0
        self._tf32 = False
        self._restore: Restore = lambda: None

    @contextmanager
    def held(self, tf32: bool) -> Iterator[None]:
        """Set the flags, or wait until the threads that want others are done."""
        nested: bool | None = getattr(self._own, "tf32", None)
        if nested is not None:
            if nested != tf32:
                raise RuntimeError("float32_precision blocks of one thread cannot differ in tf32")
            yield
            return
        # Whoever waits for others to leave keeps the door closed behind itself, so that newcomers cannot starve it.
        with self._door, self._changed:
            self._changed.wait_for(lambda: not self._inside or self._tf32 == tf32)
            if not self._inside:
                self._restore = _switch(tf32)
                self._tf32 = tf32
            self._inside += 1
        self._own.tf32 = tf32
        try:
            yield
        finally:
            del self._own.tf32
            with self._changed:
                self._inside -= 1
                if not self._inside:
                    self._restore()
                    self._changed.notify_all()


_FLAGS = _Flags()


@contextmanager
def float32_precision(tf32: bool = False) -> Iterator[None]:
    """Multiply float32 numbers in IEEE precision inside the block, or in tf32 on request, and reproducibly.

    Sets, for matrix products and convolutions of CUDA and of the CPU's oneDNN: IEEE float32, or tf32 on CUDA; cuDNN's
    deterministic algorithms, chosen without a benchmark. Afterwards every flag is as it was, also where a flag is
    inherited from `torch.backends.fp32_precision`. The flags belong to the process. Threads that want the same
    share them, and a thread that wants others waits until those are done; threads that do not use this function
    see the flags of those that do. Inside, torch's older `torch.backends.cudnn.allow_tf32` must not be read: it raises
    where it differs from `torch.backends.cudnn.conv.fp32_precision`.

    Args:
        tf32: whether CUDA may round the factors to tf32, 10 bits of mantissa; a CPU never does.

    Raises:
        RuntimeError: within a block of the same thread that has the other `tf32`.

    References:
        PyTorch, "CUDA semantics", section "TensorFloat-32 (TF32) on Ampere (and later) devices".
    """
    with _FLAGS.held(tf32):
        yield


def _switch(tf32: bool) -> Restore:
    cudnn = torch.backends.cudnn
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    restore_precision = _switch_precision(tf32) if HAS_FP32_PRECISION else _switch_allow_tf32(tf32)
    cudnn.deterministic, cudnn.benchmark = True, False

    def restore() -> None:
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
        restore_precision()

    return restore


def _switch_precision(tf32: bool) -> Restore:
    """Set `fp32_precision`, which every operation inherits from its backend, and that from all backends, if unset.

    Torch answers what is in force, not what is stored, so what is inherited must not be taken for a setting of its
    own. Nor may an operation be set that was never set before: "tf32 unless a parent says otherwise", the initial state
    of convolutions, cannot be written back. So parents are set, and operations only where they do not follow.
    """
    read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    before = {("generic", "all"): read("generic", "all")}
    write("generic", "all", "none")
    for backend in _BACKENDS:
        before[backend, "all"] = read(backend, "all")
        write(backend, "all", "none")
        before[backend, "matmul"] = read(backend, "matmul")
        write(backend, "matmul", "ieee")
    # torch.compile asks the older API for the precision of products while it tunes, which raises where the two differ.
    # With IEEE products, as now, that can always be read.
    older = torch.get_float32_matmul_precision() if tf32 else None
    if tf32:
        torch.set_float32_matmul_precision("high")
    for backend in _BACKENDS:
        wanted = "tf32" if tf32 and backend == "cuda" else "ieee"
        write(backend, "all", wanted)
        write(backend, "matmul", wanted)
        if (own := read(backend, "conv")) != wanted:
            before[backend, "conv"] = own
            write(backend, "conv", wanted)
    write("generic", "all", before["generic", "all"])

    def restore() -> None:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for (backend, operation), value in before.items():
            write(backend, operation, value)

    return restore


def _switch_allow_tf32(tf32: bool) -> Restore:
    """Set the flags of torch before 2.9."""
    cudnn = torch.backends.cudnn
    matmul, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn.allow_tf32 = tf32

    def restore() -> None:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = convolutions

    return restore
