"""Fused layers: their numbers in Triton's interpreter, their code for cards that are not here, and both on a card."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch on Linux only")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from ddim_edit.models import group_norm, residual_sum  # noqa: E402
from ddim_edit.models.layers import GroupNormAct  # noqa: E402

from . import fused_network_cases, norm_cases, sum_cases  # noqa: E402

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
KERNELS = ("_reduce_tiles", "_combine_tiles", "_normalize_tiles")


CASES = pytest.mark.parametrize("cases", [norm_cases, sum_cases, fused_network_cases])


@pytest.mark.slow
@CASES
def test_fused_layers_are_those_of_torch_in_the_interpreter(cases: ModuleType) -> None:
    """In a process of its own, as Triton asks for its interpreter when kernels are defined."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    script = [sys.executable, str(cases.__file__)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class _Recorder:
    """Stands for a kernel: keeps what it is launched with, and computes nothing."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: object) -> Any:
        return lambda *args, **options: self.launches.append((args, options))


def _compile(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> str:
    """Compile a kernel as a launch with these arguments does, for an H100, and return its assembly."""
    values = dict(zip(kernel.arg_names, args, strict=False)) | options
    signature, constants = {}, {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        elif name in options or (isinstance(value, int) and value == 1):  # Triton makes a constant of every 1
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    return str(compiled.asm["ptx"])


@pytest.mark.parametrize(
    ("shape", "groups", "scale_shift", "dtype"),
    [
        ((2, 64, 8, 8), 32, False, torch.bfloat16),
        ((2, 6, 41, 53), 2, True, torch.float32),
        ((1, 4, 1, 1), 4, False, torch.float16),  # every size that can be a constant is one
        ((1, 1, 1, 1), 1, False, torch.float32),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_compile_for_a_card_that_is_not_here(
    shape: tuple[int, ...],
    groups: int,
    scale_shift: bool,
    dtype: torch.dtype,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = {name: getattr(group_norm, name) for name in KERNELS}
    recorders = {name: _Recorder() for name in KERNELS}
    for name, recorder in recorders.items():
        monkeypatch.setattr(group_norm, name, recorder)
    norm = GroupNormAct(groups, shape[1], 1e-5, nn.SiLU(), scale_shift).to(dtype)
    emb = torch.zeros(shape[0], shape[1] * (2 if scale_shift else 1), dtype=dtype)
    with torch.inference_mode():
        x = torch.zeros(shape, dtype=dtype).contiguous(memory_format=layout)
        group_norm.FusedGroupNorm(norm, torch.zeros(shape[1], dtype=dtype))(x, emb)
    for name, recorder in recorders.items():
        (launch,) = recorder.launches
        assert f".entry {name}" in _compile(kernels[name], *launch)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 64, 8, 8), torch.bfloat16), ((2, 6, 41, 53), torch.float32), ((1, 1, 1, 1), torch.float16)],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_kernel_of_sums_compiles_for_a_card_that_is_not_here(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, recorder = residual_sum._sum_tiles, _Recorder()
    monkeypatch.setattr(residual_sum, "_sum_tiles", recorder)
    h = torch.zeros(shape, dtype=dtype).contiguous(memory_format=layout)
    bias = torch.zeros(shape[1], dtype=dtype)
    with torch.inference_mode():
        residual_sum.add_up(h, bias, h.clone(), bias, 0.5)
        residual_sum.add_up(h, bias)
    for launch in recorder.launches:
        assert ".entry _sum_tiles" in _compile(kernel, *launch)
    assert len(recorder.launches) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@CASES
def test_fused_layers_are_those_of_torch_on_a_card(cases: ModuleType) -> None:
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        cases.check("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.inference_mode()
def test_a_batch_may_have_more_elements_than_an_int32_counts() -> None:
    norm = GroupNormAct(8, 64, 1e-5, nn.SiLU()).cuda().half()
    x = torch.empty(2**31 // (64 * 1024) + 1, 64, 32, 32, dtype=torch.float16, device="cuda")
    x = x.to(memory_format=torch.channels_last).normal_()
    made = group_norm.FusedGroupNorm(norm)(x)
    torch.testing.assert_close(made[-1:], norm(x[-1:]), rtol=2e-3, atol=2e-3)
