"""Prompts as conditioning of text-to-image networks, encoded by the checkpoint's own diffusers pipeline."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError, InputWarning
from ddim_edit.io import schema
from ddim_edit.models.announcements import announce
from ddim_edit.models.cast_layers import kept_weights
from ddim_edit.models.condition import Condition
from ddim_edit.models.conditioning import Conditioning
from ddim_edit.models.devices import evaluation_mode
from ddim_edit.models.identity import Components
from ddim_edit.models.pretrained import (
    explain_errors,
    quiet_libraries,
    without_lasting_hooks,
)
from ddim_edit.models.sizes import Size
from ddim_edit.precision import float32_precision

EncodeText = Callable[[str], Conditioning]


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


def _count_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text).input_ids)
