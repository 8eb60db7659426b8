"""Prompts as what text-conditioned networks are given, encoded by the checkpoint's own diffusers pipeline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddim_edit.backends.component import read_json
from ddim_edit.backends.conditioning import Given
from ddim_edit.backends.diffusers_network import DiffusersNetwork
from ddim_edit.backends.extra import diffusers, explained, load_network, pretrained
from ddim_edit.condition import Condition
from ddim_edit.errors import ArgumentError, ModelError

Size = tuple[int, int]


class Encoded(NamedTuple):
    """What a network is given for a prompt, and for what guidance leads away from."""

    prompt: Given
    negative: Given


Encode = Callable[[str, str | None], Encoded]


@dataclass(frozen=True)
class Prompts:
    """Conditions in words; follows no class numbers, and reads no more of a prompt than the text encoder does.

    Args:
        name: the model's, for errors.
        encode: prompt and negative prompt (None: whatever the family takes for none) as tensors.
        distilled: whether the network was taught guidance and is told its scale, instead of being asked twice.
    """

    name: str
    encode: Encode
    distilled: bool = False
    _known: dict[tuple[str, str | None], Encoded] = field(default_factory=dict, repr=False)

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
        return {**self._encoded(condition.prompt, None).prompt, **told}

    def unwanted(self, condition: Condition) -> Given:
        """The negative prompt."""
        return self._encoded("", condition.negative_prompt or None).negative

    def _encoded(self, prompt: str, negative: str | None) -> Encoded:
        key = prompt, negative
        if key not in self._known:
            with torch.no_grad(), explained(f"text encoders of {self.name} that read prompts"):
                self._known[key] = self.encode(prompt, negative)
        return self._known[key]


def _stable_diffusion(pipe: Any, device: torch.device, size: Size) -> Encode:
    def encode(prompt: str, negative: str | None) -> Encoded:
        yes, no = pipe.encode_prompt(prompt, device, 1, True, negative_prompt=negative)
        return Encoded({"encoder_hidden_states": yes}, {"encoder_hidden_states": no})

    return encode


def _stable_diffusion_xl(pipe: Any, device: torch.device, size: Size) -> Encode:
    """Sizes, as the network was told them in training, are those of the pictures, uncropped."""
    ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32)

    def encode(prompt: str, negative: str | None) -> Encoded:
        yes, no, pooled, pooled_no = pipe.encode_prompt(prompt, device=device, negative_prompt=negative)
        names = "encoder_hidden_states", "text_embeds", "time_ids"
        return Encoded(
            dict(zip(names, (yes, pooled, ids), strict=True)), dict(zip(names, (no, pooled_no, ids), strict=True))
        )

    return encode


def _stable_diffusion_3(pipe: Any, device: torch.device, size: Size) -> Encode:
    def encode(prompt: str, negative: str | None) -> Encoded:
        yes, no, pooled, pooled_no = pipe.encode_prompt(prompt, None, None, device=device, negative_prompt=negative)
        names = "encoder_hidden_states", "pooled_projections"
        return Encoded(dict(zip(names, (yes, pooled), strict=True)), dict(zip(names, (no, pooled_no), strict=True)))

    return encode


def _flux(pipe: Any, device: torch.device, size: Size) -> Encode:
    def given(prompt: str) -> Given:
        states, pooled, _ = pipe.encode_prompt(prompt, None, device)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    return lambda prompt, negative: Encoded(given(prompt), given(negative or ""))


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
        device: where the text encoders shall live; they stay in float32.
        size: (H, W) of the pictures.

    Raises:
        ModelError: diffusers is missing, the family is unknown, or text encoders or tokenizers cannot be loaded.
    """
    pipeline = _pipeline_of(network)
    kind = getattr(diffusers(f"a {pipeline.kind}"), pipeline.kind)
    index = read_json(folder / "model_index.json")
    unneeded = {each: None for each in _UNNEEDED if each in index}
    absent = {each: None for each in pipeline.optional if not (folder / each).is_dir()}
    readers = {each: _reader(folder, each, index).to(device) for each in pipeline.encoders if each not in absent}
    given = {pipeline.network: network.inner, **readers, **unneeded, **absent, **pipeline.options}
    encode = pipeline.encoder(pretrained(kind, folder, **given), device, size)
    return Prompts(name, encode, bool(network.inner.config.get("guidance_embeds")))


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
