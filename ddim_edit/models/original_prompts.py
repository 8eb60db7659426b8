"""Encoders of the prompts of models in one file."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch

from ddim_edit.errors import ModelError
from ddim_edit.models.additions import Additions
from ddim_edit.models.announcements import announce
from ddim_edit.models.diffusers_network import DiffusersNetwork
from ddim_edit.models.original_sources import OriginalSources, tokenizer_of
from ddim_edit.models.originals.parts import assets_folder
from ddim_edit.models.pretrained import (
    explain_errors,
    fill_pretrained_network,
    find_class,
    from_pretrained,
    import_diffusers,
    quiet_libraries,
    read_config,
    weights_files,
)
from ddim_edit.models.prompts import PromptEncoder
from ddim_edit.models.sizes import Size
from ddim_edit.models.text_encoders import StoredEncoder, add_to_prompts, load_text_encoder, require_vocabulary

CLIP_VOCABULARY = assets_folder() / "tokenizers" / "clip"
_CLIP_LENGTH = 77
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
"""Classes that a base may name; a name in a file must not choose freely among those of a library."""


@dataclass(frozen=True)
class OriginalPrompts:
    """Makes the encoder of the prompts of a model in one file.

    Args:
        name: the model's.
        sources: where its components come from.
        network: its network.
        additions: LoRAs and embeddings.
        device: where the text encoders run.
        dtype: what they compute in.
    """

    name: str
    sources: OriginalSources
    network: DiffusersNetwork
    additions: Additions
    device: torch.device
    dtype: torch.dtype

    def load(self, size: Size) -> PromptEncoder:
        """Return the encoder of prompts for images of a size (H, W).

        Raises:
            ModelError: text encoders or tokenizers that cannot be loaded, or that are of another model.
        """
        text = self.sources.text
        kind = find_class(import_diffusers(f"Running a {text.name}"), text.name)
        encoders: dict[str, StoredEncoder] = {}
        tokenizers: dict[str, Any] = {}
        for each in text.text_encoders:
            tokenizer = self._load_tokenizer(tokenizer_of(each))
            encoder = None if tokenizer is None else self._load_encoder(each)
            if encoder is not None:
                self._require_words(each, encoder, tokenizer)
                encoders[each] = encoder
                tokenizers[tokenizer_of(each)] = tokenizer
        self._require_width(encoders)
        # What else it has are parts that encoding prompts does not need.
        components: dict[str, Any] = {}
        for component, parameter in signature(kind.__init__).parameters.items():
            if parameter.default is Parameter.empty and component != "self":
                components[component] = None
        components |= {each: encoder.module for each, encoder in encoders.items()}
        components |= {**tokenizers, text.network: self.network.inner, **text.options}
        with explain_errors(f"{self.sources.path}: cannot make a {text.name}"), quiet_libraries():
            pipeline = kind(**components)
        return add_to_prompts(
            self.name, pipeline, self.network, encoders, self.device, self.additions, self.dtype, size
        )

    def _load_encoder(self, name: str) -> StoredEncoder | None:
        import transformers

        path = self.sources.path
        if name in self.sources.parts.text_encoders:
            config, tensors = self.sources.parts.text_encoders[name]
            announce(f"building the {name.replace('_', ' ')} of {path.name}")
            kind = getattr(transformers, config["architectures"][0])
            module = fill_pretrained_network(kind, config, tensors, f"{path.name}: {name}")
            return StoredEncoder(module, config, [path], name)
        folder = self.sources.base_folder(name)
        if folder is None:
            return None
        index = self.sources.base_index or {name: [None, self.sources.parts.facts[name]["architectures"][0]]}
        require_vocabulary(folder.parent, name)
        module = load_text_encoder(folder, index, self.sources.text.encoder_classes)
        return StoredEncoder(module, read_config(folder / "config.json"), weights_files(folder))

    def _load_tokenizer(self, name: str) -> Any:
        """Return a tokenizer of the base, or that of CLIP; None where T5's would be needed."""
        import transformers

        facts = self.sources.parts.facts
        folder = self.sources.base_folder(name)
        if folder is not None:
            entry = self.sources.base_index.get(name)
            kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
            if kind not in _TOKENIZERS:
                kind = "CLIPTokenizer" if name in facts else "T5TokenizerFast"
            return from_pretrained(getattr(transformers, kind), folder)
        if name not in facts:
            return None
        return from_pretrained(
            transformers.CLIPTokenizer, CLIP_VOCABULARY, model_max_length=_CLIP_LENGTH, **facts[name]
        )

    def _require_words(self, name: str, encoder: StoredEncoder, tokenizer: Any) -> None:
        """Refuse a text encoder that does not know all tokens, which would fail in the middle of a prompt."""
        words = encoder.module.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > words:
            raise ModelError(
                f"{self.sources.path}: its {name} knows {words:,} tokens, and the {tokenizer_of(name)} has "
                f"{len(tokenizer):,}. Name a diffusers folder with the tokenizer that belongs to it with --base."
            )

    def _require_width(self, encoders: dict[str, StoredEncoder]) -> None:
        """Refuse text encoders of a base that are those of another network, as of Stable Diffusion 2 for 1."""
        wanted = self.network.inner.config.get("cross_attention_dim")
        if wanted is None or self.sources.base is None:
            return
        found = sum(encoder.module.config.hidden_size for encoder in encoders.values())
        if found != wanted:
            raise ModelError(
                f"{self.sources.path}: the text encoders give {found} numbers for a token, and the network takes "
                f"{wanted}. Name a folder of the same model with --base."
            )
