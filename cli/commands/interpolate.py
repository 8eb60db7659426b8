"""`ddim-edit interpolate`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group, split_crop
from ..files import LATENT, claim, join_or, open_standard_output, resolve_all, workload_of
from ..latent_inputs import load_or_invert
from ..options import (
    FILE_OR_FOLDER,
    fps_option,
    image_options,
    inputs_argument,
    inversion_groups,
    overwrite_option,
    session_options,
    upscale_option,
)
from ..session import Session
from ..streams import STANDARD
from ..types import Text, parse_columns_and_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import Latent, Latents


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.images import animation_suffixes, still_suffixes
    from ddim_edit.latents.interpolation import INTERPOLATION_ENTRIES

    meanings = "; ".join(f"{entry.name}: {entry.help}" for entry in INTERPOLATION_ENTRIES.values())
    stills = ", ".join(suffix for suffix in still_suffixes() if suffix not in animation_suffixes())
    return [
        OptionGroup(
            "Output",
            [
                inputs_argument("inputs", "A B [C ...]"),
                Option(
                    "-o",
                    "--output",
                    required=True,
                    metavar="FILE|DIR|-",
                    type=FILE_OR_FOLDER,
                    help=f"Output file: {', '.join(animation_suffixes())} for an animation, {stills} for a strip. "
                    "A folder for single frames, - for a strip on standard output.",
                ),
                *image_options(),
                overwrite_option(),
                fps_option("Frames per second of an animation."),
                upscale_option("Enlarge images (Lanczos). [default: to at least 256 pixels]"),
            ],
        ),
        OptionGroup(
            "Path",
            [
                Option(
                    "--frames",
                    type=click.IntRange(2, 10_000),
                    default=9,
                    metavar="N",
                    help="Frames from each input to the next, both included.",
                ),
                Option(
                    "--interpolation",
                    type=click.Choice(list(INTERPOLATION_ENTRIES)),
                    default=next(iter(INTERPOLATION_ENTRIES)),
                    help=f"Interpolation between latents. {meanings}.",
                ),
                Option("--loop", is_flag=True, help="Return to the first input at the end."),
                Option(
                    "--sheet",
                    type=Text(parse_columns_and_rows),
                    metavar="COLUMNSxROWS",
                    help="Write a sheet between four inputs, its corners, in place of a path. More inputs lie on a "
                    "grid over it.",
                ),
                Option(
                    "--across",
                    type=click.IntRange(2, 100),
                    metavar="N",
                    help="Inputs in each row of the grid that a sheet lies between. [default: 2]",
                ),
            ],
        ),
        *inversion_groups("check"),
        crop_group(),
        session_options(),
    ]


@command(
    "Edit and create",
    1,
    option_groups,
    "ddim-edit interpolate a.png b.png -o a-to-b.webp --frames 13",
    "ddim-edit interpolate a.png b.png c.png d.png -o sheet.png --sheet 7x7",
    "ddim-edit interpolate a.png b.png c.png d.png e.png f.png -o sheet.png --sheet 9x5 --across 3",
)
def interpolate(
    inputs: Sequence[Path],
    output: Path,
    suffix: str,
    metadata: bool,
    overwrite: bool,
    fps: float | None,
    upscale: int | None,
    frames: int,
    interpolation: str,
    loop: bool,
    sheet: tuple[int, int] | None,
    across: int | None,
    config: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Interpolate between images. What lies between their latents, or between latent files, is decoded and written."""
    from ddim_edit.images import animation_suffixes, find_animation_format, still_suffixes

    if output == STANDARD:
        output = open_standard_output(session, suffix)
    # .webp may be both; where a sheet is asked for it is one image.
    animated = output.suffix.lower() in animation_suffixes() and sheet is None and not session.to_stdout
    still = output.suffix.lower() in still_suffixes() and not animated
    _require_outputs(inputs, output, sheet, across, animated, still)
    if animated:
        find_animation_format(output)  # refuses a format whose package is not installed, before hours of work

    # This imports torch, and so only once the arguments are known to be right.
    import torch

    from ddim_edit.images import labelled, write, write_animation
    from ddim_edit.images import sheet as draw_sheet
    from ddim_edit.latents.image_recipes import InterpolationRecipe
    from ddim_edit.latents.interpolation import plan_path

    session.metadata = metadata
    if config["exact"]:
        session.prefer_dtype("fp32")
    inputs = [session.streams.read() if path == STANDARD else path for path in inputs]
    target = claim(output, resolve_all(split_crop(path)[0] for path in inputs), overwrite or session.to_stdout)
    ends = load_or_invert(session, inputs, config, crop)
    if sheet is None:
        rows = [session.editor.interpolate(ends, frames, interpolation, loop)]
    else:
        columns, lines = sheet
        rows = session.editor.sheet(ends, lines, columns, interpolation, across or 2)
    recipe = InterpolationRecipe(interpolation, frames, loop, tuple(latent.recipe for latent in ends), sheet, across)
    frames_of = [_decode(session, row, upscale) for row in rows]
    signature = session.recipe_json(recipe)
    if animated or still:
        session.finish()  # nothing is written with frames missing
        images = [torch.stack(list(row.values())) for row in frames_of]
    if animated:
        for note in write_animation(target, images[0], fps, signature):
            session.note(f"{target.name}: {note}")
    elif still:
        if sheet is None:
            names = [_label(str(session.streams.name_of(path)), number) for number, path in enumerate(inputs, 1)]
            labels = [point.label(names) for point in plan_path(len(ends), frames, loop)]
            write(target, labelled(images, labels), signature)
        else:
            write(target, draw_sheet(images, gap=images[0].shape[-1] // 32), signature)
    else:
        for number, frame in frames_of[0].items():
            write(target / f"frame-{number:04}{suffix}", frame, signature)
        if not frames_of[0]:
            session.finish()
    session.emit({"inputs": [str(path) for path in inputs], "output": str(target)}, target)
    session.finish()


def _require_outputs(
    inputs: Sequence[Path], output: Path, sheet: tuple[int, int] | None, across: int | None, animated: bool, still: bool
) -> None:
    """Refuse inputs and an output that do not go together."""
    from ddim_edit import ArgumentError
    from ddim_edit.images import animation_suffixes, still_suffixes
    from ddim_edit.latents.interpolation import count_rows

    if len(inputs) < 2:
        raise click.UsageError("Interpolation needs at least two inputs.")
    if sheet is None and across is not None:
        raise click.UsageError("--across is for sheets. Give --sheet COLUMNSxROWS too.")
    if sheet is not None and not still:
        raise click.UsageError(f"--sheet needs an output that ends in {join_or(still_suffixes())}.")
    if sheet is not None:
        try:
            count_rows(len(inputs), across or 2)
        except ArgumentError as error:
            raise click.UsageError(f"{error} --across says how many inputs are in a row.") from error
    if output.suffix and not animated and not still:
        known = join_or(dict.fromkeys([*animation_suffixes(), *still_suffixes()]))
        raise click.UsageError(f"The output must end in {known}, or be a folder, not in {output.suffix}.")


def _label(path: str, number: int) -> str:
    """Return what a strip calls an input: its name without a suffix, or its number."""
    from ddim_edit.images import short_label

    otherwise = f"image {number}"
    if path == str(STANDARD):
        return otherwise
    file, _ = split_crop(Path(path))
    return short_label(Path(file.name.removesuffix(LATENT)).stem, otherwise)


def _decode(session: Session, latents: "Latents", factor: int | None) -> "dict[int, Tensor]":
    """Return frames, uint8 [3, H, W], enlarged, by their numbers; those that cannot be decoded fail.

    A latent that comes twice, as on a loop, is decoded once.
    """
    from ddim_edit.images import display_factor, to_uint8, upscale

    def decode(batch: "Sequence[tuple[str, Latent]]") -> "Iterable[Tensor]":
        frames = to_uint8(session.editor.decode([latent for _, latent in batch]))
        return upscale(frames, factor or display_factor(frames.shape[-1]))

    decoded: dict[Latent, Tensor] = {}
    different: dict[Latent, str] = {}
    for number, latent in enumerate(latents):
        different.setdefault(latent, f"frame {number}")
    named = [(name, latent) for latent, name in different.items()]
    for batch in session.batches(named, len(named), workload_of(different), 1):
        for (_, latent), frame in session.run_batch(batch, decode):
            decoded[latent] = frame
    return {number: decoded[latent] for number, latent in enumerate(latents) if latent in decoded}
