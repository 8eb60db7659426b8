"""From a condition to the denoiser of a network that follows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, GuidedDenoiser, GuidedNetwork, Network, NetworkDenoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError
from ddim_edit.models.checkpoint import Classes
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.placement import DeviceNetwork

Given = Mapping[str, Tensor]
"""What a network is given besides x and its index, by keyword; each [1, ...], the same for every picture."""


class ConditionEncoder(Protocol):
    """What a network is given for a condition, and for what guidance leads away from."""

    @property
    def follows(self) -> str:
        """What kind of condition, in words."""
        ...

    @property
    def distilled(self) -> bool:
        """Whether the network itself is told the guidance scale, and so is asked once."""
        ...

    def wanted(self, condition: Condition) -> Given:
        """For the condition itself."""
        ...

    def unwanted(self, condition: Condition) -> Given:
        """For its negative prompt, or for nothing."""
        ...


@dataclass(frozen=True)
class ClassLabels:
    """Conditions of a network with numbered classes; follows no prompts.

    Args:
        name: the model's, for errors.
        classes: which there are.
    """

    name: str
    classes: Classes
    distilled: ClassVar[bool] = False

    @property
    def follows(self) -> str:
        """Numbers."""
        return f"classes from 0 to {self.classes.count - 1}"

    def wanted(self, condition: Condition) -> Given:
        """The class asked for, or the one that stands for none."""
        self._refuse_prompts(condition)
        if condition.label is None and self.classes.none is not None:
            return _label(self.classes.none)
        if condition.label is None or condition.label >= self.classes.count:
            given = "none" if condition.label is None else str(condition.label)
            raise ArgumentError(f"a class from 0 to {self.classes.count - 1} for {self.name}", given, "name one")
        return _label(condition.label)

    def unwanted(self, condition: Condition) -> Given:
        """The class that stands for none."""
        if self.classes.none is None:
            given, remedy = f"guidance_scale {condition.guidance_scale:g}", "leave guidance out"
            raise ArgumentError(f"no guidance for {self.name}, which has no class for none", given, remedy)
        return _label(self.classes.none)

    def _refuse_prompts(self, condition: Condition) -> None:
        if prompt := condition.prompt or condition.negative_prompt:
            raise ArgumentError(f"a class for {self.name}", f"the prompt {prompt!r}", "it follows numbers, not text")


def _label(label: int) -> Given:
    return {"label": torch.tensor([label])}


@dataclass(frozen=True)
class Conditioner:
    """Makes the denoiser of a condition: the network given what the embedder says, guided where that is asked for.

    Args:
        denoiser: of the network given nothing.
        network: the same network.
        embedder: what it is given.
        low: the denoiser's network for low noise, if it has one.
    """

    denoiser: NetworkDenoiser
    network: DeviceNetwork
    embedder: ConditionEncoder
    low: DeviceNetwork | None = None

    def __call__(self, condition: Condition) -> Denoiser:
        """The denoiser.

        Raises:
            ArgumentError: a condition that the network cannot follow.
        """
        wanted = self.embedder.wanted(condition)
        if not condition.guided or self.embedder.distilled:
            return self._told(wanted)
        unwanted, scale = self.embedder.unwanted(condition), condition.guidance_scale
        if _shapes(wanted) != _shapes(unwanted):
            return GuidedDenoiser(self._told(wanted), self._told(unwanted), scale)
        both = {name: torch.cat([unwanted[name], wanted[name]]) for name in wanted}
        return self._asking(lambda network: GuidedNetwork(network.with_conditioning(both), scale))

    def unconditional(self) -> Denoiser:
        """The denoiser of no condition; for networks without such a thing one that says so when asked."""
        try:
            return self(NOTHING)
        except ArgumentError as error:
            return UnavailableDenoiser(error)

    def _told(self, given: Given) -> NetworkDenoiser:
        return self._asking(lambda network: network.with_conditioning(given))

    def _asking(self, change: Callable[[DeviceNetwork], Network]) -> NetworkDenoiser:
        """The denoiser over what is made of its networks."""
        low = None if self.low is None else change(self.low)
        return replace(self.denoiser, network=change(self.network), low=low)


def _shapes(given: Given) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in given.items()}


@dataclass(frozen=True)
class UnavailableDenoiser:
    """Stands where a model has no denoiser, and says why when asked."""

    error: ArgumentError

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Refuse."""
        raise self.error
