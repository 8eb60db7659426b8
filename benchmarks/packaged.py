"""Fit the directions that are packaged for faces64, and write their files and cards.

    python benchmarks/packaged.py --data FOLDER --cache LATENTS -o assets/directions/faces64

Age and gender come from the annotations of the training faces; light and warmth are read off the pictures themselves.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddim_edit import (
    Direction,
    Editor,
    InversionConfig,
    LatentCache,
    LogisticDirection,
    RidgeDirection,
    fit_direction,
    images,
)
from ddim_edit.directions import SUFFIX, DirectionEstimator, cosines
from ddim_edit.latents.cache import LatentArray

Floats = NDArray[np.float64]
GUIDED_NAMES = ("old", "baby", "female")
"""What is also fitted to the bottleneck, for edits along its gradient."""
CAUTION = """Labels of age and gender in that collection are noisy annotations of other people's photographs, partly by
machine, not facts about anybody, and the collection is no fair sample of mankind. The direction holds whatever goes
together with the label there. It is for looking at what a model has learnt, not for judging or identifying people."""
OF_PIXELS = """The label is computed from the picture itself, so it is exact. The direction still holds what goes along
with it in the training faces."""
CARD = """# The direction `{name}` of {model}

| | |
|---|---|
| label | {meaning} |
| fitted on | {counts}: training faces of the UTKFace collection at 64x64, none of which is in this package |
| method | {method}, regularisation by cross-validation |
| level | {level} of 1000, {steps} of the grid {grid}, {solver}, {dtype} network |
| AUC | {auc:.3f} +- {auc_sd:.3f} over {folds} folds; with shuffled labels {permuted_auc:.3f} +- {permuted_sd:.3f} |
| unit of strength | {sd:.3f}, the standard deviation of the training projections |
| strengths | -{strongest:.3g} to {strongest:.3g}{range}, as edits are measured |

What else it moves: the cosine with each other packaged direction, and by how many standard deviations of that one a
step of one standard deviation moves it.

| direction | cosine | moved |
|---|---|---|
{others}

{caution}

Terms: non-commercial research, as those of the model and of its training pictures.
"""


class Recipe(NamedTuple):
    """What a direction is of: labels [n] with NaN where a face is left out, how they came about, and the estimator."""

    labels: Floats
    meaning: str
    caution: str
    estimator: DirectionEstimator


def main() -> None:
    """Fit, save, and write a card for each."""
    arguments = _arguments()
    editor = Editor.from_pretrained(dtype=arguments.dtype, batch_size=16)
    files = images.find([arguments.data / "train"])
    cache = LatentCache(arguments.cache)
    pixels = torch.stack([images.read(file, (64, 64)).tensor for file in files])
    recipes = _recipes(arguments.data / "train.csv", pixels)
    if "straight" in arguments.kinds:
        (latents,) = editor.latents_at(files, [arguments.level], InversionConfig(grid="karras:14"), cache=cache)
        _fit_all(recipes, latents, arguments.output)
    if "guided" in arguments.kinds:
        (latents,) = editor.latents_at(files, [arguments.guided_level], cache=cache)
        guided = {f"{name}-guided": recipe for name, recipe in recipes.items() if name in GUIDED_NAMES}
        _fit_all(guided, latents, arguments.output)


def _fit_all(recipes: Mapping[str, Recipe], latents: LatentArray, output: Path) -> None:
    """Fit directions to latents of one level, and write their files and cards."""
    directions = [_fitted(name, latents, recipe) for name, recipe in recipes.items()]
    for direction in directions:
        direction.save(output / f"{direction.name}{SUFFIX}")
        card = _card(direction, recipes[direction.name], directions)
        (output / f"{direction.name}.md").write_text(card, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="train/ and train.csv")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps latents")
    parser.add_argument("--level", default="0.4T")
    parser.add_argument("--guided-level", default="guided:0.2T")
    parser.add_argument("--kinds", nargs="+", choices=["straight", "guided"], default=["straight", "guided"])
    parser.add_argument("--dtype", default="bfloat16", help="of the network while inverting")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def _recipes(table: Path, pixels: Tensor) -> Mapping[str, Recipe]:
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    age = np.array([float(row["age"]) for row in rows])
    female = np.array([float(row["female"]) for row in rows])
    red, green, blue = pixels.double().mean((2, 3)).numpy().T
    logistic, ridge = LogisticDirection(), RidgeDirection()
    return {
        "old": Recipe(_classes(age >= 55, (age >= 18) & (age <= 32)), "age >= 55 against 18..32", CAUTION, logistic),
        "baby": Recipe(_classes(age <= 3, age >= 18), "age <= 3 against >= 18", CAUTION, logistic),
        "female": Recipe(female, "annotated as female against male", CAUTION, logistic),
        "age": Recipe(age, "age in years", CAUTION, ridge),
        "light": Recipe(0.299 * red + 0.587 * green + 0.114 * blue, "mean luma (ITU-R BT.601)", OF_PIXELS, ridge),
        "warm": Recipe(red - blue, "mean red less mean blue", OF_PIXELS, ridge),
    }


def _classes(positive: NDArray[np.bool_], negative: NDArray[np.bool_]) -> Floats:
    return np.select([positive, negative], [1.0, 0.0], np.nan)


def _fitted(name: str, latents: LatentArray, recipe: Recipe) -> Direction:
    known = np.isfinite(recipe.labels)
    some = latents.take(torch.from_numpy(known))
    direction = fit_direction(name, some, recipe.labels[known], recipe.estimator)
    print(name, dict(direction.report), f"sd {direction.sd:.3f}", flush=True)
    return direction


def _card(direction: Direction, recipe: Recipe, family: Sequence[Direction]) -> str:
    report, home = dict(direction.report), direction.recipe
    angles = cosines(torch.stack([each.vector.flatten() for each in family]))[family.index(direction)].tolist()
    others = []
    for each, cosine in zip(family, angles, strict=True):
        if each is not direction:
            others.append(f"| `{each.name}` | {cosine:+.3f} | {cosine * direction.sd / each.sd:+.2f} |")
    classes = f"{report.get('positive')} faces with it, {report.get('negative')} without"
    facts = {
        "name": direction.name,
        "model": home.model,
        "meaning": recipe.meaning,
        "counts": classes if "positive" in report else f"{report['n']} faces",
        "level": f"{'the bottleneck at ' if direction.guided else ''}t = {direction.t:.1f}",
        "steps": f"{len(home.times) - 1} step{'s' if len(home.times) > 2 else ''}",
        "range": "" if direction.guided else ": steps of up to 0.3 of a latent's length",
        "grid": home.grid,
        "solver": home.solver,
        "dtype": home.dtype,
        "sd": direction.sd,
        "others": "\n".join(others),
        "caution": recipe.caution,
    }
    return CARD.format(
        **{**report, **facts, "strongest": direction.strongest, "method": type(recipe.estimator).__name__}
    )


if __name__ == "__main__":
    main()
