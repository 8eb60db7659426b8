"""Where the components of a model in one file come from: the file, what takes their place, or a folder for the rest."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io import schema
from ddim_edit.models.checkpoint import ModelParts
from ddim_edit.models.checkpoint_file import read_settings
from ddim_edit.models.families.family import DiffusersFamily, TextPipeline
from ddim_edit.models.families.registry import FAMILIES
from ddim_edit.models.folder_layout import INDEX, autoencoder_folder
from ddim_edit.models.originals.parts import Config, OriginalParts
from ddim_edit.models.pretrained import read_config
from ddim_edit.models.scheduler_config import BETAS, SCHEDULER_CONFIG, choose_scheduler
from ddim_edit.models.tensor_files import load_pickle

if TYPE_CHECKING:
    from ddim_edit.models.checkpoint import StateDict

_PREDICTION = {"prediction_type": schema.one_of("epsilon", "v_prediction")}
_MODELSPEC = {"epsilon": "epsilon", "v": "v_prediction"}
"""Prediction types as Stability AI's ModelSpec has them in the metadata of safetensors."""
_STEPS_OF_BASE = 875_000
"""Steps of the training of Stable Diffusion 2 of 512 pixels, by which diffusers tells it from the one of 768."""


@dataclass(frozen=True)
class OriginalSources:
    """A model in one file, and what it is completed with.

    Args:
        path: the file.
        family: the family that it is of.
        parts: the components in it.
        base: a diffusers folder for what it lacks, or None.
        given: what was asked to take the place of parts.
    """

    path: Path
    family: DiffusersFamily
    parts: OriginalParts
    base: Path | None
    given: ModelParts

    @property
    def text(self) -> TextPipeline:
        """The pipeline of the family."""
        assert self.family.pipeline is not None
        return self.family.pipeline

    def base_folder(self, component: str) -> Path | None:
        """Return the folder of a component in the base, if there is one."""
        return self.base / component if self.base is not None and (self.base / component).is_dir() else None

    @property
    def vae_folder(self) -> Path | None:
        """The folder of the autoencoder, if it is in a folder."""
        given = self.given.get("vae")
        if given is not None:
            return (autoencoder_folder(Path(given)) or Path(given)) if Path(given).is_dir() else None
        return autoencoder_folder(self.base) if self.parts.autoencoder is None and self.base is not None else None

    @property
    def vae_file(self) -> Path | None:
        """The file that was asked for as autoencoder, if it is a file."""
        given = self.given.get("vae")
        return Path(given) if given is not None and not Path(given).is_dir() else None

    @cached_property
    def base_index(self) -> Mapping[str, Any]:
        """What the model_index.json of the base says."""
        return _read_index(self.base)

    def require_all(self) -> None:
        """Refuse a file that lacks components, which no option names either.

        Raises:
            ModelError: it names all that is missing, and what to do.
            ArgumentError: an autoencoder that does not exist.
        """
        given = self.given.get("vae")
        if given is not None and not Path(given).exists():
            raise ArgumentError(f"There is no autoencoder {str(given)!r:.200}. Name its folder or its file.")
        has_vae = self.parts.autoencoder is not None or self.vae_folder is not None or self.vae_file is not None
        missing = self._missing(self.text.text_encoders, self.parts.text_encoders)
        if missing:
            only = "" if self.parts.text_encoders or self.parts.autoencoder else "only the network and "
            others = "" if has_vae else ", and its autoencoder,"
            missing += [] if has_vae else ["autoencoder (VAE)"]
            raise ModelError(
                f"{self.path}: this file of {self.family.title} has {only}no {' and no '.join(missing)}. Name a "
                f"diffusers folder with --base, whose text encoders and tokenizers{others} are then used."
            )
        if not has_vae:
            raise ModelError(
                f"{self.path}: there is no autoencoder (VAE) in this file. Name one with --vae, a file or a folder of "
                "diffusers."
            )
        for tokenizer in self._missing([tokenizer_of(each) for each in self.text.text_encoders], self.parts.facts):
            raise ModelError(
                f"{self.path}: the vocabulary of T5 is in no file of weights. Fetch the folder {tokenizer} of a "
                f"diffusers folder of {self.family.title} once, and name the folder that it is in with --base."
            )

    def _missing(self, components: Iterable[str], own: Container[str]) -> list[str]:
        """Return which components are needed, and are neither in the file nor in the base."""
        found = []
        for each in components:
            is_there = each in own or self.base_folder(each) is not None
            if not is_there and each not in self.text.optional:
                found.append(each)
        return found

    @property
    def scheduler(self) -> Config:
        """The config of the scheduler: what was asked for, what the file tells, that of the base, or that released."""
        own: Config = _read_base_scheduler(self.base) or self.parts.facts["scheduler"]
        return choose_scheduler({**own, **self.parts.told}, self.given.get("scheduler")) or own

    @property
    def notes(self) -> list[str]:
        """Sentences on what is assumed, and on what is not used."""
        notes = []
        assumed = self.parts.facts["scheduler"].get("prediction_type")
        is_told = self.parts.told or self.base is not None or self.given.get("scheduler") is not None
        if assumed == "v_prediction" and not is_told:
            notes.append(
                f"{self.path.name} is taken to predict v, as Stable Diffusion 2 of 768 pixels does. For one of 512 "
                f'pixels write {{"prediction_type": "epsilon"}} to {self.path.stem}.json beside it'
            )
        if "text_encoder_3" in self.parts.text_encoders and self.base_folder("tokenizer_3") is None:
            notes.append(
                f"the T5 of {self.path.name} is not used, as its vocabulary is in no file of weights; --base DIR reads "
                "the folder tokenizer_3 of a diffusers folder"
            )
        return notes


def tokenizer_of(text_encoder: str) -> str:
    """Return the name of the tokenizer of a text encoder."""
    return text_encoder.replace("text_encoder", "tokenizer")


def find_sources(path: Path, state: StateDict, family: DiffusersFamily, given: ModelParts) -> OriginalSources:
    """Return where the components of a model come from.

    Args:
        path: the file.
        state: its tensors.
        family: the family that they are of.
        given: what takes the place of parts.

    Raises:
        ModelError: a model that cannot be run, or tensors that do not fit together.
        ArgumentError: a folder that does not exist, or that is of another family.
    """
    base = _find_base(given.get("base"), family)
    told = _read_told(path, base, given)
    assert family.original is not None
    try:
        parts = family.original.read(state, told, path.name)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # Names and shapes that contradict one another fail wherever they are first met.
        raise ModelError(
            f"{path}: the tensors of this {family.name} checkpoint do not fit together ({type(error).__name__}). "
            "Download the file again."
        ) from error
    return OriginalSources(path, family, parts, base, given)


def _find_base(given: str | Path | None, family: DiffusersFamily) -> Path | None:
    if given is None:
        return None
    base = Path(given)
    if not base.is_dir():
        raise ArgumentError(f"There is no folder {str(given)!r:.200}. Name a diffusers folder with --base.")
    kind = _read_index(base).get("_class_name")
    for other in FAMILIES.values():
        is_other = isinstance(other, DiffusersFamily) and other.pipeline is not None and other is not family
        if is_other and other.pipeline.name == kind:  # type: ignore[union-attr]
            raise ArgumentError(f"{base}: it is a folder of {other.title}, but the file is of {family.title}.")
    return base


def _read_index(base: Path | None) -> Mapping[str, Any]:
    return read_config(base / INDEX) if base is not None and (base / INDEX).is_file() else {}


def _read_base_scheduler(base: Path | None) -> Config | None:
    file = None if base is None else base / "scheduler" / SCHEDULER_CONFIG
    return read_config(file) if file is not None and file.is_file() else None


def _read_told(path: Path, base: Path | None, given: ModelParts) -> dict[str, Any]:
    """Return the prediction type, if anything tells it: a scheduler, NAME.json, the file itself, the base."""
    scheduler = given.get("scheduler")
    asked = choose_scheduler(None, scheduler) if scheduler is not None and scheduler not in BETAS else None
    settings = read_settings(path)
    known = {name: check for name, check in _PREDICTION.items() if name in settings}
    # Other entries are those of programs that keep their own notes on a model in this file.
    if problem := schema.find_problem(settings, known):
        raise ModelError(f"{path.with_suffix('.json').name}: {problem}.")
    for found in (asked, settings, _read_hints(path), _read_base_scheduler(base)):
        if found and "prediction_type" in found:
            return {"prediction_type": found["prediction_type"]}
    return {}


def _read_hints(path: Path) -> dict[str, str]:
    """Return the prediction type by what stands in a file beside its weights."""
    if path.suffix.lower() == ".safetensors":
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        prediction = _MODELSPEC.get(metadata.get("modelspec.prediction_type", ""))
        return {} if prediction is None else {"prediction_type": prediction}
    loaded = load_pickle(path)
    steps = loaded.get("global_step") if isinstance(loaded, Mapping) else None
    return {"prediction_type": "epsilon"} if steps == _STEPS_OF_BASE else {}
