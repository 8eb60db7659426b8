"""The two ways there and back that are compared: this package's, and a plain loop around diffusers' schedulers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ddim_edit import Editor, InversionConfig, Model, load_model
from ddim_edit.models.diffusers_inversion import DiffusersInversion
from timing.place import Place

THEIRS = "diffusers"
Loop = DiffusersInversion
"""Diffusers' inverse scheduler up and its scheduler down."""


class Way(Protocol):
    """Walks pictures [B, 3, H, W] up to their codes, and hands back what walks these down to pictures again."""

    def __call__(self, pictures: Tensor) -> Callable[[], Tensor]:
        """Walk up."""
        ...


WayIn = Callable[[int], Way]
"""A way by its number of steps."""


@dataclass(frozen=True)
class Ours:
    """The editor, with all that it does besides: fingerprints, dequantisation, reports."""

    model: Model
    method: InversionConfig

    def __call__(self, pictures: Tensor) -> Callable[[], Tensor]:
        """Invert."""
        editor = Editor(self.model, batch_size=len(pictures))
        return partial(editor.decode, editor.invert(pictures, self.method))


@dataclass(frozen=True)
class Theirs:
    """What diffusers' users write: DDIMInverseScheduler up, DDIMScheduler down, float32, no_grad, default flags.

    Args:
        network: a `UNet2DModel`.
        loop: the walks around it; the schedulers do not clip, which only costs accuracy.
        steps: of each walk, one evaluation a step.
    """

    network: Any
    loop: Loop
    steps: int

    def __call__(self, pictures: Tensor) -> Callable[[], Tensor]:
        """Invert."""
        x = self.loop.encode(pictures.to(self.network.device, torch.float32), self.steps)
        return lambda: self.loop.decode(x, self.steps).cpu()


def ours(folder: Path, place: Place, dtype: str, compiled: bool = False) -> WayIn:
    """Return this package's variant with the default configuration, once the model is loaded."""
    model = load_model(folder, place.name, dtype, compiled=compiled)
    return lambda steps: Ours(model, InversionConfig(steps=steps))


def theirs(folder: Path, place: Place) -> WayIn:
    """Diffusers' way, once its network is loaded from the same folder."""
    network = their_network(folder, place)
    loop = their_loop(folder, lambda x, time: network(x, time).sample)
    return lambda steps: Theirs(network, loop, steps)


def their_network(folder: Path, place: Place) -> Any:
    """Return diffusers' network of a model folder, in float32 on the device."""
    return _diffusers().UNet2DModel.from_pretrained(folder / "unet").eval().to(place.device)


def their_loop(folder: Path, ask: Callable[[Tensor, Tensor], Tensor]) -> Loop:
    """Return diffusers' two schedulers of a model folder, without clipping, around a network."""
    diffusers = _diffusers()
    down = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False)
    up = diffusers.DDIMInverseScheduler.from_config(down.config, clip_sample=False)
    return DiffusersInversion(ask, up, down)


def _diffusers() -> Any:
    import diffusers

    # It warns of every entry of a config that another scheduler of its own has no use for.
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def all_ways(folder: Path, place: Place, compiled: bool = False) -> Mapping[str, WayIn]:
    """Diffusers' way first, then ours in every dtype that is worth measuring, and compiled as well where asked for."""
    own = {f"ours, {dtype}": ours(folder, place, dtype) for dtype in place.dtypes}
    fast = "bfloat16"
    extra = {f"ours, {fast}, compiled": ours(folder, place, fast, True)} if compiled else {}
    return {THEIRS: theirs(folder, place), **own, **extra}


class Lap(NamedTuple):
    """One round trip: seconds up, seconds down, and what came back."""

    up: float
    down: float
    back: Tensor

    @property
    def trip(self) -> float:
        """Seconds there and back."""
        return self.up + self.down


def lap(way: Way, pictures: Tensor, place: Place) -> Lap:
    """Walk there and back with a watch in hand."""
    up, decode = place.timed(partial(way, pictures))
    down, back = place.timed(decode)
    return Lap(up, down, back)
