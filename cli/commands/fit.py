"""`ddim-edit fit`."""

import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import claim
from ..labels import Copies, LabelOptions, invert_to_levels, label_group, read_labelled, refuse_typed, tell
from ..options import FILE, config_groups, level_option, overwrite_option, session_options
from ..session import Session
from ..store_reading import find_whole_rows, open_store
from ..types import DIRECTION
from .directions import summary_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_edit import LatentArray

DEFAULT_ESTIMATOR = "logistic"
INVERTING = (
    *("images", "with", "without", "level", "cache", "steps", "solver", "grid", "crop", "fit"),
    *("prompt", "negative_prompt", "class", "guidance_scale"),
)
"""Options that say how to invert, which latents of a store are already."""


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.directions import ESTIMATORS

    meanings = "; ".join(f"{name}: {entry.help}" for name, entry in ESTIMATORS.items())
    return [
        OptionGroup(
            "Direction",
            [
                click.Argument(["name"]),
                Option(
                    "-o", "--output", required=True, type=FILE, metavar="FILE", help=f"Output file, NAME{DIRECTION}."
                ),
                overwrite_option(),
                Option(
                    "--estimator",
                    type=click.Choice(list(ESTIMATORS)),
                    default=DEFAULT_ESTIMATOR,
                    help=f"Estimator of the direction. {meanings}.",
                ),
                level_option("Level at which it is fitted: a time (400), a part of T (0.4T), xT or h.", "0.4T"),
            ],
        ),
        label_group(store=True),
        *config_groups("solver", "grid", "steps"),
        crop_group(),
        session_options(),
    ]


@command(
    "Directions",
    1,
    option_groups,
    "ddim-edit fit smile --with smiling/ --without serious/ -o smile.direction.safetensors",
    'ddim-edit fit old --images faces/ --labels faces.csv --column age --positive ">=55" -o old.direction.safetensors',
)
def fit(
    name: str,
    output: Path,
    overwrite: bool,
    estimator: str,
    level: str,
    labels: LabelOptions,
    config: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Fit a direction to labelled images. It gets the name NAME, and is written as FILE.

    With --latents STORE the latents are those that `invert` wrote, at the level that it inverted to, and stay on disk
    however many they are. The CSV then names images as the store does.
    """
    if not output.name.endswith(DIRECTION):
        raise click.UsageError(f"The output must end in {DIRECTION}.")
    labels.require_complete()
    if labels.latents:
        refuse_typed(INVERTING, "does not go with --latents, whose images are inverted already.")
    from ddim_edit.directions import fit_direction

    target = claim(output, frozenset(), overwrite)
    if labels.latents:
        latents, values, groups = _read_store(session, labels)
    else:
        images, values, groups = read_labelled(session, labels, crop)
        (latents,) = invert_to_levels(session, images, [level], config, labels.cache)
    direction = fit_direction(name, latents, values, estimator, groups=groups)
    direction.save(target)
    summary = direction.summary()
    session.emit({"output": str(target), **summary}, target)
    session.note(summary_line(summary))
    session.finish()


def _read_store(
    session: Session, labels: LabelOptions
) -> "tuple[LatentArray, NDArray[Any], Sequence[Hashable] | None]":
    """Return the latents of a store whose images have a label, and these; warn about labels without a latent."""
    from ddim_edit.directions import stored_latents
    from ddim_edit.errors import ArgumentError

    assert labels.latents is not None
    store = open_store(session, labels.latents)
    whole = {_normalize(name) for name in find_whole_rows(session, store)}
    if not whole:
        session.finish()  # where all shards failed, there is nothing else to say
    labelled = labels.read_for(store.names)
    tell(session, labelled)
    names = [file.as_posix() for file in labelled.files]
    label_of = {}
    for name, label in zip(names, labelled.labels.tolist(), strict=True):
        if name in whole:
            label_of[name] = label
    if not label_of:
        raise ArgumentError(
            f"None of the {len(labelled)} labelled images, the first of them {names[0]!r:.80}, has a latent in "
            f"{labels.latents.name}, which calls its first image {next(iter(store.names))!r:.80}. Name the files as it "
            "does."
        )
    missing = len(labelled) - len(label_of)
    if missing:
        session.warn(f"{missing} of {len(labelled)} labelled images have no latent in {labels.latents.name}")
    latents, values = stored_latents(store, label_of)
    stored = [name for name in map(_normalize, store.names) if name in label_of]
    copies = Copies(stored, values.tolist())
    repeated = [name for index, name in enumerate(stored) if copies.has(index, latents.images[index])]
    copies.warn(session)
    if repeated:
        for name in repeated:
            del label_of[name]
        latents, values = stored_latents(store, label_of)
    if not labelled.groups:
        return latents, values, None
    group_of = dict(zip(names, labelled.groups, strict=True))
    known = [group_of[name] for name in map(_normalize, store.names) if name in label_of]
    return latents, values, known


def _normalize(name: str) -> str:
    """Return a name as names are compared."""
    return unicodedata.normalize("NFC", name.strip())
