"""What every test may count on: a number of threads, and no deadline that a busy machine could break."""

import ctypes
import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Where oneDNN finds AMX, PyTorch packs bfloat16 for it, and then fails to compute as it is told to here; no processor
# has the one without the other. oneDNN reads this when it is first used.
CAPABILITY = os.environ.get("ATEN_CPU_CAPABILITY")
if CAPABILITY in ("default", "avx2"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
# torch.compile finds code in its cache that was written for longer vectors: it does not compile, or returns NaN.
if CAPABILITY is not None:
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"torchinductor_{CAPABILITY}"))

# The health check of slow data counts seconds too.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

SLOWEST = (
    "docs/test_site.py",
    "docs/test_sessions.py",
    "docs/test_notebook.py",
    "distributed/ray/test_cluster.py",
    "fuzz/test_hostile.py",
    "ui/test_browser.py",
    "models/folders/test_editing.py",
    "distributed/test_kills.py",
    "training/test_trainer.py",
    "cli/test_faces64.py",
    "training/test_learning.py",
    "ui/test_guard.py",
    "editor/test_codes.py",
    "test_packaging.py",
    "test_benchmarks.py",
    "models/single_file/test_loading.py",
    "cli/test_one_failure.py",
    "training/test_processes.py",
    "test_gpu_check.py",
    "models/folders/test_refusals.py",
    "cli/test_malformed.py",
    "families/test_where_diffusers_is_wrong.py",
    "cli/test_outputs.py",
)
"""Files that take longest, in that order. They come first, so that no process is left with one of them at the end."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: some tests wait for Ray, a browser or other processes."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    # In the background of a script, SIGINT is ignored, and by all children too, which tests of Ctrl-C interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # while modules are imported and tests collected, of which nothing is garbage; 4 of 20 seconds
    # pytest-xdist would begin with the files of the most tests, which are not those that take longest.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path, len(SLOWEST)))


def pytest_collection_finish() -> None:
    # What is imported by now stays: the garbage collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """Return what a file's tests have freed: glibc keeps it, and a process of the suite grew to 4.8 GB."""
    yield
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="module", autouse=True)
def child_signals() -> Iterator[None]:
    """Take back the handler of SIGCHLD that a `DataLoader` with workers leaves behind.

    Two runs of three ended in a segmentation fault of the kernel's making, as it could not call that handler when the
    first process after other tests ended: the stack for signals was no longer usable.
    """
    before = signal.getsignal(signal.SIGCHLD) if sys.platform != "win32" else None
    yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


@pytest.fixture(scope="session", autouse=True)
def threads() -> Iterator[None]:
    """As many as OMP_NUM_THREADS says; one unless it is set, since on tensors as small as a test's, more only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever tries to reach another machine fails the test, even if the failure is handled."""
    tried: list[object] = []

    def forbidden(*args: object, **_: object) -> None:
        tried.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    yield
    assert not tried
