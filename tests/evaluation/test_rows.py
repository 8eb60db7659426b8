"""Rows as CSV: they read back as they were written, and appear whole or not at all."""

import csv
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation import EvaluationRow, EvaluationSetting, read_rows, row_writer
from ddim_edit.metrics import METRICS

from .samples import row

FINITE = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))
COUNT = st.integers(0, 10**6)
TRUTH = st.booleans()
SETTING = st.builds(EvaluationSetting, TEXT, TEXT, COUNT, TRUTH)
SCORES = st.fixed_dictionaries(dict.fromkeys(METRICS, FINITE))
ROWS = st.builds(EvaluationRow, TEXT, TEXT, SETTING, TRUTH, COUNT, COUNT, SCORES)


def written(path: Path, rows: list[EvaluationRow]) -> Path:
    with row_writer(path) as write:
        for each in rows:
            write(each)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(ROWS, max_size=5))
def test_rows_read_back_as_they_were_to_the_last_bit(tmp_path: Path, rows: list[EvaluationRow]) -> None:
    assert list(read_rows(written(tmp_path / "rows.csv", rows))) == rows


def test_names_that_are_no_text_and_those_with_commas_and_lines_come_back(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), 'a, "b".png', "two\nlines.png", "=1+1.png"]
    path = written(tmp_path / "rows.csv", [row(name) for name in names])
    assert [each.image for each in read_rows(path)] == names
    assert b"caf\xe9.png" in path.read_bytes()


def test_any_reader_of_csv_finds_named_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", [row("a.png", mse=None)])
    with path.open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert (found["picture"], found["steps"], found["exact"], found["mse"]) == ("a.png", "10", "0", "")
    assert float(found["lpips"]) == 0.1


def test_rows_that_are_interrupted_leave_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", [row("a")])
    before = path.read_bytes()

    def interrupted() -> None:
        with row_writer(path) as write:
            write(row("b"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_a_metric_has_no_values_of_it(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", [row("a.png")])
    lines = [line.split(",") for line in path.read_text().splitlines()]
    position = lines[0].index("ssim")
    path.write_text("".join(",".join([*line[:position], *line[position + 1 :]]) + "\n" for line in lines))
    (found,) = read_rows(path)
    assert found.scores == {**row("a.png").scores, "ssim": None}


@pytest.mark.parametrize(
    "text",
    ["", "file,age\na,1\n", "{TITLES}\na,b,c\n", "{TITLES}\n" + ",".join(["x"] * 14) + "\n", '"\0', "{TITLES}\n\n"],
)
def test_what_is_no_evaluation_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    titles = written(tmp_path / "rows.csv", []).read_text().strip()
    (tmp_path / "other.csv").write_text(text.replace("{TITLES}", titles))
    with pytest.raises(ArgumentError, match=r"^other\.csv: not the rows of an evaluation"):
        read_rows(tmp_path / "other.csv")
    with pytest.raises(ArgumentError, match="No such file"):
        read_rows(tmp_path / "absent.csv")
