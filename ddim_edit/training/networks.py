"""Networks that a training may begin with: fresh ones, as plain data in diffusers' words, and trained ones.

Importable without torch, so that the command line has the names at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ddim_edit.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from torch import nn

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
"""Configs of diffusers' `DDPMScheduler` by name.

Linear: Ho, Jain, Abbeel, NeurIPS 2020, arXiv:2006.11239. Scaled linear: Rombach et al., CVPR 2022, arXiv:2112.10752.
Cosine: Nichol, Dhariwal, ICML 2021, arXiv:2102.09672.
"""

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network may learn to predict."""


class InitialState(NamedTuple):
    """A network before its first step.

    Attributes:
        network: diffusers' `UNet2DModel`, in float32 on the CPU.
        scheduler: diffusers' `DDPMScheduler`.
        record: what checkpoints record of both, as JSON types.
    """

    network: nn.Module
    scheduler: Any
    record: Mapping[str, Any]


@dataclass(frozen=True)
class FreshNetwork:
    """A network of random weights.

    Args:
        network: one of `NETWORKS`.
        prediction: one of `PREDICTIONS`.
        schedule: one of `SCHEDULES`, of 1,000 levels.

    Raises:
        ArgumentError: an unknown name.
    """

    network: str = field(default="small", metadata={"help": "Network to begin with.", "choices": tuple(NETWORKS)})
    prediction: str = field(default="epsilon", metadata={"help": "What the network predicts.", "choices": PREDICTIONS})
    schedule: str = field(default="linear", metadata={"help": "Noise schedule.", "choices": tuple(SCHEDULES)})

    def __post_init__(self) -> None:
        for name, known in (("network", NETWORKS), ("prediction", PREDICTIONS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ArgumentError(f"There is no {name} {getattr(self, name)!r}. Choose one of {', '.join(known)}.")

    def initialize(self, size: int | None, seed: int) -> InitialState:
        """Return the network for images of a size, or of its own, with the weights of a seed.

        Raises:
            ArgumentError: a size that it cannot halve as often as it has to; MissingExtraError: no diffusers.
        """
        import torch

        from ddim_edit.models.pretrained import import_diffusers

        library = import_diffusers("Training")
        config = dict(NETWORKS[self.network])
        config["sample_size"] = _find_size(config, size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = library.UNet2DModel(**config)
        schedule = SCHEDULES[self.schedule]
        scheduler = library.DDPMScheduler(num_train_timesteps=1000, prediction_type=self.prediction, **schedule)
        return InitialState(network, scheduler, {"size": config["sample_size"]})


@dataclass(frozen=True)
class FineTuning:
    """A trained network, with the schedule and the prediction that it was trained for.

    Only unconditional `UNet2DModel`s of RGB pixels over discrete levels can be trained.

    Args:
        model: name of a packaged model, or a diffusers folder.
    """

    model: str = field(metadata={"help": "Packaged model or diffusers folder to continue from."})

    def initialize(self, size: int | None, seed: int) -> InitialState:
        """Return the network as it was, for images of another size if asked to; the seed is not used.

        Raises:
            ModelError: no such model, or one of another kind; ArgumentError: a size that it cannot work at.
        """
        from ddim_edit.models.packaged import packaged_models
        from ddim_edit.models.pretrained import (
            component_folder,
            explain_errors,
            fingerprint,
            import_diffusers,
            load_pretrained_network,
            read_config,
            weights_files,
        )

        folder = packaged_models().get(self.model, Path(self.model))
        if not folder.is_dir():
            raise ModelError(
                f"There is no model {self.model!r} to begin with. Name a diffusers folder or one of "
                f"{', '.join(packaged_models())}; checkpoints of one file cannot be trained."
            )
        part = component_folder(folder, "unet")
        config = read_config(part / "config.json")
        _require_trainable(folder, config)
        sample_size = _find_size(config, size)
        library = import_diffusers("Training")
        # Loaded for inference, its weights would not learn.
        network = load_pretrained_network(library.UNet2DModel, part).requires_grad_(True)
        network.register_to_config(sample_size=sample_size)
        scheduler_config = read_config(component_folder(folder, "scheduler") / "scheduler_config.json")
        with explain_errors(f"{folder.name}: cannot load the scheduler"):
            scheduler = library.DDPMScheduler.from_config(scheduler_config)
        record = {"size": sample_size, "from": fingerprint(weights_files(part))}
        return InitialState(network, scheduler, record)


StartingNetwork: TypeAlias = FreshNetwork | FineTuning


def _require_trainable(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse networks whose loss is not known here."""
    from ddim_edit.diffusion.parametrization import timestep_index
    from ddim_edit.models.scheduler_config import read_scheduler_config

    parametrization = read_scheduler_config(folder).parametrization
    channels = config.get("in_channels", 3), config.get("out_channels", 3)
    problem = None
    if config.get("_class_name") != "UNet2DModel":
        problem = f"its network is a {config.get('_class_name')}, not a UNet2DModel"
    elif channels != (3, 3):
        problem = f"its network has {channels[0]} and {channels[1]} channels, not 3 channels in and out"
    elif config.get("class_embed_type") or config.get("num_class_embeds"):
        problem = "its network has classes, and only networks without classes can be trained"
    elif getattr(parametrization, "time", None) is not timestep_index:
        problem = f"its process ({parametrization.name}) has no discrete levels"
    if problem is not None:
        raise ModelError(f"{folder.name}: {problem}. Begin with another model, or with --network.")


def _find_size(config: Mapping[str, Any], size: int | None) -> int:
    """Return the size that was asked for, or the network's own."""
    stride = 1 << (len(config.get("block_out_channels", (0, 0, 0, 0))) - 1)
    found = config.get("sample_size") if size is None else size
    if type(found) is not int:
        raise ArgumentError(f"The network has no single size of images, but {found!r}. Give --size.")
    if found < stride or found % stride:
        raise ArgumentError(f"The network works at sizes in multiples of {stride} pixels, not {found}. Choose another.")
    return found
