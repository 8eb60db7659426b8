"""What a file is that was given as weights and is none, or none that can be run alone: for error messages.

Importing this module does not import torch.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddim_edit.io import content
from ddim_edit.io.content import OWN, describe_file

_GGUF = "whose quantised weights cannot be run here. Use the checkpoint in safetensors."
_STEERS = (
    "it is a ControlNet or an adapter, which steers another model and is none itself. Use the model that it is for."
)
_VIDEO = "it is a video model, and only models of still images are supported."
_PROGRAMS: Mapping[str, str] = {
    ".msgpack": "Flax",
    ".h5": "TensorFlow",
    ".onnx": "ONNX",
    ".onnx_data": "ONNX",
    ".xml": "OpenVINO",
    ".engine": "TensorRT",
    ".plan": "TensorRT",
    ".trt": "TensorRT",
    ".mlmodelc": "Core ML",
    ".mlpackage": "Core ML",
}
"""Programs whose weights lie in checkpoints too, by the ends of the names of files and folders."""
_UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".aria2", ".incomplete", ".opdownload")
"""How browsers and other programs call a download while it goes on."""
_OF_TORCH = (".pt", ".pth", ".ckpt", ".bin")
"""How checkpoints of torch are called, which may be damaged inside."""
_MOST_TEXT = 4096
"""Bytes of a text that may be an answer of a server which was saved in the place of the file."""
_NO_PROMPTS = "which an inversion knows nothing of. Use a model of prompts."
# By the names of their tensors; the first that fits counts. A LoRA of a text encoder has its names too, for example.
_ADDITIONS: tuple[tuple[str, str], ...] = (
    (
        r"(^|[._])lora(_|\.|[A-Z])|\.(hada_w1|lokr_w1|oft_blocks|dora_scale)",
        "it is a LoRA, which changes another model and is none itself. Name that model, and this file with --lora.",
    ),
    (
        r"\.RDB\d\.|\.rdb\d\.|^conv_first\.",
        "it is a network that enlarges images (as ESRGAN), and none that removes noise. Use a diffusion model.",
    ),
    (
        r"^(control_model\.)?input_hint_block\.|to_k_ip\.|^controlnet_|zero_convs\.|\.adapter\.|^adapter\.|^lllite_|^body\.\d+\."
        r"|^(ip_adapter|image_proj)\.",
        _STEERS,
    ),
    (
        r"temporal_transformer|\.time_stack\.|motion_modules|temporal_attentions|temp_conv|temp_attentions"
        r"|(^|\.)(head\.modulation$|patchify_proj\.|t5_yproj\.|txt_in\.individual_token_refiner\.)",
        _VIDEO,
    ),
)
_PARTS: tuple[tuple[str, str], ...] = (
    (
        r"(^|\.)(clip_txt_mapper|clip_txt_pooled_mapper|effnet_mapper\.\d+)\.",
        "it is a stage of Stable Cascade, which is not supported. Use another model.",
    ),
    (
        r"(^|\.)double_stream_blocks\.",
        "it is HiDream, which is not supported. Use another model.",
    ),
    (
        r"^model\.diffusion_model\.|^double_blocks\.",
        "it is a model in the layout of its own code, of a family whose single files are not read. Convert it to a "
        "diffusers folder.",
    ),
    (
        r"^(first_stage_model\.)?(encoder|decoder)\.(conv_in|mid|mid_block|down_blocks|up)\.",
        "it is an autoencoder (VAE) alone, without a network that removes noise. Name the model that it belongs to, and"
        " this file with --vae.",
    ),
    (
        r"^text_model\.|^(model\.)?(language_model\.)?embed_tokens\.|^encoder\.block\.|^(text_)?embeddings\.|^shared\.weight$|^transformer\.resblocks\.",
        "it is a text encoder alone, without a network that removes noise. Use the model that it belongs to.",
    ),
    (
        r"^(vision_model|visual)\.",
        "it is an image encoder alone, without a network that removes noise. Use the model that it belongs to.",
    ),
    (
        r"^emb_params$|^string_to_param$|^<.*>$|^\*$|^clip_[lg]$",
        "it is a textual inversion, a word for another model. Name that model, and this file with --embedding.",
    ),
    (
        r"^(time_embedding|time_text_embed|conv_in|pos_embed|x_embedder)\.",
        "it is the network of a diffusers folder, and its config.json is needed too. Name the folder.",
    ),
)
_WORD_WIDTHS = (768, 1024, 1280)
"""Numbers of a word in the text encoders of Stable Diffusion."""
_CLASSES: tuple[tuple[str, str], ...] = (
    (
        r"ControlNet|Adapter",
        _STEERS,
    ),
    (
        r"^QwenImage(Edit|Layered)",
        "it takes another image beside the prompt, which an inversion knows nothing of. Use Qwen-Image itself.",
    ),
    (r"^Kandinsky", f"it is Kandinsky, which is told an image by its embedding, {_NO_PROMPTS}"),
    (r"UnCLIP", f"it is a model that is told an image by its embedding (unCLIP), {_NO_PROMPTS}"),
    (
        r"^(Wuerstchen|StableCascade|Paella)",
        "it is Stable Cascade or Wuerstchen, a chain of models, which is not supported. Use another model.",
    ),
    (r"^IF", "it is DeepFloyd IF, a chain of models, which is not supported. Use another model."),
    (
        r"Audio|Music|Dance",
        "it is a model of sounds, and only models of images are supported.",
    ),
    (
        r"Upscale|SuperResolution",
        "it is an upscaler, which sees a small image beside the noise. Use the model that it was made from.",
    ),
    (r"^Onnx|^ORT", "its weights are those of ONNX. Download those of PyTorch, in safetensors."),
    (
        r"^Kolors",
        "it is Kolors, whose text encoder (ChatGLM) is not supported. Use another model, as Stable Diffusion XL.",
    ),
    (
        r"3D|Temporal|Motion|Video|^LTX|^Mochi|^Wan",
        _VIDEO,
    ),
    (r"^Autoencoder|^VQModel", "it is an autoencoder (VAE) alone. Use the model that it belongs to."),
    (
        r"^(CLIP|T5|UMT5|Llama|Qwen(?!Image)|Gemma|Mistral|Glm|Bert)",
        "it is a text encoder alone. Use the model that it belongs to.",
    ),
)


def program_of(file: Path) -> str | None:
    """Return the other program whose weights a file or folder has, by the end of its name; None for all others."""
    return _PROGRAMS.get(file.suffix.lower())


def explain_own(path: Path) -> str | None:
    """Return that a file is one that ddim-edit writes and not weights, and what to do; None for all others."""
    kind = describe_file(path)
    return f"it is {kind}, not weights. Name the model." if kind in OWN.values() else None


def explain_file(path: Path) -> str | None:
    """Return what a file is that cannot be read as weights, and what to do, as "it is ..."; None if that is unknown."""
    kind = describe_file(path)
    if path.suffix.lower() in _UNFINISHED:
        return "it is a download that was not finished. Download it again."
    if program := program_of(path):
        return f"its weights are those of {program}. Download those of PyTorch, in safetensors."
    is_answer = path.suffix.lower() in (".safetensors", ".gguf", *_OF_TORCH) and path.stat().st_size < _MOST_TEXT
    if kind == content.TEXT and is_answer:
        return f"it is a text, {_first_words(path)!r}, not weights. Download the weights themselves."
    if kind is None or kind == content.TEXT:
        return None
    if kind in OWN.values():
        return explain_own(path)
    if kind == content.EMPTY:
        return "the file is empty. Download it again."
    if kind == content.SAFETENSORS:
        misnamed = None if path.suffix.lower() == ".safetensors" else "it is a safetensors file. Name it .safetensors."
        return _find_cut(path) or misnamed
    if kind == content.GIT_LFS:
        return f"it is {kind}."
    if kind == content.GGUF:
        return f"it is {kind}, {_GGUF}"
    if kind == content.ZIP:
        return _describe_archive(path)
    if kind == content.PICKLE:
        return (
            None if path.suffix.lower() in _OF_TORCH else f"it is {kind}. If it is a checkpoint of torch, name it .pt."
        )
    return f"it is {kind}, not weights. Download the weights themselves."


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive, as checkpoints of torch are, with its end."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # which it raises of one that claims to go on in other files
        return False


def _first_words(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(60).decode(errors="replace")
    return " ".join(text.split())


def _describe_archive(path: Path) -> str | None:
    """Return what a zip archive is: a checkpoint of torch, which is one too, or one that something was packed into."""
    if not is_archive(path):
        return f"the file is cut short: it is {content.ZIP} without its end. Download it again."
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged archive raises anything at all
        return None
    if any(name.endswith("data.pkl") for name in names):
        return None if path.suffix.lower() in _OF_TORCH else "it is a checkpoint of torch. Name it .pt."
    first = next((name for name in names if Path(name).suffix in (".safetensors", ".ckpt", ".pt", ".pth")), None)
    inside = "" if first is None else f" with {Path(first).name:.80} in it"
    return f"it is a zip archive{inside}. Unpack it, and name the file in it."


def _find_cut(path: Path) -> str | None:
    """Return that a safetensors file ends before what its header says, if it does."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size - 8 < length:
            return f"the file is cut short: it has {size:,} bytes, and its header alone {length:,}. Download it again."
        try:
            header = json.loads(file.read(length))
            ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
    return f"the file is cut short: it has {size:,} bytes of {whole:,}. Download it again." if size < whole else None


def describe_addition(names: Iterable[str]) -> str | None:
    """Return what tensors of these names are if they change another model, and what to do; None if they do not."""
    return _find_kind(names, _ADDITIONS)


def describe_part(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return what tensors are if they are a part of a model, and what to do; None if that is unknown.

    Args:
        shapes: of the tensors, by their names.
    """
    first, *others = shapes.values()
    if not others and len(first) in (1, 2) and first[-1] in _WORD_WIDTHS:
        # Diffusers has the word itself as its name.
        return _find_kind(["<>"], _PARTS)
    return _find_kind(shapes, _PARTS)


def _find_kind(names: Iterable[str], kinds: Iterable[tuple[str, str]]) -> str | None:
    found = list(names)
    for pattern, words in kinds:
        if any(re.search(pattern, name) for name in found):
            return words
    return None


def note_of_fp8(source: str) -> str:
    """Return what to know of weights in fp8."""
    return f"the weights of {source} are fp8: those of the same model in float16 are closer to what was trained"


def describe_class(name: object) -> str | None:
    """Return what a folder is whose config.json is of this class, and what to do; None if that is unknown."""
    for pattern, words in _CLASSES:
        if isinstance(name, str) and re.search(pattern, name):
            return words
    return None


def describe_folder(folder: Path) -> str | None:
    """Return what a folder is that is no checkpoint of diffusers, and what to do; None if that is unknown."""
    if (folder.parent / "model_index.json").is_file():
        return f"it is a part of the checkpoint {folder.resolve().parent.name}. Name that folder."
    if (folder / "adapter_config.json").is_file() or any(folder.glob("pytorch_lora_weights.*")):
        return _ADDITIONS[0][1]
    if any(folder.glob("*.gguf")):
        return f"it has only GGUF files, {_GGUF}"
    if (folder / "store.json").is_file():
        return "it is a store of latents, not a model. Name the model."
    if checkpoints := list(folder.glob("checkpoint-*/")):
        last = max(checkpoints, key=lambda each: (len(each.name), each.name)).name
        return f"it has only checkpoints of a training. Name one of them, as {folder.name}/{last}."
    for file in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if program := program_of(file):
            return f"its weights are those of {program} ({file.name:.60}). Download those of PyTorch, in safetensors."
    if not any(folder.iterdir()):
        return "the folder is empty, without even a config.json. Download the checkpoint again."
    if any((folder / name).is_file() for name in ("model_index.json", "config.json")):
        return None
    files = sorted(file.name for file in folder.glob("*") if file.suffix in (".safetensors", ".pt", ".pth", ".ckpt"))
    if files:
        return f"it has no model_index.json and no config.json. If {files[0]:.80} is a checkpoint of its own, name it."
    return "it has no model_index.json and no config.json, as folders of diffusers have. Name such a folder."


def class_of(config: Mapping[str, Any]) -> object:
    """Return the class that a config.json of diffusers or transformers is of, or None."""
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        return architectures[0]
    return config.get("_class_name")
