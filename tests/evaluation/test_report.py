"""What is kept of an evaluation, and how several become one."""

import json
from pathlib import Path

import pytest

from ddim_edit import Evaluation
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation import markdown, means_table, reconstruction_table, write_tables

from .samples import DDIM, DPM, RECIPE, row

STEPS = (10, 20, 50, 100, 200, 500, 1000)
PUBLISHED = ("0.014", "0.0065", "0.0023", "0.0009", "0.0004", "0.0001", "0.0001")
"""The errors of Song, Meng, Ermon (2021), table 2."""


def test_it_reads_back_from_its_folder(tmp_path: Path) -> None:
    found = Evaluation((row("a"), row("b", mse=None)), RECIPE)
    found.save(tmp_path / "new")
    assert Evaluation.load(tmp_path / "new") == found
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["evaluation.csv", "evaluation.json"]


def test_json_tells_recipe_pictures_and_means_and_nothing_of_the_machine(tmp_path: Path) -> None:
    Evaluation((row("a.png"), row("a.png", DDIM)), RECIPE).save(tmp_path)
    text = (tmp_path / "evaluation.json").read_text()
    told = json.loads(text)
    assert told["recipe"] == RECIPE
    assert told["pictures"] == [{"name": "a.png", "source": "hash of a.png"}]
    assert told["interval"] == {"covered": 0.95, "method": "Student's t over pictures"}
    assert [each["solver"] for each in told["settings"]] == ["dpm2m", "ddim"]
    assert told["settings"][0]["mse"] == {"mean": 0.01, "low": None, "high": None}
    assert str(tmp_path) not in text


def test_evaluations_of_one_recipe_are_joined() -> None:
    few, more = Evaluation((row("a"),), RECIPE), Evaluation((row("b"), row("a", DDIM)), RECIPE)
    both = Evaluation.joined([few, more])
    assert both.rows == (*few.rows, *more.rows)
    assert [each.images for each in both.summaries] == [2, 1]


@pytest.mark.parametrize(
    ("parts", "given"),
    [
        ([], "no evaluations to join"),
        (
            [Evaluation((row("a"),), RECIPE), Evaluation((row("b"),), {"model": "another"})],
            "only if model, dtype and options",
        ),
        ([Evaluation((row("a"),), RECIPE), Evaluation((row("a"),), RECIPE)], "share an image at one setting"),
    ],
)
def test_what_does_not_belong_together_is_not(parts: list[Evaluation], given: str) -> None:
    with pytest.raises(ArgumentError, match=given):
        Evaluation.joined(parts)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"recipe": {}}', '{"recipe": {"model": 3}}', '{"recipe": "model"}']
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ArgumentError, match=r"evaluation\.json"):
        Evaluation.load(tmp_path)
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(ArgumentError, match=r"evaluation\.json"):
        Evaluation.load(tmp_path)


def test_the_paper_s_own_errors_look_as_they_are_printed_there() -> None:
    rows = [row("a", DPM._replace(steps=S), float(error)) for S, error in zip(STEPS, PUBLISHED, strict=True)]
    titles, ruler, errors = reconstruction_table(Evaluation(tuple(rows), RECIPE)).splitlines()
    assert [cell.strip() for cell in titles.split("|")[1:-1]] == ["S", *map(str, STEPS)]
    assert set(ruler) == {"|", "-", " "}
    assert [cell.strip() for cell in errors.split("|")[1:-1]] == ["Error, dpm2m karras:14", *PUBLISHED]


def test_every_way_has_a_line_and_what_was_not_measured_a_dash() -> None:
    rows = (row("a", DPM), row("a", DPM._replace(steps=20, exact=True), 3e-9), row("a", DDIM._replace(steps=20), None))
    assert reconstruction_table(Evaluation(rows, RECIPE)) == (
        "| S                            |   10 |    20 |\n"
        "| ---------------------------- | ---- | ----- |\n"
        "| Error, dpm2m karras:14       | 0.01 |     - |\n"
        "| Error, dpm2m karras:14 exact |    - | 3e-09 |\n"
        "| Error, ddim karras:14        |    - |     - |"
    )


def test_means_stand_with_their_intervals() -> None:
    (_, _, line) = means_table(Evaluation((row("a", mse=0.01), row("b", mse=0.01)), RECIPE)).splitlines()
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:4] == ["dpm2m karras:14", "10", "2", "20"]
    assert cells[4:] == [
        "20.00 (20.00 to 20.00)",
        "0.90000 (0.90000 to 0.90000)",
        "0.1 (0.1 to 0.1)",
        "0.01 (0.01 to 0.01)",
        "50.0% (50.0% to 50.0%)",
    ]
    assert means_table(Evaluation((row("a"),), RECIPE)).splitlines()[-1].count("to") == 0


def test_both_tables_are_written_with_what_they_mean(tmp_path: Path) -> None:
    found = Evaluation((row("a"), row("b"), row("b", DDIM)), RECIPE)
    write_tables(found, tmp_path / "tables.md")
    text = (tmp_path / "tables.md").read_text()
    assert text == markdown(found) + "\n"
    assert text.startswith("Round trips of 1 to 2 images through faces64")
    assert means_table(found) in text
    assert reconstruction_table(found) in text
    assert "of 1 image through" in markdown(Evaluation((row("a"),), RECIPE))
