"""Prompts as conditioning of text-to-image networks, encoded by the checkpoint's own diffusers pipeline."""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError, InputWarning, ModelError
from ddim_edit.io import schema
from ddim_edit.models.additions import Additions
from ddim_edit.models.announcements import announce
from ddim_edit.models.cast_layers import cast_on_use, kept_weights
from ddim_edit.models.checkpoint import ModelParts
from ddim_edit.models.condition import Condition
from ddim_edit.models.conditioning import Conditioning
from ddim_edit.models.devices import evaluation_mode
from ddim_edit.models.diffusers_network import DiffusersNetwork
from ddim_edit.models.digest_cache import cached_digest
from ddim_edit.models.families.family import TextPipeline
from ddim_edit.models.identity import Components, digest_config, digest_tensors, without_irrelevant
from ddim_edit.models.pretrained import (
    explain_errors,
    find_class,
    from_pretrained,
    import_diffusers,
    load_pretrained_text_encoder,
    quiet_libraries,
    read_config,
    weights_files,
    without_lasting_hooks,
)
from ddim_edit.models.sizes import Size
from ddim_edit.precision import float32_precision

EncodeText = Callable[[str], Conditioning]

# Components of pipelines that encode_prompt does not use; from_pretrained would load them.
_UNUSED = ("scheduler", "vae", "safety_checker", "feature_extractor", "image_encoder")
_SAMPLE = "A  photo of an OLD caf\u00e9, <n\u00b0 12> & more!"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes prompts, each once; there are no classes. What is beyond a text encoder's length is not read: it warns.

    Args:
        name: the model's, for errors.
        encode: encodes one text.
        encode_negative: encodes one that guidance leads away from, if that is another encoding.
        reads: the most tokens of a text that are read, if these are fewer than a tokenizer says; 0 for no such limit.
        zeroed: the tensors that are zero in the negative conditioning if no negative prompt is given; with none of
            them it is the empty text.
        guide: makes the inputs of a scale, for networks that were distilled with guidance and run once.
        components: what identifies its text encoders and tokenizers.
        tokenizers: of its text encoders, by their names.
    """

    name: str
    encode: EncodeText
    encode_negative: EncodeText | None = None
    reads: int = 0
    zeroed: tuple[str, ...] = ()
    guide: Callable[[float], Conditioning] | None = None
    components: Components = field(default_factory=dict)
    tokenizers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _encoded: dict[tuple[str, bool], Conditioning] = field(default_factory=dict, repr=False)

    @property
    def distilled(self) -> bool:
        """Whether the network gets the scale of guidance as an input, and runs once."""
        return self.guide is not None

    @property
    def follows(self) -> str:
        """What kind of condition it encodes."""
        return "prompts"

    def positive(self, condition: Condition) -> Conditioning:
        """Return the conditioning of the prompt; that of the empty one where there is none.

        Raises:
            ArgumentError: the condition has a class.
        """
        if condition.label is not None:
            raise ArgumentError(f"{self.name} follows prompts, not classes. Leave the class {condition.label} out.")
        conditioning = self._encode_once(condition.prompt)
        if self.guide is None:
            return conditioning
        return {**conditioning, **self.guide(condition.guidance_scale)}

    def negative(self, condition: Condition) -> Conditioning:
        """Return the conditioning of the negative prompt."""
        conditioning = dict(self._encode_once(condition.negative_prompt, is_negative=True))
        if not condition.negative_prompt:
            for name in self.zeroed:
                conditioning[name] = torch.zeros_like(conditioning[name])
        return conditioning

    def _encode_once(self, text: str, is_negative: bool = False) -> Conditioning:
        encode = (self.encode_negative if is_negative else None) or self.encode
        key = text, encode is not self.encode
        if key not in self._encoded:
            announce(f"encoding the prompt {schema.shorten(text, 40)!r}" if text else "encoding the empty prompt")
            problem = f"{self.name}: cannot encode the prompt"
            with torch.no_grad(), float32_precision(), explain_errors(problem), quiet_libraries():
                lengths = {name: _count_tokens(each, text) for name, each in self.tokenizers.items()}
                self._encoded[key] = encode(text)
            for name, length in lengths.items():
                limit = self.tokenizers[name].model_max_length
                limit = min(limit, self.reads or limit)
                if length > limit:
                    text_of = f"{self.name}: the prompt has {length} tokens, and {name} reads the first {limit}"
                    warnings.warn(f"{text_of}. Shorten it.", InputWarning, stacklevel=2)
        return self._encoded[key]


class VisitingEncoders:
    """Text encoders that are on the device only while they run, so that the network has its memory to itself.

    Their weights stay on the CPU and are copied for each visit. As `PromptEncoder` keeps what it has encoded, there are
    as many visits as texts. One thread visits at a time.

    Args:
        modules: the text encoders.
        device: where they run.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._tensors: list[Tensor] = []
        for module in modules:
            self._tensors += [*module.parameters(), *module.buffers(), *kept_weights(module)]

    def visiting(self, encode: EncodeText) -> EncodeText:
        """Return the same encoding, with the encoders on the device meanwhile."""
        return _VisitingEncoding(self, encode, self._device)

    @contextmanager
    def visit(self, device: torch.device) -> Iterator[None]:
        """Have the encoders on a device inside the block."""
        with self._lock:
            # `.data` is replaced, so that tied weights stay tied and pipelines keep their modules.
            at_rest = [tensor.data for tensor in self._tensors]
            try:
                for tensor in self._tensors:
                    tensor.data = tensor.data.to(device)
                yield
            finally:
                for tensor, data in zip(self._tensors, at_rest, strict=True):
                    tensor.data = data

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the lock, which belongs to this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


@dataclass(frozen=True)
class _VisitingEncoding:
    encoders: VisitingEncoders
    encode: EncodeText
    device: torch.device

    def __call__(self, text: str) -> Conditioning:
        with self.encoders.visit(self.device):
            return self.encode(text)


@dataclass(frozen=True)
class PipelineEncoding:
    """Encodes texts by a pipeline of diffusers for images of a size (H, W), on a device; None is the pipeline's own."""

    encode: Callable[[Any, str, torch.device, Size], Conditioning]
    pipeline: Any
    device: torch.device | None
    size: Size

    def __call__(self, text: str) -> Conditioning:
        """Return what the network gets for a text."""
        device = self.device or self.pipeline._execution_device  # which knows of offloading, as `device` does not
        parts = self.pipeline.components.values()
        with evaluation_mode(*parts), without_lasting_hooks(*parts):
            return self.encode(self.pipeline, text, device, self.size)


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
        tokenizers[each] = getattr(pipeline, tokenizer)
        identity[tokenizer] = digest_config(_describe_tokenizer(tokenizers[each], name, family.pads))
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
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for dtype in list(dtypes.values()):
        dtypes[str(dtype).removeprefix("torch.")] = dtype
    if asked not in dtypes:
        raise ArgumentError(f"encoder_dtype must be one of {', '.join(dtypes)}, not {asked!r:.60}.")
    return dtypes[asked]


def load_prompts(
    folder: Path,
    name: str,
    network: DiffusersNetwork,
    device: torch.device,
    additions: Additions,
    dtype: torch.dtype,
    size: Size,
) -> PromptEncoder:
    """Load the text encoders of a diffusers folder whose network is loaded already.

    Args:
        folder: the checkpoint's.
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
    index = read_config(folder / "model_index.json")
    class_name = text_pipeline.class_of(index)
    kind = find_class(import_diffusers(f"Running a {class_name}"), class_name)
    # None stands for a component that from_pretrained is not to load.
    components: dict[str, Any] = {each: None for each in _UNUSED if each in index}
    absent = [each for each in text_pipeline.optional if not (folder / each).is_dir()]
    components |= dict.fromkeys(absent)
    encoders = {}
    for each in text_pipeline.text_encoders:
        if each not in absent:
            encoders[each] = _load_text_encoder(folder, each, index, text_pipeline.encoder_classes)
    components |= encoders | {text_pipeline.network: network.inner}
    announce("loading the tokenizers")
    pipeline = from_pretrained(kind, folder, **components, **text_pipeline.options)
    if additions.loras or additions.embeddings:
        for encoder in encoders.values():
            encoder.float()  # what is merged must not be rounded as the file is
    changed = additions.merge_text_encoders(encoders)
    has_words = additions.load_embeddings(pipeline)
    rounding = None if dtype == torch.float32 else str(dtype).removeprefix("torch.")
    parts = {}
    for each, encoder in encoders.items():
        files = [] if has_words or each in changed else weights_files(folder / each)
        tensors = cached_digest(files, partial(digest_tensors, encoder.state_dict(), each))
        # The vocabulary has grown by words of embeddings.
        config = encoder.config.to_dict() if has_words else read_config(folder / each / "config.json")
        parts[each] = TextEncoder(encoder, config, tensors, rounding)
        # transformers knows which layers overflow in float16.
        cast_on_use(encoder, dtype, fine=getattr(encoder, "_keep_in_fp32_modules", None) or ())
    visiting = VisitingEncoders(encoders.values(), device)
    return make_prompt_encoder(name, pipeline, network, parts, size, device, visiting)


def _count_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text).input_ids)


def _describe_tokenizer(tokenizer: Any, name: str, pads: str | None) -> dict[str, Any]:
    """Return all that decides which numbers a text becomes; not its files, of which there are several kinds."""
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
        options = {"padding": "max_length", "max_length": min(length, 77), "truncation": True}
        sample = tokenizer(_SAMPLE, padding_side="right", **options).input_ids
    # Some pipelines set the side when they are called first, so that the tokenizer does not tell it yet.
    side = pads or tokenizer.padding_side
    # Language models are told what they are asked to do by a template.
    template = getattr(tokenizer, "chat_template", None)
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


def _load_text_encoder(folder: Path, name: str, index: Mapping[str, Any], classes: tuple[str, ...]) -> Any:
    import transformers

    # Without a vocabulary transformers would make an empty tokenizer and say nothing.
    tokenizer = name.replace("text_encoder", "tokenizer")
    if not any((folder / tokenizer / file).is_file() for file in _VOCABULARIES):
        raise ModelError(f"{tokenizer}: there is no vocabulary. Download the checkpoint again.")
    entry = index.get(name)
    kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    # A name in a file must not choose freely among the classes of a library.
    if kind not in classes:
        raise ModelError(f"model_index.json: {name} is of the class {kind!r:.60}. Supported are {', '.join(classes)}.")
    return load_pretrained_text_encoder(find_class(transformers, kind), folder / name)
