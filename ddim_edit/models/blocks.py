"""Run the residual blocks of a network as they are, with fused layers, or compiled.

The choice rewrites the layers of a loaded network, whose forward passes stay as they are, and works on whatever runs
the network: CUDA graphs capture each of them. `load_model(..., blocks=...)` takes it by name:

    load_model("faces64", "cuda", "bfloat16")                     # fused, the default, on GPUs where that works
    load_model("faces64", "cuda", "bfloat16", blocks="eager")     # every layer as PyTorch runs it
    load_model("faces64", "cuda", "bfloat16", blocks="compiled")  # TorchInductor, block by block

"fused" has Triton kernels for what lies between the convolutions: group norm with the bias before it, embedding and
SiLU, and the residual sum with the biases of both its terms. On an H200 the norms halve the time of an evaluation
(docs/performance.md); the biases have not been timed. `fusion_obstacle(device, dtype)` returns why the kernels would do
nothing on a device. For one network without a `Model` around it call `prepare_blocks(network, blocks)` once, after the
network was moved and cast.
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
from ddim_edit.models.layers import FusedLayer, GroupNormAct, ResidualBlock, ResidualSum, UnbiasedConv2d

BLOCKS = ("eager", "fused", "compiled")
"""The ways, by name."""
_GRAPHS = 256
"""Shapes of blocks for which compiled code is kept. Blocks of one class share one limit, by default of 8."""


def prepare_blocks(network: nn.Module, blocks: str) -> nn.Module:
    """Rewrite a network so that its blocks run as named, and its other layers as fast as they can on its device.

    Where layers cannot be fused, "fused" runs as "eager" does.

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
        fuse_blocks(network)
    return optimize_for_cpu(network)


def restore_blocks(network: nn.Module) -> nn.Module:
    """Undo `prepare_blocks` in place, so that a network can be moved or cast, and return it."""
    for module in reversed(list(network.modules())):
        if isinstance(module.__dict__.get("forward"), _CompiledForward):
            del module.forward
        for name, child in list(module.named_children()):
            if isinstance(child, FusedLayer):
                setattr(module, name, child.unfused())
            elif isinstance(child, UnbiasedConv2d):
                child.__class__ = nn.Conv2d  # type: ignore[assignment]
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
    """Return why layers cannot be fused on a device and in a dtype, or None where they can.

    On a CUDA device the kernels are tried: they need Triton, a compiler for its launchers, and a GPU that both know.
    """
    if device.type != "cuda":
        return f"the kernels need a CUDA device, and this one is {device}"
    if not is_installed("triton"):
        return "Triton is not installed"
    try:
        difference = fusion_error(device, dtype)
    except Exception as error:  # Triton's compiler, the C compiler and the driver fail in many ways.
        return f"the kernels fail with {type(error).__name__}: {first_line(error)}"
    return None if difference < 16 * torch.finfo(dtype).eps else f"the kernels are wrong by {difference:.1e}"


@torch.inference_mode()
def fusion_error(device: torch.device, dtype: torch.dtype) -> float:
    """Return the largest difference that fused layers make to a small map, which is some rounding errors of the dtype.

    Raises:
        ImportError: Triton is not installed.
    """
    from ddim_edit.models.group_norm import FusedGroupNorm
    from ddim_edit.models.residual_sum import FusedResidualSum

    norm = GroupNormAct(2, 6, 1e-5, nn.SiLU()).to(device, dtype)
    residual_sum = ResidualSum(divisor=2)
    x = torch.linspace(-2, 3, 6 * 35, device=device).view(1, 6, 5, 7).to(dtype)
    bias = torch.linspace(-1, 1, 6, device=device).to(dtype)
    biased = x + bias[:, None, None]
    normed = FusedGroupNorm(norm, bias)(x) - norm(biased)
    summed = FusedResidualSum(residual_sum, bias, bias)(x.clone(), x) - residual_sum(biased.clone(), biased)
    return float(torch.stack((normed, summed)).abs().max())


def fuse_blocks(network: nn.Module) -> None:
    """Replace what lies between the convolutions of a network by layers in Triton kernels, in place.

    Every group norm, with its embedding and activation, becomes a `group_norm.FusedGroupNorm`, and the sum of a
    residual block a `residual_sum.FusedResidualSum`. They add the biases of the convolutions before them; the other
    convolutions add theirs in place, in the kernel of the sum. Parameters keep their names.

    Raises:
        ImportError: Triton is not installed.
    """
    from ddim_edit.models.group_norm import FusedGroupNorm
    from ddim_edit.models.residual_sum import FusedBiasConv2d, FusedResidualSum

    for block in list(network.modules()):
        if not isinstance(block, ResidualBlock):
            continue
        for conv, name in block.normed:
            norm = block.get_submodule(name)
            if isinstance(norm, nn.GroupNorm):
                block.set_submodule(name, FusedGroupNorm(norm, _take_bias(block.get_submodule(conv))))
        if block.summed is not None and isinstance(block.residual_sum, ResidualSum):
            computed, shortcut = (_take_bias(block.get_submodule(name)) for name in block.summed)
            block.residual_sum = FusedResidualSum(block.residual_sum, computed, shortcut)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, FusedGroupNorm(child))
            elif type(child) is nn.Conv2d and child.bias is not None:
                child.__class__ = FusedBiasConv2d


def _take_bias(layer: nn.Module) -> Tensor | None:
    """Have a plain convolution leave out its bias, and return it; other layers keep theirs, if they have any."""
    if type(layer) is not nn.Conv2d or layer.bias is None:
        return None
    layer.__class__ = UnbiasedConv2d
    return layer.bias


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
