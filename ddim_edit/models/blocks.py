"""Run the residual blocks of a network as they are, with fused norms, or compiled.

The choice rewrites the layers of a loaded network, whose forward passes stay as they are, and works on whatever runs
the network: CUDA graphs capture each of them. `load_model(..., blocks=...)` takes it by name:

    load_model("faces64", "cuda", "bfloat16")                     # fused, the default, on GPUs where that works
    load_model("faces64", "cuda", "bfloat16", blocks="eager")     # every layer as PyTorch runs it
    load_model("faces64", "cuda", "bfloat16", blocks="compiled")  # TorchInductor, block by block

"fused" has Triton kernels for group norm, embedding and SiLU: on an H200 they halve the time of an evaluation
(docs/performance.md). `fusion_obstacle(device, dtype)` returns why they would do nothing on a device. For one network
without a `Model` around it call `prepare_blocks(network, blocks)` once, after the network was moved and cast.
"""

import copyreg
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError, first_line
from ddim_edit.io.extras import is_installed
from ddim_edit.models.cpu_layers import optimize_for_cpu, restore_layers
from ddim_edit.models.executors import compile_call
from ddim_edit.models.layers import FusedNorm, GroupNormAct, ResidualBlock

BLOCKS = ("eager", "fused", "compiled")
"""The ways, by name."""
_GRAPHS = 256
"""Shapes of blocks for which compiled code is kept. Blocks of one class share one limit, by default of 8."""


def prepare_blocks(network: nn.Module, blocks: str) -> nn.Module:
    """Rewrite a network so that its blocks run as named, and its other layers as fast as they can on its device.

    Where norms cannot be fused, "fused" runs as "eager" does.

    Args:
        network: a network in its final device, dtype and memory format; it is changed in place.
        blocks: one of `BLOCKS`.

    Returns:
        The network.
    """
    if blocks == "compiled":
        compile_blocks(network)
        return network
    norm = next((module for module in network.modules() if isinstance(module, nn.GroupNorm)), None)
    if blocks == "fused" and norm is not None and fusion_obstacle(norm.weight.device, norm.weight.dtype) is None:
        fuse_norms(network)
    return optimize_for_cpu(network)


def restore_blocks(network: nn.Module) -> nn.Module:
    """Undo `prepare_blocks` in place, so that a network can be moved or cast, and return it."""
    for module in reversed(list(network.modules())):
        if isinstance(module.__dict__.get("forward"), _CompiledForward):
            del module.forward
        for name, child in list(module.named_children()):
            if isinstance(child, FusedNorm):
                setattr(module, name, child.unfused())
    return restore_layers(network)


def require_blocks(blocks: str, compiled: bool) -> None:
    """Check the name of a way to run blocks, for a network that is compiled as a whole or not.

    Raises:
        ArgumentError: an unknown name, or both ways of compiling.
    """
    if blocks not in BLOCKS:
        raise ArgumentError(f"blocks must be one of {', '.join(BLOCKS)}, not {blocks}.")
    if compiled and blocks == "compiled":
        raise ArgumentError("compiled=True compiles the blocks too. Leave blocks='compiled' out.")


@cache
def fusion_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why norms cannot be fused on a device and in a dtype, or None where they can.

    On a CUDA device the kernels are tried: they need Triton, a compiler for its launchers, and a GPU that both know.
    """
    if device.type != "cuda":
        return f"the kernels need a CUDA device, and this one is {device}"
    if not is_installed("triton"):
        return "Triton is not installed"
    try:
        norm = GroupNormAct(2, 6, 1e-5, nn.SiLU()).to(device, dtype)
        network = nn.Sequential(norm)
        fuse_norms(network)
        x = torch.linspace(-2, 3, 6 * 35, device=device).view(1, 6, 5, 7).to(dtype)
        with torch.inference_mode():
            difference = (network(x) - norm(x)).abs().max().item()
    except Exception as error:  # Triton's compiler, the C compiler and the driver fail in many ways.
        return f"the kernels fail with {type(error).__name__}: {first_line(error)}"
    return None if difference < 16 * torch.finfo(dtype).eps else f"the kernels are wrong by {difference:.1e}"


def fuse_norms(network: nn.Module) -> None:
    """Replace every group norm of a network, with its embedding and activation, by `group_norm.FusedGroupNorm`.

    Raises:
        ImportError: Triton is not installed.
    """
    from ddim_edit.models.group_norm import FusedGroupNorm

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, FusedGroupNorm(child))


def compile_blocks(network: nn.Module) -> None:
    """Compile every residual block of a network, and every group norm outside of them, each as one region.

    TorchInductor compiles a block when it is first called for a shape; blocks of one class, layers and shape share the
    code. It fuses what lies between the convolutions, which it leaves to cuDNN or oneDNN, in less time than it takes
    to compile the whole network.

    References:
        Ansel et al., "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
        Compilation", ASPLOS 2024.
    """
    import torch._dynamo

    config = torch._dynamo.config
    # PyTorch 2.6 calls it cache_size_limit.
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, max(getattr(config, limit), _GRAPHS))
    for child in network.children():
        if isinstance(child, ResidualBlock | nn.GroupNorm):
            child.forward = _CompiledForward(child)  # type: ignore[method-assign]
        else:
            compile_blocks(child)


class _CompiledForward:
    """The compiled forward of a module; a copy or a pickle of the module compiles its own."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # Not the attribute of the module itself, which this object is about to be.
        forward = MethodType(type(module).forward, module)
        self._compiled = compile_call(forward, "The blocks", "Load the model with blocks='eager' or 'fused'.")

    def __reduce__(self) -> tuple[Any, ...]:
        # The module holds this object: it must exist before the module is given to it.
        return copyreg.__newobj__, (type(self),), self._module  # type: ignore[attr-defined]

    def __setstate__(self, module: nn.Module) -> None:
        _CompiledForward.__init__(self, module)

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self._compiled(*inputs)
