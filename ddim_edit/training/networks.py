"""Networks, schedules and predictions that a training may begin with: plain data, in diffusers' words."""

from collections.abc import Mapping
from typing import Any

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "sample_size": 16,
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 32,
        "norm_num_groups": 8,
    },
    "small": {
        "sample_size": 32,
        "block_out_channels": (64, 128, 128),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": 64,
        "dropout": 0.05,
    },
    "faces64": {
        "sample_size": 64,
        "block_out_channels": (64, 128, 128, 256),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": 64,
        "dropout": 0.05,
    },
}
"""Configs of diffusers' `UNet2DModel` by name: 1.1, 6.5 and 17.2 million weights, for 16, 32 and 64 pixels."""

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
"""`DDPMScheduler` configs by name; Ho et al. (2020), Rombach et al. (2022), Nichol and Dhariwal (2021)."""

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network may learn to predict."""
