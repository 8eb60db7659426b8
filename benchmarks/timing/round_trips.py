"""The round trips that are compared: this package's, and a plain loop around diffusers' schedulers."""

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
COMPILED_DTYPE = "bfloat16"


class RoundTrip(Protocol):
    """Inverts images [B, 3, H, W], and returns what decodes their latents again."""

    def __call__(self, images: Tensor) -> Callable[[], Tensor]:
        """Invert."""
        ...


MakeRoundTrip = Callable[[int], RoundTrip]
"""Makes the round trip of a number of steps."""


@dataclass(frozen=True)
class EditorRoundTrip:
    """The editor, with all that it does besides: digests, dequantisation, reports."""

    model: Model
    config: InversionConfig

    def __call__(self, images: Tensor) -> Callable[[], Tensor]:
        """Invert."""
        editor = Editor(self.model, batch_size=len(images))
        return partial(editor.decode, editor.invert(images, self.config))


@dataclass(frozen=True)
class DiffusersRoundTrip:
    """What diffusers' users write: DDIMInverseScheduler up, DDIMScheduler down, float32, no_grad, default flags.

    Args:
        network: a `UNet2DModel`.
        loop: the loops around it; the schedulers do not clip, which only costs accuracy.
        steps: in each direction, one evaluation a step.
    """

    network: Any
    loop: DiffusersInversion
    steps: int

    def __call__(self, images: Tensor) -> Callable[[], Tensor]:
        """Invert."""
        x = self.loop.encode(images.to(self.network.device, torch.float32), self.steps)
        return lambda: self.loop.decode(x, self.steps).cpu()


def ours(folder: Path, place: Place, dtype: str, compiled: bool = False) -> MakeRoundTrip:
    """Return this package's round trip in the default configuration, once the model is loaded."""
    model = load_model(folder, place.name, dtype, compiled=compiled)
    return lambda steps: EditorRoundTrip(model, InversionConfig(steps=steps))


def theirs(folder: Path, place: Place) -> MakeRoundTrip:
    """Return diffusers' round trip, once its network is loaded from the same folder."""
    network = load_their_network(folder, place)
    loop = make_their_loop(folder, lambda x, time: network(x, time).sample)
    return lambda steps: DiffusersRoundTrip(network, loop, steps)


def load_their_network(folder: Path, place: Place) -> Any:
    """Return diffusers' network of a model folder, in float32 on the device."""
    return _import_diffusers().UNet2DModel.from_pretrained(folder / "unet").eval().to(place.device)


def make_their_loop(folder: Path, network: Callable[[Tensor, Tensor], Tensor]) -> DiffusersInversion:
    """Return diffusers' two schedulers of a model folder, without clipping, around a network."""
    diffusers = _import_diffusers()
    down = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False)
    up = diffusers.DDIMInverseScheduler.from_config(down.config, clip_sample=False)
    return DiffusersInversion(network, up, down)


def make_multistep_loop(folder: Path, network: Callable[[Tensor, Tensor], Tensor]) -> DiffusersInversion:
    """Return diffusers' DPM-Solver++ both ways, of order 2 on Karras sigmas, around a network."""
    diffusers = _import_diffusers()
    config = diffusers.DDIMScheduler.load_config(folder / "scheduler")
    options = {"solver_order": 2, "use_karras_sigmas": True}
    up = diffusers.DPMSolverMultistepInverseScheduler.from_config(config, **options)
    return DiffusersInversion(network, up, diffusers.DPMSolverMultistepScheduler.from_config(config, **options))


def _import_diffusers() -> Any:
    import diffusers

    # It warns of every entry of a config that another scheduler of its own has no use for.
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def all_round_trips(folder: Path, place: Place, compiled: bool = False) -> Mapping[str, MakeRoundTrip]:
    """Return diffusers' round trip, then ours in every dtype worth measuring, and compiled where asked for."""
    found = {THEIRS: theirs(folder, place)}
    for dtype in place.dtypes:
        found[f"ours, {dtype}"] = ours(folder, place, dtype)
    if compiled:
        found[f"ours, {COMPILED_DTYPE}, compiled"] = ours(folder, place, COMPILED_DTYPE, compiled=True)
    return found


class TimedRoundTrip(NamedTuple):
    """One round trip: seconds of the inversion and of the decoding, and the decoded images."""

    inverting: float
    decoding: float
    decoded: Tensor

    @property
    def total(self) -> float:
        """Seconds of both."""
        return self.inverting + self.decoding


def time_round_trip(round_trip: RoundTrip, images: Tensor, place: Place) -> TimedRoundTrip:
    """Invert and decode images, and take the time of both."""
    inverting, decode = place.timed(partial(round_trip, images))
    decoding, decoded = place.timed(decode)
    return TimedRoundTrip(inverting, decoding, decoded)
