"""`ddim-edit sample`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..command import Option, OptionGroup, command
from ..files import claim
from ..options import (
    SEED,
    config_groups,
    folder_option,
    image_options,
    make_config,
    overwrite_option,
    session_options,
)
from ..session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.latents.image_recipes import SampleRecipe

ON_SHEET = 64
"""Images on the sheet at most; more would make it too large to look at."""
CELL = 128
"""Pixels that an image on the sheet is wide at least."""


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [
        OptionGroup(
            "Output",
            [
                folder_option(),
                *image_options(),
                overwrite_option(),
                Option("--sheet", is_flag=True, help="Write DIR/sheet.png too: the first images with their seeds."),
            ],
        ),
        OptionGroup(
            "Sampling",
            [
                Option(
                    "-n", argument="count", type=click.IntRange(1), default=1, metavar="N", help="Number of images."
                ),
                Option(
                    "--seed",
                    type=SEED,
                    default=0,
                    metavar="N",
                    help="Random seed of the first image; then one more each.",
                ),
                Option("--eta", type=click.FloatRange(0, 1), default=0.0, metavar="E", help="0 is DDIM, 1 is DDPM."),
                Option(
                    "--posterior-mean",
                    is_flag=True,
                    help="Run DDPM without its noise, which is not DDIM and looks bad, so that this can be seen.",
                ),
            ],
        ),
        *config_groups("solver", "grid", "steps"),
        session_options(),
    ]


@command("Edit and create", 3, option_groups, "ddim-edit sample -n 8 --seed 0 --sheet -o samples/")
def sample(
    output: Path,
    suffix: str,
    metadata: bool,
    overwrite: bool,
    sheet: bool,
    count: int,
    seed: int,
    eta: float,
    posterior_mean: bool,
    config: Mapping[str, Any],
    session: Session,
) -> None:
    """Sample new images from seeded noise. Each is written as DIR/seed-0000.png, and depends on its own seed alone."""
    noisy = eta > 0 or posterior_mean
    source = click.get_current_context().get_parameter_source("solver")
    other_solver = source is not ParameterSource.DEFAULT and config["solver"] != "ddim"
    if noisy and (other_solver or (eta > 0 and posterior_mean)):
        raise click.UsageError("--eta and --posterior-mean exclude each other and every --solver but ddim.")
    targets: dict[int, Path] = {}
    for number in range(seed, seed + count):
        targets[number] = claim(output / f"seed-{number:04}{suffix}", frozenset(), overwrite)
    sheet_file = claim(output / f"sheet{suffix}", frozenset(), overwrite) if sheet else None

    # This imports torch, and so only once the arguments are known to be right.
    from ddim_edit.images import to_uint8
    from ddim_edit.latents.image_recipes import SampleRecipe

    session.metadata = metadata
    if noisy:
        config = {**config, "solver": "ddim"}
    inversion_config = make_config(config)
    model = session.editor.model.name
    shown: list[tuple[Tensor, SampleRecipe]] = []

    def sample_batch(batch: Sequence[int]) -> "Tensor":
        return session.editor.sample(len(batch), batch[0], inversion_config, eta, posterior_mean)

    batches = session.batches(targets, "images", len(targets))
    for batch, sampled in session.run_batches(batches, sample_batch, targets.__getitem__):
        for number, image in zip(batch, to_uint8(sampled), strict=True):
            recipe = SampleRecipe(model, number, eta, posterior_mean, config)
            if len(shown) < ON_SHEET:
                shown.append((image, recipe))
            with session.continue_on_error(targets[number]):
                session.save_image(targets[number], image, recipe)
                session.emit({"output": str(targets[number]), "seed": number}, targets[number])
    if sheet_file:
        _write_sheet(session, sheet_file, shown)
    session.finish()


def _write_sheet(session: Session, target: Path, shown: "Sequence[tuple[Tensor, SampleRecipe]]") -> None:
    import torch

    from ddim_edit.images import captioned, enlarge
    from ddim_edit.latents.image_recipes import SampleSheetRecipe

    images = torch.stack([image for image, _ in shown])
    images = enlarge(images, math.ceil(CELL / images.shape[-1]))
    seeds = [recipe.seed for _, recipe in shown]
    first = shown[0][1]
    recipe = SampleSheetRecipe(first.model, tuple(seeds), first.eta, first.posterior_mean, first.config)
    with session.continue_on_error(target):
        session.save_image(target, captioned(images, [f"seed {seed}" for seed in seeds]), recipe)
        session.emit({"output": str(target), "seeds": seeds}, target)
