"""Read text encoders off the tensors of files of a whole model: CLIP, OpenCLIP and T5."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ddim_edit.models.originals.parts import ComponentTensors, Config, count_blocks, strip_prefix

if TYPE_CHECKING:
    from torch import Tensor

_HEAD = 64
"""Channels of a head of attention in every released text encoder."""
_SD2_LAYERS = 23
"""Layers of the text encoder of Stable Diffusion 2 that are used; its files have one more."""
_OPEN_CLIP_NAMES: Mapping[str, str] = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_OPEN_CLIP_LAYERS: Mapping[str, str] = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
Read = Callable[[Mapping[str, "Tensor"], Config], ComponentTensors]


class TextEncoderTensors(NamedTuple):
    """Where a text encoder is in a file: the prefix of its names, and what reads the tensors without it."""

    prefix: str
    read: Read


def read_text_encoders(
    state: Mapping[str, Tensor], places: Mapping[str, TextEncoderTensors], facts: Mapping[str, Config]
) -> dict[str, ComponentTensors]:
    """Return the text encoders that a file has, by their names in the folder.

    Args:
        state: the tensors of the file.
        places: where each of them would be.
        facts: of the kind of model.
    """
    found = {}
    for name, place in places.items():
        if tensors := strip_prefix(state, place.prefix):
            found[name] = place.read(tensors, facts[name])
    return found


def read_clip(tensors: Mapping[str, Tensor], facts: Config) -> ComponentTensors:
    """Return a CLIP in the layout of transformers; some merges have it without "text_model."."""
    import torch

    found = {}
    for name, tensor in tensors.items():
        if name.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
            name = f"text_model.{name}"
        # Positions are counted by the module itself, and some tools rounded them to float16.
        if name.startswith("text_model.") and not name.endswith("position_ids"):
            found[name] = tensor
    norm = found["text_model.final_layer_norm.weight"]
    if _is_projected(facts):
        # Where Stable Diffusion 3 was saved without it, the pooled text is taken as it is.
        found["text_projection.weight"] = tensors.get("text_projection.weight", torch.eye(len(norm), dtype=norm.dtype))
    return ComponentTensors(_clip_config(found, facts), found)


def read_open_clip(tensors: Mapping[str, Tensor], facts: Config) -> ComponentTensors:
    """Return an OpenCLIP by the names of transformers, where attention has three matrices for one."""
    found = {mine: tensors[name] for name, mine in _OPEN_CLIP_NAMES.items()}
    for name, tensor in tensors.items():
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
        if layer is None or (not _is_projected(facts) and int(layer[1]) >= _SD2_LAYERS):
            continue
        prefix = f"text_model.encoder.layers.{layer[1]}"
        if layer[2] == "attn.in_proj":
            for each, part in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{prefix}.self_attn.{each}_proj.{layer[3]}"] = part
        elif layer[2] in _OPEN_CLIP_LAYERS:
            found[f"{prefix}.{_OPEN_CLIP_LAYERS[layer[2]]}.{layer[3]}"] = tensor
    if _is_projected(facts):
        found["text_projection.weight"] = tensors["text_projection"].T.contiguous()
    return ComponentTensors(_clip_config(found, facts), found)


def read_t5(tensors: Mapping[str, Tensor], facts: Config) -> ComponentTensors:
    """Return the encoder of a T5, which is in the layout of transformers."""
    block = "encoder.block.0.layer"
    query = tensors[f"{block}.0.SelfAttention.q.weight"]
    bias = tensors[f"{block}.0.SelfAttention.relative_attention_bias.weight"]
    layers = count_blocks(tensors, "encoder.block.")
    config = {
        **facts,
        "vocab_size": len(tensors["shared.weight"]),
        "d_model": query.shape[1],
        "d_ff": len(tensors[f"{block}.1.DenseReluDense.wo.weight"].T),
        "d_kv": len(query) // bias.shape[1],
        "num_heads": bias.shape[1],
        "num_layers": layers,
        "num_decoder_layers": layers,
    }
    names = ("shared.", "encoder.")
    return ComponentTensors(config, {name: each for name, each in tensors.items() if name.startswith(names)})


def _is_projected(facts: Config) -> bool:
    return bool(facts["architectures"] == ["CLIPTextModelWithProjection"])


def _clip_config(tensors: Mapping[str, Tensor], facts: Config) -> dict[str, Any]:
    embeddings = "text_model.embeddings"
    words, width = tensors[f"{embeddings}.token_embedding.weight"].shape
    config = {
        **facts,
        "vocab_size": words,
        "hidden_size": width,
        "max_position_embeddings": len(tensors[f"{embeddings}.position_embedding.weight"]),
        "intermediate_size": len(tensors["text_model.encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": count_blocks(tensors, "text_model.encoder.layers."),
        "num_attention_heads": max(width // _HEAD, 1),
    }
    if "text_projection.weight" in tensors:
        config["projection_dim"] = len(tensors["text_projection.weight"])
    return config
