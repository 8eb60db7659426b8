"""Recipes of images that were not decoded from one latent, and the command lines that make them again.

cli, page, evaluation and training put these records into the images that they write, and compose neither recipes nor
command lines by themselves.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, ClassVar

from ddim_edit.errors import ArgumentError
from ddim_edit.images import Box, CentreSquare, Crop, FaceCrop, Fit
from ddim_edit.io import schema
from ddim_edit.io.schema import list_of
from ddim_edit.latents.provenance import REST, Recipe, Record, entry
from ddim_edit.models.hub_files import HubId


@dataclass(frozen=True)
class ImageRecipe(Record):
    """Base class of the recipes of images that were not decoded from one latent.

    Attributes:
        command: the command that makes such images; empty where it takes more than the recipe has.
    """

    command: ClassVar[str] = ""

    def options(self) -> list[str]:
        """Return the options of the command, without those that stand at their default."""
        return []


FRAMES = entry(list_of(schema.table), parse=tuple, omit=True)
"""Metadata of the parts of a photograph that were changed; left out of images of the model's size."""


@dataclass(frozen=True)
class EditRecipe(ImageRecipe):
    """An image whose attributes were moved.

    Attributes:
        strengths: in standard deviations, by the directions' names or files; of a file the JSON has the bare name.
        keep: names or files of the directions whose scores were kept.
        conditional: whether each direction was made orthogonal to the others.
        factors: what the strengths were multiplied by, one for each image of a strip or animation.
        model: name of the model.
        source: SHA-256 of the image file.
        frames: of a whole photograph, the parts that were edited: the `preprocessing` of each.
        words: of the strengths and of what is kept, what are words: each a `WordDirection` as JSON.
        config: the inversion for words alone, as JSON; fitted directions have theirs.
    """

    kind: ClassVar[str] = "edit"
    command: ClassVar[str] = "edit"
    strengths: Mapping[str, float] = field(metadata=entry(schema.map_of(schema.number), "set"))
    keep: tuple[str, ...] = field(metadata=entry(list_of(schema.text), parse=tuple))
    conditional: bool = field(metadata=entry(schema.flag))
    factors: tuple[float, ...] = field(metadata=entry(list_of(schema.number), parse=tuple))
    model: str = field(metadata=entry(schema.text))
    source: str = field(metadata=entry(schema.text))
    frames: tuple[Mapping[str, Any], ...] | None = field(default=None, metadata=FRAMES)
    words: Mapping[str, Mapping[str, Any]] | None = field(
        default=None, metadata=entry(schema.map_of(schema.table), omit=True)
    )
    config: Mapping[str, Any] | None = field(default=None, metadata=entry(schema.table, omit=True))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types, without the places of files."""
        strengths = {self._recorded(name): strength for name, strength in self.strengths.items()}
        return {**super().to_json(), "set": strengths, "keep": [self._recorded(name) for name in self.keep]}

    def _recorded(self, name: str) -> str:
        return name if name in (self.words or {}) else _bare_name(name)

    def options(self) -> list[str]:
        """Return --set, --from, --to, --keep, --conditional, --strip, and those of words and of their inversion."""
        words: list[str] = []
        records = self.words or {}
        for name, strength in self.strengths.items():
            value = _positional(strength, "+") if strength else 0
            record = records.get(name, {})
            if "from" in record:
                words += ["--from", str(record["from"]), "--to", f"{record['to']}={value}"]
            else:
                words += ["--set", f"{name}={value}"]
        for name in self.keep:
            words += ["--keep", name]
        if self.conditional:
            words.append("--conditional")
        if len(self.factors) > 1:
            low, high = _positional(self.factors[0]), _positional(self.factors[-1])
            words += ["--strip", f"{low}:{high}:{len(self.factors)}"]
        # The command has one setting for all words.
        settings: dict[str, Any] = {}
        for record in records.values():
            settings |= record
        for name, option in WORD_OPTIONS.items():
            if name in settings:
                words += [option, str(settings[name])]
        return words + config_options(self.config or {})


WORD_OPTIONS = {"form": "--words", "mask_quantile": "--mask-quantile", "warm_up": "--warm-up"}
"""The options of `ddim-edit edit` for all words, by the fields of a `WordDirection`."""


def _bare_name(name: str) -> str:
    """Return the name of a direction without the place of its file; hub ids, which others can use, stay whole."""
    if HubId.parse(name) is not None and not name.endswith(".direction.safetensors") and not Path(name).exists():
        return name
    return PurePath(name).name.removesuffix(".direction.safetensors")


def _positional(value: float, sign: str = "") -> str:
    """Return a number without an exponent, which options refuse; it reads back as the same number."""
    text = f"{Decimal(repr(float(value))):{sign}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class InterpolationRecipe(ImageRecipe):
    """A strip, sheet or animation between latents.

    Attributes:
        interpolation: one of `INTERPOLATIONS`; in JSON it is the kind.
        frames: from each latent to the next, with both.
        loop: whether it returns to the first.
        ends: the recipes of the latents.
        sheet: columns and rows of a sheet, for which frames and loop say nothing.
        across: how many latents are in each row of the grid that a sheet lies between.
    """

    command: ClassVar[str] = "interpolate"
    interpolation: str = field(metadata=entry(schema.text, "kind"))
    frames: int = field(metadata=entry(schema.positive_int))
    loop: bool = field(metadata=entry(schema.flag))
    ends: tuple[Recipe, ...] = field(
        metadata=entry(list_of(schema.table), parse=lambda ends: tuple(map(Recipe.from_json, ends)))
    )
    sheet: tuple[int, int] | None = field(
        default=None, metadata=entry(list_of(schema.positive_int, 2), parse=tuple, omit=True)
    )
    across: int | None = field(default=None, metadata=entry(schema.positive_int, omit=True))

    def options(self) -> list[str]:
        """Return --frames or --sheet and --across, --interpolation and --loop."""
        words = ["--frames", str(self.frames)]
        if self.sheet is not None:
            words = ["--sheet", "{}x{}".format(*self.sheet)]
        if self.across is not None:
            words += ["--across", str(self.across)]
        if self.interpolation != "slerp":
            words += ["--interpolation", self.interpolation]
        return [*words, "--loop"] if self.loop else words


@dataclass(frozen=True)
class CombinationRecipe(ImageRecipe):
    """How an image is combined of others. The image itself has the recipe of its one latent.

    Attributes:
        weights: one for each image.
    """

    kind: ClassVar[str] = "combination"
    command: ClassVar[str] = "combine"
    weights: tuple[float, ...] = field(metadata=entry(list_of(schema.number), parse=tuple))

    def options(self) -> list[str]:
        """Return --weights, unless all are the same."""
        if len(set(self.weights)) == 1 and self.weights[0] > 0:
            return []
        return ["--weights", ",".join(map(_positional, self.weights))]


@dataclass(frozen=True)
class TranslationRecipe(ImageRecipe):
    """An image taken to the domain of another model.

    Attributes:
        to: name of that model.
        model: name of the model that inverted it.
        source: SHA-256 of the image file.
        config: the inversion, as JSON.
        frames: of a whole photograph, the part that was translated: its `preprocessing`.
    """

    kind: ClassVar[str] = "translation"
    command: ClassVar[str] = "translate"
    to: str = field(metadata=entry(schema.text))
    model: str = field(metadata=entry(schema.text))
    source: str = field(metadata=entry(schema.text))
    config: Mapping[str, Any] = field(metadata=REST)
    frames: tuple[Mapping[str, Any], ...] | None = field(default=None, metadata=FRAMES)

    def options(self) -> list[str]:
        """Return --to and those of the inversion."""
        return ["--to", self.to, *config_options(self.config)]


@dataclass(frozen=True)
class ReconstructionRecipe(ImageRecipe):
    """A sheet of images and what came back of them.

    Attributes:
        model: name of the model.
        sources: SHA-256 of the image files on the sheet.
        config: the inversion, as JSON.
    """

    kind: ClassVar[str] = "reconstruction"
    command: ClassVar[str] = "reconstruct"
    model: str = field(metadata=entry(schema.text))
    sources: tuple[str, ...] = field(metadata=entry(list_of(schema.text), parse=tuple))
    config: Mapping[str, Any] = field(metadata=REST)

    def options(self) -> list[str]:
        """Return those of the inversion."""
        return config_options(self.config)


@dataclass(frozen=True)
class DiscoveryRecipe(ImageRecipe):
    """A sheet of directions that were found without labels.

    Attributes:
        model: name of the model.
        sources: SHA-256 of the image files that they were found at; the sheet shows the first ones.
        names: of the directions.
        level: where they were found.
        factors: the strengths, one for each column.
        seed: of the iteration.
        config: solver, grid, steps and condition, as JSON.
        iterations: at most; None in images of older versions.
    """

    kind: ClassVar[str] = "discovery"
    command: ClassVar[str] = "discover"
    model: str = field(metadata=entry(schema.text))
    sources: tuple[str, ...] = field(metadata=entry(list_of(schema.text), parse=tuple))
    names: tuple[str, ...] = field(metadata=entry(list_of(schema.text), parse=tuple))
    level: str = field(metadata=entry(schema.text))
    factors: tuple[float, ...] = field(metadata=entry(list_of(schema.number), parse=tuple))
    seed: int = field(metadata=entry(schema.count))
    config: Mapping[str, Any] = field(metadata=REST)
    iterations: int | None = field(default=None, metadata=entry(schema.positive_int, omit=True))

    def options(self) -> list[str]:
        """Return --count, --names, --level, --strengths, --seed, --iterations and those of the inversion."""
        low, high = _positional(self.factors[0]), _positional(self.factors[-1])
        words = ["--count", str(len(self.names)), "--names", ",".join(self.names), "--level", self.level]
        words += ["--strengths", f"{low}:{high}:{len(self.factors)}", "--seed", str(self.seed)]
        if self.iterations is not None:
            words += ["--iterations", str(self.iterations)]
        return words + config_options(self.config)


@dataclass(frozen=True)
class SampleRecipe(ImageRecipe):
    """An image drawn from a seed.

    Attributes:
        model: name of the model.
        seed: of the noise.
        eta: 0 for DDIM, 1 for DDPM.
        posterior_mean: whether DDPM's noise was left out.
        config: solver, grid, steps and condition, as JSON.
    """

    kind: ClassVar[str] = "sample"
    command: ClassVar[str] = "sample"
    model: str = field(metadata=entry(schema.text))
    seed: int = field(metadata=entry(schema.count))
    eta: float = field(metadata=entry(schema.number))
    posterior_mean: bool = field(metadata=entry(schema.flag))
    config: Mapping[str, Any] = field(metadata=REST)

    def options(self) -> list[str]:
        """Return -n, --seed, --eta, --posterior-mean and those of the sampling."""
        return _sample_options(self, [self.seed])


@dataclass(frozen=True)
class SampleSheetRecipe(ImageRecipe):
    """A sheet of images drawn from seeds.

    Attributes:
        seeds: of the images, in order; in JSON they are the `seed`. The rest is as in `SampleRecipe`.
    """

    kind: ClassVar[str] = "samples"
    command: ClassVar[str] = "sample"
    model: str = field(metadata=entry(schema.text))
    seeds: tuple[int, ...] = field(metadata=entry(list_of(schema.count), "seed", parse=tuple))
    eta: float = field(metadata=entry(schema.number))
    posterior_mean: bool = field(metadata=entry(schema.flag))
    config: Mapping[str, Any] = field(metadata=REST)

    def options(self) -> list[str]:
        """Return -n, --seed, --eta, --posterior-mean and those of the sampling."""
        return _sample_options(self, self.seeds)


def _sample_options(recipe: SampleRecipe | SampleSheetRecipe, seeds: Sequence[int]) -> list[str]:
    words = ["-n", str(len(seeds)), "--seed", str(seeds[0])]
    config = dict(recipe.config)
    if recipe.eta:
        words += ["--eta", _positional(recipe.eta)]
    if recipe.posterior_mean:
        words.append("--posterior-mean")
    if recipe.eta or recipe.posterior_mean:
        config.pop("solver", None)  # they have one of their own
    return words + config_options(config)


@dataclass(frozen=True)
class EvaluationRecipe(ImageRecipe):
    """A plot of an evaluation.

    Attributes:
        settings: what its rows have in common, as JSON.
    """

    kind: ClassVar[str] = "evaluation"
    settings: Mapping[str, Any] = field(metadata=REST)


@dataclass(frozen=True)
class SelfInterpolationRecipe(ImageRecipe):
    """A plot of a self-interpolation test.

    Attributes:
        settings: what its rows have in common, as JSON.
    """

    kind: ClassVar[str] = "self-interpolation"
    settings: Mapping[str, Any] = field(metadata=REST)


@dataclass(frozen=True)
class ProbeRecipe(ImageRecipe):
    """A plot of linear probes.

    Attributes:
        model: name of the model.
        levels: where latents were read.
        seed: of the splits.
        config: solver, grid, steps and condition, as JSON.
    """

    kind: ClassVar[str] = "probe"
    model: str = field(metadata=entry(schema.text))
    levels: tuple[str, ...] = field(metadata=entry(list_of(schema.text), parse=tuple))
    seed: int = field(metadata=entry(schema.count))
    config: Mapping[str, Any] = field(metadata=REST)


@dataclass(frozen=True)
class TrainingSheetRecipe(ImageRecipe):
    """A sheet of images that a model draws during its training.

    Attributes:
        step: of the training.
    """

    kind: ClassVar[str] = "samples of a training"
    step: int = field(metadata=entry(schema.count))


def recipe_from_json(record: Mapping[str, Any]) -> Recipe | ImageRecipe:
    """Return the recipe in a JSON object, as `images.read_recipe` finds it in an image.

    Raises:
        LatentError: a kind that this version does not know, or an entry that is missing, unknown or something else.
    """
    kind = record.get("kind")
    if kind is None:
        return Recipe.from_json(record)
    for each in ImageRecipe.__subclasses__():
        if kind == each.kind:
            return each.from_json(record)
    return InterpolationRecipe.from_json(record)


OPTIONS: Mapping[str, tuple[str, Any]] = {
    "steps": ("--steps", 20),
    "solver": ("--solver", "dpm2m"),
    "grid": ("--grid", "standard"),
    "exact": ("--exact", False),
    "tol": ("--tol", None),
    "check": ("--check", False),
    "dequantise": ("--dequantise-seed", 0),
    "refine": ("--refine-codec", None),
    "level": ("--level", None),
    "prompt": ("--prompt", None),
    "negative_prompt": ("--negative-prompt", None),
    "label": ("--class", None),
    "guidance_scale": ("--guidance-scale", None),
}
"""The option of `ddim-edit` and the default of each field of an `InversionConfig`, which imports this package."""


def config_options(config: Mapping[str, Any]) -> list[str]:
    """Return the options of `ddim-edit` for an inversion or sampling, without those that stand at their default.

    Args:
        config: fields of an `InversionConfig` as JSON, those that are known.
    """
    chosen = {**config, **config.get("condition", {})}
    words: list[str] = []
    for name, (option, default) in OPTIONS.items():
        value = chosen.get(name, default)
        if value == default:
            continue
        if name == "dequantise" and value is None:
            words.append("--no-dequantise")
        else:
            words += [option] if value is True else [option, str(value)]
    return words


def crop_text(crop: Crop) -> str:
    """Return a crop as --crop takes it, and as it may stand behind the name of an input and an @.

    Examples:
        >>> crop_text(Box(120, 80, 512)), crop_text(CentreSquare())
        ('120,80,512', 'centre')
    """
    if isinstance(crop, Box):
        return f"{crop.x},{crop.y},{crop.size}"
    if isinstance(crop, FaceCrop):
        return "face" if crop.which == "largest" else f"face:{crop.which}"
    if isinstance(crop, CentreSquare):
        return "centre"
    return "fit" if isinstance(crop, Fit) else "auto"


def command_line(
    recipe: ImageRecipe,
    inputs: Iterable[str],
    output: str,
    *,
    crop: Crop | None = None,
    options: Sequence[str] = (),
) -> str:
    """Return the command line that makes an image again, quoted for a POSIX shell.

    Args:
        recipe: of the image.
        inputs: names of the files that it was made from, which a recipe does not hold.
        output: where to write to.
        crop: what was kept of the inputs.
        options: more options, such as those that name the model.

    Raises:
        ArgumentError: a recipe of something that no command makes from its inputs alone.

    Examples:
        >>> recipe = EditRecipe({"old": 2.0}, (), False, (1.0,), "faces64", "")
        >>> command_line(recipe, ["a photo.jpg"], "edited")
        "ddim-edit edit 'a photo.jpg' --set old=+2 -o edited"
    """
    if not recipe.command:
        raise ArgumentError(f"No command line is known for an image of kind {recipe.kind!r}.")
    words = ["ddim-edit", recipe.command]
    # A name that begins with a dash would be taken for an option.
    words += [f"./{name}" if name.startswith("-") else name for name in inputs]
    words += recipe.options()
    if isinstance(crop, FaceCrop) and crop.which != "largest":
        words += ["--crop", "face", "--face", str(crop.which)]
    elif crop is not None:
        words += ["--crop", crop_text(crop)]
    return shlex.join([*words, *options, "-o", output])
