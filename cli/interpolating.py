"""`interpolate`: the pictures on the way from one picture to another."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import LATENT, claim, load_latents, read_images, resolved, warn_if_unfinished
from .options import make_method, overwrite_option, with_crop, with_metadata, with_method, with_session
from .session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Latent, Latents

BLEND_NAMES = ("slerp", "lerp", "norm")
Rows = Sequence["Tensor"]
Recipe = Mapping[str, Any] | None
Writer = Callable[[Rows, Path, Recipe], Sequence[str]]
"""Writes frames and tells what had to be done to them."""


def _shape(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    columns, _, rows = value.partition("x")
    if not re.fullmatch(r"\d+x\d+", value) or min(int(columns), int(rows)) < 2:
        raise click.BadParameter(f"{value!r} is not COLUMNSxROWS of 2 or more each, as in 7x7.")
    return int(columns), int(rows)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="A B [C ...]", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE|DIR",
    type=click.Path(path_type=Path),
    help=".png for a strip or sheet, .webp, .gif, .mp4 or .webm for an animation, a folder for single frames.",
)
@click.option(
    "--frames", type=click.IntRange(2), default=9, show_default=True, help="From each to the next, with both."
)
@click.option("--method", "blend", type=click.Choice(BLEND_NAMES), default="slerp", show_default=True, help="The path.")
@click.option("--loop", is_flag=True, help="Go back to the first at the end.")
@click.option("--grid", "shape", callback=_shape, metavar="COLUMNSxROWS", help="A sheet between four inputs.")
@click.option("--fps", type=click.FloatRange(1, 50), default=12, show_default=True, help="Frames a second.")
@click.option("--scale", type=click.IntRange(1, 16), default=2, show_default=True, help="Repeat every pixel so often.")
@with_method(grid_flag="--time-grid")
@with_crop
@overwrite_option
@with_session
@with_metadata
def interpolate(
    inputs: Sequence[Path],
    output: Path,
    frames: int,
    blend: str,
    loop: bool,
    shape: tuple[int, int] | None,
    fps: float,
    scale: int,
    method: Mapping[str, Any],
    crop: Any,
    overwrite: bool,
    session: Session,
) -> None:
    """Walk between the codes of two or more pictures, or latent files, and write what they decode to."""
    _check_use(len(inputs), output, shape)
    write = _writer(output, fps)
    # Imports torch, and so only once the arguments are known to be right.
    from ddim_edit.latents.image_recipes import InterpolationRecipe

    target = claim(output, resolved(inputs), overwrite)
    codes = _codes(session, inputs, method, crop)
    rows = _rows(session, codes, frames, blend, loop, shape)
    recipe = InterpolationRecipe(blend, frames, loop, tuple(code.recipe for code in codes))
    notes = write([_decoded(session, row, scale) for row in rows], target, session.signed(recipe))
    for note in notes:
        session.note(f"{target.name}: {note}")
    session.emit({"inputs": [str(path) for path in inputs], "output": str(target)}, target)


def _check_use(count: int, output: Path, shape: tuple[int, int] | None) -> None:
    if count < 2:
        raise click.UsageError("Interpolation needs at least two inputs.")
    if shape and (count != 4 or output.suffix.lower() != ".png"):
        raise click.UsageError("--grid needs exactly four inputs and an output that ends in .png.")


def _codes(session: Session, inputs: Sequence[Path], method: Mapping[str, Any], crop: Any) -> "list[Latent]":
    """The latent of every input, pictures inverted together."""
    codes = load_latents(session, [path for path in inputs if path.name.endswith(LATENT)])
    files = list(dict.fromkeys(path for path in inputs if not path.name.endswith(LATENT)))
    pictures = {path: picture for path, picture in read_images(session, files, crop) if picture is not None}
    session.leave()
    found = session.editor.invert(list(pictures.values()), make_method(method))
    for path, latent in zip(pictures, found, strict=True):
        warn_if_unfinished(session, path, latent.report)
        codes[path] = latent
    return [codes[path] for path in inputs]


def _rows(
    session: Session, codes: "list[Latent]", frames: int, blend: str, loop: bool, shape: tuple[int, int] | None
) -> "list[Latents]":
    if shape is None:
        return [session.editor.interpolate(codes, frames, blend, loop)]
    columns, rows = shape
    return session.editor.sheet(codes, rows, columns, blend)


def _decoded(session: Session, latents: "Latents", scale: int) -> "Tensor":
    """Frames uint8 [N, 3, H, W], enlarged; a code that comes twice, as on the way back of a loop, is decoded once."""
    import torch

    from ddim_edit.images import enlarge, to_uint8

    pictures: dict[Latent, Tensor] = {}
    different = dict.fromkeys(latents)
    for batch in session.batches(different, "frames", len(different)):
        pictures |= zip(batch, session.editor.decode(batch), strict=True)
    return enlarge(to_uint8(torch.stack([pictures[latent] for latent in latents])), scale)


def _writer(output: Path, fps: float) -> Writer:
    writers: Mapping[str, Writer] = {
        ".png": _write_sheet,
        ".webp": partial(_write_animation, fps),
        ".gif": partial(_write_animation, fps),
        ".mp4": partial(_write_animation, fps),
        ".webm": partial(_write_animation, fps),
        "": _write_frames,
    }
    suffix = output.suffix.lower()
    if suffix not in writers:
        known = ", ".join(filter(None, writers))
        raise click.UsageError(f"The output must end in one of {known}, or be a folder, not {output.suffix}.")
    return writers[suffix]


def _write_sheet(rows: Rows, target: Path, recipe: Recipe) -> Sequence[str]:
    from ddim_edit.images import sheet, write

    write(target, sheet(rows, gap=rows[0].shape[-1] // 32), recipe)
    return ()


def _write_animation(fps: float, rows: Rows, target: Path, recipe: Recipe) -> Sequence[str]:
    from ddim_edit.images import write_animation

    return write_animation(target, rows[0], fps, recipe)


def _write_frames(rows: Rows, target: Path, recipe: Recipe) -> Sequence[str]:
    from ddim_edit.images import write

    for number, frame in enumerate(rows[0]):
        write(target / f"frame-{number:04}.png", frame, recipe)
    return ()
