"""A model: a denoiser and a codec, the schedule they were trained with, and who they are."""

from dataclasses import dataclass, field

import torch

from ddim_edit.codec import Codec
from ddim_edit.denoise import Denoiser
from ddim_edit.schedule import NoiseSchedule


@dataclass(frozen=True)
class Model:
    """Everything that walks need of a checkpoint.

    Attributes:
        denoiser: what answers at noisy pictures.
        codec: between pictures and x_0.
        schedule: the noise schedule.
        shape: of x_0, (C, H, W).
        name: what to call it; for a folder its last part.
        weights: SHA-256 of the weights file.
        prediction: what the network predicts, in diffusers' words.
        dtype: what the network computes in, by name.
        device: where the network lives.
        state_device: where the state of a walk lives; the CPU for devices without float64.
    """

    denoiser: Denoiser
    codec: Codec
    schedule: NoiseSchedule
    shape: tuple[int, int, int]
    name: str
    weights: str
    prediction: str
    dtype: str = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    state_device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures it takes."""
        return self.shape[1], self.shape[2]
