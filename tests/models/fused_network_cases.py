"""Whole networks with fused layers against themselves in float64; as a script, on the CPU in Triton's interpreter.

`TRITON_INTERPRET=1 python fused_network_cases.py` says nothing where all is well, and fails at the first case that is
not.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from ddim_edit.models.blocks import fuse_blocks, restore_blocks
from ddim_edit.models.layers import ResidualSum
from ddim_edit.models.residual_sum import FusedBiasConv2d
from ddim_edit.models.unet.base import UNetBase
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.denoising_unet import AttentionConfig, ChannelRMSNorm, DenoisingUNet, DenoisingUNetConfig
from ddim_edit.models.unet.edm_unet import DhariwalUNet, EDMConfig, SongUNet
from ddim_edit.models.unet.guided_unet import AttentionHeads, GuidedUNet, GuidedUNetConfig
from ddim_edit.models.unet.network import UNet

ERRORS = {torch.float32: 3e-6, torch.bfloat16: 0.01, torch.float16: 0.002}
"""Relative errors of an output. Those of float32 are 3e-7 on a CPU; the interpreter rounds bfloat16 towards zero."""


class Case(NamedTuple):
    """A network and the size of its images, and what it is run in.

    `alone` is the number of its convolutions whose bias no norm and no sum takes.
    """

    build: Callable[[], UNetBase]
    size: tuple[int, int]
    alone: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = True


def unet(**changed: Any) -> UNet:
    config = {
        "block_out_channels": (8, 12),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "attn_norm_num_groups": 2,
    }
    return UNet(UNetConfig(**(config | changed)))


def guided() -> GuidedUNet:
    config = GuidedUNetConfig(3, 3, 32, (32, 32), 1, frozenset(), None, True, "resblock")
    return GuidedUNet(config, AttentionHeads(1, -1, False))


def edm(network_class: type[SongUNet] | type[DhariwalUNet]) -> UNetBase:
    attending = frozenset({"dec.4x4_in0"})
    config = EDMConfig(3, 3, (8, 4), 8, (8, 12), 1, attending, 8, 16, 2, 0, 0, False, "standard", False)
    network = network_class(config)
    for name, buffer in network.named_buffers():
        if name.endswith("resample_filter"):
            buffer.fill_(0.25)
    return network


def denoising(norm: Callable[[int], nn.Module]) -> DenoisingUNet:
    levels = (AttentionConfig(False, 2, 4, 2), AttentionConfig(True, 2, 4, 2))
    network = DenoisingUNet(DenoisingUNetConfig(3, 3, (8, 8, 12), levels, 8, 16, False, norm, 10000.0))
    for name, parameter in network.named_parameters():
        if name.endswith("mem_kv"):
            nn.init.normal_(parameter)
    return network


ONE_LEVEL = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
CASES = [
    # The first and the last convolution, and one down and one up.
    Case(unet, (6, 10), 4),
    Case(partial(unet, resnet_time_scale_shift="scale_shift"), (6, 10), 4, torch.bfloat16),
    Case(partial(unet, **ONE_LEVEL, mid_block_scale_factor=2.5), (5, 7), 2, channels_last=False),
    Case(guided, (4, 6), 2, torch.bfloat16),
    # The last convolution, and two of the attention.
    Case(partial(edm, SongUNet), (4, 6), 3),
    Case(partial(edm, DhariwalUNet), (4, 6), 3, torch.float16),
    # Six outside of blocks and five in attentions, and with other norms two in each of eleven blocks.
    Case(partial(denoising, partial(nn.GroupNorm, 2)), (4, 6), 11),
    Case(partial(denoising, ChannelRMSNorm), (4, 6), 33, torch.float16, channels_last=False),
]


@torch.inference_mode()
def check_network(case: Case, device: str) -> None:
    """The outputs are the network's up to rounding, and restored layers are those that there were."""
    torch.manual_seed(0)
    network = case.build().to(device)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # large enough that none can be forgotten
            nn.init.normal_(parameter)
    x = torch.randn(1, 3, *case.size, generator=torch.Generator().manual_seed(0)).to(device)
    time = torch.tensor([417.25], device=device)
    exact = deepcopy(network).double()(x.double(), time)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    plain = network.to(case.dtype).to_memory_format(layout)
    fused = deepcopy(plain)
    fuse_blocks(fused)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    given = x.to(case.dtype)
    made = deepcopy(fused)(given, time)  # of a copy, whose layers share biases as those of the network do
    assert made.dtype == case.dtype
    assert (made.double() - exact).norm() < ERRORS[case.dtype] * exact.norm()
    assert_alike(restore_blocks(fused), plain)
    assert torch.equal(fused(given, time), plain(given, time))


def assert_alike(restored: nn.Module, plain: nn.Module) -> None:
    """The same tensors, and the same modules under the same names, but that norms may have an activation."""
    assert layers(restored) == layers(plain)
    tensors = restored.state_dict()
    assert list(tensors) == list(plain.state_dict())
    assert all(torch.equal(tensors[name], tensor) for name, tensor in plain.state_dict().items())


def layers(network: nn.Module) -> dict[str, tuple[type[nn.Module], str]]:
    """The modules by their names, without norms and what they hold."""
    return {
        name: (type(module), module.extra_repr())
        for name, module in network.named_modules()
        if not isinstance(module, nn.GroupNorm) and not name.endswith(".activation")
    }


def check_layers(case: Case) -> None:
    """Every norm and sum of a block is fused, and no bias of a plain convolution is left to PyTorch."""
    network = case.build()
    fuse_blocks(network)
    modules = list(network.modules())
    assert not any(isinstance(module, nn.GroupNorm | ResidualSum) for module in modules)
    assert not any(type(module) is nn.Conv2d and module.bias is not None for module in modules)
    assert sum(isinstance(module, FusedBiasConv2d) for module in modules) == case.alone
    fuse_blocks(network)  # once more changes nothing
    assert list(network.modules()) == modules


def check(device: str) -> None:
    """Run every check on a device."""
    for case in CASES:
        check_layers(case)
        check_network(case, device)


if __name__ == "__main__":
    check("cpu")
