"""What is merged into the components of a checkpoint, or added to them, while they are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.checkpoint import ModelParts
from ddim_edit.models.embeddings import load_embedding
from ddim_edit.models.families.family import TextPipeline
from ddim_edit.models.loras import LoraLayer, LoraSpec, merge_lora, parse_lora, read_lora


@dataclass(frozen=True)
class Additions:
    """LoRAs and embeddings of a checkpoint.

    Args:
        pipeline: of the checkpoint; None for one that follows no prompts, to which nothing is added.
        loras: the LoRAs that were asked for.
        embeddings: files of textual inversions.
        layers: of each LoRA, once it is read, what it adds to each layer of each component.
    """

    pipeline: TextPipeline | None = None
    loras: Sequence[LoraSpec] = ()
    embeddings: Sequence[Path] = ()
    layers: Sequence[Mapping[str, Mapping[str, LoraLayer]]] = ()

    def read(self, network: Any) -> Self:
        """Return the same with the LoRAs read for a network of diffusers.

        Raises:
            ModelError: a file that is no LoRA, or one of another kind.
        """
        if self.pipeline is None:
            return self
        return replace(self, layers=[read_lora(spec, self.pipeline, network) for spec in self.loras])

    def merge_network(self, network: Any) -> bool:
        """Merge the LoRAs into a network of diffusers, and return whether that changed it.

        Raises:
            ModelError: a LoRA of another model.
        """
        return self.pipeline is not None and self._merge(self.pipeline.network, network)

    def merge_text_encoders(self, encoders: Mapping[str, Any]) -> list[str]:
        """Merge the LoRAs into text encoders, and return the names of those that changed.

        Raises:
            ModelError: a LoRA of another model.
        """
        for spec, components in zip(self.loras, self.layers, strict=True):
            if missing := set(components) - {getattr(self.pipeline, "network", ""), *encoders}:
                raise ModelError(f"{spec.path}: this LoRA changes the {min(missing)}, which the model does not have.")
        return [name for name, encoder in encoders.items() if self._merge(name, encoder)]

    def load_embeddings(self, pipeline: Any) -> bool:
        """Add the embeddings to the text encoders of a pipeline, and return whether there are any.

        Raises:
            ModelError: a file that is no embedding, or one for other text encoders.
        """
        for path in self.embeddings:
            load_embedding(path, pipeline)
        return bool(self.embeddings)

    def _merge(self, component: str, module: Any) -> bool:
        changed = False
        for spec, components in zip(self.loras, self.layers, strict=True):
            if component in components and spec.scale:
                merge_lora(module, components[component], str(spec.path))
                changed = True
        return changed


def find_additions(name: str, pipeline: TextPipeline | None, parts: ModelParts) -> Additions:
    """Return the LoRAs and embeddings that were asked for, whose files are read later.

    Args:
        name: the model's.
        pipeline: of its family, if that has one.
        parts: what was asked for.

    Raises:
        ArgumentError: files that do not exist, or a model that takes none.
    """
    loras = [parse_lora(text) for text in parts.get("loras", ())]
    embeddings = [Path(path) for path in parts.get("embeddings", ())]
    for path in embeddings:
        if not path.is_file():
            raise ArgumentError(f"There is no embedding {str(path)!r:.200}. Name its file.")
    if pipeline is None and (loras or embeddings):
        raise ArgumentError(f"{name} follows no prompts, so it takes no LoRAs and no embeddings. Leave them out.")
    return Additions(pipeline, loras, embeddings)
