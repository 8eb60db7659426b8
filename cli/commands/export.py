"""`ddim-edit export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..command import Option, OptionGroup, command
from ..files import claim, find_latents, load_latents, open_destination, plan_jobs
from ..options import inputs_argument, output_option, overwrite_option, recursive_group, session_options
from ..session import Session
from ..store_reading import open_store, read_latents
from ..stores import is_store

if TYPE_CHECKING:
    from ddim_edit import Latent


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.latents.exchange import FORMATS

    meanings = "; ".join(f"{name}: {each.help}" for name, each in FORMATS.items())
    return [
        OptionGroup(
            "Output",
            [
                inputs_argument("latents", "LATENTS|FOLDERS|STORES..."),
                Option("--to", type=click.Choice(list(FORMATS)), required=True, help=f"Format. {meanings}."),
                Option("--float32", is_flag=True, help="Write npy and safetensors in float32 instead of float64."),
                output_option("x"),
                overwrite_option(),
            ],
        ),
        recursive_group(),
        # Only what the model says of its latents' units is used: nothing is computed with it.
        session_options("dtype", "compile", "batch-size"),
    ]


@command(
    "Files of other programs",
    1,
    option_groups,
    "ddim-edit export latents/ --to npy -o arrays/",
    "ddim-edit export latents/ --to comfy --model ./stable-diffusion -o ComfyUI/input/",
)
def export(latents: Sequence[Path], to: str, float32: bool, output: Path, overwrite: bool, session: Session) -> None:
    """Export latents to another program. Each x is written as DIR/NAME with its suffix, without a recipe.

    Those of a store are named as its images.
    """
    import torch

    from ddim_edit.latents.exchange import FORMATS, export_latents

    exchange_format = FORMATS[to]
    destination = open_destination(session, output, exchange_format.suffix, overwrite, files=[exchange_format.suffix])
    stores = [path for path in latents if is_store(path)]
    if stores and destination.file is not None:
        raise click.UsageError(f"{output} is one file, and a store has many latents. Name an output folder.")
    jobs = plan_jobs(session, find_latents(session, [path for path in latents if path not in stores]), destination)
    dtype = torch.float32 if float32 else None

    def write(source: object, target: Path, latent: "Latent") -> None:
        model = None
        if exchange_format.needs_model:
            session.editor.require_own(latent)
            model = session.editor.model
        export_latents(target, latent, to, model, dtype)
        session.emit({"input": str(source), "output": str(target), "t": latent.t}, target)

    loaded = load_latents(session, [job.source for job in jobs])
    for job in jobs:
        if job.source in loaded:
            with session.continue_on_error(job.source):
                write(job.source, job.target, loaded[job.source])
    for path in stores:
        with session.continue_on_error(path):
            store = open_store(session, path)
            if store:
                session.prefer_dtype(store.recipe.dtype)
            for stored in read_latents(session, store, destination):
                with session.continue_on_error(stored.name):
                    target = claim(stored.target, frozenset(), overwrite)
                    write(f"{path}/{stored.name}", target, stored.latent)
    session.finish()
