"""Checkpoints of guided-diffusion and improved-diffusion, which share one layout; their upsamplers cannot be run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ddim_edit.diffusion.parametrization import DDPMParametrization, RescaledTimestepIndex, timestep_index
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.models.checkpoint import Checkpoint, Classes, State
from ddim_edit.models.entries import MOST
from ddim_edit.models.single_file.family import Family, Settings, linear
from ddim_edit.models.unet.guided_unet import (
    BY_BLOCKS,
    BY_CONVOLUTIONS,
    WITHOUT_WEIGHTS,
    GuidedUNet,
    Heads,
    Layers,
    Order,
    Resampling,
    head_first,
    role_first,
)
from ddim_edit.models.weights import fill

_NAME = "guided-diffusion"
_MARKS = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.2.weight")


_SCHEDULES: Mapping[str, Callable[[int], NoiseSchedule]] = {"linear": linear, "cosine": NoiseSchedule.cosine}
_ORDERS: Mapping[bool, Order] = {False: head_first, True: role_first}


@dataclass(frozen=True)
class Flags:
    """What no weight tells, under the repositories' own names; the defaults are guided-diffusion's."""

    image_size: int | None = None
    num_heads: int = 4
    num_head_channels: int = -1
    use_new_attention_order: bool = False
    noise_schedule: str = "linear"
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False
    predict_xstart: bool = False


def _is_positive(value: object) -> bool:
    return type(value) is int and 0 < value <= MOST


def _is_flag(value: object) -> bool:
    return type(value) is bool


_WHOLE, _YES_OR_NO = ("a positive whole number", _is_positive), ("true or false", _is_flag)
_DOMAINS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "image_size": _WHOLE,
    "num_heads": _WHOLE,
    "num_head_channels": ("a positive whole number or -1", lambda value: _is_positive(value) or value == -1),
    "use_new_attention_order": _YES_OR_NO,
    "noise_schedule": (" or ".join(_SCHEDULES), lambda value: isinstance(value, str) and value in _SCHEDULES),
    "diffusion_steps": _WHOLE,
    "rescale_timesteps": _YES_OR_NO,
    "predict_xstart": _YES_OR_NO,
}

# Both repositories choose the multiples of `num_channels` by the image size.
_SIZES: Mapping[tuple[float, ...], int] = {
    (0.5, 1, 1, 2, 2, 4, 4): 512,
    (1, 1, 2, 2, 4, 4): 256,
    (1, 1, 2, 3, 4): 128,
    (1, 2, 3, 4): 64,
    (1, 2, 2, 2): 32,
}
_GUIDED = Flags(num_head_channels=64)
_GUIDED_RELEASES: Mapping[int | None, Flags] = {
    64: replace(_GUIDED, use_new_attention_order=True, noise_schedule="cosine"),
    128: Flags(num_heads=4),
}
_IMPROVED = Flags(noise_schedule="cosine", diffusion_steps=4000, rescale_timesteps=True)
_IMPROVED_RELEASES: Mapping[tuple[int | None, bool], Flags] = {
    (32, False): _IMPROVED,
    (32, True): _IMPROVED,
    (64, False): _IMPROVED,
    (64, True): replace(_IMPROVED, rescale_timesteps=False),
}


def assumed_flags(layers: Layers) -> Flags:
    """The flags of the released checkpoint that has the same layers, or of the closest; a guess for anybody else's.

    - Resampling residual blocks (`resblock_updown`) mean guided-diffusion: 64 channels a head, 1000 linear steps; at
      64 pixels cosine and the new attention order, at 128 pixels 4 heads.
    - Everything else means improved-diffusion. At 32 and 64 pixels: 4 heads, 4000 cosine steps, their indices rescaled
      but for classes at 64 pixels. Without scale-shift norm, which is its LSUN: 1 head, 1000 linear steps.
      No release has other layers, so both repositories' defaults hold: 4 heads, 1000 linear steps.

    The image size is what both repositories choose these multiples of channels for, or None.
    """
    size = _SIZES.get(tuple(width / layers.model_channels for width in layers.widths))
    return replace(_released(layers, size), image_size=size)


def _released(layers: Layers, size: int | None) -> Flags:
    if layers.resampling == BY_BLOCKS:
        return _GUIDED_RELEASES.get(size, _GUIDED)
    if not layers.use_scale_shift_norm:
        return Flags(num_heads=1)
    return _IMPROVED_RELEASES.get((size, layers.num_classes is not None), Flags())


def read_flags(layers: Layers, settings: Settings) -> Flags:
    """What the settings say, and `assumed_flags` where they are silent; `num_heads` alone unsets `num_head_channels`.

    Raises:
        ModelError: an unknown flag, or a value that it cannot take.
    """
    for name, value in settings.items():
        _check_flag(name, value)
    unset = {"num_head_channels": -1} if "num_heads" in settings else {}
    return replace(assumed_flags(layers), **(unset | dict(settings)))


def _check_flag(name: str, value: object) -> None:
    if name not in _DOMAINS:
        raise ModelError(f"flags out of {', '.join(_DOMAINS)}", name, "leave it out: the weights tell the rest")
    wanted, has = _DOMAINS[name]
    if not has(value):
        raise ModelError(f"{name} to be {wanted}", f"{value!r}", "give the value of its training")


def read_layers(state: State) -> Layers:
    """The layers of a network, read from the names and shapes of its tensors alone.

    Each level has num_res_blocks + 1 blocks in either direction, resampling included; only the way up tells a
    resampling residual block from another one.

    Raises:
        ModelError: a tensor that every such network has is missing.
    """
    resamplers, outputs = _resamplers(state), _count_blocks(state, "output_blocks")
    # A pool has no weights, so that its place among the blocks is empty.
    pools = outputs - _count_blocks(state, "input_blocks")
    levels = max(1 + len(resamplers) + pools, 1)
    height = max(outputs // levels, 1)
    firsts = [f"input_blocks.{1 + level * height}" for level in range(levels)]
    widths = tuple(_shape(state, f"{first}.0.out_layers.3.weight")[0] for first in firsts)
    return Layers(
        in_channels=_shape(state, "input_blocks.0.0.weight")[1],
        out_channels=_shape(state, "out.2.weight")[0],
        model_channels=_shape(state, "time_embed.0.weight")[1],
        widths=widths,
        num_res_blocks=height - 1,
        attention=frozenset(level for level, first in enumerate(firsts) if f"{first}.1.qkv.weight" in state),
        num_classes=len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
        use_scale_shift_norm=_shape(state, "input_blocks.1.0.emb_layers.1.weight")[0] == 2 * widths[0],
        resampling=resamplers[0] if resamplers else WITHOUT_WEIGHTS,
    )


def _resamplers(state: State) -> list[Resampling]:
    """One for every level but the last: they stand in an output block, after what every block has."""
    kinds = {"in_layers.2": BY_BLOCKS, "conv": BY_CONVOLUTIONS}
    found = (re.fullmatch(r"output_blocks\.\d+\.[12]\.(in_layers\.2|conv)\.weight", name) for name in state)
    return [kinds[match[1]] for match in found if match]


def _count_blocks(state: State, side: str) -> int:
    return len({name.split(".")[1] for name in state if name.startswith(f"{side}.")})


def _shape(state: State, name: str) -> tuple[int, ...]:
    if name not in state:
        raise ModelError(f"a whole {_NAME} checkpoint", f"one without {name}", "fetch the file again")
    return tuple(state[name].shape)


def _matches(state: State) -> bool:
    return all(name in state for name in _MARKS)


def _check_kind(state: State) -> None:
    """Refuse the networks of this layout that do not denoise pictures by themselves."""
    wanted, remedy = f"a {_NAME} network that denoises pictures", "use the diffusion model it was made to go with"
    if not any(name.startswith("output_blocks.") for name in state):
        raise ModelError(wanted, "a classifier, which has no way up", remedy)
    if any(".transformer_blocks." in name for name in state):
        raise ModelError(wanted, "one that attends to a text", "load the whole model as a diffusers folder")
    inputs, outputs = _shape(state, "input_blocks.0.0.weight")[1], _shape(state, "out.2.weight")[0]
    if inputs == 6:
        raise ModelError(wanted, "an upsampler, which sees a small picture in 3 of its 6 channels", remedy)
    if outputs not in (inputs, 2 * inputs):
        given = f"one with {inputs} channels in and {outputs} out"
        raise ModelError(f"{wanted}, with as many channels out as in, or twice as many", given, "use another one")


def _build(state: State, settings: Settings) -> Checkpoint:
    """The checkpoint of a state dict; an upsampler or a classifier is refused.

    Raises:
        ModelError: a network that cannot be run, or a flag that does not fit it.
    """
    _check_kind(state)
    layers = read_layers(state)
    flags = read_flags(layers, settings)
    heads = Heads(flags.num_heads, flags.num_head_channels, _ORDERS[flags.use_new_attention_order])
    prediction = "sample" if flags.predict_xstart else "epsilon"
    time = RescaledTimestepIndex(flags.diffusion_steps) if flags.rescale_timesteps else timestep_index
    return Checkpoint(
        network=fill(lambda: GuidedUNet(layers, heads), state, f"a {_NAME} checkpoint"),
        schedule=_SCHEDULES[flags.noise_schedule](flags.diffusion_steps),
        parametrization=DDPMParametrization(prediction, time),
        channels=layers.in_channels,
        size=_size(layers, flags.image_size),
        classes=Classes(layers.num_classes) if layers.num_classes else None,
    )


def _size(layers: Layers, size: int | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if size % layers.stride:
        raise ModelError(f"an image_size in multiples of {layers.stride}", f"{size}", "give that of its training")
    return size, size


GUIDED_DIFFUSION = Family(name=_NAME, settings=tuple(_DOMAINS), matches=_matches, build=_build)
"""Pixel networks of guided-diffusion (ADM) and improved-diffusion; no upsamplers, classifiers or latent-diffusion.

Read from the weights: channels, widths, blocks, attention levels, scale-shift norm, resampling, classes, learned sigma.
Everything else is `Flags`, assumed as `assumed_flags` says where the settings are silent. Other code's networks in the
same layout (consistency models, and the EDM network beside them) cannot be told apart by their tensors and are misread.

Nichol and Dhariwal (2021); Dhariwal and Nichol (2021).
"""
