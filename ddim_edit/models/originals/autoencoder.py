"""Read autoencoders (VAE) off their tensors, by the names of latent diffusion or of diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddim_edit.models.originals.parts import Config

if TYPE_CHECKING:
    from torch import Tensor

_LEVEL = re.compile(r"encoder\.(?:down|down_blocks)\.(\d+)\.(?:block|resnets)\.(\d+)\.conv1\.weight")


def read_autoencoder_config(tensors: Mapping[str, Tensor], facts: Config) -> dict[str, Any]:
    """Return the config of the autoencoder of these tensors.

    Args:
        tensors: without a prefix in their names.
        facts: what they do not tell.

    Raises:
        LookupError: tensors of something else.
    """
    widths: dict[int, int] = {}
    blocks = 0
    for name, tensor in tensors.items():
        if found := _LEVEL.fullmatch(name):
            widths[int(found[1])] = len(tensor)
            blocks = max(blocks, int(found[2]) + 1)
    config: dict[str, Any] = {
        "block_out_channels": [widths[level] for level in range(len(widths))],
        "layers_per_block": blocks,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }
    for entry, name in (("use_quant_conv", "quant_conv.weight"), ("use_post_quant_conv", "post_quant_conv.weight")):
        if name not in tensors:
            config[entry] = False
    return {**config, **facts}
