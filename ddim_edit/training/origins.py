"""The networks that a training may begin with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from ddim_edit.diffusion.parametrization import timestep_index
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.assembly import fingerprint
from ddim_edit.models.component import component, read_json
from ddim_edit.models.extra import diffusers, explained, load_network
from ddim_edit.models.loading import packaged_models
from ddim_edit.models.process import read_process
from ddim_edit.training.networks import NETWORKS, PREDICTIONS, SCHEDULES

_CHOOSE = "choose one of these"


class InitialState(NamedTuple):
    """A network before its first step, its process, and what is to be remembered of both.

    Fields: a diffusers `UNet2DModel` in float32 on the CPU; a diffusers `DDPMScheduler`; facts, as JSON can say them.
    """

    network: nn.Module
    scheduler: Any
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class FreshNetwork:
    """A network of random weights; knows nothing yet.

    Args:
        network: one of `NETWORKS`.
        prediction: one of `PREDICTIONS`.
        schedule: one of `SCHEDULES`, of 1,000 levels.

    Raises:
        ArgumentError: a name that is none of these.
    """

    network: str = "small"
    prediction: str = "epsilon"
    schedule: str = "linear"

    def __post_init__(self) -> None:
        known = {"network": NETWORKS, "prediction": PREDICTIONS, "schedule": SCHEDULES}
        for name, names in known.items():
            if getattr(self, name) not in names:
                raise ArgumentError(f"a {name} out of {', '.join(names)}", f"{getattr(self, name)!r}", _CHOOSE)

    def begin(self, size: int | None, seed: int) -> InitialState:
        """The network for pictures of a size, or of its own, with the weights of a seed.

        Raises:
            ArgumentError: a size that it cannot halve as often as it has to; ModelError: no diffusers here.
        """
        library, config = diffusers("a training"), dict(NETWORKS[self.network])
        config["sample_size"] = _size(config, size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = library.UNet2DModel(**config)
        schedule = SCHEDULES[self.schedule]
        scheduler = library.DDPMScheduler(num_train_timesteps=1000, prediction_type=self.prediction, **schedule)
        return InitialState(network, scheduler, {"size": config["sample_size"]})


@dataclass(frozen=True)
class FineTuning:
    """A network that was trained before, with the schedule and the prediction that it was trained for.

    Takes unconditional `UNet2DModel`s of RGB pixels over discrete levels, and no others.

    Args:
        model: name of a packaged model, or a diffusers folder.
    """

    model: str

    def begin(self, size: int | None, seed: int) -> InitialState:
        """The network as it was, told another size of pictures if so asked; nothing in it is random.

        Raises:
            ModelError: no such model, or one of another kind; ArgumentError: a size that it cannot work at.
        """
        folder = packaged_models().get(self.model, Path(self.model))
        if not folder.is_dir():
            wanted = f"a diffusers folder or one of {', '.join(packaged_models())}"
            raise ModelError(wanted, self.model, "check the spelling; checkpoints of one file cannot be trained on")
        part = component(folder, "unet")
        config = read_json(part / "config.json")
        _require_trainable(folder, config)
        sample_size = _size(config, size)
        library = diffusers("a training")
        network = load_network(library.UNet2DModel, part).requires_grad_(True)
        network.register_to_config(sample_size=sample_size)
        facts = {"size": sample_size, "from": fingerprint(sorted(part.glob("*.safetensors")))}
        return InitialState(network, _scheduler(library, folder), facts)


Origin: TypeAlias = FreshNetwork | FineTuning


def _scheduler(library: Any, folder: Path) -> Any:
    config = read_json(component(folder, "scheduler") / "scheduler_config.json")
    with explained(f"a scheduler in {folder.name}"):
        return library.DDPMScheduler.from_config(config)


def _require_trainable(folder: Path, config: Mapping[str, Any]) -> None:
    """Insist on a network whose loss is known here."""
    process = read_process(folder)
    channels = config.get("in_channels", 3), config.get("out_channels", 3)
    classes = config.get("class_embed_type") or config.get("num_class_embeds")
    for wanted, given, holds in (
        ("a UNet2DModel", f"a {config.get('_class_name')}", config.get("_class_name") == "UNet2DModel"),
        ("a network of 3 channels in and out", f"{channels[0]} and {channels[1]}", channels == (3, 3)),
        ("a network without classes", "one with classes", not classes),
        (
            "a process of discrete levels",
            process.parametrization.name,
            getattr(process.parametrization, "time", None) is timestep_index,
        ),
    ):
        if not holds:
            raise ModelError(f"{wanted} to train on", given, "begin with another model, or with a --network")


def _size(config: Mapping[str, Any], size: int | None) -> int:
    """The size asked for, or the network's own."""
    own, stride = config.get("sample_size"), 1 << (len(config.get("block_out_channels", (0, 0, 0, 0))) - 1)
    found = own if size is None else size
    if type(found) is not int:
        raise ArgumentError("a size for pictures of this network", f"{found!r}", "give --size")
    if found < stride or found % stride:
        raise ArgumentError(f"a size in multiples of {stride}, which this network needs", f"{found}", "choose another")
    return found
