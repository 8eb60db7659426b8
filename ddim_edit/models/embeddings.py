"""Textual inversions: words of one's own in files, which are added to tokenizers and text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.models.pretrained import explain_errors, quiet_libraries
from ddim_edit.models.tensor_files import load_pickle, load_safetensors

_ENCODERS: Mapping[str, str] = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""Text encoders of Stable Diffusion XL by the names of their vectors in one file."""


def load_embedding(path: Path, pipeline: Any) -> str:
    """Add a textual inversion to the tokenizers and the text encoders of a pipeline, and return its word.

    The word is the one in the file, as diffusers and A1111 write it, or else the name of the file.

    Args:
        path: a .safetensors, .pt or .bin file.
        pipeline: has the text encoders, which get another row for every vector.

    Raises:
        ModelError: a file that cannot be read, that is none of an embedding, or one for other text encoders.
    """
    word, vectors = _read(path)
    encoders = {name: encoder for name in _ENCODERS.values() if (encoder := getattr(pipeline, name, None)) is not None}
    if len(vectors) > 1 and set(vectors) - set(encoders):
        raise ModelError(f"{path}: this embedding is for two text encoders, as those of Stable Diffusion XL are.")
    for name, rows in vectors.items():
        encoder = encoders.get(name)
        width = None if encoder is None else encoder.get_input_embeddings().weight.shape[1]
        if width != rows.shape[-1]:
            raise ModelError(
                f"{path}: this embedding is of another model: its vectors have {rows.shape[-1]} numbers, and the "
                f"{name} takes {width}."
            )
    if not hasattr(pipeline, "load_textual_inversion"):
        raise ModelError(f"{path}: models of a {type(pipeline).__name__} take no embeddings.")
    for name, rows in vectors.items():
        tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
        if word in tokenizer.get_vocab():
            raise ModelError(f"{path}: its word {word!r:.60} is one that the model knows already. Rename the file.")
        with explain_errors(f"{path}: the embedding cannot be loaded"), quiet_libraries(), torch.no_grad():
            options = {"token": word, "text_encoder": encoders[name], "tokenizer": tokenizer}
            pipeline.load_textual_inversion({word: rows}, **options)
        encoders[name].requires_grad_(False)
    return word


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the word of an embedding, and its vectors [rows, width] by the text encoder that they are for."""
    loaded: Any = load_safetensors(path) if path.suffix.lower() == ".safetensors" else load_pickle(path)
    record: Mapping[Any, Any] = loaded if isinstance(loaded, Mapping) else {}
    word = path.stem
    # A1111 keeps them one level down, under "*", and the name beside them.
    if isinstance(record.get("string_to_param"), Mapping):
        if isinstance(record.get("name"), str) and record["name"]:
            word = record["name"]
        record = record["string_to_param"]
    tensors = {name: value.detach().float() for name, value in record.items() if isinstance(value, Tensor)}
    if set(tensors) == set(_ENCODERS):
        found = {_ENCODERS[name]: tensor for name, tensor in tensors.items()}
    elif len(tensors) == 1:
        name, tensor = next(iter(tensors.items()))
        found = {"text_encoder": tensor}
        word = word if name in ("*", "emb_params", *_ENCODERS) else str(name)
    else:
        found = {}
    if not found or any(tensor.dim() not in (1, 2) or not len(tensor) for tensor in found.values()):
        raise ModelError(f"{path}: there is no embedding (textual inversion) in this file. Name another one.")
    return word, {name: tensor.reshape(-1, tensor.shape[-1]) for name, tensor in found.items()}
