"""h-space: reading the bottleneck h of a UNet, and shifting it while decoding.

The meaning of h changes little over time and from image to image, so one direction added to it at every step edits any
image. A shift that reached x0 and eps alike would nearly cancel in DDIM's step, x' = alpha' x0 + sigma' eps, because
both are taken at one x; so by default it reaches x0 alone (`asymmetric`).

References:
    Kwon, Jeong, Uh, "Diffusion Models Already Have a Semantic Latent Space", ICLR 2023, arXiv:2210.10960 (Asyrp).
"""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, NetworkDenoiser
from ddim_edit.diffusion.parametrization import Parametrization, Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ModelError
from ddim_edit.transfer import to_device


@runtime_checkable
class Bottleneck(Protocol):
    """A network whose bottleneck h [B, c, h, w] can be read and shifted.

    All methods take the network's input x [B, C, H, W], its time conditions [B] and, as keywords, its conditioning.
    """

    def __call__(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        """Return the network's raw output, of the shape of x."""
        ...

    def read(self, x: Tensor, index: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same output, and h."""
        ...

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same output, and the one with shift [c, h, w] or [B, c, h, w] added to h."""
        ...


def require_bottleneck(network: object) -> Bottleneck:
    """Return the network itself, known to have a bottleneck.

    Raises:
        ModelError: it has none, or none that it exposes.
    """
    if not isinstance(network, Bottleneck):
        raise ModelError(
            f"The network ({type(network).__name__}) does not expose its bottleneck h. Edit at a level of x, as 0.4T."
        )
    return network


def bottleneck_of(denoiser: Denoiser) -> tuple[NetworkDenoiser, Bottleneck]:
    """Return the denoiser and its network, known to have a bottleneck.

    Raises:
        ModelError: the denoiser is not a `NetworkDenoiser` but combines, clips or shifts others, or its network does
            not expose its bottleneck.
    """
    if not isinstance(denoiser, NetworkDenoiser):
        raise ModelError(
            f"Only a single network has a bottleneck h, not a {type(denoiser).__name__}. Leave guidance out or edit at"
            " a level of x such as 0.4T."
        )
    return denoiser, require_bottleneck(denoiser.network)


def bottleneck_at(denoiser: Denoiser, level: Level) -> tuple[NetworkDenoiser, Bottleneck]:
    """Return the denoiser with the one network that it evaluates at a level, and that network's bottleneck.

    Raises:
        ModelError: as `bottleneck_of`.
    """
    at_level = bottleneck_of(denoiser)[0].at(level)
    return at_level, require_bottleneck(at_level.network)


@dataclass(frozen=True)
class BottleneckReader:
    """A denoiser that predicts as another one and keeps h of every level, of several evaluations the last.

    Args:
        denoiser: a `NetworkDenoiser` over a `Bottleneck`.
        bottlenecks: where h [B, c, h, w] is kept, by the level's t.

    Raises:
        ModelError: a denoiser without a bottleneck.
    """

    denoiser: Denoiser
    bottlenecks: MutableMapping[float, Tensor]

    def __post_init__(self) -> None:
        bottleneck_of(self.denoiser)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the denoiser's prediction at x [B, C, H, W]."""
        denoiser, bottleneck = bottleneck_at(self.denoiser, level)

        def read(x: Tensor, index: Tensor) -> Tensor:
            output, self.bottlenecks[level.t] = bottleneck.read(x, index)
            return output

        return replace(denoiser, network=read)(x, level)


Form = Callable[[Prediction, Prediction], Prediction]
"""Combines the network's own prediction and the shifted one."""


def plain(own: Prediction, shifted: Prediction) -> Prediction:
    """Return the shifted x0 and eps; DDIM's step nearly cancels such a shift, so it edits weakly."""
    return shifted


def asymmetric(own: Prediction, shifted: Prediction) -> Prediction:
    """Return the shifted x0 with the network's own eps, for solvers that use both.

        x' = alpha' x0(h + shift) + sigma' eps(h)

    The two no longer add up to x, so a solver that uses eps alone (`SolverEntry.uses_x0`) would not be changed.

    References:
        Kwon, Jeong, Uh, "Diffusion Models Already Have a Semantic Latent Space", ICLR 2023, arXiv:2210.10960, eq. 5.
    """
    return Prediction(shifted.x0, own.eps)


FORMS: Mapping[str, Form] = {"plain": plain, "asymmetric": asymmetric}


@dataclass(frozen=True)
class ShiftedDenoiser:
    """A denoiser whose bottleneck is shifted at chosen levels; for decoding, not for inversion.

    A latent that was inverted with the unshifted denoiser then decodes to an edited image. A shifted evaluation counts
    as one, though it runs the decoder half of the network twice.

    Args:
        denoiser: a `NetworkDenoiser` over a `Bottleneck`.
        shifts: [c, h, w], or [B, c, h, w] for a batch of B, by the t of a level; a t that no step starts from has no
            effect.
        form: one of `FORMS`.

    Raises:
        ModelError: a denoiser without a bottleneck.
        ArgumentError: when called, a shift whose shape is not that of h.
    """

    denoiser: Denoiser
    shifts: Mapping[float, Tensor]
    form: Form = asymmetric

    def __post_init__(self) -> None:
        bottleneck_of(self.denoiser)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """Return the prediction at x [B, C, H, W]."""
        if level.t not in self.shifts:
            return self.denoiser(x, level)
        shift = to_device(self.shifts[level.t], x.device)
        inner, bottleneck = bottleneck_at(self.denoiser, level)

        # One call of the network for both outputs: the half before the bottleneck runs once.
        def own_and_shifted(x: Tensor, index: Tensor) -> Tensor:
            return torch.stack(bottleneck.shifted(x, index, shift))

        parametrization = _ShiftedParametrization(inner.parametrization, self.form)
        return replace(inner, network=own_and_shifted, parametrization=parametrization)(x, level)


@dataclass(frozen=True)
class _ShiftedParametrization:
    """Parametrization of a network that returns its own and the shifted output, stacked."""

    base: Parametrization
    form: Form

    @property
    def name(self) -> str:
        return self.base.name

    def scale_input(self, x: Tensor, level: Level) -> Tensor:
        return self.base.scale_input(x, level)

    def time_condition(self, level: Level) -> float:
        return self.base.time_condition(level)

    def to_prediction(self, output: Tensor, x: Tensor, level: Level) -> Prediction:
        own, shifted = (self.base.to_prediction(each, x, level) for each in output)
        return self.form(own, shifted)
