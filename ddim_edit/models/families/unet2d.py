"""Pixel and latent UNets of diffusers without prompts: `DDPMPipeline`, `DDIMPipeline`, `LDMPipeline` and others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.models.checkpoint import Classes
from ddim_edit.models.families.family import COUNT, Config, DiffusersFamily, FamilyNotes, call_with_class
from ddim_edit.models.sizes import SizeRule

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

_DEFAULT_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
"""The blocks on the way down of a config without them."""
_OWN_BLOCKS = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}


def _classes(config: Config) -> Classes | None:
    embedded = config.get("class_embed_type")
    if embedded is not None:
        raise ModelError(
            f"config.json: networks with class_embed_type {embedded!r} are not supported, as their condition is no "
            "class. Use load_unet and a denoiser of your own."
        )
    classes = schema.optional(COUNT)
    count = schema.read_entry(config, "num_class_embeds", classes, None, source="config.json", error=ModelError)
    return None if count is None else Classes(count)


def _has_own_blocks(config: Config) -> bool:
    blocks: list[str] = []
    for name in ("down_block_types", "up_block_types"):
        texts = schema.list_of(schema.text)
        blocks += schema.read_entry(config, name, texts, (), source="config.json", error=ModelError)
    return _OWN_BLOCKS.issuperset(blocks)


def _own(config: Config) -> nn.Module | None:
    if not _has_own_blocks(config):
        return None
    from ddim_edit.models.unet.config import UNetConfig
    from ddim_edit.models.unet.network import UNet

    return UNet(UNetConfig.from_dict(config))


def _load(folder: Path, config: Config) -> nn.Module | None:
    """Load our own network if it has all the blocks: it is faster, and needs no diffusers."""
    if not _has_own_blocks(config):
        return None
    from ddim_edit.models.unet.network import load_unet

    return load_unet(folder)


def _sizes(config: Config) -> SizeRule:
    # Every block on the way down but the last halves its input.
    names = schema.list_of(schema.text)
    blocks = schema.read_entry(
        config, "down_block_types", names, _DEFAULT_BLOCKS, source="config.json", error=ModelError
    )
    return SizeRule(2 ** max(0, len(blocks) - 1))


FAMILY = DiffusersFamily(
    name="unet2d",
    title="Unconditional and class-conditional UNets (google/ddpm-*, CompVis/ldm-celebahq-256)",
    order=10,
    notes=FamilyNotes(
        example="--model google/ddpm-cifar10-32",
        recognised="`UNet2DModel`, in `unet/` or in a flat folder; latent diffusion by `vqvae/` or `vae/` beside it",
        read=(
            "the whole network, betas, prediction type, zero terminal SNR, classes (`num_class_embeds`), "
            "autoencoder with its scaling and shift"
        ),
        assumed=(
            "images in [-1, 1]; classes without a null class, so no guidance; VQ latents are not scaled, as "
            "in the release of LDM; blocks that this package does not implement (`ResnetDownsampleBlock2D`, "
            "...) run in diffusers, all others need nothing else"
        ),
        sizes="multiples of 2 for every level but the last, as 8 for four levels; times the cell of an autoencoder",
        memory=(
            "measured of google/ddpm-celebahq-256, at 256 pixels: 7.5 in fp32 (3.2 GiB in all), as convolutions have "
            "packed copies of their weights"
        ),
        proven="`DDPMPipeline`, `DDIMPipeline` and `LDMPipeline` of diffusers",
    ),
    network="UNet2DModel",
    classes=_classes,
    call=call_with_class,
    sizes=_sizes,
    sized=False,
    bottleneck=True,
    own=_own,
    load=_load,
)
