"""`ddim-edit combine`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group, split_crop
from ..files import LATENT, claim, join_or, open_standard_output, resolve_all, workload_of
from ..latent_inputs import load_or_invert
from ..options import (
    FILE_OR_FOLDER,
    image_options,
    inputs_argument,
    inversion_groups,
    overwrite_option,
    session_options,
    upscale_option,
)
from ..session import Session
from ..streams import STANDARD
from ..types import Text, parse_weights


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.images import still_suffixes

    return [
        OptionGroup(
            "Output",
            [
                inputs_argument("inputs", "A [B ...]"),
                Option(
                    "-o",
                    "--output",
                    required=True,
                    metavar="FILE|-",
                    type=FILE_OR_FOLDER,
                    help=f"Output file: an image ({join_or(still_suffixes())}), or the latent itself ({LATENT}). - for "
                    "an image on standard output.",
                ),
                *image_options(),
                overwrite_option(),
                upscale_option("Enlarge the image (Lanczos)."),
            ],
        ),
        OptionGroup(
            "Combination",
            [
                Option(
                    "--weights",
                    type=Text(parse_weights),
                    metavar="W,...",
                    help="A weight for each input, also negative; only their ratios count. [default: all the same]",
                ),
            ],
        ),
        *inversion_groups("check"),
        crop_group(),
        session_options(),
    ]


@command(
    "Edit and create",
    2,
    option_groups,
    "ddim-edit combine a.png b.png c.png --weights 0.5,0.3,0.2 -o mix.png",
    "ddim-edit combine a.png b.png c.png --weights 1,-1,1 -o a-minus-b-plus-c.png",
    "ddim-edit combine a.png b.png c.png -o mean.latent.safetensors",
)
def combine(
    inputs: Sequence[Path],
    output: Path,
    suffix: str,
    metadata: bool,
    overwrite: bool,
    upscale: int | None,
    weights: list[float] | None,
    config: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Combine any number of images into one. The weighted sum of their latents is decoded, or that of latent files.

    The sum is scaled to the length that latents have, so that it decodes like one of them. Without weights it is the
    centroid. Negative weights take away what an image has, and weights need not sum to 1.
    """
    from ddim_edit.images import still_suffixes

    _require_weights(weights, len(inputs))
    known = (*still_suffixes(), LATENT)
    if output != STANDARD and not output.name.lower().endswith(known):
        raise click.UsageError(f"The output must end in {join_or(known)}.")
    if output == STANDARD:
        output = open_standard_output(session, suffix)

    # This imports torch, and so only once the arguments are known to be right.
    from ddim_edit.images import to_uint8
    from ddim_edit.images import upscale as enlarge

    session.metadata = metadata
    if config["exact"]:
        session.prefer_dtype("fp32")
    inputs = [session.streams.read() if path == STANDARD else path for path in inputs]
    target = claim(output, resolve_all(split_crop(path)[0] for path in inputs), overwrite or session.to_stdout)
    latents = load_or_invert(session, inputs, config, crop)
    combined = session.editor.combine(latents, weights)
    if output.name.lower().endswith(LATENT):
        session.editor.require_own(combined)  # as decoding it would, so that a file that is written decodes
        combined.save(target)
    else:
        with session.counting_evaluations(1, workload_of([combined]), 1) as progress:
            image = session.editor.decode(combined)
            progress.finish_images(1)
        session.save_image(target, enlarge(to_uint8(image), upscale or 1), combined.recipe)
    names = [str(session.streams.name_of(path)) for path in inputs]
    session.emit({"inputs": names, "weights": weights or [1.0] * len(inputs), "output": str(target)}, target)
    session.finish()


def _require_weights(weights: Sequence[float] | None, inputs: int) -> None:
    """Refuse weights that do not go with the inputs."""
    if weights is None:
        return
    if len(weights) != inputs:
        raise click.UsageError(f"There are {inputs} inputs and {len(weights)} weights. Give a weight for each input.")
    if not any(weights):
        raise click.UsageError("All weights are 0. Give at least one input another weight.")
