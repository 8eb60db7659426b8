"""`ddim-edit sample`."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..command import Option, OptionGroup, command
from ..files import claim, open_destination
from ..options import (
    SEED,
    config_groups,
    image_options,
    make_config,
    output_option,
    overwrite_option,
    session_options,
)
from ..session import Session
from ..types import FiniteRange

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit import NoiseSchedule, Workload
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
                output_option(),
                *image_options(),
                overwrite_option(),
                Option("--sheet", is_flag=True, help="Write DIR/samples.png too: the first images with their seeds."),
            ],
        ),
        OptionGroup(
            "Sampling",
            [
                Option(
                    "-n",
                    argument="count",
                    type=click.IntRange(1, 100_000),
                    default=1,
                    metavar="N",
                    help="Number of images.",
                ),
                Option(
                    "--seed",
                    type=SEED,
                    default=0,
                    metavar="N",
                    help="Random seed of the first image; then one more each.",
                ),
                Option("--eta", type=FiniteRange(0, 1), default=0.0, metavar="E", help="0 is DDIM, 1 is DDPM."),
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


@command("Edit and create", 4, option_groups, "ddim-edit sample -n 8 --seed 0 --sheet -o samples/")
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
    destination = open_destination(session, output, suffix, overwrite)
    destination.require_room(count + sheet)
    targets: dict[int, Path] = {}
    for number in range(seed, seed + count):
        target = destination.target(f"seed-{number:04}")
        with session.continue_on_error(target):
            targets[number] = claim(target, frozenset(), destination.overwrite)
    sheet_file = claim(output / f"samples{suffix}", frozenset(), overwrite) if sheet else None

    if not targets:
        session.finish()
    # This imports torch, and so only once the arguments are known to be right.
    import torch

    from ddim_edit.images import to_uint8
    from ddim_edit.latents.image_recipes import SampleRecipe

    session.metadata = metadata
    if noisy:
        config = {**config, "solver": "ddim"}
    inversion_config = make_config(config)
    model = session.editor.model.name
    shown: list[tuple[Tensor, SampleRecipe]] = []

    def sample_batch(batch: "Sequence[tuple[Path, int]]") -> "Tensor":
        images: list[Tensor] = []
        # Seeds follow one another but where a file that exists was left out.
        for _, run in groupby(enumerate(number for _, number in batch), key=lambda pair: pair[1] - pair[0]):
            seeds = [number for _, number in run]
            images.append(session.editor.sample(len(seeds), seeds[0], inversion_config, eta, posterior_mean))
        return to_uint8(torch.cat(images))

    numbered = [(target, number) for number, target in targets.items()]

    def workload(schedule: "NoiseSchedule") -> "Workload":
        return len(numbered) * inversion_config.decoding_workload(schedule, to_clean=True)

    for batch in session.batches(numbered, len(numbered), workload, 1):
        for (target, number), image in session.run_batch(batch, sample_batch):
            recipe = SampleRecipe(model, number, eta, posterior_mean, config)
            if len(shown) < ON_SHEET:
                shown.append((image, recipe))
            with session.continue_on_error(target):
                session.save_image(target, image, recipe)
                session.emit({"output": str(target), "seed": number}, target)
    if sheet_file and shown:
        _write_sheet(session, sheet_file, shown)
    session.finish()


def _write_sheet(session: Session, target: Path, shown: "Sequence[tuple[Tensor, SampleRecipe]]") -> None:
    import torch

    from ddim_edit.images import captioned, display_factor, upscale
    from ddim_edit.latents.image_recipes import SampleSheetRecipe

    images = torch.stack([image for image, _ in shown])
    images = upscale(images, display_factor(images.shape[-1], CELL))
    seeds = [recipe.seed for _, recipe in shown]
    first = shown[0][1]
    recipe = SampleSheetRecipe(first.model, tuple(seeds), first.eta, first.posterior_mean, first.config)
    with session.continue_on_error(target):
        session.save_image(target, captioned(images, [f"seed {seed}" for seed in seeds]), recipe)
        session.emit({"output": str(target), "seeds": seeds}, target)
