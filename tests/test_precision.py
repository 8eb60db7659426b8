"""The flags are those of the process, and not all can be put back by hand: each case has a process of its own."""

import json
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from ddim_edit import precision
from ddim_edit.precision import float32_precision

PRECISIONS = pytest.mark.skipif(not precision.HAS_FP32_PRECISION, reason="needs torch 2.9")

SETTINGS = [
    "pass",
    "torch.backends.fp32_precision = 'ieee'",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'bf16'",
    "torch.backends.cudnn.fp32_precision = 'ieee'",
    "torch.backends.cudnn.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = 'ieee'",
    "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "torch.backends.mkldnn.conv.fp32_precision = 'bf16'",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cudnn.allow_tf32 = False",
    "torch.backends.cudnn.allow_tf32 = True",
    "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high'); torch.backends.cuda.matmul.fp32_precision = 'ieee'",
    "torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = True",
]

SCRIPT = """
import json, os, sys, torch
from ddim_edit.precision import float32_precision

cudnn = torch.backends.cudnn
OPERATIONS = [("generic", "all"), *((backend, operation) for backend in ("cuda", "mkldnn")
              for operation in ("all", "conv", "rnn", "matmul"))]
OLDER = [lambda: cudnn.allow_tf32, lambda: torch.backends.cuda.matmul.allow_tf32,
         torch.get_float32_matmul_precision]

def asked(question):
    try:
        return question()
    except RuntimeError:
        return "mixed"

def read(backend, operation):
    return torch._C._get_fp32_precision_getter(backend, operation)

def write(backend, operation, value):
    torch._C._set_fp32_precision_setter(backend, operation, value)

def stored():
    # What an operation inherits shows when its parents are changed.
    found = [asked(question) for question in OLDER] + [cudnn.deterministic, cudnn.benchmark]
    generic = read("generic", "all")
    for value in ("bf16", "tf32", "ieee", "none"):
        write("generic", "all", value)
        found += [read(*operation) for operation in OPERATIONS]
    own = {backend: read(backend, "all") for backend in ("cuda", "mkldnn")}
    for value in ("tf32", "ieee", "none"):
        for backend in own:
            write(backend, "all", value)
        found += [read(*operation) for operation in OPERATIONS]
    for backend, value in own.items():
        write(backend, "all", value)
    write("generic", "all", generic)
    return found + [read(*operation) for operation in OPERATIONS]

def error():
    a = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ a.double()
    return float(((a @ a).double() - exact).norm() / exact.norm())

def tried(setting, tf32):
    exec(setting)
    before = stored()
    with float32_precision(tf32):
        inside = {f"{backend}.{operation}": read(backend, operation) for backend, operation in OPERATIONS}
        inside["deterministic"], inside["benchmark"] = cudnn.deterministic, cudnn.benchmark
        inside["older"], inside["error"] = asked(torch.get_float32_matmul_precision), error()
    return {"inside": inside, "same": stored() == before}

found = []
for setting, tf32 in json.load(sys.stdin):
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, json.dumps(tried(setting, tf32)).encode())
        os._exit(0)
    os.close(writing)
    found.append(json.loads(os.read(reading, 1 << 16)))
    os.wait()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, bool], dict[str, Any]]:
    """What is in force inside the block for every setting of a user, and whether that is as before behind it."""
    cases = [(setting, tf32) for setting in SETTINGS for tf32 in (False, True)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(cases), capture_output=True, check=True, text=True
    )
    return dict(zip(cases, json.loads(done.stdout), strict=True))


Outcomes = dict[tuple[str, bool], dict[str, Any]]


@PRECISIONS
@pytest.mark.parametrize("setting", SETTINGS)
def test_float32_is_strict_inside(outcomes: Outcomes, setting: str) -> None:
    inside = outcomes[setting, False]["inside"]
    operations = [f"{backend}.{operation}" for backend in ("cuda", "mkldnn") for operation in ("conv", "matmul")]
    assert {inside[operation] for operation in operations} == {"ieee"}
    assert (inside["deterministic"], inside["benchmark"]) == (True, False)
    assert inside["error"] < 1e-6


@PRECISIONS
@pytest.mark.parametrize("setting", SETTINGS)
def test_tf32_affects_the_gpu_only(outcomes: Outcomes, setting: str) -> None:
    inside = outcomes[setting, True]["inside"]
    assert (inside["cuda.conv"], inside["cuda.matmul"]) == ("tf32", "tf32")
    assert (inside["mkldnn.conv"], inside["mkldnn.matmul"]) == ("ieee", "ieee")
    assert (inside["deterministic"], inside["benchmark"]) == (True, False)
    assert inside["older"] == "high"  # torch.compile asks for it while it tunes
    assert inside["error"] < 1e-6


@PRECISIONS
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("tf32", [False, True])
def test_user_settings_are_restored(outcomes: Outcomes, setting: str, tf32: bool) -> None:
    assert outcomes[setting, tf32]["same"]


OLDER = """
import itertools, torch
from ddim_edit import precision
precision.HAS_FP32_PRECISION = False

def read():
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark

for matmul, *flags in itertools.product(("highest", "high", "medium"), *3 * [(False, True)]):
    torch.set_float32_matmul_precision(matmul)
    cudnn = torch.backends.cudnn
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = flags
    for tf32 in (False, True):
        with precision.float32_precision(tf32):
            assert read() == ("high" if tf32 else "highest", tf32, True, False), read()
        assert read() == (matmul, *flags), read()
"""


def test_older_torch_uses_its_flags() -> None:
    done = subprocess.run([sys.executable, "-c", OLDER], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def reading() -> tuple[bool, bool]:
    return torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark


def test_settings_are_restored_after_an_error() -> None:
    before = reading()
    with pytest.raises(KeyError), float32_precision():
        raise KeyError
    assert reading() == before != (True, False)


def test_contexts_may_be_nested() -> None:
    before = reading()
    with float32_precision():
        with float32_precision():
            assert reading() == (True, False)
        assert reading() == (True, False)
        with pytest.raises(RuntimeError, match="cannot differ in tf32"), float32_precision(tf32=True):
            pass
    assert reading() == before


def test_threads_with_equal_settings_share_them() -> None:
    before, meeting, first_left = reading(), threading.Barrier(2), threading.Event()
    seen = []

    def first() -> None:
        with float32_precision():
            meeting.wait()
        first_left.set()

    def last() -> None:
        with float32_precision():
            meeting.wait()
            first_left.wait()
            seen.append(reading())

    threads = [threading.Thread(target=each) for each in (first, last)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(True, False)]
    assert reading() == before


def test_thread_with_other_settings_waits() -> None:
    """Those who come later, and want what is in force, do not pass it by."""
    order, waits = [], threading.Event()

    def strict() -> None:
        waits.set()
        with float32_precision():
            order.append("strict")

    def rounded() -> None:
        with float32_precision(tf32=True):
            order.append("tf32")

    threads = [threading.Thread(target=each) for each in (rounded, strict)]
    with float32_precision():
        threads[0].start()
        while not precision._FLAGS._door.locked():
            pass
        threads[1].start()
        waits.wait()
        order.append("before")
    for thread in threads:
        thread.join()
    assert order == ["before", "tf32", "strict"]
