"""Small networks in every layout, and diffusers' networks with the same weights beside them."""

from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet

Diffusers: Any = UNet2DModel  # its types are hidden from mypy

Config = dict[str, Any]

SMALL: Config = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
ATTENDING: Config = SMALL | {
    "down_block_types": ("AttnDownBlock2D",) * 2,
    "up_block_types": ("AttnUpBlock2D",) * 2,
}
CIFAR10: Config = {  # google/ddpm-cifar10-32, at a sixteenth of its width
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": (8, 16, 16, 16),
    "center_input_sample": False,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 4,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CELEBAHQ: Config = CIFAR10 | {  # google/ddpm-celebahq-256, likewise
    "block_out_channels": (8, 8, 16, 16, 32, 32),
    "down_block_types": (*4 * ("DownBlock2D",), "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *4 * ("UpBlock2D",)),
    "sample_size": 256,
}
LAYERS: dict[str, Config] = {
    "small": SMALL,
    "cifar10": CIFAR10,
    "celebahq": CELEBAHQ,
    "one level": SMALL
    | {
        "block_out_channels": (8,),
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("AttnUpBlock2D",),
    },
    "attention norm": SMALL | {"attn_norm_num_groups": 2},
    "scale_shift": ATTENDING | {"resnet_time_scale_shift": "scale_shift"},
    "scale_shift, attention norm": SMALL | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 2},
    "uneven heads": SMALL | {"attention_head_dim": 6},
    "centred": SMALL | {"center_input_sample": True},
    "scaled middle": SMALL | {"mid_block_scale_factor": 2**0.5},
    "no middle attention": SMALL | {"add_attention": False},
    "no middle": SMALL | {"mid_block_type": None},
    "resnet sampling": ATTENDING | {"downsample_type": "resnet", "upsample_type": "resnet"},
    "resnet sampling, plain levels": SMALL | {"downsample_type": "resnet", "upsample_type": "resnet"},
    "fourier": SMALL | {"time_embedding_type": "fourier"},
    "odd width": SMALL | {"block_out_channels": (9, 12), "norm_num_groups": 3, "attention_head_dim": None},
    "coarse norms": ATTENDING | {"norm_eps": 0.1},
    "time width": SMALL | {"time_embedding_dim": 20},
    "channels": SMALL | {"in_channels": 1, "out_channels": 2},
    **{activation: SMALL | {"act_fn": activation} for activation in ("swish", "mish", "gelu", "relu")},
}
CLASSES: dict[str, tuple[Config, Tensor]] = {
    "classes": (SMALL | {"num_class_embeds": 5}, torch.tensor([4, 0])),
    "times": (SMALL | {"class_embed_type": "timestep"}, torch.tensor([3.5, 70.0])),
    "fourier times": (
        SMALL | {"class_embed_type": "timestep", "time_embedding_type": "fourier"},
        torch.tensor([3.5, 70.0]),
    ),
    "identity": (SMALL | {"class_embed_type": "identity"}, torch.linspace(-1, 1, 64).view(2, 32)),
}


def twins(config: Config) -> tuple[UNet, Any]:
    """Our network and diffusers', with the same random weights; norms and biases are random too."""
    torch.manual_seed(0)
    theirs = Diffusers(**config).eval()
    for weight in theirs.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    ours = UNet(UNetConfig.from_dict(dict(theirs.config)))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def images(config: UNetConfig, batch: int = 2) -> Tensor:
    """Noise whose height and width differ."""
    shape = (batch, config.in_channels, 2 * config.stride, config.stride)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


TIMES = torch.tensor([417.25, 3.0])


def assert_same_answers(ours: UNet, theirs: Any, label: Tensor | None = None) -> None:
    """In float64, where no norm over few channels blows rounding up; with labels diffusers only knows float32."""
    dtype = torch.float64 if label is None else torch.float32
    ours, theirs, x = ours.to(dtype), theirs.to(dtype), images(ours.config).to(dtype)
    with torch.no_grad():
        wanted = theirs(x, TIMES, class_labels=label).sample
        torch.testing.assert_close(ours(x, TIMES, label), wanted, rtol=1e-5, atol=1e-5)
