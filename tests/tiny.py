"""A diffusers folder so small that tests may make it, and pictures for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ddim_edit.models.pretrained import WEIGHTS
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet

SIZE = 16
# With v = 0 the model is the exact one of Gaussian data, so that a small random v makes a tame, curved flow.
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "clip_sample": False,
}
UNET: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "block_out_channels": [16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}


def save_model(folder: Path, seed: int = 0, unet: dict[str, Any] | None = None, **scheduler: Any) -> Path:
    """Write a model with random weights of this seed, with some entries of its two configs replaced."""
    config = UNET | (unet or {})
    write_json(folder / "unet" / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER | scheduler)
    save_weights(folder, _random_weights(config, seed))
    return folder


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / WEIGHTS)


def save_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "unet" / WEIGHTS)


def _random_weights(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = UNet(UNetConfig.from_dict(config)).state_dict()
    shares = {"conv_out.weight": 0.3, "conv_out.bias": 0.3}
    return {name: shares.get(name, 1) * weight.contiguous() for name, weight in weights.items()}


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def pixels(seed: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """A smooth colourful picture, uint8 [H, W, 3], different for every seed."""
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (3, 3))
    y, x = np.mgrid[:height, :width] * (4 / max(height, width))
    waves = [np.sin(x + a) + np.sin(y + b) + np.sin(x + y + c) for a, b, c in phases]
    return (127.5 + 40 * np.stack(waves, axis=-1)).astype(np.uint8)


def save_picture(path: Path, seed: int = 0, height: int = SIZE, width: int = SIZE) -> Path:
    """Write such a picture in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, height, width)).save(path)
    return path
