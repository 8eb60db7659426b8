"""Make the denoiser of a condition from a network that follows it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, GuidanceRule, GuidedNetwork, GuidedPair, Network, NetworkDenoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError
from ddim_edit.models.checkpoint import Classes
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.devices import DeviceNetwork
from ddim_edit.models.identity import Components

Conditioning = Mapping[str, Tensor]
"""Further inputs of a network by keyword, each [1, ...], the same for every image."""


class ConditionEncoder(Protocol):
    """Turns conditions into the inputs of a network."""

    @property
    def components(self) -> Components:
        """What identifies its text encoders and tokenizers."""
        ...

    @property
    def follows(self) -> str:
        """What kind of condition it encodes, in words."""
        ...

    @property
    def distilled(self) -> bool:
        """Whether the network was distilled with guidance: it gets the scale as an input, and runs once."""
        ...

    def positive(self, condition: Condition) -> Conditioning:
        """Return the conditioning of the prompt or class."""
        ...

    def negative(self, condition: Condition) -> Conditioning:
        """Return the conditioning that guidance leads away from."""
        ...


@dataclass(frozen=True)
class ClassLabels:
    """Encodes the classes of a network; there are no prompts.

    Args:
        name: the model's, for errors.
        classes: the classes.
    """

    name: str
    classes: Classes
    distilled: ClassVar[bool] = False
    components: ClassVar[Components] = {}

    @property
    def follows(self) -> str:
        """The numbers of the classes."""
        return f"classes from 0 to {self.classes.count - 1}"

    def positive(self, condition: Condition) -> Conditioning:
        """Return the label of the class, or of no class.

        Raises:
            ArgumentError: a prompt, a class that does not exist, or no class where one is needed.
        """
        if prompt := condition.prompt or condition.negative_prompt:
            raise ArgumentError(f"{self.name} follows classes, not prompts. Leave the prompt {prompt!r} out.")
        label = self.classes.none if condition.label is None else condition.label
        if label is None or (condition.label is not None and label >= self.classes.count):
            given = "is missing" if label is None else f"{label} does not exist"
            raise ArgumentError(f"The class {given}. {self.name} follows {self.follows}: choose one.")
        return {"label": torch.tensor([label])}

    def negative(self, condition: Condition) -> Conditioning:
        """Return the label of no class.

        Raises:
            ArgumentError: there is no such label, so there can be no guidance.
        """
        if self.classes.none is None:
            raise ArgumentError(
                f"{self.name} has no label for no class, so guidance_scale {condition.guidance_scale:g} cannot be "
                "followed. Leave guidance out."
            )
        return {"label": torch.tensor([self.classes.none])}


@dataclass(frozen=True)
class Conditioner:
    """Makes the denoiser of a condition, guided where the condition asks for it.

    Args:
        denoiser: the denoiser of the network without conditioning.
        network: its network.
        encoder: what encodes conditions.
        low: the denoiser's network for low noise, if it has one.
        rule: how guidance combines two outputs.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", NeurIPS 2021 workshop, arXiv:2207.12598.
    """

    denoiser: NetworkDenoiser
    network: DeviceNetwork
    encoder: ConditionEncoder
    low: DeviceNetwork | None = None
    rule: GuidanceRule = torch.lerp

    def __call__(self, condition: Condition) -> Denoiser:
        """Return the denoiser.

        Raises:
            ArgumentError: a condition that the network cannot follow.
        """
        return self.guided(condition, self.encoder.positive(condition))

    def with_conditioning(self, conditioning: Conditioning) -> NetworkDenoiser:
        """Return the denoiser of the network with these inputs, without guidance."""
        low = None if self.low is None else self.low.with_conditioning(conditioning)
        return replace(self.denoiser, network=self.network.with_conditioning(conditioning), low=low)

    def away_from(self, condition: Condition) -> Conditioning:
        """Return what guidance leads away from: the negative prompt, or no class.

        Raises:
            ArgumentError: no class stands for none.
        """
        if self.encoder.distilled:
            return self.encoder.positive(replace(condition, prompt=condition.negative_prompt, negative_prompt=""))
        return self.encoder.negative(condition)

    def guided(self, condition: Condition, positive: Conditioning) -> Denoiser:
        """Return the denoiser of a condition, with these inputs in place of its prompt or class."""
        if not condition.guided or self.encoder.distilled:
            return self.with_conditioning(positive)
        negative = self.encoder.negative(condition)

        def guided(network: DeviceNetwork) -> Network:
            if any(positive[name].shape != negative[name].shape for name in positive):
                # Prompts of different lengths do not fit into one batch.
                with_prompt, without = network.with_conditioning(positive), network.with_conditioning(negative)
                return GuidedPair(with_prompt, without, condition.guidance_scale, self.rule)
            both = {name: torch.cat([negative[name], positive[name]]) for name in positive}
            return GuidedNetwork(network.with_conditioning(both), condition.guidance_scale, self.rule)

        low = None if self.low is None else guided(self.low)
        return replace(self.denoiser, network=guided(self.network), low=low)

    def unconditional(self) -> Denoiser:
        """Return the denoiser of no condition; for networks that need one, a denoiser that raises when called."""
        try:
            return self(NOTHING)
        except ArgumentError as error:
            return UnavailableDenoiser(error)


@dataclass(frozen=True)
class UnavailableDenoiser:
    """Takes the place of the unconditional denoiser of a model that has none.

    Args:
        error: what it raises when called.
    """

    error: ArgumentError

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Raise the error."""
        raise self.error
