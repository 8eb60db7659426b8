"""`ddim-edit export`."""

from collections.abc import Sequence
from pathlib import Path

import click

from ..command import Option, OptionGroup, command
from ..files import Destination, find_latents, load_latents, plan_jobs
from ..options import folder_option, inputs_argument, overwrite_option, session_options
from ..session import Session


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.latents.exchange import FORMATS

    meanings = "; ".join(f"{name}: {each.help}" for name, each in FORMATS.items())
    return [
        OptionGroup(
            "Output",
            [
                inputs_argument("latents", "LATENTS|FOLDERS..."),
                Option("--to", type=click.Choice(list(FORMATS)), required=True, help=f"Format. {meanings}."),
                Option("--float32", is_flag=True, help="Write npy and safetensors in float32 instead of float64."),
                folder_option(),
                overwrite_option(),
            ],
        ),
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
    """Export latents to another program. Each x is written as DIR/NAME with its suffix, without a recipe."""
    import torch

    from ddim_edit.latents.exchange import FORMATS, export_latents

    exchange_format = FORMATS[to]
    jobs = plan_jobs(session, find_latents(session, latents), Destination(output, exchange_format.suffix, overwrite))
    loaded = load_latents(session, [job.source for job in jobs])
    dtype = torch.float32 if float32 else None
    for job in jobs:
        with session.continue_on_error(job.source):
            if job.source not in loaded:
                continue
            latent = loaded[job.source]
            model = None
            if exchange_format.needs_model:
                session.editor.require_own(latent)
                model = session.editor.model
            export_latents(job.target, latent, to, model, dtype)
            session.emit({**job.to_json(), "t": latent.t}, job.target)
    session.finish()
