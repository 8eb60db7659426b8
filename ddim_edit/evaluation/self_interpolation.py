"""The self-interpolation test: what becomes of an image between its true x_T and the one that inversion finds."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_edit.config import InversionConfig
from ddim_edit.editor import DEFAULT, Editor
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.evaluator import evaluation_recipe
from ddim_edit.evaluation.report import VERSION
from ddim_edit.evaluation.round_trips import RoundTrip, make_round_trips
from ddim_edit.evaluation.rows import EvaluationSetting
from ddim_edit.evaluation.settings import DEFAULT_GRIDS, DEFAULT_SOLVERS
from ddim_edit.evaluation.statistics import CONFIDENCE, Interval, interval
from ddim_edit.evaluation.tables import ABSENT, setting_name
from ddim_edit.io.atomic import atomic
from ddim_edit.metrics.reconstruction import to_json_rows
from ddim_edit.metrics.registry import METRICS, ImageScorer
from ddim_edit.tables import markdown_table

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""How far from the true to the found x_T images are decoded. At 0 it is the sampled image itself."""
STEM = "self-interpolation"
"""Of the files that results are saved to."""


@dataclass(frozen=True)
class SelfInterpolationRow:
    """One sampled image at one setting, decoded at one fraction of the way from its true to its found x_T.

    Attributes:
        seed: that the true x_T is drawn from.
        setting: how the image was sampled and inverted.
        w: the fraction; 0 is the true x_T, and 1 the found one.
        distance: of the found from the true x_T, in units of the length of the true one; independent ones have 1.41.
        scores: value of every metric in `metrics.METRICS` between the decoded and the sampled image; None where it is
            not finite.
    """

    seed: int
    setting: EvaluationSetting
    w: float
    distance: float
    scores: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Return the row as one flat mapping, in the order of the CSV file's columns."""
        return {"seed": self.seed, **self.setting._asdict(), "w": self.w, "distance": self.distance, **self.scores}


@dataclass(frozen=True)
class SelfInterpolationSummary:
    """One setting at one fraction, summarised over the seeds.

    Attributes:
        setting: how the images were sampled and inverted.
        w: the fraction of the way from the true to the found x_T.
        seeds: how many there are.
        distance: mean and interval of the distance between both.
        scores: mean and interval of every metric; None where one image has no finite value.
    """

    setting: EvaluationSetting
    w: float
    seeds: int
    distance: Interval
    scores: Mapping[str, Interval | None]

    def to_json(self) -> dict[str, Any]:
        """Return the summary in JSON types."""
        scores = {name: None if score is None else score._asdict() for name, score in self.scores.items()}
        return {
            **self.setting._asdict(),
            "w": self.w,
            "seeds": self.seeds,
            "distance": self.distance._asdict(),
            **scores,
        }


@dataclass(frozen=True)
class SelfInterpolation:
    """Scores of every seed at every setting and fraction.

    Attributes:
        rows: in the order in which they were found.
        recipe: what all of them have in common, as `Evaluation.recipe`.
    """

    rows: tuple[SelfInterpolationRow, ...]
    recipe: Mapping[str, Any]

    @cached_property
    def summaries(self) -> tuple[SelfInterpolationSummary, ...]:
        """Means over the seeds with 95 % intervals, one per setting and fraction, in the order of their first rows."""
        groups: dict[tuple[EvaluationSetting, float], list[SelfInterpolationRow]] = {}
        for row in self.rows:
            groups.setdefault((row.setting, row.w), []).append(row)
        summaries = []
        for (setting, w), group in groups.items():
            scores: dict[str, Interval | None] = {}
            for name, metric in METRICS.items():
                values = [value for row in group if (value := row.scores[name]) is not None]
                complete = len(values) == len(group)
                scores[name] = interval(values, metric.lowest, metric.highest) if complete else None
            distance = interval([row.distance for row in group], lowest=0)
            summaries.append(SelfInterpolationSummary(setting, w, len(group), distance, scores))
        return tuple(summaries)

    def to_json(self) -> dict[str, Any]:
        """Return recipe and means in JSON types, without paths and dates: equal runs give equal files."""
        return {
            "version": VERSION,
            "recipe": dict(self.recipe),
            "interval": {"covered": CONFIDENCE, "method": "Student's t over seeds"},
            "seeds": list(dict.fromkeys(row.seed for row in self.rows)),
            "settings": [summary.to_json() for summary in self.summaries],
        }

    def save(self, folder: str | PathLike[str]) -> None:
        """Write self-interpolation.csv, .json and .md, the table of means, to a folder, each atomically.

        Raises:
            OSError: as the system raised it.
        """
        stem = Path(folder) / STEM
        with atomic(stem.with_suffix(".csv")) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            columns = ["seed", *EvaluationSetting._fields, "w", "distance", *METRICS]
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            for row in self.rows:
                writer.writerow({**row.to_json(), "exact": int(row.setting.exact)})
        with atomic(stem.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        with atomic(stem.with_suffix(".md")) as temporary:
            temporary.write_text(self.markdown() + "\n", encoding="utf-8")

    def markdown(self) -> str:
        """Return a table of LPIPS and PSNR along the way, a row for each setting, below a line that explains it."""
        rows: dict[EvaluationSetting, list[SelfInterpolationSummary]] = {}
        for summary in self.summaries:
            rows.setdefault(summary.setting, []).append(summary)
        fractions = list(dict.fromkeys(row.w for row in self.rows))
        titles = ["solver and grid", "S", "seeds", "distance"]
        for title in ("LPIPS", "PSNR"):
            titles += [f"{title} at {w:g}" for w in fractions]
        table = []
        for setting, summaries in rows.items():
            cells = [setting_name(setting), str(setting.steps), str(summaries[0].seeds)]
            cells.append(f"{summaries[0].distance.mean:.3f}")
            for name in ("lpips", "psnr"):
                for summary in summaries:
                    score = summary.scores[name]
                    cells.append(ABSENT if score is None else format(score.mean, METRICS[name].mean_format))
            table.append(cells)
        return (
            f"Self-interpolation of images sampled by {self.recipe['model']}: the mean LPIPS and PSNR between an image "
            "and what is decoded at fractions of the way from its true x_T (0) to the found one (1); distance of both "
            "in units of the length of the true one.\n\n" + markdown_table(titles, table)
        )


def self_interpolate(
    editor: Editor,
    seeds: Sequence[int],
    solvers: Sequence[str] = DEFAULT_SOLVERS,
    grids: Sequence[str] = DEFAULT_GRIDS,
    steps: Sequence[int] = (20,),
    config: InversionConfig = DEFAULT,
    against: Sequence[str] = (),
    fractions: Sequence[float] = FRACTIONS,
) -> SelfInterpolation:
    """Run the self-interpolation test: sample images, invert them, and decode between the true and the found x_T.

    Each setting samples an image from x_T ~ N(0, I) of a seed, inverts it, and decodes slerp(x_T, found x_T, w). A
    round trip tests w = 1 alone: an inversion may return to the image, and still find an x_T that is not like noise, or
    far from the one that the image has.

    An x_T decides on an image and on the noise that the image has at the first level of the grid. So samples are taken
    there, without the last step to t = 0, and inverted as they are, without dequantisation, which would put another
    noise in place of theirs: the true x_T is then what a perfect solver finds, and w = 0 gives the image bit by bit.

    Args:
        editor: whose model is tested.
        seeds: one for each image, at least one.
        solvers: names in `SOLVERS`.
        grids: names, as `make_grid` takes them.
        steps: numbers of steps, each way.
        config: everything else about the inversions: exact, tol, condition.
        against: names in `BASELINES`.
        fractions: each in [0, 1]; at least one.

    Raises:
        ArgumentError: no seeds or fractions, or a setting that cannot run.
        ModelError: a model that cannot be compared.

    References:
        Zeng, Suganuma, Okatani, "Inverting the Generation Process of Denoising Diffusion Implicit Models: Empirical
        Evaluation and a Novel Method", 2026, arXiv:2606.03111.
    """
    round_trips = make_round_trips(editor, solvers, grids, steps, config, against)
    rows = tuple(self_interpolate_iter(editor, seeds, round_trips, fractions))
    if not rows:
        raise ArgumentError("The self-interpolation test needs at least one seed and one fraction.")
    return SelfInterpolation(rows, evaluation_recipe(editor, replace(config, dequantise=None)))


def self_interpolate_iter(
    editor: Editor, seeds: Sequence[int], round_trips: Sequence[RoundTrip], fractions: Sequence[float] = FRACTIONS
) -> Iterator[SelfInterpolationRow]:
    """Yield the rows of the test, batch by batch; arguments as `self_interpolate`."""
    scorer = ImageScorer(editor.model.device)
    for round_trip in round_trips:
        for start in range(0, len(seeds), editor.batch_size):
            batch = seeds[start : start + editor.batch_size]
            made = round_trip.self_interpolate(batch, fractions)
            difference = (made.found - made.true).flatten(1).norm(dim=1) / made.true.flatten(1).norm(dim=1)
            scores = [_score(scorer, decoded, made.images.clamp(-1, 1)) for decoded in made.decoded]
            for index, seed in enumerate(batch):
                for w, rows in zip(fractions, scores, strict=True):
                    yield SelfInterpolationRow(seed, round_trip.setting, w, float(difference[index]), rows[index])


def _score(scorer: ImageScorer, decoded: Tensor, images: Tensor) -> list[Mapping[str, float | None]]:
    """Return the values of every metric for each image; None where a value or the image is not finite."""
    finite = decoded.flatten(1).isfinite().all(1)
    # Metrics cannot take images that are not finite: grey stands in for them, and its scores are discarded.
    shown = torch.where(finite[:, None, None, None], decoded, 0.0).clamp(-1, 1)
    rows = to_json_rows(scorer(shown, images))
    return [row if is_finite else dict.fromkeys(METRICS) for row, is_finite in zip(rows, finite.tolist(), strict=True)]
