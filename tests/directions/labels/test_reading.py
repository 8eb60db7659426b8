from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddim_edit.directions.labels import read_csv
from ddim_edit.errors import ArgumentError

FACES = "file,age,smile\na.png,60,yes\nb.png,20,no\nsub/c.png,40,yes\nd.png,,no\ne.png,25.5,\n"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ["a.png", "b.png", "sub/c.png", "d.png", "e.png"]:
        (tmp_path / "images" / name).touch()
    return tmp_path


def labels_of(faces: Path, text: str | bytes, column: str, *conditions: str) -> dict[str, float]:
    (faces / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_csv(faces / "t.csv", column, faces / "images", *conditions)
    names = [file.relative_to(faces / "images").as_posix() for file in found.files]
    assert found.labels.dtype == np.float64
    assert len(found) == len(names)
    return dict(zip(names, found.labels.tolist(), strict=True))


def test_without_conditions_the_numbers_are_the_labels_and_empty_cells_are_left_out(faces) -> None:
    assert labels_of(faces, FACES, "age") == {"a.png": 60, "b.png": 20, "sub/c.png": 40, "e.png": 25.5}


def test_what_meets_neither_condition_is_left_out(faces) -> None:
    assert labels_of(faces, FACES, "age", ">=55", "18..32") == {"a.png": 1, "b.png": 0, "e.png": 0}


def test_without_a_negative_condition_all_others_are_negative(faces) -> None:
    assert labels_of(faces, FACES, "age", ">=55") == {"a.png": 1, "b.png": 0, "sub/c.png": 0, "e.png": 0}
    assert labels_of(faces, FACES, "smile", "yes") == {"a.png": 1, "b.png": 0, "sub/c.png": 1, "d.png": 0}


def test_conditions_the_other_way_round_give_the_other_labels(faces) -> None:
    there = labels_of(faces, FACES, "age", ">=55", "<30")
    back = labels_of(faces, FACES, "age", "<30", ">=55")
    assert back == {name: 1 - label for name, label in there.items()}


def test_byte_order_mark_quotes_and_blank_lines_are_understood(faces) -> None:
    table = b'\xef\xbb\xbffile, age ,note\r\n"a.png", 3 ,"x, ""y""\r\nz"\r\n\r\nb.png,4,\r\n'
    assert labels_of(faces, table, "age") == {"a.png": 3, "b.png": 4}


def test_a_file_may_have_two_rows(faces) -> None:
    (faces / "t.csv").write_text("file,age\na.png,1\na.png,2\n")
    assert len(read_csv(faces / "t.csv", "age", faces / "images")) == 2


REFUSED = {
    "an empty file": ("", "age", (), "t.csv: the file is empty"),
    "another encoding": (b"file,age\n\xff.png,3\n", "age", (), "t.csv: it is not UTF-8"),
    "UTF-16": ("file,age".encode("utf-16"), "age", (), "UTF-8"),
    "NUL bytes": (b"file,age\na.png,\x003\n", "age", (), "it holds NUL bytes"),
    "a huge cell": (
        f"file,age\na.png,{'9' * 200_000}\n",
        "age",
        (),
        "line 2: not .* cells .field larger than",
    ),
    "an open quote": ('file,age\n"a.png,3\nb.png,4\n', "age", (), "not comma-separated cells"),
    "no file column": (
        "name,age\na.png,3\n",
        "age",
        (),
        "t.csv: the header has no column 'file', but 'name', 'age'",
    ),
    "no such column": (FACES, "old", (), "no column 'old', but 'file', 'age', 'smile'"),
    "a column twice": ("file,age,age\na.png,3,4\n", "age", (), "2 columns 'age'"),
    "a cell too many": ("file,age\na.png,3\nb,png,4\n", "age", (), "line 3: 3 cells, but the header has 2"),
    "a word for a number": (FACES, "smile", (), "t.csv, line 2: 'yes' is not a number"),
    "a word in a comparison": (FACES, "smile", (">=1",), "t.csv, line 2: 'yes' is not a number"),
    "infinity": ("file,age\na.png,1\nb.png,inf\n", "age", (), "line 3: 'inf' is not a number"),
    "files that are missing": (
        "file,age\na.png,1\nx.png,2\ny.png,3\n",
        "age",
        (),
        "2 of 3 files of t.csv are not there, the first of them 'x.png'",
    ),
    "a folder for a file": ("file,age\nsub,1\na.png,2\n", "age", (), "1 of 2 files of t.csv are not there"),
    "a name too long": (f"file,age\n{'n' * 5000},1\na.png,2\n", "age", (), "1 of 2 files of t.csv are not there"),
    "no name": ("file,age\n,1\na.png,2\n", "age", (), "line 2: '' is not inside of"),
    "the folder above": ("file,age\n../a.png,1\n", "age", (), "line 2: '../a.png' is not inside of"),
    "a way out and in": ("file,age\nsub/../a.png,1\n", "age", (), "is not inside of"),
    "a path from the root": ("file,age\n/etc/passwd,1\n", "age", (), "is not inside of"),
    "nothing labelled": ("file,age\na.png,\n", "age", (), "No image has a label"),
    "one value only": ("file,age\na.png,3\nb.png,3\n", "age", (), "All 2 images have the label 3"),
    "no positive": (FACES, "age", (">=70",), "no cell of column 'age' meets '>=70'"),
    "no negative": (FACES, "age", (">=1",), "meets anything but '>=1'"),
    "no such negative": (FACES, "age", (">=50", "<3"), "meets '<3'"),
    "conditions that meet": (FACES, "age", (">=40", "18..40"), "line 4: '40' meets both conditions"),
    "a malformed condition": (FACES, "age", (">=",), "is not a condition such as"),
    "an empty negative": (FACES, "age", (">=55", ""), "is not a condition such as"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_tables_are_refused(faces, case: str) -> None:
    text, column, conditions, message = REFUSED[case]
    with pytest.raises(ArgumentError, match=message) as caught:
        labels_of(faces, text, column, *conditions)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_negative_condition_needs_a_positive_one(faces) -> None:
    (faces / "t.csv").write_text(FACES)
    with pytest.raises(ArgumentError, match="negative condition '<3' needs a positive one"):
        read_csv(faces / "t.csv", "age", faces / "images", negative="<3")


def test_missing_places_are_named(faces) -> None:
    with pytest.raises(ArgumentError, match=r"none\.csv: cannot read: No such file or directory"):
        read_csv(faces / "none.csv", "age", faces / "images")
    with pytest.raises(ArgumentError, match="images: cannot read: Is a directory"):
        read_csv(faces / "images", "age", faces / "images")
    (faces / "t.csv").write_text(FACES)
    with pytest.raises(ArgumentError, match="nowhere: there is no such folder of images"):
        read_csv(faces / "t.csv", "age", faces / "nowhere")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_give_labels_or_an_argument_error(faces, noise: bytes) -> None:
    for table in (noise, b"file,age\n" + noise):
        with suppress(ArgumentError):
            assert set(labels_of(faces, table, "age")) <= {"a.png", "b.png", "sub/c.png", "d.png", "e.png"}
