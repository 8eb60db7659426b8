"""What the registry knows of a family of checkpoints. Importing this needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ddim_edit.diffusion.sampler_times import SamplerTimes
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.io import schema
from ddim_edit.models.checkpoint import Classes
from ddim_edit.models.sizes import ANY_SIZE, Size, SizeRule

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from ddim_edit.diffusion.denoisers import GuidanceRule
    from ddim_edit.models.checkpoint import Checkpoint, StateDict
    from ddim_edit.models.conditioning import Conditioning
    from ddim_edit.models.originals.parts import OriginalParts

Settings = Mapping[str, Any]
"""What the weights of a single file do not show, as JSON values under the names of the family's own code."""
Config = Mapping[str, Any]
"""The config of a network of diffusers."""

SINGLE_FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
COUNT = schema.int_between(1, 1_000_000)
"""The check for levels, sizes and heads: no checkpoint has more, and a schedule of more would fill the memory."""


@dataclass(frozen=True)
class FamilyNotes:
    """What the tables say of a family beside what its other fields tell, in Markdown.

    Args:
        example: options of a command line that names one of its checkpoints.
        recognised: what tells it from other families.
        read: what is read from the files.
        assumed: what the files do not tell, and whatever else is to be known.
        trained: the sizes in pixels that its released checkpoints were trained for.
        cell: pixels a side of a cell of x_0 in these, for families of latents.
        config: entries of their configs that decide which sizes they take.
        sizes: which sizes it takes, where its rule does not say it.
        memory: its peak memory of loading and one step on a CPU, over the weights, where it was measured.
        proven: what it is compared with in the tests, if that is not its pipeline.
    """

    example: str
    recognised: str
    read: str
    assumed: str = ""
    trained: str = ""
    cell: int = 8
    config: Config = field(default_factory=dict)
    sizes: str = ""
    memory: str = ""
    proven: str = ""


@dataclass(frozen=True)
class SingleFileFamily:
    """Checkpoints of one code base, each of which is one file with a state dict.

    Args:
        name: what users call it; key of the registry.
        title: heading in tables: which checkpoints they are.
        order: position in tables.
        notes: what tables say besides.
        settings: a check for each setting that may stand in NAME.json beside NAME.pt.
        matches: whether a state dict is one of this family, by the names (and shapes) of its tensors.
        build: makes the checkpoint of a state dict that matches. What neither weights nor settings have is assumed as
            in the family's released checkpoints.
    """

    name: str
    title: str
    order: int
    notes: FamilyNotes
    settings: schema.Schema
    matches: Callable[[StateDict], bool]
    build: Callable[[StateDict, Settings], Checkpoint]

    @property
    def files(self) -> str:
        """The files that it comes in."""
        return f"one file: {', '.join(SINGLE_FILE_SUFFIXES)}"

    @property
    def facts(self) -> dict[str, str]:
        """What is known of it, in Markdown, by what tables call it."""
        return _list_facts(self)

    @property
    def sizes_taken(self) -> str:
        """The sizes of images that it takes."""
        return self.notes.sizes

    @property
    def works(self) -> str:
        """What can be done with it."""
        return "everything, h-space too"

    @property
    def memory(self) -> str:
        """The peak memory of loading and one step, over the weights."""
        return "not measured; as UNets of pixels in folders, with which they share layers"

    @property
    def proven(self) -> str:
        """What its networks are compared with."""
        return self.notes.proven

    def load(self, state: StateDict, settings: Settings, source: str = "settings") -> Checkpoint:
        """Return the checkpoint of a state dict that matches.

        Args:
            state: the state dict.
            settings: JSON values by the names in `settings`.
            source: where the settings come from, for errors.

        Raises:
            ModelError: unknown settings or values that mean nothing, or tensors that make no network of the family.
        """
        known = {name: check for name, check in self.settings.items() if name in settings}
        if problem := schema.find_problem(settings, known, closed=True):
            raise ModelError(f"{source}: {problem}. The settings of {self.name} are {', '.join(self.settings)}.")
        try:
            return self.build(state, settings)
        except ArgumentError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
            # Names and shapes that contradict one another fail wherever a family first meets them.
            raise ModelError(
                f"The tensors of this {self.name} checkpoint do not fit together ({type(error).__name__}). "
                "Download the file again."
            ) from error


class NetworkShape(NamedTuple):
    """Channels of a network's input and output, and the size (in cells) that it was trained on, if known."""

    in_channels: int
    out_channels: int
    sample_size: object


@dataclass(frozen=True)
class TextPipeline:
    """The pipeline of diffusers that encodes a family's prompts.

    Args:
        name: its class.
        network: which of its components the network is.
        text_encoders: its text encoders; each has a tokenizer of the same name with "tokenizer" for "text_encoder".
        encode: called with the pipeline, a text, the device and the image size (H, W): what the network gets for it.
        encode_negative: the same for a text that guidance leads away from, if that is encoded otherwise.
        reads: the most tokens of a text that it reads, if these are fewer than the tokenizer's own limit.
        variants: other classes of it that a checkpoint may name, and how many tokens these read.
        optional: components that a checkpoint may lack.
        options: further arguments of its constructor.
        encoder_classes: the classes of transformers that its text encoders may be of.
        pads: the side on which it has its tokenizers pad texts, whatever they say themselves.
    """

    name: str
    network: str
    text_encoders: tuple[str, ...]
    encode: Callable[[Any, str, torch.device, Size], Conditioning]
    encode_negative: Callable[[Any, str, torch.device, Size], Conditioning] | None = None
    reads: int = 0
    variants: Mapping[str, int] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    encoder_classes: tuple[str, ...] = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
    pads: str | None = None

    def class_of(self, index: Config) -> str:
        """Return its class in a checkpoint with this model_index.json."""
        named = str(index.get("_class_name"))
        return named if named in self.variants else self.name


def no_classes(config: Config) -> Classes | None:
    """Return no classes, for networks that are conditioned on a prompt or on nothing.

    Raises:
        ModelError: the network has classes after all.
    """
    for name in ("class_embed_type", "num_class_embeds"):
        if config.get(name) is not None:
            raise ModelError(
                f"config.json: networks with {name} {config[name]!r} are not supported. "
                "The condition must be either a class or a prompt."
            )
    return None


def any_size(config: Config) -> SizeRule:
    """Return the rule of networks that take every size."""
    return ANY_SIZE


def accept_any(config: Config) -> bool:
    """Return True."""
    return True


def as_configured(sampler: SamplerTimes) -> SamplerTimes:
    """Return the settings of a sampler as they are."""
    return sampler


def even_shares(sampler: SamplerTimes) -> SamplerTimes:
    """Return the settings of a pipeline that spaces shares of noise evenly itself, from 1 to 1 / steps."""
    return replace(sampler, shares="even")


def sizes_by_patch(config: Config) -> SizeRule:
    """Return the rule of networks whose tokens are patches of the size that their config has."""
    return SizeRule(count_of(config, "patch_size", 2))


def count_of(config: Config, name: str, default: int) -> int:
    """Return a count in the config of a network.

    Raises:
        ModelError: it is none.
    """
    count: int = schema.read_entry(config, name, COUNT, default, source="config.json", error=ModelError)
    return count


def shape_of(config: Any) -> NetworkShape:
    """Return the channels and the size in the config of a loaded network of diffusers."""
    return NetworkShape(config.in_channels, config.out_channels or config.in_channels, config.sample_size)


def call_network(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Return the output of a diffusers network that takes its conditioning by the names that we give it."""
    output: Tensor = network(x, timestep=time, **conditioning, return_dict=False)[0]
    return output


def call_with_class(network: Any, x: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Return the output of a diffusers network that takes class labels."""
    labels = {"class_labels": conditioning["label"]} if conditioning else {}
    output: Tensor = network(x, timestep=time, **labels, return_dict=False)[0]
    return output


@dataclass(frozen=True)
class OriginalFormat:
    """How a family of diffusers comes as one file, in the layout of the code that trained it.

    Args:
        matches: whether a state dict is one of this family, by the names (and shapes) of its tensors.
        read: returns its components, called with the state dict, the entries of its scheduler that the file tells
            otherwise, and what to call the file in errors. It refuses models of other kinds in the same layout.
    """

    matches: Callable[[StateDict], bool]
    read: Callable[[StateDict, Config, str], OriginalParts]


@dataclass(frozen=True)
class DiffusersFamily:
    """Diffusers folders with one class of network.

    The scheduler, the autoencoder and the weights are read alike for all families (`models.folder`).

    Args:
        name: what users call it; key of the registry.
        title: heading in tables: which checkpoints they are.
        order: position in tables.
        notes: what tables say besides.
        network: the class of the network, `_class_name` of its config.
        accepts: tells families with one class of network apart, by the config.
        classes: reads the classes that the network was trained on; refuses those that it cannot be called with.
        call: calls the network of diffusers.
        shape: reads channels and size from the config of the loaded network.
        sizes: reads from the config which sizes of x_0 the network takes.
        sized: whether the sample_size of its config changes what the network computes, as with learned positions.
        sampler: returns the settings of a sampler as its pipeline changes them.
        guidance: how its pipeline guides, by two outputs of the network; None is as in Ho and Salimans.
        unshifted_times: whether a network of a rectified flow is told times as they were before the sampler's shift.
        tokens: cells a side of a token, where the steps of its pipeline are taken with tokens of x_0; 0 where with x_0.
        packs: whether its pipeline makes these tokens of the `latents=` that it is given, or else is given tokens.
        bottleneck: whether its bottleneck is the output of its `mid_block`; False is no h-space.
        pipeline: the pipeline that encodes its prompts, or None.
        own: builds a network of our own that computes the same and has tensors of the same names, or returns None.
        load: loads a network of our own instead, or returns None where diffusers' shall be used.
        original: how it comes as one file, if it does.
        unread: a regular expression that only names of tensors of its single files match, if these are not read; that
            of a family that is derived from another one comes before it in the order of tables.
    """

    name: str
    title: str
    order: int
    notes: FamilyNotes
    network: str
    accepts: Callable[[Config], bool] = accept_any
    classes: Callable[[Config], Classes | None] = no_classes
    call: Callable[[Any, Tensor, Tensor, Conditioning], Tensor] = call_network
    shape: Callable[[Any], NetworkShape] = shape_of
    sizes: Callable[[Config], SizeRule] = any_size
    sized: bool = True
    sampler: Callable[[SamplerTimes], SamplerTimes] = as_configured
    guidance: GuidanceRule | None = None
    unshifted_times: bool = False
    tokens: int = 0
    packs: bool = False
    bottleneck: bool = False
    pipeline: TextPipeline | None = None
    own: Callable[[Config], nn.Module | None] | None = None
    load: Callable[[Path, Config], nn.Module | None] | None = None
    original: OriginalFormat | None = None
    unread: str | None = None

    @property
    def files(self) -> str:
        """The files that it comes in."""
        one = "one file, " if self.original else ""
        return f"{one}diffusers folder or hub id"

    @property
    def facts(self) -> dict[str, str]:
        """What is known of it, in Markdown, by what tables call it."""
        return _list_facts(self)

    @property
    def sizes_taken(self) -> str:
        """The sizes of images that it takes."""
        rule = self.sizes(self.notes.config).scaled(self.notes.cell)
        trained = f"; trained for {self.notes.trained}" if self.notes.trained else ""
        return f"{self.notes.sizes or rule.describe()}{trained}"

    @property
    def works(self) -> str:
        """What can be done with it."""
        if not self.bottleneck:
            return "everything except h-space: a transformer has no bottleneck"
        return "everything, h-space too" if self.pipeline is None else "everything; h-space without guidance"

    @property
    def memory(self) -> str:
        """The peak memory of loading and one step, over the weights."""
        return self.notes.memory or "1, and about 1 GiB (computed: loaded as Stable Diffusion 3 and PixArt are)"

    @property
    def proven(self) -> str:
        """What its networks are compared with."""
        own = self.notes.proven or f"`{self.pipeline.name if self.pipeline else self.network}` of diffusers"
        return f"{own}, at every step and in the image" + (", and files with their folders" if self.original else "")


Family = SingleFileFamily | DiffusersFamily


def _list_facts(family: Family) -> dict[str, str]:
    rows = {
        "example": f"`{family.notes.example}`",
        "files": family.files,
        "recognised": family.notes.recognised,
        "read": family.notes.read,
        "assumed": family.notes.assumed,
        "sizes": family.sizes_taken,
        "memory": family.memory,
        "works": family.works,
        "proven": family.proven,
    }
    return {name: text for name, text in rows.items() if text}


def scaled_linear_betas(T: int) -> NoiseSchedule:
    """Return the linear betas of Ho et al., scaled so that T levels add as much noise as their 1000.

    Most code bases call this schedule "linear".
    """
    return NoiseSchedule.linear(1000 / T * 1e-4, 1000 / T * 0.02, T)
