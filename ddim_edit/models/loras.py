"""LoRAs in files: read in every layout that diffusers converts, and merged into the weights that they change.

PEFT is not needed: a LoRA is two matrices a layer, and W + scale B A is what PEFT fuses (`effective_weights`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError, ModelError, first_line
from ddim_edit.models.announcements import announce_loading
from ddim_edit.models.families.family import TextPipeline
from ddim_edit.models.pretrained import import_diffusers, quiet_libraries, read_config
from ddim_edit.models.tensor_files import read_tensors

_FILES = (
    *("pytorch_lora_weights.safetensors", "adapter_model.safetensors"),
    *("pytorch_lora_weights.bin", "adapter_model.bin"),
)
"""How LoRAs in folders are called, by diffusers and by PEFT."""
_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight")
_UP = (".lora_up.weight", ".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight")
_WHOLE = r"\.diff$"
_OTHERS: Mapping[str, str] = {
    r"hada_w": "LoHa",
    r"lokr_w": "LoKr",
    r"oft_": "OFT",
    r"dora_scale|lora_magnitude_vector": "DoRA",
    _WHOLE: "file of whole differences",
}
"""Adapters that are more than two matrices a layer, by the names of their tensors."""
_NAMES = re.compile(r"lora[._](A|B|up|down|unet|te|te1|te2|linear)", re.IGNORECASE)


class LoraSpec(NamedTuple):
    """A LoRA that was asked for.

    Fields: path of its file or folder; scale, by which it is multiplied.
    """

    path: Path
    scale: float = 1.0


class LoraLayer(NamedTuple):
    """What a LoRA adds to one layer.

    Fields: down, its A [rank, in, ...]; up, its B [out, rank, ...]; scale of their product; bias that is added.
    """

    down: Tensor
    up: Tensor
    scale: float
    bias: Tensor | None = None


def parse_lora(text: str | Path) -> LoraSpec:
    """Return the LoRA of "FILE" or "FILE:SCALE".

    Raises:
        ArgumentError: a scale that is no number, or a file that does not exist.

    Examples:
        >>> parse_lora("ink.safetensors:0.8")
        Traceback (most recent call last):
        ddim_edit.errors.ArgumentError: There is no LoRA 'ink.safetensors'. Name a file of one, or its folder.
    """
    path = Path(text)
    scale = 1.0
    if not path.exists() and ":" in str(text):
        name, _, number = str(text).rpartition(":")
        path = Path(name)
        try:
            scale = float(number)
        except ValueError:
            scale = math.nan
        if not math.isfinite(scale):
            raise ArgumentError(f"The scale of the LoRA {name!r:.200} must be a number, not {number!r:.60}.")
    if path.is_dir():
        path = next((path / each for each in _FILES if (path / each).is_file()), path)
    if not path.is_file():
        raise ArgumentError(f"There is no LoRA {str(path)!r:.200}. Name a file of one, or its folder.")
    return LoraSpec(path, scale)


def find_loras(folder: Path, without: Iterable[LoraSpec] = ()) -> list[Path]:
    """Return the files in a folder that are LoRAs by the names of their tensors, without those that are in use."""
    used = {spec.path.resolve() for spec in without}
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        if file.resolve() in used:
            continue
        try:
            with safe_open(file, "pt") as opened:
                names = list(opened.keys())
        except (OSError, SafetensorError):
            continue  # which is no LoRA, and nobody asked for it
        if any(_NAMES.search(name) for name in names):
            found.append(file)
    return found


def read_lora(spec: LoraSpec, pipeline: TextPipeline, network: Any) -> dict[str, dict[str, LoraLayer]]:
    """Return what a LoRA adds to each layer of each component of a pipeline, by their names.

    Args:
        spec: the LoRA; its layout is that of diffusers, of PEFT or of kohya-ss.
        pipeline: the pipeline of its model, whose class in diffusers knows the layouts.
        network: the network of diffusers that it is for.

    Raises:
        MissingExtraError: diffusers is not installed.
        ModelError: a file that cannot be read, that is no LoRA, or one of another kind.
    """
    announce_loading(spec.path.name, [spec.path], quick=True)
    tensors = {name: tensor.float() for name, tensor in read_tensors(spec.path).items()}
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ModelError(f"{spec.path}: {broken[0]:.80} contains NaN or infinite values. Download it again.")
    for pattern, kind in _OTHERS.items():
        # Single layers of a LoRA may have differences, which its conversion knows or refuses.
        whole = pattern != _WHOLE or not any(name.endswith(_DOWN) for name in tensors)
        if whole and any(re.search(pattern, name) for name in tensors):
            raise ModelError(
                f"{spec.path}: it is a {kind}, and only LoRAs are merged here. Fuse it with diffusers, and save the "
                "pipeline."
            )
    if not any(_NAMES.search(name) for name in tensors):
        raise ModelError(f"{spec.path}: there is no LoRA in this file. Name another one.")
    settings = _read_settings(spec.path)
    tensors = _with_alphas(_with_component(tensors, pipeline.network))
    converted = _convert(tensors, spec, pipeline, network)
    layers: dict[str, dict[str, LoraLayer]] = {}
    for name, down, up, bias in _pairs(converted, spec.path):
        component, _, layer = name.partition(".")
        if component not in (pipeline.network, *pipeline.text_encoders):
            raise ModelError(f"{spec.path}: this LoRA changes {name:.80}, which is no part of a {pipeline.name}.")
        scale = spec.scale * _settings_scale(settings, component, down.shape[0])
        layers.setdefault(component, {})[layer] = LoraLayer(down, up, scale, bias)
    return layers


def merge_lora(module: Any, layers: Mapping[str, LoraLayer], source: str) -> None:
    """Add a LoRA to the weights of a module, as PEFT fuses it.

    Args:
        module: a network or a text encoder, which is changed.
        layers: by the names of its layers.
        source: the file, for errors.

    Raises:
        ModelError: layers that the module does not have, or of other sizes.
    """
    modules = dict(module.named_modules())
    with torch.no_grad():
        for name, layer in layers.items():
            # Text encoders of transformers 5 have lost the first part of their names.
            found = modules.get(name) or modules.get(name.removeprefix("text_model."))
            if found is None or not isinstance(getattr(found, "weight", None), nn.Parameter):
                raise ModelError(f"{source}: this LoRA is of another model: there is no layer {name:.80}.")
            change = _product(layer.down, layer.up)
            if change is None or change.shape != found.weight.shape:
                raise ModelError(
                    f"{source}: this LoRA is of another model: its layer {name:.80} does not fit "
                    f"{list(found.weight.shape)}."
                )
            found.weight += change * layer.scale
            if layer.bias is not None and getattr(found, "bias", None) is not None:
                found.bias += layer.bias * layer.scale


def _product(down: Tensor, up: Tensor) -> Tensor | None:
    """Return B A, also of convolutions; None where they do not fit."""
    if down.dim() not in (2, 4) or up.dim() not in (2, 4) or up.shape[1] != down.shape[0]:
        return None
    if down.dim() == 2:
        return up.flatten(1) @ down
    up = up if up.dim() == 4 else up[..., None, None]
    if up.shape[2:] != (1, 1):
        return None
    if down.shape[2:] == (1, 1):
        return (up[..., 0, 0] @ down[..., 0, 0])[..., None, None]
    return F.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)


def _read_settings(path: Path) -> Mapping[str, Any]:
    """Return what PEFT says of a LoRA: in the header of diffusers' files, or in a file beside its own."""
    beside = path.with_name("adapter_config.json")
    if path.stem == "adapter_model" and beside.is_file():
        return read_config(beside)
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            text = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
    return {}


def _settings_scale(settings: Mapping[str, Any], component: str, rank: int) -> float:
    """Return alpha / rank, as the settings of a component have it."""

    def setting(name: str) -> Any:
        return settings.get(f"{component}.{name}", settings.get(name))

    alpha = setting("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or rank < 1:
        return 1.0
    return float(alpha / (math.sqrt(rank) if setting("use_rslora") else rank))


def _with_component(tensors: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """Return the tensors of a file of PEFT under the name of the network, which it leaves out."""
    found = {}
    for name, tensor in tensors.items():
        own = name.removeprefix("base_model.model.")
        found[f"{network}.{own}" if own != name else name] = tensor
    return found


def _with_alphas(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with alpha / rank multiplied into B."""
    found = dict(tensors)
    for name in tensors:
        base = name.removesuffix(".alpha")
        if base == name:
            continue
        alpha = float(found.pop(name).flatten()[0]) if tensors[name].numel() == 1 else math.nan
        for down, up in zip(_DOWN, _UP, strict=True):
            if base + down in found and base + up in found:
                found[base + up] = found[base + up] * (alpha / max(len(found[base + down]), 1))
    return found


def _convert(tensors: dict[str, Tensor], spec: LoraSpec, pipeline: TextPipeline, network: Any) -> dict[str, Tensor]:
    """Return the tensors by names of PEFT, each with its component first, as diffusers' own conversion has them."""
    kind = getattr(import_diffusers(f"Loading a LoRA of a {pipeline.name}"), pipeline.name)
    from diffusers.utils import state_dict_utils

    convert: Any = state_dict_utils.convert_unet_state_dict_to_peft  # untyped
    if not hasattr(kind, "lora_state_dict"):
        raise ModelError(f"{spec.path}: models of a {pipeline.name} take no LoRAs.")
    try:
        with quiet_libraries():
            result = kind.lora_state_dict(tensors, unet_config=network.config)
            # Some classes return alphas too, which are none any more, and metadata.
            return _with_peft_names(result[0] if isinstance(result, tuple) else result, pipeline, convert)
    except Exception as error:  # conversions meet names that they do not expect anywhere, and raise anything at all
        raise ModelError(
            f"{spec.path}: this LoRA is of another model, or of a layout that diffusers does not know "
            f"({first_line(error)[:120]})."
        ) from error


def _with_peft_names(
    tensors: Mapping[str, Tensor], pipeline: TextPipeline, convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return converted tensors by the names that PEFT has, each with its component first."""
    found: dict[str, Tensor] = {}
    components = (pipeline.network, *pipeline.text_encoders)
    for component in components:
        prefix = f"{component}."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if component != pipeline.network:
            own = {_text_encoder_name(name): tensor for name, tensor in own.items()}
        elif not any(".lora_A." in name for name in own):
            own = convert(own)
        found |= {prefix + name: tensor for name, tensor in own.items()}
    known = tuple(f"{component}." for component in components)
    return found | {name: tensor for name, tensor in tensors.items() if not name.startswith(known)}


def _text_encoder_name(name: str) -> str:
    """Return the name that PEFT has for a tensor of a LoRA of a text encoder."""
    matrices = {"down": "lora_A", "up": "lora_B"}
    name = re.sub(r"\.to_(q|k|v|out)_lora\.(down|up)\.", lambda found: f".{found[1]}_proj.{matrices[found[2]]}.", name)
    return re.sub(r"\.lora(?:_linear_layer)?\.(down|up)\.", lambda found: f".{matrices[found[1]]}.", name)


def _pairs(tensors: Mapping[str, Tensor], source: Path) -> Iterator[tuple[str, Tensor, Tensor, Tensor | None]]:
    """Yield the name of each layer with its A, its B and the bias of B."""
    used = set[str]()
    for name in tensors:
        if not name.endswith(".lora_A.weight"):
            continue
        base = name.removesuffix(".lora_A.weight")
        up, bias = f"{base}.lora_B.weight", f"{base}.lora_B.bias"
        if up in tensors:
            used |= {name, up, bias}
            yield base, tensors[name], tensors[up], tensors.get(bias)
    if others := [name for name in tensors if name not in used]:
        raise ModelError(
            f"{source}: {others[0]:.80} is no part of a LoRA that can be merged. Fuse it with diffusers, and save the "
            "pipeline."
        )
