"""The text encoders of a model, loaded, and what makes prompts of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.additions import Additions
from ddim_edit.models.announcements import announce
from ddim_edit.models.cast_layers import cast_on_use
from ddim_edit.models.checkpoint import ModelParts
from ddim_edit.models.conditioning import Conditioning
from ddim_edit.models.devices import PRECISIONS, dtype_name
from ddim_edit.models.diffusers_network import DiffusersNetwork
from ddim_edit.models.digest_cache import cached_digest
from ddim_edit.models.embedding_cache import CachedEncoding, is_worth_keeping
from ddim_edit.models.families.family import TextPipeline
from ddim_edit.models.folder_layout import INDEX, FolderLayout
from ddim_edit.models.identity import digest_config, digest_tensors, without_irrelevant
from ddim_edit.models.pretrained import (
    explain_errors,
    find_class,
    from_pretrained,
    import_diffusers,
    load_pretrained_text_encoder,
    quiet_libraries,
    read_config,
    weights_files,
)
from ddim_edit.models.prompts import EncodeText, PipelineEncoding, PromptEncoder, VisitingEncoders
from ddim_edit.models.sizes import Size

# Components of pipelines that encode_prompt does not use; from_pretrained would load them.
_UNUSED = ("scheduler", "vae", "safety_checker", "feature_extractor", "image_encoder")
_SAMPLE = "A  photo of an OLD caf\u00e9, <n\u00b0 12> & more!"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
_DTYPES = ("fp32", "bf16", "fp16", "float32", "bfloat16", "float16")
"""What text encoders can compute in; the further ones of networks, as "mixed", are not for them."""


class TextEncoder(NamedTuple):
    """A text encoder of a checkpoint.

    Fields: module; config, its entries; tensors, the digest of its tensors; rounding, the dtype that it computes in if
    its results are another model's for that.
    """

    module: Any
    config: Mapping[str, Any]
    tensors: str
    rounding: str | None = None


def make_prompt_encoder(
    name: str,
    pipeline: Any,
    network: DiffusersNetwork,
    encoders: Mapping[str, TextEncoder],
    size: Size,
    device: torch.device | None = None,
    visiting: VisitingEncoders | None = None,
) -> PromptEncoder:
    """Return the encoder of the prompts of a network.

    Args:
        name: the model's.
        pipeline: has the text encoders and their tokenizers.
        network: the network.
        encoders: the text encoders by their names in the pipeline.
        size: (H, W) of the images.
        device: where the text encoders run; None is the pipeline's own.
        visiting: brings them there, if they are elsewhere between texts.
    """
    family = network.family.pipeline
    assert family is not None

    def encoding(encode: Callable[[Any, str, torch.device, Size], Conditioning]) -> EncodeText:
        plain = PipelineEncoding(encode, pipeline, device, size)
        return plain if visiting is None else visiting.visiting(plain)

    negative = None if family.encode_negative is None else encoding(family.encode_negative)
    # SDXL's own word for it: without a negative prompt it was trained to be guided away from zeros, not from "".
    zeroed = ("encoder_hidden_states", "text_embeds") if pipeline.config.get("force_zeros_for_empty_prompt") else ()
    config = network.inner.config
    guide: Callable[[float], Conditioning] | None = None
    if config.get("guidance_embeds"):
        guide = _give_scale
    elif config.get("time_cond_proj_dim"):
        guide = partial(embed_scale, config["time_cond_proj_dim"])
    identity = {}
    tokenizers = {}
    for each, encoder in encoders.items():
        tokenizer = each.replace("text_encoder", "tokenizer")
        whole = getattr(pipeline, tokenizer)
        # Models of images and texts have a processor, which has the tokenizer.
        tokenizers[each] = getattr(whole, "tokenizer", whole)
        template = getattr(whole, "chat_template", None)
        identity[tokenizer] = digest_config(_describe_tokenizer(tokenizers[each], template, name, family.pads))
        settings = _config_beyond_defaults(encoder.module, encoder.config)
        if encoder.rounding is not None:
            settings["rounding"] = encoder.rounding
        identity[each] = digest_config({**settings, "zeroed": zeroed}, encoder.tensors)
    reads = family.variants.get(type(pipeline).__name__, family.reads)
    return PromptEncoder(
        name, encoding(family.encode), negative, reads, zeroed, guide, components=identity, tokenizers=tokenizers
    )


def _give_scale(scale: float) -> Conditioning:
    return {"guidance": torch.tensor([scale])}


def embed_scale(width: int, scale: float) -> Conditioning:
    """Return the embedding of a scale of guidance w as latent consistency models take it.

        sin(1000 (w - 1) f_i), cos(1000 (w - 1) f_i),  f_i = 10000^(-i / (width / 2 - 1))

    References:
        Luo, Tan, Huang, Li, Zhao, "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step
        Inference", 2023, arXiv:2310.04378.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
    angles = torch.tensor(1000 * (scale - 1)) * frequencies
    # An odd width has a zero at its end.
    embedded = torch.cat([angles.sin(), angles.cos(), torch.zeros(width % 2)])
    return {"timestep_cond": embedded[None]}


def find_encoder_dtype(name: str, pipeline: TextPipeline | None, parts: ModelParts) -> torch.dtype:
    """Return the dtype that text encoders are to compute in.

    Args:
        name: the model's.
        pipeline: of its family, if that has one.
        parts: what was asked for.

    Raises:
        ArgumentError: an unknown dtype, or a model without text encoders.
    """
    asked = parts.get("encoder_dtype")
    if asked is None:
        return torch.float32
    if pipeline is None:
        raise ArgumentError(f"{name} follows no prompts, so it has no text encoders. Leave their dtype out.")
    if asked not in _DTYPES:
        raise ArgumentError(f"encoder_dtype must be one of {', '.join(_DTYPES)}, not {asked!r:.60}.")
    return PRECISIONS[dtype_name(asked)].dtype


def load_prompts(
    layout: FolderLayout,
    name: str,
    network: DiffusersNetwork,
    device: torch.device,
    additions: Additions,
    dtype: torch.dtype,
    size: Size,
) -> PromptEncoder:
    """Load the text encoders of a diffusers folder whose network is loaded already.

    Args:
        layout: where the checkpoint's components are.
        name: the model's.
        network: its network, of a family with a pipeline.
        device: where the text encoders run; between texts they are on the CPU, in the dtype of their files.
        additions: LoRAs and embeddings.
        dtype: what the text encoders compute in.
        size: (H, W) of the images.

    Raises:
        MissingExtraError: diffusers or transformers is not installed.
        ModelError: text encoders or tokenizers cannot be loaded.
    """
    text_pipeline = network.family.pipeline
    assert text_pipeline is not None
    folder = layout.rest
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder}: there is no {INDEX}, which names the text encoders. Name the whole checkpoint.")
    index = read_config(folder / INDEX)
    class_name = text_pipeline.class_of(index)
    library = import_diffusers(f"Running a {class_name}")
    kind = find_class(library, class_name)
    # None stands for a component that from_pretrained is not to load.
    components: dict[str, Any] = {each: None for each in _UNUSED if each in index}
    absent = [each for each in text_pipeline.optional if not (folder / each).is_dir()]
    components |= dict.fromkeys(absent)
    encoders = {}
    for each in text_pipeline.text_encoders:
        if each not in absent:
            require_vocabulary(folder, each)
            encoders[each] = load_text_encoder(layout.text_encoder(each), index, text_pipeline.encoder_classes)
    components |= encoders | {text_pipeline.network: network.inner}
    announce("loading the tokenizers")
    pipeline = from_pretrained(kind, folder, **components, **text_pipeline.options)
    stored = {}
    for each, encoder in encoders.items():
        place = layout.text_encoder(each)
        stored[each] = StoredEncoder(encoder, read_config(place / "config.json"), weights_files(place))
    return add_to_prompts(name, pipeline, network, stored, device, additions, dtype, size)


class StoredEncoder(NamedTuple):
    """A text encoder as it was read.

    Fields: module; config, the entries of its file; files, that its weights are in; part, what to call it where these
    have other components too.
    """

    module: Any
    config: Mapping[str, Any]
    files: list[Path]
    part: str = ""


def add_to_prompts(
    name: str,
    pipeline: Any,
    network: DiffusersNetwork,
    stored: Mapping[str, StoredEncoder],
    device: torch.device,
    additions: Additions,
    dtype: torch.dtype,
    size: Size,
) -> PromptEncoder:
    """Return the encoder of prompts of a pipeline with LoRAs and embeddings, which are added to its text encoders.

    Args:
        name: the model's.
        pipeline: has the text encoders and their tokenizers.
        network: the network.
        stored: the text encoders by their names in the pipeline.
        device: as for `load_prompts`.
        additions: LoRAs and embeddings.
        dtype: what the text encoders compute in.
        size: (H, W) of the images.

    Raises:
        ModelError: LoRAs or embeddings of another model.
    """
    encoders = {each: encoder.module for each, encoder in stored.items()}
    if additions.loras or additions.embeddings:
        for encoder in encoders.values():
            encoder.float()  # what is merged must not be rounded as the file is
    changed = additions.merge_text_encoders(encoders)
    has_words = additions.load_embeddings(pipeline)
    rounding = None if dtype == torch.float32 else str(dtype).removeprefix("torch.")
    parts = {}
    for each, encoder in stored.items():
        files = [] if has_words or each in changed else encoder.files
        tensors = cached_digest(files, partial(digest_tensors, encoder.module.state_dict(), each), encoder.part)
        # The vocabulary has grown by words of embeddings.
        config = encoder.module.config.to_dict() if has_words else encoder.config
        parts[each] = TextEncoder(encoder.module, config, tensors, rounding)
        # transformers knows which layers overflow in float16.
        cast_on_use(encoder.module, dtype, fine=getattr(encoder.module, "_keep_in_fp32_modules", None) or ())
    visiting = VisitingEncoders(encoders.values(), device)
    prompts = make_prompt_encoder(name, pipeline, network, parts, size, device, visiting)
    if not is_worth_keeping(sorted({file for encoder in stored.values() for file in encoder.files})):
        return prompts
    identity = (f"{each} {digest}" for each, digest in sorted(prompts.components.items()))
    # Pipelines write templates around prompts, which may change with the library.
    described = (type(pipeline).__name__, version("diffusers"), *identity, f"{size[0]}x{size[1]}", device.type)
    negative = prompts.encode_negative
    if negative is not None:
        negative = CachedEncoding(negative, (*described, "negative"))
    return replace(prompts, encode=CachedEncoding(prompts.encode, described), encode_negative=negative)


def _describe_tokenizer(tokenizer: Any, template: str | None, name: str, pads: str | None) -> dict[str, Any]:
    """Return all that decides which numbers a text becomes; not its files, of which there are several kinds.

    Args:
        tokenizer: the tokenizer.
        template: what a language model is told beside a text, if it is one.
        name: the model's, for errors.
        pads: the side on which the pipeline has it pad, if it chooses.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    scores: Any = ()
    if backend is None:
        ranks = getattr(tokenizer, "bpe_ranks", {})
        merges = [" ".join(pair) for pair in sorted(ranks, key=ranks.__getitem__)]
    else:
        model = json.loads(backend.to_str())["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ()]
        # A unigram model, as T5's, splits words by scores instead of merges.
        scores = model["vocab"] if isinstance(model.get("vocab"), list) else ()
    length = tokenizer.model_max_length
    with explain_errors(f"{name}: cannot use its tokenizer"), quiet_libraries():
        # Lower case, accents, white space, and the tokens at the ends: none of them is an entry of the vocabulary.
        sample = tokenizer(_SAMPLE, max_length=min(length, 77), truncation=True).input_ids
    # Padded here, as pipelines set the side of the padding, some when they are called first.
    sample = [*sample, *[tokenizer.pad_token_id] * (min(length, 77) - len(sample))]
    # Some pipelines set the side when they are called first, so that the tokenizer does not tell it yet.
    side = pads or tokenizer.padding_side
    return {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "merges": merges,
        "scores": scores,
        "length": length,
        "sample": sample,
        **({"template": template} if template else {}),
        **({"side": side} if side != "right" else {}),
    }


def _config_beyond_defaults(encoder: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the config of a text encoder has beyond the defaults of its class."""
    return {"class": type(encoder).__name__, **_beyond(config, type(encoder.config)().to_dict())}


def _beyond(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in without_irrelevant(config).items():
        if name in defaults and value != defaults[name]:
            # Models of several parts have a config of each in theirs.
            nested = isinstance(value, Mapping) and isinstance(defaults[name], Mapping)
            found[name] = _beyond(value, defaults[name]) if nested else value
    return found


def require_vocabulary(folder: Path, text_encoder: str) -> None:
    """Refuse a checkpoint without the vocabulary of a text encoder.

    Without one transformers would make an empty tokenizer and say nothing.

    Raises:
        ModelError: there is none in the folder.
    """
    tokenizer = text_encoder.replace("text_encoder", "tokenizer")
    if not any((folder / tokenizer / file).is_file() for file in _VOCABULARIES):
        raise ModelError(f"{tokenizer}: there is no vocabulary. Download the checkpoint again.")


def load_text_encoder(folder: Path, index: Mapping[str, Any], classes: tuple[str, ...]) -> Any:
    """Return a text encoder of a diffusers folder, on the CPU in the dtype of its files.

    Args:
        folder: the component's, with its name.
        index: what the model_index.json of the checkpoint says.
        classes: the classes that it may be of.

    Raises:
        ModelError: one of another class, or files that are missing or broken.
    """
    import transformers

    name = folder.name
    entry = index.get(name)
    kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if kind is None or not folder.is_dir():
        raise ModelError(f"{folder}: this text encoder is missing. Download it too.")
    # A name in a file must not choose freely among the classes of a library.
    if kind not in classes:
        raise ModelError(f"model_index.json: {name} is of the class {kind!r:.60}. Supported are {', '.join(classes)}.")
    return load_pretrained_text_encoder(find_class(transformers, kind), folder)
