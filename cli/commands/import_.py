"""`ddim-edit import`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..command import Option, OptionGroup, command
from ..files import LATENT, claim, open_destination, resolve_all, stem, unused_name
from ..options import (
    FILE_OR_FOLDER,
    config_groups,
    inputs_argument,
    make_config,
    output_option,
    overwrite_option,
    session_options,
)
from ..session import Session
from ..streams import STANDARD

if TYPE_CHECKING:
    from ddim_edit import Latent

USUAL_SPREAD = 0.1
"""How far mean and std of an x_T may be from those of noise without a warning."""


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.latents.exchange import FORMATS

    return [
        OptionGroup(
            "Output",
            [
                inputs_argument("files", "FILES..."),
                Option(
                    "--from",
                    argument="form",
                    type=click.Choice(list(FORMATS)),
                    help="Format of the files. [default: by their suffix]",
                ),
                Option(
                    "--like",
                    type=FILE_OR_FOLDER,
                    metavar="LATENT|FOLDER",
                    help="Latent whose recipe the files get, or a folder that has one of the same name for each. "
                    "It takes the place of solver, grid and steps.",
                ),
                output_option("latent"),
                overwrite_option(),
            ],
        ),
        *config_groups("solver", "grid", "steps"),
        session_options("compile", "batch-size"),
    ]


@command(
    "Files of other programs",
    2,
    option_groups,
    "ddim-edit import arrays/portrait.npy --like latents/ -o back/",
    "ddim-edit import unsampled.latent --model ./stable-diffusion --solver ddim -o back/",
)
def import_(
    files: Sequence[Path],
    form: str | None,
    like: Path | None,
    output: Path,
    overwrite: bool,
    config: Mapping[str, Any],
    session: Session,
) -> None:
    """Import latents of another program. Each is written as DIR/NAME.latent.safetensors.

    --model decodes them, by the solver, grid and steps that are given here. A file of several latents is written as
    DIR/NAME-0000 and so on.
    """
    from ddim_edit.latents.exchange import import_latents
    from ddim_edit.metrics import health

    destination = open_destination(session, output, LATENT, overwrite, files=[LATENT])
    destination.require_room(len(files))
    files = [session.streams.read() if file == STANDARD else file for file in files]
    taken: set[str] = set()
    for file in files:
        with session.continue_on_error(file):
            pattern = _load_pattern(session, file, like, config)
            latents = import_latents(file, pattern, form, session.editor.model)
            destination.require_room(len(latents))
            for row, latent in enumerate(latents):
                name = stem(file) if len(latents) == 1 else f"{stem(file)}-{row:04}"
                target = claim(destination.target(unused_name(name, taken)), resolve_all(files), destination.overwrite)
                found = health(latent.x[None])
                mean, std = found.mean.item(), found.std.item()
                if abs(mean) > USUAL_SPREAD or abs(std - 1) > USUAL_SPREAD:
                    session.warn(
                        f"{target.name}: mean {mean:.3g} and std {std:.3g}, where an x_T has 0 and 1; is it one?"
                    )
                latent.save(target)
                session.emit({"input": str(file), "output": str(target), "t": latent.t}, target)
    session.finish()


def _load_pattern(session: Session, file: Path, like: Path | None, config: Mapping[str, Any]) -> "Latent":
    """Return a latent of the model whose time and recipe the imported ones get."""
    from ddim_edit import Latent

    if like is None:
        return session.editor.noise([0], make_config(config))[0]
    pattern = Latent.load(like / f"{stem(file)}{LATENT}" if like.is_dir() else like)
    session.prefer_dtype(pattern.recipe.dtype)
    session.editor.require_own(pattern)
    return pattern
