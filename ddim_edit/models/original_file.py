"""Load Stable Diffusion and Flux from one file, in the layout of the code that trained them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io import schema
from ddim_edit.models.additions import Additions, find_additions
from ddim_edit.models.announcements import announce
from ddim_edit.models.autoencoders import (
    autoencoder_factor,
    load_autoencoder,
    make_autoencoder,
    name_as_diffusers,
    read_autoencoder_file,
)
from ddim_edit.models.checkpoint import CheckpointBundle, LoadOptions, ModelParts
from ddim_edit.models.checkpoint_file import read_settings
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.diffusers_network import DiffusersNetwork, adapt_network
from ddim_edit.models.digest_cache import cached_digest
from ddim_edit.models.distillation import describe_distillation
from ddim_edit.models.families.family import DiffusersFamily
from ddim_edit.models.folder import diffusers_component, make_checkpoint
from ddim_edit.models.folder_layout import INDEX, autoencoder_folder
from ddim_edit.models.identity import digest_tensors, process_component
from ddim_edit.models.originals.autoencoder import read_autoencoder_config
from ddim_edit.models.originals.latent_diffusion import AUTOENCODER_PREFIXES
from ddim_edit.models.originals.parts import Config, OriginalParts, assets_folder, strip_prefix
from ddim_edit.models.pretrained import (
    ComponentWeights,
    explain_errors,
    fill_pretrained_network,
    from_pretrained,
    import_diffusers,
    quiet_libraries,
    read_config,
    weights_files,
)
from ddim_edit.models.prompts import PromptEncoder, StoredEncoder, add_to_prompts, load_text_encoder
from ddim_edit.models.scheduler_config import SCHEDULER_CONFIG, choose_scheduler, read_process
from ddim_edit.models.sizes import Size, require_size
from ddim_edit.models.tensor_files import read_tensors
from ddim_edit.models.weights import fill

if TYPE_CHECKING:
    from ddim_edit.models.checkpoint import StateDict

SETTINGS: schema.Schema = {"prediction_type": schema.one_of("epsilon", "v_prediction")}
"""What may stand in NAME.json beside NAME.safetensors."""
CLIP_VOCABULARY = assets_folder() / "tokenizers" / "clip"
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")


def load_original_file(path: Path, state: StateDict, family: DiffusersFamily, options: LoadOptions) -> CheckpointBundle:
    """Load a whole model of a family of diffusers from one file; what it lacks comes from a folder.

    Args:
        path: the file.
        state: its tensors.
        family: the family that they are of.
        options: the device, where autoencoder and text encoders run; the size of the images; and parts that take the
            place of the file's. `base` is a diffusers folder of the family, for what the file lacks.

    Raises:
        MissingExtraError: diffusers or transformers is not installed.
        ModelError: a model that cannot be run, or one that lacks something.
        ArgumentError: parts that do not exist, or a size that the network does not take.
    """
    name = path.resolve().stem
    assert family.original is not None
    assert family.pipeline is not None
    library = import_diffusers(f"Running a {family.network}")
    told = _read_told(path)
    try:
        parts = family.original.read(state, told, path.name)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # Names and shapes that contradict one another fail wherever they are first met.
        raise ModelError(
            f"{path}: the tensors of this {family.name} checkpoint do not fit together ({type(error).__name__}). "
            "Download the file again."
        ) from error
    base = _find_base(options.parts, family)
    _require_all(path, parts, family, base, options.parts)
    scheduler_config = _find_scheduler(parts, base, options.parts)
    process = read_process(scheduler_config)
    config = parts.network.config
    sizes = family.sizes(config)
    vae = _Autoencoder(path, parts, base, options.parts.get("vae"))
    if options.size is not None:
        require_size(options.size, sizes, vae.factor)
    additions = find_additions(name, family.pipeline, options.parts)
    announce(f"building the network of {path.name}")
    kind = getattr(library, family.network)

    def build() -> Any:
        with explain_errors(f"{path}: cannot build a {family.network}"), quiet_libraries():
            return kind.from_config(dict(config))

    network = adapt_network(fill(build, parts.network.tensors, str(path)), family)
    checkpoint = make_checkpoint(name, network, process, family.classes(config), sizes)
    additions = additions.read(network.inner)
    files = [] if additions.merge_network(network.inner) else [path]
    tensors = cached_digest(files, lambda: digest_tensors(network.inner.state_dict(), path.name), "network")
    codec = vae.load(options.device, checkpoint.channels)
    components = {
        "network": diffusers_component(network, tensors),
        "process": process_component(checkpoint),
        "autoencoder": codec.component,
    }
    prompts = _PromptParts(path, name, parts, base, network, additions, options.device)
    notes = [*describe_distillation(name, {}, config, scheduler_config), *_notes(path, parts, base, options.parts)]
    return CheckpointBundle(checkpoint, codec, components, prompts.load, tuple(notes))


def _read_told(path: Path) -> dict[str, Any]:
    """Return the settings beside a file, which are entries of its scheduler."""
    settings = read_settings(path)
    source = path.with_suffix(".json").name
    known = {name: check for name, check in SETTINGS.items() if name in settings}
    if problem := schema.find_problem(settings, known, closed=True):
        raise ModelError(f"{source}: {problem}. The settings of {path.name} are {', '.join(SETTINGS)}.")
    return settings


def _find_base(parts: ModelParts, family: DiffusersFamily) -> Path | None:
    """Return the folder that was named for what the file lacks.

    Raises:
        ArgumentError: there is no such folder, or it is of another family.
    """
    given = parts.get("base")
    if given is None:
        return None
    base = Path(given)
    if not base.is_dir():
        raise ArgumentError(f"There is no folder {str(given)!r:.200}. Name a diffusers folder with --base.")
    assert family.pipeline is not None
    pipeline = read_config(base / INDEX).get("_class_name") if (base / INDEX).is_file() else family.pipeline.name
    if pipeline != family.pipeline.name:
        raise ArgumentError(
            f"{base}: it is a folder of a {pipeline!s:.60}, but the file needs one of a {family.pipeline.name}."
        )
    return base


def _require_all(
    path: Path, parts: OriginalParts, family: DiffusersFamily, base: Path | None, given: ModelParts
) -> None:
    """Refuse a file that lacks components, which no option names either.

    Raises:
        ModelError: it names all that is missing, and what to do.
    """
    assert family.pipeline is not None
    has_vae = parts.autoencoder is not None or given.get("vae") is not None
    if base is not None:
        has_vae = has_vae or autoencoder_folder(base) is not None
    encoders = []
    for each in family.pipeline.text_encoders:
        in_base = base is not None and (base / each).is_dir()
        if each not in parts.text_encoders and not in_base and each not in family.pipeline.optional:
            encoders.append(each)
    if not has_vae and not encoders:
        raise ModelError(
            f"{path}: there is no autoencoder (VAE) in this file. Name one with --vae, a file or a folder of diffusers."
        )
    if encoders:
        missing = f"{' and no '.join(encoders)}{'' if has_vae else ' and no autoencoder (VAE)'}"
        others = "" if has_vae else " and its autoencoder"
        raise ModelError(
            f"{path}: this file of {family.title} has no {missing}. Name a diffusers folder with --base; its text "
            f"encoders and tokenizers{others} are then used."
        )
    for each in family.pipeline.text_encoders:
        tokenizer = each.replace("text_encoder", "tokenizer")
        in_base = base is not None and (base / tokenizer).is_dir()
        if tokenizer not in parts.facts and not in_base and each not in family.pipeline.optional:
            raise ModelError(
                f"{path}: the vocabulary of T5 is in no file of weights. Fetch the folder {tokenizer} of a diffusers "
                f"folder of {family.title} once, and name the folder that it is in with --base."
            )


def _find_scheduler(parts: OriginalParts, base: Path | None, given: ModelParts) -> Config:
    """Return the config of the scheduler: what was asked for, what the file tells, that of the base, that released."""
    own: Config = parts.facts["scheduler"]
    if base is not None and (base / "scheduler" / SCHEDULER_CONFIG).is_file():
        own = read_config(base / "scheduler" / SCHEDULER_CONFIG)
    return choose_scheduler({**own, **parts.told}, given.get("scheduler")) or own


def _notes(path: Path, parts: OriginalParts, base: Path | None, given: ModelParts) -> list[str]:
    notes = []
    prediction = parts.facts["scheduler"].get("prediction_type")
    if prediction == "v_prediction" and not parts.told and base is None and given.get("scheduler") is None:
        notes.append(
            f"{path.name} is taken to predict v, as Stable Diffusion 2 of 768 pixels does. For one of 512 pixels write "
            f'{{"prediction_type": "epsilon"}} to {path.stem}.json beside it'
        )
    if "text_encoder_3" in parts.text_encoders and (base is None or not (base / "tokenizer_3").is_dir()):
        notes.append(
            f"the T5 of {path.name} is not used, as its vocabulary is in no file of weights; --base DIR reads the "
            "folder tokenizer_3 of a diffusers folder"
        )
    return notes


@dataclass(frozen=True)
class _Autoencoder:
    """The autoencoder of a file: one that was asked for, its own, or that of the base."""

    path: Path
    parts: OriginalParts
    base: Path | None
    given: str | Path | None

    def __post_init__(self) -> None:
        if self.given is not None and not Path(self.given).exists():
            raise ArgumentError(f"There is no autoencoder {str(self.given)!r:.200}. Name its folder or its file.")

    @property
    def folder(self) -> Path | None:
        """The folder that it is in, if it is in none of the files."""
        if self.given is not None:
            given = Path(self.given)
            return (autoencoder_folder(given) or given) if given.is_dir() else None
        if self.parts.autoencoder is None and self.base is not None:
            return autoencoder_folder(self.base)
        return None

    @property
    def factor(self) -> int:
        """Pixels a side of one cell of its latents."""
        if self.folder is not None:
            return autoencoder_factor(self.folder)
        factor: int = 2 ** (len(self._config["block_out_channels"]) - 1)
        return factor

    def load(self, device: torch.device, channels: int) -> AutoencoderCodec:
        """Return the codec.

        Args:
            device: where it runs.
            channels: of the network.
        """
        if self.folder is not None:
            return load_autoencoder(self.folder, device, channels=channels)
        if self.given is not None:
            file = Path(self.given)
            weights = read_autoencoder_file(file, self._config)
            digest = partial(cached_digest, weights.files)
        else:
            file = self.path
            assert self.parts.autoencoder is not None
            tensors = name_as_diffusers(self.parts.autoencoder, self._config, str(file))
            weights = ComponentWeights(tensors, [file], str(file))
            digest = partial(cached_digest, weights.files, part="vae")
        return make_autoencoder(self._config, weights, file.name, device, digest, channels=channels)

    @cached_property
    def _config(self) -> Config:
        tensors = self.parts.autoencoder if self.given is None else read_tensors(Path(self.given))
        file = self.path if self.given is None else self.given
        assert tensors is not None
        try:
            return read_autoencoder_config(
                strip_prefix(tensors, *AUTOENCODER_PREFIXES) or tensors, self.parts.facts["vae"]
            )
        except LookupError as error:
            raise ModelError(f"{file}: no autoencoder can be made of this file. Name another one.") from error


@dataclass(frozen=True)
class _PromptParts:
    """What encodes the prompts of a file: its text encoders, or those of the base, and tokenizers."""

    path: Path
    name: str
    parts: OriginalParts
    base: Path | None
    network: DiffusersNetwork
    additions: Additions
    device: torch.device

    def load(self, size: Size) -> PromptEncoder:
        """Return the encoder of prompts for images of a size (H, W)."""
        family = self.network.family
        text = family.pipeline
        assert text is not None
        library = import_diffusers(f"Running a {text.name}")
        kind = getattr(library, text.name)
        index: Mapping[str, Any] = {}
        if self.base is not None and (self.base / INDEX).is_file():
            index = read_config(self.base / INDEX)
        encoders: dict[str, StoredEncoder] = {}
        tokenizers = {}
        for each in text.text_encoders:
            tokenizer = each.replace("text_encoder", "tokenizer")
            found = self._tokenizer(tokenizer, index)
            if found is None:
                continue
            encoder = self._encoder(each, index, text.encoder_classes)
            if encoder is None:
                continue
            if len(found) > (words := encoder.config.get("vocab_size", len(found))):
                raise ModelError(
                    f"{self.path}: its {each} knows {words:,} tokens, and the {tokenizer} has {len(found):,}. Name a "
                    "diffusers folder with the tokenizer that belongs to it with --base."
                )
            encoders[each] = encoder
            tokenizers[tokenizer] = found
        # All that is not given is a component that is not needed.
        components: dict[str, Any] = {}
        for component, parameter in signature(kind.__init__).parameters.items():
            if parameter.default is Parameter.empty and component != "self":
                components[component] = None
        components |= {each: encoder.module for each, encoder in encoders.items()}
        components |= {**tokenizers, text.network: self.network.inner, **text.options}
        with explain_errors(f"{self.path}: cannot make a {text.name}"), quiet_libraries():
            pipeline = kind(**components)
        return add_to_prompts(self.name, pipeline, self.network, encoders, self.device, self.additions, size)

    def _encoder(self, name: str, index: Mapping[str, Any], classes: tuple[str, ...]) -> StoredEncoder | None:
        import transformers

        if name in self.parts.text_encoders:
            config, tensors = self.parts.text_encoders[name]
            announce(f"building the {name.replace('_', ' ')} of {self.path.name}")
            kind = getattr(transformers, config["architectures"][0])
            module = fill_pretrained_network(kind, config, tensors, f"{self.path.name}: {name}")
            return StoredEncoder(module, config, [self.path], name)
        if self.base is None or not (self.base / name).is_dir():
            return None
        folder = self.base / name
        module = load_text_encoder(self.base, name, index, classes)
        return StoredEncoder(module, read_config(folder / "config.json"), weights_files(folder))

    def _tokenizer(self, name: str, index: Mapping[str, Any]) -> Any:
        import transformers

        if self.base is not None and (self.base / name).is_dir():
            entry = index.get(name)
            kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
            if kind not in _TOKENIZERS:
                kind = "CLIPTokenizer" if name in self.parts.facts else "T5TokenizerFast"
            return from_pretrained(getattr(transformers, kind), self.base / name)
        if name not in self.parts.facts:
            return None
        options = {"model_max_length": 77, **self.parts.facts[name]}
        return from_pretrained(transformers.CLIPTokenizer, CLIP_VOCABULARY, **options)
