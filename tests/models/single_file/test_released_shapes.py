"""The released models, at their real width and without weights, are recognised and read as their folders have them."""

import json
from collections.abc import Mapping
from typing import Any

import diffusers
import pytest
import torch
import transformers
from torch import Tensor

from ddim_edit.models.families.registry import FAMILIES, family_of_state
from ddim_edit.models.identity import config_beyond_defaults
from ddim_edit.models.originals.autoencoder import read_autoencoder_config
from ddim_edit.models.originals.text_encoders import read_open_clip
from ddim_edit.models.originals.transformers import read_flux

from . import original_names, whole_models
from .original_names import State, prefixed
from .whole_models import ENDS

Diffusers: Any = diffusers  # its types are hidden from mypy
Transformers: Any = transformers
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
SD1 = {"attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
SD2 = {**SD1, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "down_block_types": (PLAIN, CROSS, CROSS),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "upcast_attention": None,
}
SD3 = {"in_channels": 16, "out_channels": 16, "pooled_projection_dim": 2048, "joint_attention_dim": 4096}
MEDIUM = {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
LARGE = {**SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
NETWORKS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "stable diffusion 1.5": ("stable-diffusion", "UNet2DConditionModel", {**SD1, "sample_size": 64}),
    "stable diffusion 2.1": (
        "stable-diffusion",
        "UNet2DConditionModel",
        {**SD2, "sample_size": 96, "upcast_attention": True},
    ),
    "stable diffusion xl": ("stable-diffusion-xl", "UNet2DConditionModel", {**XL, "sample_size": 128}),
    "stable diffusion 3 medium": ("stable-diffusion-3", "SD3Transformer2DModel", {**MEDIUM, "pos_embed_max_size": 192}),
    "stable diffusion 3.5 large": ("stable-diffusion-3", "SD3Transformer2DModel", {**LARGE, "pos_embed_max_size": 192}),
    "stable diffusion 3.5 medium": (
        "stable-diffusion-3",
        "SD3Transformer2DModel",
        {**MEDIUM, "pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))},
    ),
    "flux dev": ("flux", "FluxTransformer2DModel", {"guidance_embeds": True}),
    "flux schnell": ("flux", "FluxTransformer2DModel", {}),
}
NAMES = {
    "UNet2DConditionModel": original_names.ldm_unet,
    "SD3Transformer2DModel": original_names.joint_blocks,
    "FluxTransformer2DModel": original_names.flux_blocks,
}


def equal_configs(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Equal as JSON, which has no tuples."""
    return json.loads(json.dumps(found)) == json.loads(json.dumps(wanted))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_released_network_is_recognised_and_read(name: str) -> None:
    family_name, kind, config = NETWORKS[name]
    with torch.device("meta"):
        network = getattr(Diffusers, kind)(**{"sample_size": 128, **config} if kind.startswith("SD3") else config)
    bare = NAMES[kind](network)
    for prefix in ("model.diffusion_model.", "") if kind != "UNet2DConditionModel" else ("model.diffusion_model.",):
        state = prefixed(prefix, bare)
        family = family_of_state(state, "file")
        assert family is FAMILIES[family_name]
        found = family.original.read(state, {}, "file").network
        network_class = getattr(Diffusers, kind)
        configs = [{**network.config, **found.config}, network.config]
        assert equal_configs(*(config_beyond_defaults(network_class, each) for each in configs))
        shapes = {name: tensor.shape for name, tensor in found.tensors.items()}
        assert shapes == {name: tensor.shape for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(("channels", "quantised"), [(4, True), (16, False)])
def test_a_released_autoencoder_is_read(channels: int, quantised: bool) -> None:
    """That of Stable Diffusion, and that of Stable Diffusion 3 and Flux."""
    config = {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": channels,
        **({} if quantised else {"use_quant_conv": False, "use_post_quant_conv": False}),
    }
    with torch.device("meta"):
        network = Diffusers.AutoencoderKL(**config)
    for tensors in (original_names.ldm_vae(network), network.state_dict()):
        assert read_autoencoder_config(tensors, {}) == config


@pytest.mark.parametrize(("width", "layers", "heads", "projection"), [(1024, 24, 16, None), (1280, 32, 20, 1280)])
def test_a_released_text_encoder_is_read(width: int, layers: int, heads: int, projection: int | None) -> None:
    """OpenCLIP's ViT-H of Stable Diffusion 2, of which the last layer is not used, and ViT-bigG of XL."""
    kind = "CLIPTextModel" if projection is None else "CLIPTextModelWithProjection"
    config = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        **({} if projection is None else {"projection_dim": projection}),
    }
    with torch.device("meta"):
        network = getattr(Transformers, kind)(Transformers.CLIPTextConfig(**config, **ENDS))
    facts = {"architectures": [kind]}
    state = original_names.open_clip(network)
    found = read_open_clip(state, facts)
    used = layers if projection else layers - 1
    assert found.config == {**facts, **config, "num_hidden_layers": used}
    wanted = {}
    for name, tensor in original_names.with_text_model(network).items():
        if f".layers.{used}." not in name:
            wanted[name] = tensor.shape
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == wanted


def random_like(names: Mapping[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in names.items()}


def assert_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_flux_is_converted_as_diffusers_does() -> None:
    """Its conversion knows a width of 3072 only; how many columns matrices have is all the same to it."""
    from diffusers.loaders import single_file_utils

    state = random_like(
        {name: tuple(each.shape) for name, each in original_names.flux_blocks(whole_models.flux().transformer).items()}
    )
    for name in list(state):
        if ".linear1." in name:
            state[name] = torch.randn(7 * 3072, *state[name].shape[1:])
    state["img_in.weight"] = torch.randn(3072, 16)
    convert: Any = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    found = read_flux(state, {}, "file").network.tensors
    assert_equal(found, convert(dict(state)))


def test_open_clip_is_converted_as_diffusers_does() -> None:
    from diffusers.loaders import single_file_utils

    network = whole_models.clip("gelu", "CLIPTextModelWithProjection", 32, 32)
    state = original_names.open_clip(network)
    convert: Any = single_file_utils.convert_open_clip_checkpoint
    found = read_open_clip(state, {"architectures": ["CLIPTextModelWithProjection"]}).tensors
    assert_equal(found, convert(network, prefixed("x.", state), prefix="x."))
