"""Evaluate round trips of images, batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.editor import DEFAULT, Editor
from ddim_edit.errors import ArgumentError, DDIMEditError
from ddim_edit.evaluation.report import Evaluation
from ddim_edit.evaluation.round_trips import RoundTrip, make_round_trips
from ddim_edit.evaluation.rows import EvaluationRow, EvaluationSetting
from ddim_edit.evaluation.settings import DEFAULT_GRIDS, DEFAULT_SOLVERS, DEFAULT_STEPS
from ddim_edit.images import CentreSquare, InputImage, default_crop, read
from ddim_edit.images.inputs import Images, LoadableImage, expand_images, is_single
from ddim_edit.images.prepare import load_images, prepare_images
from ddim_edit.images.sources import EncodedImage
from ddim_edit.metrics.registry import METRICS
from ddim_edit.models.model import Model

NamedImage = tuple[str, InputImage | Tensor]
"""The name of an image, and an image file that was read or a tensor [3, H, W] in [-1, 1]."""


def evaluate(
    editor: Editor,
    images: Images,
    solvers: Sequence[str] = DEFAULT_SOLVERS,
    grids: Sequence[str] = DEFAULT_GRIDS,
    steps: Sequence[int] = DEFAULT_STEPS,
    config: InversionConfig = DEFAULT,
    against: Sequence[str] = (),
) -> Evaluation:
    """Evaluate round trips of images by every solver, grid and number of steps.

    Every setting sees the same images, one batch of which is in memory at a time. An image costs about 2 S network
    evaluations for each solver with one a step, and more with `exact`. Metrics are of the clipped images before
    they are rounded to 8 bit, which would hide how solvers differ; identical pixels are counted after it.

    Args:
        editor: whose model is evaluated.
        images: as for `Editor.invert`, and cropped as by it.
        solvers: names in `SOLVERS`.
        grids: names, as `make_grid` takes them.
        steps: numbers of steps S, for the inversion and for the decoding.
        config: everything else about the inversions: exact, tol, dequantise, condition.
        against: names in `BASELINES`: "diffusers" is its DDIMInverseScheduler and DDIMScheduler around the same
            network, for unconditional models of pixels with discrete levels.

    Raises:
        ArgumentError: no images, or a setting that cannot run.
        ImageError: a file that cannot be used.
        ModelError: a model that cannot be compared.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502, section 5.4.
    """
    round_trips = make_round_trips(editor, solvers, grids, steps, config, against)
    rows = tuple(evaluate_iter(editor, _named_images(images, editor.model), round_trips))
    if not rows:
        raise ArgumentError("Nothing to evaluate: give at least one image file, folder or tensor.")
    return Evaluation(rows, evaluation_recipe(editor, config))


def evaluate_iter(
    editor: Editor,
    images: Iterable[NamedImage],
    round_trips: Sequence[RoundTrip],
    on_error: Callable[[EvaluationSetting, DDIMEditError], object] | None = None,
) -> Iterator[EvaluationRow]:
    """Yield the rows of images as they are found, batch by batch, all images of a batch at one setting after another.

    Args:
        editor: whose model the images are prepared for, and whose batch size is used.
        images: names and images.
        round_trips: as `make_round_trips` makes them.
        on_error: called when a setting fails on an image, which the error names; None lets the error pass.
    """
    # Batches are drawn one at a time, so that a folder of any size fits in memory.
    remaining = iter(images)
    while batch := list(islice(remaining, editor.batch_size)):
        names = [name for name, _ in batch]
        inputs = [image for _, image in batch]
        prepared = list(prepare_images(inputs, editor.model.size, CentreSquare()))
        originals = torch.stack([image.pixels for image in prepared])
        for round_trip in round_trips:
            try:
                # A setting that fails must not cost the rows of the others.
                scores = round_trip(inputs, originals)
            except DDIMEditError as error:
                if on_error is None:
                    raise
                if len(batch) == 1:
                    on_error(round_trip.setting, type(error)(f"{names[0]}: {error}"))
                else:  # nor an image those of its batch
                    for one in batch:
                        yield from evaluate_iter(editor, [one], [round_trip], on_error)
                continue
            for name, image, score in zip(names, prepared, scores, strict=True):
                yield EvaluationRow(
                    image=name,
                    source=image.origin["source"],
                    setting=round_trip.setting,
                    converged=bool(score["converged"]),
                    nfe_in=int(score["nfe_in"]),
                    nfe_out=int(score["nfe_out"]),
                    scores={metric: score[metric] for metric in METRICS},
                    atypicality=score.get("atypicality"),
                    deviation=score.get("xt_deviation"),
                )


def evaluation_recipe(editor: Editor, config: InversionConfig) -> dict[str, Any]:
    """Return what all rows of an evaluation have in common, in JSON types."""
    model = editor.model
    recipe: dict[str, Any] = {
        "model": model.name,
        "components": dict(model.components),
        "schedule": dict(model.schedule.description),
        "prediction": model.prediction,
        "dtype": model.dtype,
        "dequantise": config.dequantise,
        "condition": config.condition.as_dict(),
    }
    if config.exact:
        recipe["tol"] = config.tol
    if config.refine:
        recipe["refine"] = config.refine
    return recipe


def _named_images(images: Images, model: Model) -> Iterator[NamedImage]:
    crop = default_crop(model.face_template)

    def load(item: LoadableImage) -> InputImage | Tensor:
        return item if isinstance(item, InputImage | Tensor) else read(item, model.size, crop)

    for index, (_, item, image) in enumerate(load_images(expand_images(images), load, is_single(images))):
        name = item.name if isinstance(item, Path | EncodedImage) else getattr(image, "name", None)
        yield name or str(index), image
