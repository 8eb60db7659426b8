"""`evaluate`: pictures through every way, batch by batch."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.editor import CENTRE, DEFAULT, Editor
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.report import Evaluation
from ddim_edit.evaluation.rows import FIGURES, EvaluationRow
from ddim_edit.evaluation.ways import Scores, Way, make_ways
from ddim_edit.images import InputImage
from ddim_edit.images.prepare import Images, PreparedImage, expand_images, prepare_images, read_all

SOLVERS, GRIDS = ("dpm2m", "ddim"), ("karras:14",)
STEPS = (10, 20, 50, 100, 200, 500, 1000)
"""Those of the DDIM paper's table 2."""


def evaluate(
    editor: Editor,
    images: Images,
    solvers: Sequence[str] = SOLVERS,
    grids: Sequence[str] = GRIDS,
    steps: Sequence[int] = STEPS,
    method: InversionConfig = DEFAULT,
    against: Sequence[str] = (),
) -> Evaluation:
    """Round trips of pictures by every solver, grid and number of steps; measures error, not time, and not the codes.

    Every setting sees the same pictures, one batch of which is in memory at a time. A picture costs about
    2 S evaluations of each solver with one a step, and more with `exact`.

    Args:
        editor: what to walk with.
        images: files, folders, `InputImage`s, or a tensor [B, 3, H, W] in [-1, 1]; files are cropped to the
            centre square.
        solvers: of `SOLVERS`.
        grids: names, as `make_grid` takes them.
        steps: numbers S of steps, each way.
        method: everything else about the walks: exact, tol, dequantise, condition.
        against: of `OPPONENTS`: "diffusers" is its DDIMInverseScheduler and DDIMScheduler around the same network,
            for unconditional models of pixels with discrete levels.

    Raises:
        ArgumentError: no pictures, or a setting that cannot be walked; ImageError: a file that cannot be used.
        ModelError: a model that cannot be compared.

    Song, Meng, Ermon (2021), section 5.4, whose table 2 is one of the outputs.
    """
    ways = make_ways(editor, solvers, grids, steps, method, against)
    named = _named(images, editor.model.size)
    rows = tuple(row for batch in _batches(named, editor) for row in measure(editor, batch, ways))
    if not rows:
        raise ArgumentError("at least one picture", "none", "hand in a file, a folder or a tensor")
    return Evaluation(rows, recipe_of(editor, method))


Named = tuple[str, InputImage | Tensor]


def measure(editor: Editor, batch: Sequence[Named], ways: Iterable[Way]) -> Iterator[EvaluationRow]:
    """The rows of one batch, all pictures at one setting after another, as they are found.

    Args:
        editor: whose model the pictures are for.
        batch: the name of each picture, and either all `InputImage`s or all tensors [3, H, W] in [-1, 1].
        ways: as `make_ways` makes them.
    """
    names, pictures = [name for name, _ in batch], _together([picture for _, picture in batch])
    found = list(prepare_images(pictures, editor.model.size, CENTRE))
    originals = torch.stack([source.pixels for source in found])
    for way in ways:
        yield from _rows(way, names, found, way(pictures, originals))


def recipe_of(editor: Editor, method: InversionConfig) -> dict[str, Any]:
    """What all rows of an evaluation have in common, in plain JSON types."""
    model = editor.model
    return {
        "model": model.name,
        "weights": model.weights,
        "schedule": dict(model.schedule.description),
        "prediction": model.prediction,
        "dtype": model.dtype,
        "dequantise": method.dequantise,
        "condition": method.condition.as_dict(),
        **({"tol": method.tol} if method.exact else {}),
        **({"refine": method.refine} if method.refine else {}),
    }


def _rows(way: Way, names: Sequence[str], found: Sequence[PreparedImage], measured: Scores) -> Iterator[EvaluationRow]:
    for name, source, score in zip(names, found, measured, strict=True):
        counts = bool(score["converged"]), int(score["nfe_in"]), int(score["nfe_out"])
        figures = (score[figure] for figure in FIGURES)
        yield EvaluationRow(name, source.origin["source"], *way.setting, *counts, *figures)


def _named(images: Images, size: tuple[int, int]) -> Iterator[Named]:
    if isinstance(images, Tensor):
        return ((str(index), x) for index, x in enumerate(images if images.ndim == 4 else images[None]))
    return ((item.name, image) for item, image in read_all(expand_images(images), size) if image is not None)


def _batches(named: Iterator[Named], editor: Editor) -> Iterator[list[Named]]:
    while batch := list(islice(named, editor.batch_size)):
        yield batch


def _together(pictures: Sequence[InputImage | Tensor]) -> Tensor | list[InputImage]:
    tensors = [each for each in pictures if isinstance(each, Tensor)]
    return torch.stack(tensors) if tensors else [each for each in pictures if isinstance(each, InputImage)]
