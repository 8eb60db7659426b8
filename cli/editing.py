"""`edit` and `translate`: pictures with attributes moved, or taken to another model's domain."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .files import Job, Place, pictures
from .options import (
    folder_option,
    images_argument,
    make_method,
    overwrite_option,
    with_crop,
    with_metadata,
    with_method,
    with_session,
)
from .session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.images import InputImage
    from ddim_edit.latents.image_recipes import EditRecipe, TranslationRecipe

    Save = Callable[[Path, Tensor, Mapping[str, Any] | None], Sequence[str]]

ANIMATIONS = ("webp", "gif", "mp4", "webm")
DIRECTION = ".direction.safetensors"
NUMBER = r"[-+]?(\d+(\.\d*)?|\.\d+)"


class Strip(NamedTuple):
    """Strengths from one to another in so many even steps."""

    low: float
    high: float
    steps: int

    @property
    def factors(self) -> list[float]:
        """All of them."""
        last = self.steps - 1
        # Rounded, so that a strip meets 0 where it should.
        return [round((self.low * (last - i) + self.high * i) / last, 9) for i in range(self.steps)]


def _settings(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    settings: dict[str, float] = {}
    for value in values:
        name, _, strength = value.rpartition("=") if "=" in value else (value, "=", "1")
        if not name or not re.fullmatch(NUMBER, strength):
            raise click.BadParameter(f"{value!r} is not NAME=STRENGTH in standard deviations, as in old=+2.")
        settings[name] = float(strength)
    return settings


def _strip(context: click.Context, parameter: click.Parameter, value: str | None) -> Strip | None:
    if value is None:
        return None
    found = re.fullmatch(rf"({NUMBER}):({NUMBER}):(\d+)", value)
    if found is None or int(found[7]) < 2:
        raise click.BadParameter(f"{value!r} is not LOW:HIGH:COUNT with a count of 2 or more, as in -3:3:7.")
    return Strip(float(found[1]), float(found[4]), int(found[7]))


@click.command()
@images_argument
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    callback=_settings,
    metavar="NAME=STRENGTH",
    help="Direction or its file, and how many standard deviations to move; may be repeated.",
)
@click.option("--keep", multiple=True, metavar="NAME", help="Direction whose score stays as it is; may be repeated.")
@click.option("--conditional", is_flag=True, help="Move along each direction only where it leaves the others alone.")
@click.option("--level", metavar="T|xT|h", help="Refuse directions of another level. [wherever they were fitted]")
@click.option("--strip", callback=_strip, metavar="LOW:HIGH:COUNT", help="A strip of the --set strengths times these.")
@click.option(
    "--animate",
    type=click.Choice(ANIMATIONS),
    metavar="|".join(ANIMATIONS),
    help="Sweep through the --strip and back in DIR/NAME.webp or the like, in place of the strip.",
)
@click.option(
    "--fps", type=click.FloatRange(1, 50), default=12, show_default=True, help="Frames a second of --animate."
)
@click.option("--scale", type=click.IntRange(1, 16), help="Repeat every pixel so often. [1, or 2 in a strip]")
@folder_option
@with_crop
@overwrite_option
@with_session
@with_metadata
def edit(
    images: Sequence[Path],
    settings: Mapping[str, float],
    keep: Sequence[str],
    conditional: bool,
    level: str | None,
    strip: Strip | None,
    animate: str | None,
    fps: float,
    scale: int | None,
    output: Path,
    crop: Any,
    overwrite: bool,
    session: Session,
) -> None:
    """Move attributes of every picture along fitted directions and write DIR/NAME.png; strength 0 changes nothing.

    \b
    ddim-edit edit portrait.jpg --set old=+6 -o out/
    ddim-edit edit portrait.jpg --set old --strip -9:9:7 --keep female -o out/
    ddim-edit edit portrait.jpg --set old --strip -9:9:25 --animate webp -o out/
    """
    if animate and not strip:
        raise click.UsageError("--animate sweeps through a --strip, as in --strip -9:9:25 --animate webp.")
    # Imports torch, and so only once the arguments are known to be right.
    from ddim_edit.latents.image_recipes import EditRecipe

    factors = strip.factors if strip else [1.0]
    rows = [{name: strength * factor for name, strength in settings.items()} for factor in factors]
    suffix, save = _form(strip, list(settings), animate, fps, scale)
    for batch in pictures(session, images, Place(output, suffix, overwrite), crop):
        made = session.editor.edits([picture for _, picture in batch], rows, level, keep, conditional)
        model = session.editor.model.name
        recipes = [
            EditRecipe(settings, tuple(keep), conditional, tuple(factors), model, picture.source)
            for _, picture in batch
        ]
        _write(session, batch, made, save, recipes)
    session.leave()


def _write(
    session: Session,
    batch: "Sequence[tuple[Job, InputImage]]",
    made: "Tensor",
    save: "Save",
    recipes: "Sequence[EditRecipe | TranslationRecipe]",
) -> None:
    """Write each picture's row of edits, [K, 3, H, W] in [-1, 1], with its recipe."""
    from ddim_edit.images import to_uint8

    for (job, _), row, recipe in zip(batch, to_uint8(made), recipes, strict=True):
        with session.survive(job.source):
            for note in save(job.target, row, session.signed(recipe)):
                session.note(f"{job.target.name}: {note}")
            told = {"input": str(job.source), "output": str(job.target), **recipe.to_json()}
            del told["source"]
            session.emit(told, job.target)


def _form(
    strip: Strip | None, names: Sequence[str], animate: str | None, fps: float, scale: int | None
) -> "tuple[str, Save]":
    """The suffix of what is written of a picture's edits, and what writes it."""
    if strip is None:
        return ".png", partial(_save_single, scale or 1)
    if animate:
        return f".{animate}", partial(_save_sweep, scale or 2, fps)
    return ".png", partial(_save_strip, scale or 2, strip.factors, ", ".join(map(_plain, names)))


def _plain(name: str) -> str:
    """What strips and recipes call a direction that was named, or whose file was: no place of this machine."""
    return Path(name).name.removesuffix(DIRECTION)


def _save_single(scale: int, target: Path, row: "Tensor", recipe: Mapping[str, Any] | None) -> Sequence[str]:
    from ddim_edit.images import enlarge, write

    write(target, enlarge(row[0], scale), recipe)
    return ()


def _save_strip(
    scale: int, factors: Sequence[float], name: str, target: Path, row: "Tensor", recipe: Mapping[str, Any] | None
) -> Sequence[str]:
    from ddim_edit.images import enlarge, labelled, write

    labels = [f"{factor:+.3g}" if factor else "0" for factor in factors]
    write(target, labelled([enlarge(row, scale)], labels, [name]), recipe)
    return ()


def _save_sweep(scale: int, fps: float, target: Path, row: "Tensor", recipe: Mapping[str, Any] | None) -> Sequence[str]:
    """There and back, so that it may loop."""
    import torch

    from ddim_edit.images import enlarge, write_animation

    return write_animation(target, enlarge(torch.cat([row, row[1:-1].flip(0)]), scale), fps, recipe)


@click.command()
@images_argument
@click.option("--to", required=True, metavar="NAME|DIR|HUB-ID", help="The model whose domain they go to.")
@folder_option
@with_method()
@with_crop
@overwrite_option
@with_session
@with_metadata
def translate(
    images: Sequence[Path],
    to: str,
    output: Path,
    method: Mapping[str, Any],
    crop: Any,
    overwrite: bool,
    session: Session,
) -> None:
    """Take every picture to the domain of another model by the x_T that they share, and write DIR/NAME.png.

    --model is where the pictures come from, --to where they go: two models of one size and noise schedule.
    """
    from ddim_edit.latents.image_recipes import TranslationRecipe

    other = session.load(to)
    for batch in pictures(session, images, Place(output, ".png", overwrite), crop):
        made = session.editor.translate([picture for _, picture in batch], other, make_method(method))
        model = session.editor.model.name
        recipes = [TranslationRecipe(other.model.name, model, picture.source, method) for _, picture in batch]
        _write(session, batch, made[:, None], partial(_save_single, 1), recipes)
    session.leave()
