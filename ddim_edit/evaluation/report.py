"""All that an evaluation found, and the files that keep it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Self

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.rows import EvaluationRow, read_rows, row_writer
from ddim_edit.evaluation.statistics import COVERED, Summary, summaries
from ddim_edit.io.atomic import atomic

CSV, JSON = "evaluation.csv", "evaluation.json"
VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """Every picture at every setting; keeps no pictures and no codes.

    Attributes:
        rows: in the order in which they were found.
        recipe: what all of them have in common: model, weights, dtype and so on, in plain JSON types.
    """

    rows: tuple[EvaluationRow, ...]
    recipe: Mapping[str, Any]

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """Means over the pictures with their 95 % intervals, one for each setting, by rising steps within each way."""
        return summaries(self.rows)

    def as_json(self) -> dict[str, Any]:
        """Recipe, pictures and means in plain JSON types; no paths and no dates, so that nothing tells the machine."""
        pictures = dict.fromkeys((row.picture, row.source) for row in self.rows)
        return {
            "version": VERSION,
            "recipe": dict(self.recipe),
            "interval": {"covered": COVERED, "method": "Student's t over pictures"},
            "pictures": [{"name": name, "source": source} for name, source in pictures],
            "settings": [each.as_json() for each in self.summaries],
        }

    def save(self, folder: str | PathLike[str]) -> None:
        """Write evaluation.csv and evaluation.json there, each whole or not at all.

        Errors: OSError as the system raised it.
        """
        with row_writer(Path(folder) / CSV) as write:
            for row in self.rows:
                write(row)
        self.save_json(folder)

    def save_json(self, folder: str | PathLike[str]) -> None:
        """Write evaluation.json alone, whose rows have been written as they were found."""
        with atomic(Path(folder) / JSON) as temporary:
            temporary.write_text(json.dumps(self.as_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Self:
        """The evaluation that was saved in a folder.

        Raises:
            ArgumentError: no such files there, or broken ones.
        """
        wanted, remedy = f"a folder with an {JSON}", "name one that evaluate wrote"
        try:
            recipe = json.loads((Path(folder) / JSON).read_bytes())["recipe"]
            named = isinstance(recipe["model"], str)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ArgumentError(wanted, f"{folder}, which has none that reads", remedy) from error
        if not named:
            raise ArgumentError(wanted, f"{folder}, whose recipe names no model", remedy)
        return cls(read_rows(Path(folder) / CSV), recipe)

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Several evaluations of one recipe as one; of other steps or other pictures, not of the same ones twice.

        Raises:
            ArgumentError: nothing to join, unlike recipes, or a picture that occurs twice at one setting.
        """
        parts = list(parts)
        if not parts or any(part.recipe != parts[0].recipe for part in parts):
            given = "unlike ones" if parts else "none"
            raise ArgumentError("evaluations of one recipe", given, "repeat one of them with the model of the other")
        rows = tuple(row for part in parts for row in part.rows)
        if len({(row.source, row.setting) for row in rows}) < len(rows):
            given = "some that are in several"
            raise ArgumentError("every picture once at each setting", given, "join those of other steps or pictures")
        return cls(rows, parts[0].recipe)
