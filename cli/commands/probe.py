"""`ddim-edit probe`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import claim
from ..labels import LabelOptions, invert_to_levels, label_group, read_labelled
from ..options import (
    FILE,
    SEED,
    config_groups,
    metadata_option,
    overwrite_option,
    parse_level,
    session_options,
)
from ..session import Session
from ..types import Text, list_of, parse_label_count

RANDOM_NUMBERS = 512
"""Length of the random projection of each image, that of a small feature vector."""


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    from ddim_edit.plots import plot_suffixes

    return [
        label_group(store=False),
        OptionGroup(
            "Probes",
            [
                Option(
                    "--levels",
                    type=Text(list_of(parse_level)),
                    default="0.2T,0.4T,0.6T,xT,h:0.2T,h:0.4T",
                    metavar="LEVEL,...",
                    help="Levels at which latents are read: T, 0.4T, xT, h:LEVEL.",
                ),
                Option(
                    "--sizes",
                    type=Text(list_of(parse_label_count)),
                    default="10,100,1000,all",
                    metavar="N,...",
                    help="Numbers of labels to learn from.",
                ),
                Option(
                    "--draws",
                    type=click.IntRange(1, 10_000),
                    default=10,
                    metavar="N",
                    help="Random draws of each size.",
                ),
                Option("--seed", type=SEED, default=0, metavar="N", help="Random seed of the split and the draws."),
            ],
        ),
        OptionGroup(
            "Output",
            [
                Option("--plot", type=FILE, metavar="FILE", help=f"Plot file: {' or '.join(plot_suffixes())}."),
                overwrite_option(),
                metadata_option(),
            ],
        ),
        *config_groups("solver", "grid", "steps"),
        crop_group(),
        session_options(),
    ]


@command(
    "Directions",
    4,
    option_groups,
    "ddim-edit probe --images faces/ --labels faces.csv --column female --plot curves.png",
)
def probe(
    labels: LabelOptions,
    levels: list[str],
    sizes: list[int | None],
    draws: int,
    seed: int,
    plot: Path | None,
    overwrite: bool,
    metadata: bool,
    config: Mapping[str, Any],
    crop: CropOptions,
    session: Session,
) -> None:
    """Probe how well latents tell an attribute. Linear probes read it at several levels.

    Pixels and a random projection are probed too. Prints balanced accuracy with 95 % intervals on images that no probe
    has seen, as a table or JSON.
    """
    from ddim_edit.plots import plot_suffixes

    labels.require_complete()
    if plot is not None and plot.suffix.lower() not in plot_suffixes():
        raise click.UsageError(f"--plot must end in {' or '.join(plot_suffixes())}, not in {plot.suffix or 'nothing'}.")

    # This imports torch, and so only once the arguments are known to be right.
    import torch

    from ddim_edit import probe as run_probes
    from ddim_edit.evaluation import random_projection

    session.metadata = metadata
    target = None if plot is None else claim(plot, frozenset(), overwrite)
    images, values, groups = read_labelled(session, labels, crop)
    latents = invert_to_levels(session, images, levels, config, labels.cache)
    pixels = torch.stack([image.tensor for image in images]).flatten(1).float().numpy()
    columns = {"pixels": pixels, "random projection": random_projection(pixels, RANDOM_NUMBERS, seed)}
    for level, array in zip(levels, latents, strict=True):
        columns[level] = array.values.flatten(1).numpy()
    report = run_probes(columns, values, sizes, draws, seed=seed, groups=groups)
    click.echo(json.dumps(report.as_json(), sort_keys=True) if session.as_json else report.table())
    if target is not None:
        from ddim_edit.latents.image_recipes import ProbeRecipe
        from ddim_edit.plots import probe_curves

        recipe = ProbeRecipe(session.editor.model.name, tuple(levels), seed, config)
        probe_curves(report, target, recipe=session.recipe_json(recipe))
        session.note(f"wrote {target}")
    session.finish()
