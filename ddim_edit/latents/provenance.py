"""Where latents come from: typed records that are written to files as JSON objects.

- `Recipe`: all that it takes to decode a latent. It is in the header of latents, directions and stores, and in images
  that were decoded from one latent.
- Origins, such as `InversionOrigin`: how the numbers of a latent came to be. A recipe has one.
- The recipes of all other images are in `ddim_edit.latents.image_recipes`.

No other module composes such records. None of them holds a path or a time stamp, so that equal work gives equal files
on any machine. A new kind of record is one class: its fields are the entries of its JSON.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ddim_edit.diffusion.grids import MOST_TIMES
from ddim_edit.errors import LatentError
from ddim_edit.io import schema
from ddim_edit.io.schema import Check, list_of, optional
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.identity import COMPONENTS, Components

if TYPE_CHECKING:
    from ddim_edit.diffusion.noise import NoiseMix  # imports torch, which `ddim-edit show` does without

FORMAT = 3
"""Version of the JSON of a `Recipe`. Versions 1 and 2 had the hash of a file instead of the model's components."""
DTYPES = ("float32", "tf32", "bfloat16", "float16", "mixed", "float64")
"""What networks compute in, by name: the keys of `devices.PRECISIONS`, which imports torch, and what others' have."""
MOST_NOISES = 4096
"""How many noises may be mixed; each mixture of latents adds theirs."""
_LARGEST_WEIGHT = 1000
"""Of a noise in a mixture; beyond, latents that nearly cancel were scaled up, and are all rounding."""
COMPATIBILITY = ("components", "schedule", "dtype", "condition", "solver", "times")
"""What the recipes of two latents must share for them to be decoded together or mixed."""


def is_same_time(a: float, b: float) -> bool:
    """Return whether two times of a grid are the same up to rounding: versions of NumPy differ in the last bits."""
    return math.isclose(a, b, rel_tol=1e-9)


def are_same_times(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether the times of two grids are the same up to rounding."""
    return len(a) == len(b) and all(map(is_same_time, a, b))


def entry(
    check: Check, key: str = "", parse: Callable[[Any], Any] | None = None, omit: bool = False
) -> Mapping[str, Any]:
    """Return the metadata of a dataclass field that is an entry of the record's JSON.

    Args:
        check: what its JSON value must be.
        key: its key, if that is not the name of the field.
        parse: makes the field of the JSON value.
        omit: whether to leave the entry out where the field is None.
    """
    return {"check": check, "key": key, "parse": parse, "omit": omit}


REST: Mapping[str, Any] = {"rest": True}
"""Metadata of a field, a mapping, that takes all entries which belong to no other field."""


def _to_json(value: object) -> Any:
    if isinstance(value, Record | Recipe):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _to_json(each) for name, each in value.items()}
    return [_to_json(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Record:
    """Base class of records whose JSON has a kind and an entry for each field."""

    kind: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        record: dict[str, Any] = {"kind": self.kind}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.metadata.get("rest"):
                record.update(_to_json(value))
            elif value is not None or not each.metadata["omit"]:
                record[each.metadata["key"] or each.name] = _to_json(value)
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Return the record in a JSON object of this kind; a missing entry takes the default, if its field has one.

        Raises:
            LatentError: an entry is missing, unknown or something else.
        """
        source = f"a record of kind {record.get('kind')!r:.40}"
        unclaimed = dict(record)
        values: dict[str, Any] = {}
        if cls.kind:
            unclaimed.pop("kind", None)
        for each in fields(cls):
            if each.metadata.get("rest"):
                values[each.name] = unclaimed
                unclaimed = {}
                continue
            key = each.metadata["key"] or each.name
            parse = each.metadata["parse"]
            if key in unclaimed or (each.default is MISSING and each.default_factory is MISSING):
                value = schema.read_entry(record, key, each.metadata["check"], source=source, error=LatentError)
                values[each.name] = value if parse is None else parse(value)
                del unclaimed[key]
        if unclaimed:
            raise LatentError(f"{source} has no entry {next(iter(unclaimed))!r:.40}.")
        return cls(**values)


# Origins of latents


@dataclass(frozen=True)
class Origin(Record):
    """Base class of the origins of latents."""


@dataclass(frozen=True)
class UnknownOrigin(Origin):
    """An origin that is not recorded, or of a kind that this version does not know; kept as it is."""

    record: Mapping[str, Any] = field(default_factory=dict, metadata=REST)

    def to_json(self) -> dict[str, Any]:
        """Return the record as it was."""
        return dict(self.record)


@dataclass(frozen=True)
class InversionOrigin(Origin):
    """An image that was inverted.

    Attributes:
        source: SHA-256 of the image file, or of the tensor.
        exact: whether the inversion was iterated until the image came back.
        preprocessing: what was done to the image before; None for a tensor.
        refine: how the latent of an autoencoder was refined, if it was.
        pixels: SHA-256 of what the network was given, by which copies of an image in other files are known.
    """

    kind: ClassVar[str] = "inversion"
    source: str = field(metadata=entry(schema.text))
    exact: bool = field(default=False, metadata=entry(schema.flag))
    preprocessing: Mapping[str, Any] | None = field(default=None, metadata=entry(optional(schema.table)))
    refine: str | None = field(default=None, metadata=entry(optional(schema.text), omit=True))
    pixels: str | None = field(default=None, metadata=entry(optional(schema.text), omit=True))


@dataclass(frozen=True)
class LatentArrayOrigin(Origin):
    """The inversion of many images, read at one level: what a direction was fitted to.

    Attributes:
        dequantise: the seed of the noise that was added to the images, or None.
        refine: how the latents of an autoencoder were refined, or None.
        level: where the trajectories were read, as the user named it; None where several levels share a record.
    """

    kind: ClassVar[str] = "codes"
    dequantise: int | None = field(default=0, metadata=entry(optional(schema.integer)))
    refine: str | None = field(default=None, metadata=entry(optional(schema.text)))
    level: str | None = field(default=None, metadata=entry(optional(schema.text), omit=True))


@dataclass(frozen=True)
class NoiseOrigin(Origin):
    """Gaussian noise drawn from a seed."""

    kind: ClassVar[str] = "noise"
    seed: int = field(metadata=entry(schema.integer))


@dataclass(frozen=True)
class ImportOrigin(Origin):
    """A tensor in a file of another program.

    Attributes:
        format: name of the file's format, one of `latents.exchange.FORMATS`.
        source: SHA-256 of the file.
        row: which of the latents in it.
    """

    kind: ClassVar[str] = "import"
    format: str = field(metadata=entry(schema.text))
    source: str = field(metadata=entry(schema.text))
    row: int = field(metadata=entry(schema.count))


def origin_from_json(record: Mapping[str, Any]) -> Origin:
    """Return the origin in a JSON object.

    Raises:
        LatentError: an entry is missing, unknown or something else.
    """
    kind = record.get("kind")
    known = (InversionOrigin, LatentArrayOrigin, NoiseOrigin, ImportOrigin, CombinationOrigin, EditOrigin)
    for each in (*known, TranslationOrigin):
        if kind == each.kind:
            return each.from_json(record)
    return InterpolationOrigin.from_json(record) if "ends" in record else UnknownOrigin(dict(record))


@dataclass(frozen=True)
class InterpolationOrigin(Origin):
    """A point between two latents.

    Attributes:
        interpolation: one of `INTERPOLATIONS`; in JSON it is the kind.
        w: how far from the first to the second, in [0, 1].
        ends: where the two come from.
    """

    interpolation: str = field(metadata=entry(schema.text, "kind"))
    w: float = field(metadata=entry(schema.number))
    ends: tuple[Origin, ...] = field(
        metadata=entry(list_of(schema.table, 2), parse=lambda ends: tuple(map(origin_from_json, ends)))
    )


@dataclass(frozen=True)
class CombinationOrigin(Origin):
    """A linear combination of latents.

    Attributes:
        weights: one for each latent, as they were given.
        sources: where the latents come from.
    """

    kind: ClassVar[str] = "combination"
    weights: tuple[float, ...] = field(metadata=entry(list_of(schema.number), parse=tuple))
    sources: tuple[Origin, ...] = field(
        metadata=entry(list_of(schema.table), parse=lambda sources: tuple(map(origin_from_json, sources)))
    )

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Return the record in a JSON object of this kind.

        Raises:
            LatentError: as for any record, or another number of weights than of sources.
        """
        origin = super().from_json(record)
        if len(origin.weights) != len(origin.sources) or not any(origin.weights):
            raise LatentError("a record of kind 'combination' must have a weight for each source, not all of them 0.")
        return origin


@dataclass(frozen=True)
class EditOrigin(Origin):
    """A latent that was moved along directions.

    Attributes:
        strengths: in standard deviations, by the names of the directions.
        keep: the directions whose scores were kept.
        of: where the latent came from before.
    """

    kind: ClassVar[str] = "edit"
    strengths: Mapping[str, float] = field(metadata=entry(schema.map_of(schema.number), "set"))
    keep: tuple[str, ...] = field(metadata=entry(list_of(schema.text), parse=tuple))
    of: Origin = field(metadata=entry(schema.table, parse=origin_from_json))


@dataclass(frozen=True)
class TranslationOrigin(Origin):
    """A latent of another model.

    Attributes:
        of: the recipe that it has there.
    """

    kind: ClassVar[str] = "translation"
    of: "Recipe" = field(metadata=entry(schema.table, parse=lambda record: Recipe.from_json(record)))


def find_inversion(origin: Origin) -> InversionOrigin | None:
    """Return the inversion of the one image that a latent was made from, however it was moved since; None without."""
    while isinstance(origin, EditOrigin | TranslationOrigin):
        origin = origin.of if isinstance(origin, EditOrigin) else origin.of.origin
    return origin if isinstance(origin, InversionOrigin) else None


# Recipes of latents


def _are_seeded_weights(value: object) -> bool:
    if not isinstance(value, list) or len(value) > MOST_NOISES:
        return False
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            return False
        # Combinations also have negative weights, and ones above 1.
        if not schema.integer.accepts(pair[0]) or not schema.number.accepts(pair[1]) or abs(pair[1]) > _LARGEST_WEIGHT:
            return False
    return True


def _are_times(value: object) -> bool:
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= MOST_TIMES:
        return False
    return all(map(schema.number.accepts, value)) and value[0] >= 0 and all(a < b for a, b in pairwise(value))


def _is_part(value: object) -> bool:
    return schema.number.accepts(value) and 0 <= value <= 1  # type: ignore[operator]


_CONDITION = {
    "prompt": schema.text,
    "negative_prompt": schema.text,
    "label": optional(schema.count),
    "guidance_scale": schema.number,
}


@dataclass(frozen=True)
class Recipe:
    """All that it takes to decode a latent, and where it came from.

    Attributes:
        model: name of the model, for people; it is never compared.
        components: what identifies the model, as `Model.components`.
        schedule: description of the noise schedule.
        prediction: what the network predicts, in diffusers' words.
        dtype: what the network computed in.
        solver: name of the solver that decodes.
        grid: name of the grid.
        times: its times, from the image up to the latent's t.
        condition: the prompt or class that it was inverted under, and is decoded under.
        dequantise: the noise to take off at the first time, as seeds and weights.
        origin: how the latent came to be.
        format: version of its JSON.
        detail: of a latent that was moved, the part of the detail below the grid's first level that is that of its
            sources, from 0 to 1; the rest is the model's own. None for a latent that stayed, whose noise is taken off;
            its JSON has no such entry. See `Latent.moved`.
    """

    model: str
    components: Components
    schedule: Mapping[str, Any]
    prediction: str
    dtype: str
    solver: str
    grid: str
    times: tuple[float, ...]
    condition: Condition = NOTHING
    dequantise: "NoiseMix" = ()
    origin: Origin = field(default_factory=UnknownOrigin)
    format: int = FORMAT
    detail: float | None = None

    SCHEMA: ClassVar[schema.Schema] = {
        **dict.fromkeys(("model", "prediction", "solver", "grid"), schema.text),
        "dtype": schema.one_of(*DTYPES),
        "components": COMPONENTS,
        "schedule": schema.table_of({"T": schema.count}),
        "times": Check("2 to 10,002 times from 0 up, each later than the one before", _are_times),
        "condition": schema.table_of(_CONDITION, closed=True),
        "dequantise": Check(
            f"up to {MOST_NOISES} pairs of a seed and a weight from -{_LARGEST_WEIGHT} to {_LARGEST_WEIGHT}",
            _are_seeded_weights,
        ),
        "origin": schema.table,
        "format": schema.integer,
        "detail": optional(Check("a number from 0 to 1", _is_part)),
    }

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON types."""
        record = {each.name: _to_json(getattr(self, each.name)) for each in fields(self)}
        if self.detail is None:
            del record["detail"]
        return {**record, "condition": self.condition.as_dict()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Return the recipe in a JSON object.

        Raises:
            LatentError: an entry is missing, unknown or something else, or the format is newer than this program.
        """
        version = record.get("format")
        if version != FORMAT:
            given = f"format {FORMAT} of a recipe, not {schema.describe(version)}"
            raise LatentError(
                f"this version of ddim-edit reads {given}. Make it again, or use the version that wrote it."
            )
        values = schema.validate({"detail": None, **record}, cls.SCHEMA, "the recipe", LatentError, closed=True)
        T = record["schedule"].get("T")
        if T is not None and record["times"][-1] > T:
            raise LatentError(f"the recipe: its times go up to {record['times'][-1]:g}, and its schedule to {T}.")
        try:
            origin = origin_from_json(record["origin"])
        except RecursionError as error:
            raise LatentError("the recipe: its origin is nested too deeply.") from error
        parsed = {
            "times": tuple(record["times"]),
            "condition": Condition.from_dict(record["condition"]),
            "dequantise": tuple((seed, weight) for seed, weight in record["dequantise"]),
            "origin": origin,
        }
        return cls(**{**values, **parsed})

    @property
    def compatibility_key(self) -> tuple[Any, ...]:
        """What two latents must share to be decoded together or mixed, in the order of `COMPATIBILITY`."""
        return tuple(getattr(self, name) for name in COMPATIBILITY)
