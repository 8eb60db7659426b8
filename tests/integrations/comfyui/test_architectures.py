"""ComfyUI's own networks at reduced width with random weights; only in ComfyUI itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddim_edit import InversionConfig
from ddim_edit.integrations.comfyui import decode, invert

from . import hosts

pytestmark = pytest.mark.skipif(not hosts.COMFYUI_PATH, reason="needs ComfyUI: set COMFYUI_PATH to its folder")
SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1],
    "context_dim": 32,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 32,
    "context_in_dim": 32,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 4,
    "depth": 1,
    "depth_single_blocks": 1,
    "patch_size": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
QWEN_IMAGE = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 1,
    "patch_size": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (16, 24, 24),
}
NETWORKS: dict[str, tuple[dict[str, Any], str, dict[str, Any], tuple[int, ...]]] = {
    "SDXL": (SDXL, "out.2", {"pooled_output": torch.ones(1, 1280)}, (2, 4, 16, 16)),
    "Flux": (FLUX, "final_layer.linear", {"pooled_output": torch.ones(1, 32), "guidance": 3.5}, (1, 16, 16, 16)),
    "QwenImage": (QWEN_IMAGE, "proj_out", {}, (1, 16, 1, 16, 16)),
}
"""By ComfyUI's name: the config, the last layer, what a CONDITIONING has beside tokens, and the shape of samples."""


def make_model(name: str, dtype: torch.dtype) -> Any:
    """A MODEL whose small answers make a tame flow."""
    hosts.install()
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    settings, last, _, _ = NETWORKS[name]
    config = getattr(comfy.supported_models, name)({**settings, "dtype": dtype})
    made = getattr(comfy.model_base, name)(config)
    generator = torch.Generator().manual_seed(0)
    for weight in made.diffusion_model.parameters():  # which ComfyUI leaves as memory has them
        random = torch.randn(weight.shape, generator=generator) / max(weight.shape[1:].numel(), 1) ** 0.5
        weight.copy_(random if weight.ndim > 1 else torch.zeros_like(weight))
    for module in made.diffusion_model.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
            module.weight.fill_(1)
    made.diffusion_model.get_submodule(last).weight.mul_(0.004)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(made, cpu, cpu)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("SDXL", torch.float32), ("Flux", torch.float32), ("Flux", torch.bfloat16), ("QwenImage", torch.float32)],
)
@torch.inference_mode()
def test_images_come_back(name: str, dtype: torch.dtype) -> None:
    _, _, extra, shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(shape, generator=generator)

    def conditioning() -> list[Any]:
        tokens: Tensor = torch.randn(1, 5, 32, generator=generator)
        return [[tokens, dict(extra)]]

    model, positive, negative = make_model(name, dtype), conditioning(), conditioning()
    latents = invert(model, positive, negative, samples, InversionConfig(steps=10), cfg=2.0)
    decoded = decode(model, positive, negative, latents)
    assert latents[0].recipe.dtype == str(dtype).removeprefix("torch.")
    assert decoded.shape == samples.shape
    assert (decoded - samples).abs().max() < 0.2
    # The conditioning reaches the network.
    other = invert(model, conditioning(), negative, samples, InversionConfig(steps=10), cfg=2.0)
    assert not torch.equal(other.x, latents.x)
