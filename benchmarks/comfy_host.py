"""ComfyUI itself, from its folder, without its server: MODELs around networks of any kind."""

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn


def install(folder: str | Path) -> None:
    """Make `import comfy` find ComfyUI in a folder, to run on the CPU.

    Its requirements must be installed where this runs.
    """
    if "comfy" in sys.modules:
        return
    sys.path.insert(0, str(folder))
    arguments = sys.argv
    sys.argv = ["main.py", "--cpu"]  # which it parses when it is imported
    importlib.import_module("comfy.options").enable_args_parsing()
    importlib.import_module("comfy.cli_args")
    sys.argv = arguments
    importlib.import_module("comfy.samplers")


def make_model(
    kind: str, network: nn.Module, channels: int = 3, scale: float = 1.0, shift: float = 1.0, dimensions: int = 2
) -> Any:
    """Return a MODEL around a network.

    Args:
        kind: of ComfyUI's `ModelType`, as "EPS".
        network: called with x, timesteps and context; its `dtype` is that of its weights.
        channels: of the samples of its LATENTs.
        scale: what ComfyUI multiplies these with.
        shift: of rectified flows.
        dimensions: 3 for MODELs that take frames.
    """
    import comfy.conds
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models_base

    latent_format = type(
        "Format",
        (comfy.latent_formats.LatentFormat,),
        {"latent_channels": channels, "scale_factor": scale, "latent_dimensions": dimensions},
    )
    settings = {"latent_format": latent_format, "sampling_settings": {"shift": shift} if kind == "FLOW" else {}}
    config = type("Config", (comfy.supported_models_base.BASE,), settings)({"disable_unet_model_creation": True})

    def extra_conds(self: Any, **kwargs: Any) -> dict[str, Any]:
        return {"c_crossattn": comfy.conds.CONDCrossAttn(kwargs["cross_attn"])}

    base = type("BaseModel", (comfy.model_base.BaseModel,), {"extra_conds": extra_conds})
    made = base(config, comfy.model_base.ModelType[kind])
    made.diffusion_model = network
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(made, cpu, cpu)
