"""`sample`: new pictures from seeded noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .files import claim
from .options import (
    folder_option,
    make_method,
    overwrite_option,
    walk_options,
    with_condition,
    with_metadata,
    with_session,
)
from .session import Session
from .table import SHOWN

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.latents.image_recipes import SampleRecipe

CELL = 128
"""Pixels a picture on the sheet is at least wide."""


@click.command()
@click.option("-n", "count", type=click.IntRange(1), default=1, show_default=True, help="How many pictures.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of the first; then one more each.",
)
@click.option("--eta", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="0 is DDIM, 1 is DDPM.")
@click.option("--sheet", is_flag=True, help="Write DIR/sheet.png too, the first pictures with their seeds.")
@click.option("--posterior-mean", is_flag=True, help="DDPM with its noise left out, to see that this is not DDIM.")
@folder_option
@walk_options
@with_condition
@overwrite_option
@with_session
@with_metadata
def sample(
    count: int,
    seed: int,
    eta: float,
    posterior_mean: bool,
    sheet: bool,
    output: Path,
    steps: int,
    solver: str | None,
    grid: str,
    overwrite: bool,
    condition: Mapping[str, Any],
    session: Session,
) -> None:
    """Draw pictures from seeded noise and write them as DIR/seed-0000.png; a picture depends on its seed alone."""
    noisy = eta > 0 or posterior_mean
    if noisy and (solver not in (None, "ddim") or (eta > 0 and posterior_mean)):
        raise click.UsageError("--eta and --posterior-mean exclude each other and every --solver but ddim.")
    targets = {
        number: claim(output / f"seed-{number:04}.png", frozenset(), overwrite) for number in range(seed, seed + count)
    }
    walk = {"solver": solver or ("ddim" if noisy else "dpm2m"), "grid": grid, "steps": steps, "condition": condition}
    sheet_file = claim(output / "sheet.png", frozenset(), overwrite) if sheet else None
    drawn = _draw(session, targets, walk, eta, posterior_mean)
    if sheet_file:
        _write_sheet(session, sheet_file, drawn)
    session.leave()


class Drawn(NamedTuple):
    """A sample uint8 [3, H, W], the seed and the recipe that it is made by."""

    picture: "Tensor"
    seed: int
    recipe: "SampleRecipe"


def _draw(
    session: Session, targets: dict[int, Path], walk: Mapping[str, Any], eta: float, posterior_mean: bool
) -> list[Drawn]:
    """Write every sample; returns the first ones, as many as go on a sheet."""
    from ddim_edit.images import to_uint8, write
    from ddim_edit.latents.image_recipes import SampleRecipe

    drawn: list[Drawn] = []
    method = make_method(walk)
    model = session.editor.model.name
    for batch in session.batches(targets, "pictures", len(targets)):
        pictures = session.editor.sample(len(batch), batch[0], method, eta, posterior_mean)
        for number, picture in zip(batch, to_uint8(pictures), strict=True):
            own = SampleRecipe(model, number, eta, posterior_mean, walk)
            drawn += [Drawn(picture, number, own)] * (len(drawn) < SHOWN)
            with session.survive(targets[number]):
                write(targets[number], picture, session.signed(own))
                session.emit({"output": str(targets[number]), "seed": number}, targets[number])
    return drawn


def _write_sheet(session: Session, target: Path, drawn: Sequence[Drawn]) -> None:
    import torch

    from ddim_edit.images import captioned, enlarge, write
    from ddim_edit.latents.image_recipes import SampleSheetRecipe

    pictures = torch.stack([each.picture for each in drawn])
    pictures = enlarge(pictures, -(-CELL // pictures.shape[-1]))
    seeds = [each.seed for each in drawn]
    first = drawn[0].recipe
    recipe = SampleSheetRecipe(first.model, tuple(seeds), first.eta, first.posterior_mean, first.config)
    with session.survive(target):
        write(target, captioned(pictures, [f"seed {seed}" for seed in seeds]), session.signed(recipe))
        session.emit({"output": str(target), "seeds": seeds}, target)
