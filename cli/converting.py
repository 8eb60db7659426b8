"""`export` and `import`: latents to the files of other programs and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .files import LATENT, Place, claim, jobs, latent_files, load_latents, resolved, stem, untaken
from .options import folder_option, make_method, overwrite_option, with_session, with_walk
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import Latent, Latents

# Written out here so that --help and wrong use need not load the formats; a test compares them.
SUFFIXES = {"npy": ".npy", "safetensors": ".safetensors", "diffusers": ".safetensors", "comfy": ".latent"}
FAR = 0.1
"""How far mean and std of an x_T may be from those of noise before it is said."""


@click.command("export")
@click.argument("latents", nargs=-1, required=True, metavar="LATENTS|FOLDERS...", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(list(SUFFIXES)),
    required=True,
    help="npy and safetensors: x as it is; diffusers: for latents= of its pipelines; comfy: for LoadLatent of ComfyUI.",
)
@click.option("--float32", is_flag=True, help="Write npy and safetensors in float32 too, not float64.")
@folder_option
@overwrite_option
@with_session
def export_command(
    latents: Sequence[Path], form: str, float32: bool, output: Path, overwrite: bool, session: Session
) -> None:
    """Write the x of every latent file as DIR/NAME with the suffix of another program's tensors, without the recipe."""
    import torch

    from ddim_edit.latents.exchange import FORMATS, export_latents

    work = jobs(session, latent_files(session, latents), Place(output, SUFFIXES[form], overwrite))
    loaded = load_latents(session, [job.source for job in work])
    dtype = torch.float32 if float32 else None
    for job in work:
        with session.survive(job.source):
            if job.source not in loaded:
                continue
            latent, model = loaded[job.source], None
            if FORMATS[form].needs_model:
                session.editor.require_own(latent)
                model = session.editor.model
            export_latents(job.target, latent, form, model, dtype)
            session.emit({"input": str(job.source), "output": str(job.target), "t": latent.t}, job.target)
    session.leave()


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=click.Path(path_type=Path))
@click.option("--from", "form", type=click.Choice(list(SUFFIXES)), help="Whose files these are. [by their suffix]")
@click.option(
    "--like",
    type=click.Path(path_type=Path),
    metavar="LATENT|FOLDER",
    help="Decode them as this latent, or the one of their name, in place of solver, grid and steps.",
)
@folder_option
@with_walk
@overwrite_option
@with_session
def import_command(
    files: Sequence[Path],
    form: str | None,
    like: Path | None,
    output: Path,
    walk: Mapping[str, Any],
    overwrite: bool,
    session: Session,
) -> None:
    """Make latents of other programs' tensors, DIR/NAME.latent.safetensors, that --model decodes as the walk says.

    A file with several of them gives DIR/NAME-0000 and so on.
    """
    taken = set[str]()
    for file in files:
        with session.survive(file):
            pattern = _pattern(session, file, like, walk)
            for name, latent in _named(file, _read(session, file, pattern, form)):
                target = claim(output / f"{untaken(name, taken)}{LATENT}", resolved(files), overwrite)
                _say_health(session, target, latent)
                latent.save(target)
                session.emit({"input": str(file), "output": str(target), "t": latent.t}, target)
    session.leave()


def _pattern(session: Session, file: Path, like: Path | None, walk: Mapping[str, Any]) -> "Latent":
    """A latent of the model whose time and recipe the imported ones get."""
    from ddim_edit import Latent

    if like is None:
        return session.editor.noise([0], make_method(walk))[0]
    found = Latent.load(like / f"{stem(file)}{LATENT}" if like.is_dir() else like)
    if session.dtype == "auto":
        session.dtype = found.recipe.dtype
    session.editor.require_own(found)
    return found


def _read(session: Session, file: Path, pattern: "Latent", form: str | None) -> "Latents":
    from ddim_edit.latents.exchange import import_latents

    return import_latents(file, pattern, form, session.editor.model)


def _named(file: Path, latents: "Latents") -> "list[tuple[str, Latent]]":
    if len(latents) == 1:
        return [(stem(file), latents[0])]
    return [(f"{stem(file)}-{row:04}", latent) for row, latent in enumerate(latents)]


def _say_health(session: Session, target: Path, latent: "Latent") -> None:
    from ddim_edit.metrics import health

    found = health(latent.x[None])
    mean, std = found.mean.item(), found.std.item()
    if abs(mean) > FAR or abs(std - 1) > FAR:
        session.warn(f"{target.name}: mean {mean:.3g} and std {std:.3g}, where an x_T has 0 and 1; is it one?")
