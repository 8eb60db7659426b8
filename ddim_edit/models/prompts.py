"""Prompts as what text-conditioned networks are given, encoded by the checkpoint's own diffusers pipeline."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.component import read_json
from ddim_edit.models.condition import Condition
from ddim_edit.models.conditioning import Given
from ddim_edit.models.diffusers_network import DiffusersNetwork
from ddim_edit.models.extra import diffusers, explained, load_network, pretrained
from ddim_edit.precision import float32_precision

Size = tuple[int, int]


Encode = Callable[[str], Given]


@dataclass(frozen=True)
class Prompts:
    """Conditions in words; follows no class numbers, and reads no more of a prompt than the text encoder does.

    Args:
        name: the model's, for errors.
        encode: one text as tensors.
        zeroed: which of these are zero where guidance leads away from no words; else the empty text stands for none.
        distilled: whether the network was taught guidance and is told its scale, instead of being asked twice.
    """

    name: str
    encode: Encode
    zeroed: tuple[str, ...] = ()
    distilled: bool = False
    _known: dict[str, Given] = field(default_factory=dict, repr=False)

    @property
    def follows(self) -> str:
        """Words."""
        return "prompts"

    def wanted(self, condition: Condition) -> Given:
        """The prompt; the empty one where there is none."""
        if condition.label is not None:
            given = f"the class {condition.label}"
            raise ArgumentError(f"a prompt for {self.name}", given, "it follows text, not numbers")
        told = {"guidance": torch.tensor([condition.guidance_scale])} if self.distilled else {}
        return {**self._encoded(condition.prompt), **told}

    def unwanted(self, condition: Condition) -> Given:
        """The negative prompt."""
        given = self._encoded(condition.negative_prompt)
        zeroed = () if condition.negative_prompt else self.zeroed
        return {name: torch.zeros_like(value) if name in zeroed else value for name, value in given.items()}

    def _encoded(self, text: str) -> Given:
        if text not in self._known:
            with torch.no_grad(), float32_precision(), explained(f"text encoders of {self.name} that read prompts"):
                self._known[text] = self.encode(text)
        return self._known[text]


class Encoders:
    """Text encoders that are on the device only while they read, so that the network has its memory to itself.

    Their weights stay where they are loaded, on the CPU, and are copied for each visit; what one text makes is kept by
    `Prompts`, so that visits are as many as texts. One thread visits at a time.

    Args:
        modules: the text encoders.
        device: where they read.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self._device, self._lock = device, threading.Lock()
        modules = list(modules)
        self._tensors = [each for module in modules for each in (*module.parameters(), *module.buffers())]

    def visiting(self, encode: Encode) -> Encode:
        """Return the same encoding, with the encoders on the device meanwhile."""

        def encode_there(text: str) -> Given:
            with self._lock:
                at_rest = [tensor.data for tensor in self._tensors]
                try:
                    for tensor in self._tensors:
                        tensor.data = tensor.data.to(self._device)
                    return encode(text)
                finally:
                    for tensor, data in zip(self._tensors, at_rest, strict=True):
                        tensor.data = data

        return encode_there


def _stable_diffusion(pipe: Any, device: torch.device, size: Size) -> Encode:
    def encode(text: str) -> Given:
        states, _ = pipe.encode_prompt(text, device, 1, False)
        return {"encoder_hidden_states": states}

    return encode


def _stable_diffusion_xl(pipe: Any, device: torch.device, size: Size) -> Encode:
    """Sizes, as the network was told them in training, are those of the pictures, uncropped."""
    ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32)

    def encode(text: str) -> Given:
        states, _, pooled, _ = pipe.encode_prompt(text, device=device, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": states, "text_embeds": pooled, "time_ids": ids}

    return encode


def _stable_diffusion_3(pipe: Any, device: torch.device, size: Size) -> Encode:
    def encode(text: str) -> Given:
        states, _, pooled, _ = pipe.encode_prompt(text, None, None, device, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    return encode


def _flux(pipe: Any, device: torch.device, size: Size) -> Encode:
    def encode(text: str) -> Given:
        states, pooled, _ = pipe.encode_prompt(text, None, device)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    return encode


class _Pipeline(NamedTuple):
    kind: str
    network: str
    encoder: Callable[[Any, torch.device, Size], Encode]
    encoders: tuple[str, ...]
    options: Mapping[str, Any] = {}
    optional: tuple[str, ...] = ()


_UNNEEDED = ("scheduler", "vae", "safety_checker", "feature_extractor", "image_encoder")
_SD = _Pipeline(
    "StableDiffusionPipeline",
    "unet",
    _stable_diffusion,
    ("text_encoder",),
    {"requires_safety_checker": False},
)
_SDXL = _Pipeline("StableDiffusionXLPipeline", "unet", _stable_diffusion_xl, ("text_encoder", "text_encoder_2"))
_SD3 = _Pipeline(
    "StableDiffusion3Pipeline",
    "transformer",
    _stable_diffusion_3,
    ("text_encoder", "text_encoder_2", "text_encoder_3"),
    optional=("text_encoder_3", "tokenizer_3"),
)
_FLUX = _Pipeline("FluxPipeline", "transformer", _flux, ("text_encoder", "text_encoder_2"))
_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")


def load_prompts(folder: Path, name: str, network: DiffusersNetwork, device: torch.device, size: Size) -> Prompts:
    """The prompts of a text-conditioned diffusers folder whose network is loaded already.

    Args:
        folder: the checkpoint's.
        name: the model's.
        network: its network, which says of which family it is.
        device: where the text encoders shall read, in float32; between texts they are on the CPU.
        size: (H, W) of the pictures.

    Raises:
        ModelError: diffusers is missing, the family is unknown, or text encoders or tokenizers cannot be loaded.
    """
    pipeline = _pipeline_of(network)
    kind = getattr(diffusers(f"a {pipeline.kind}"), pipeline.kind)
    index = read_json(folder / "model_index.json")
    unneeded = {each: None for each in _UNNEEDED if each in index}
    absent = {each: None for each in pipeline.optional if not (folder / each).is_dir()}
    readers = {each: _reader(folder, each, index) for each in pipeline.encoders if each not in absent}
    given = {pipeline.network: network.inner, **readers, **unneeded, **absent, **pipeline.options}
    pipe = pretrained(kind, folder, **given)
    zeroed = ("encoder_hidden_states", "text_embeds") if pipe.config.get("force_zeros_for_empty_prompt") else ()
    distilled = bool(network.inner.config.get("guidance_embeds"))
    encode = Encoders(readers.values(), device).visiting(pipeline.encoder(pipe, device, size))
    return Prompts(name, encode, zeroed, distilled)


def _reader(folder: Path, name: str, index: Mapping[str, Any]) -> Any:
    """A text encoder, known to have a tokenizer with words: without a vocabulary one would be made all the same."""
    import transformers  # by now it is here

    tokenizer = name.replace("text_encoder", "tokenizer")
    if not any((folder / tokenizer / file).is_file() for file in _VOCABULARIES):
        raise ModelError(f"a vocabulary in {tokenizer}", "none", "fetch the checkpoint again")
    entry = index.get(name)
    kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if kind not in _ENCODERS:
        wanted = f"a {name} out of {', '.join(_ENCODERS)}"
        raise ModelError(wanted, f"{kind or 'none'} in model_index.json", "use another checkpoint")
    return load_network(getattr(transformers, kind), folder / name)


def _pipeline_of(network: DiffusersNetwork) -> _Pipeline:
    config = network.inner.config
    kinds = {
        ("UNet2DConditionModel", None): _SD,
        ("UNet2DConditionModel", "text_time"): _SDXL,
        ("SD3Transformer2DModel", None): _SD3,
        ("FluxTransformer2DModel", None): _FLUX,
    }
    kind = type(network.inner).__name__, config.get("addition_embed_type")
    if kind not in kinds or config.get("num_class_embeds") is not None:
        given = f"a {kind[0]} with addition_embed_type {kind[1]}, num_class_embeds {config.get('num_class_embeds')}"
        raise ModelError("a network of Stable Diffusion 1, 2, XL, 3 or Flux", given, "use another checkpoint")
    return kinds[kind]
