"""The result of an evaluation, and its files."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Self

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.rows import EvaluationRow, read_rows, row_writer
from ddim_edit.evaluation.statistics import CONFIDENCE, Summary, summarize
from ddim_edit.io.atomic import atomic

CSV, JSON = "evaluation.csv", "evaluation.json"
VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """Scores of every image at every setting; holds no images and no latents.

    Attributes:
        rows: in the order in which they were found.
        recipe: what all of them have in common: model, weights, dtype and so on, in plain JSON types.
    """

    rows: tuple[EvaluationRow, ...]
    recipe: Mapping[str, Any]

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """Means over the images with 95 % intervals, one per setting, by rising steps within each solver and grid."""
        return summarize(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return recipe, images and means in JSON types, without paths and dates: equal runs give equal files."""
        images = dict.fromkeys((row.image, row.source) for row in self.rows)
        return {
            "version": VERSION,
            "recipe": dict(self.recipe),
            "interval": {"covered": CONFIDENCE, "method": "Student's t over pictures"},
            "pictures": [{"name": name, "source": source} for name, source in images],
            "settings": [summary.to_json() for summary in self.summaries],
        }

    def save(self, folder: str | PathLike[str]) -> None:
        """Write evaluation.csv and evaluation.json to a folder, each atomically.

        Raises:
            OSError: as the system raised it.
        """
        with row_writer(Path(folder) / CSV) as write:
            for row in self.rows:
                write(row)
        self.save_json(folder)

    def save_json(self, folder: str | PathLike[str]) -> None:
        """Write evaluation.json alone, for rows that were written as they were found."""
        with atomic(Path(folder) / JSON) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Self:
        """Load the evaluation that was saved to a folder.

        Raises:
            ArgumentError: no such files there, or broken ones.
        """
        try:
            recipe = json.loads((Path(folder) / JSON).read_bytes())["recipe"]
            has_model_name = isinstance(recipe["model"], str)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            message = f"{folder}: has no {JSON} that can be read. Name a folder that `ddim-edit evaluate` wrote."
            raise ArgumentError(message) from error
        if not has_model_name:
            raise ArgumentError(f"{folder}: the recipe in its {JSON} names no model. Evaluate again.")
        return cls(read_rows(Path(folder) / CSV), recipe)

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Join evaluations of one recipe, of different steps or images.

        Raises:
            ArgumentError: nothing to join, recipes that differ, or an image that occurs twice at one setting.
        """
        parts = list(parts)
        if not parts:
            raise ArgumentError("There are no evaluations to join.")
        if any(part.recipe != parts[0].recipe for part in parts):
            raise ArgumentError("Evaluations can be joined only if model, dtype and options are the same.")
        rows = tuple(chain.from_iterable(part.rows for part in parts))
        if len({(row.source, row.setting) for row in rows}) < len(rows):
            raise ArgumentError("The evaluations share an image at one setting. Join those of other steps or images.")
        return cls(rows, parts[0].recipe)
