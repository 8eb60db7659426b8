"""h-space: the bottleneck of a network, to be read, and to be shifted while decoding.

What h means changes little over time and from picture to picture, so one direction, added to it on the way down, edits
any picture (Asyrp: Kwon, Jeong, Uh 2023).
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
    """A network whose bottleneck h can be read and shifted; x [B, C, H, W], indices [B], h [B, c, h, w]."""

    def __call__(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        """The network's raw output, of the shape of x; given is its condition, if it follows one."""
        ...

    def read(self, x: Tensor, index: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        """The same output, and h."""
        ...

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        """The same output, and the one with shift [c, h, w] or [B, c, h, w] added to h."""
        ...


_REMEDY = "leave guidance out, if there is any, or edit in x, at a level such as 0.4T"


def require_bottleneck(network: object) -> Bottleneck:
    """The network itself, known to have a bottleneck.

    Raises:
        ModelError: it has none, or none that it shows.
    """
    if not isinstance(network, Bottleneck):
        raise ModelError("a network that shows its bottleneck", f"a {type(network).__name__}", _REMEDY)
    return network


def bottleneck_of(denoiser: Denoiser) -> tuple[NetworkDenoiser, Bottleneck]:
    """The denoiser and its network, known to have a bottleneck; not one that combines, clips, shifts or watches others.

    Raises:
        ModelError: the denoiser is no `NetworkDenoiser`, or its network has no bottleneck.
    """
    if not isinstance(denoiser, NetworkDenoiser):
        given = f"a {type(denoiser).__name__}"
        raise ModelError("a denoiser that is one network with a bottleneck", given, _REMEDY)
    return denoiser, require_bottleneck(denoiser.network)


def _at(denoiser: Denoiser, level: Level) -> tuple[NetworkDenoiser, Bottleneck]:
    """The denoiser with the one network that it asks at a level, and that network's bottleneck."""
    one, _ = bottleneck_of(denoiser)
    return one.at(level), require_bottleneck(one.at(level).network)


@dataclass(frozen=True)
class BottleneckReader:
    """A denoiser that answers as another one and notes h as it goes; keeps one h per level, the last.

    Args:
        denoiser: a `NetworkDenoiser` over a `Bottleneck`.
        seen: takes h [B, c, h, w] by the level's t.

    Raises:
        ModelError: a denoiser without a bottleneck.
    """

    denoiser: Denoiser
    seen: MutableMapping[float, Tensor]

    def __post_init__(self) -> None:
        bottleneck_of(self.denoiser)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The denoiser's prediction at x [B, C, H, W]."""
        denoiser, bottleneck = _at(self.denoiser, level)

        def noting(x: Tensor, index: Tensor) -> Tensor:
            output, self.seen[level.t] = bottleneck.read(x, index)
            return output

        return replace(denoiser, network=noting)(x, level)


Form = Callable[[Prediction, Prediction], Prediction]
"""Makes one prediction of the network's own and the shifted one."""


def plain(own: Prediction, shifted: Prediction) -> Prediction:
    """The shifted prediction, x0 and eps alike; DDIM's steps nearly cancel a shift in eps, so it edits weakly."""
    return shifted


def asymmetric(own: Prediction, shifted: Prediction) -> Prediction:
    """The shifted x0 with the network's own eps, which no longer add up to x; for `euler` and `multistep` only.

    x' = alpha' x0(h + shift) + sigma' eps(h).

    Kwon, Jeong, Uh (2023), eq. 5.
    """
    return Prediction(shifted.x0, own.eps)


FORMS: Mapping[str, Form] = {"plain": plain, "asymmetric": asymmetric}


@dataclass(frozen=True)
class ShiftedDenoiser:
    """A denoiser whose bottleneck is shifted at chosen levels; for decoding, not for `invert`.

    A code that was inverted with the unshifted denoiser decodes to an edited picture. Solvers that ask for eps alone
    (all but "ddim" and "dpm2m") do not see an asymmetric shift. A shifted evaluation counts as one, but decodes twice.

    Args:
        denoiser: a `NetworkDenoiser` over a `Bottleneck`.
        shifts: [c, h, w], or [B, c, h, w] for a batch of B, by the t of a level; a t that no step starts from does
            nothing.
        form: one of `FORMS`.

    Raises:
        ModelError: a denoiser without a bottleneck.
        ArgumentError: when called, a shift whose shape is not that of h.

    Kwon, Jeong, Uh (2023).
    """

    denoiser: Denoiser
    shifts: Mapping[float, Tensor]
    form: Form = asymmetric

    def __post_init__(self) -> None:
        bottleneck_of(self.denoiser)

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        """The prediction at x [B, C, H, W]."""
        shift = self.shifts.get(level.t)
        if shift is None:
            return self.denoiser(x, level)
        return _shifted(self.denoiser, level, to_device(shift, x.device), self.form)(x, level)


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


def _shifted(denoiser: Denoiser, level: Level, shift: Tensor, form: Form) -> NetworkDenoiser:
    """Return a denoiser whose network runs once for the plain and the shifted output."""
    inner, bottleneck = _at(denoiser, level)

    def both(x: Tensor, index: Tensor) -> Tensor:
        return torch.stack(bottleneck.shifted(x, index, shift))

    return replace(inner, network=both, parametrization=_ShiftedParametrization(inner.parametrization, form))
