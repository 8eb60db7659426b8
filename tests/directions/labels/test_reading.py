import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddim_edit.directions.labels import LabelledImages, read_csv, read_names
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


def read(faces: Path, column: str = "age", *conditions: str, group: str | None = None) -> LabelledImages:
    return read_csv(faces / "t.csv", column, faces / "images", *conditions, group=group)


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


def test_repeated_rows_count_once_and_contradictions_are_named(faces) -> None:
    assert labels_of(faces, "file,age\na.png,1\nb.png,2\n./a.png,1\n", "age") == {"a.png": 1, "b.png": 2}
    assert "1 of 3 labels repeat those of other rows and count once" in read(faces).notes
    with pytest.raises(ArgumentError, match=r"a\.png has the label 1 and, again, the label 2\. Correct one"):
        labels_of(faces, "file,age\na.png,1\nb.png,2\na.png,2\n", "age")
    (faces / "t.csv").write_text("file,age\na.png,1\nb.png,2\na.png,2\n")
    with pytest.raises(ArgumentError, match=r"a\.png has the label 1 and"):
        read_names(faces / "t.csv", "age")


SAME = {
    "commas": "file,age\na.png,3\nb.png,4.5\n",
    "semicolons and decimal commas": "file;age;note\na.png;3;a, b\nb.png;4,5;\n",
    "tabs": "file\tage\na.png\t3\nb.png\t4.5\n",
    "spaces": "file   age\na.png    3\nb.png  4.5\n",
    "what Excel writes": "sep=;\r\nfile;age\r\na.png;3\r\nb.png;4,5\r\n;\r\n",
    "another first column": "image_id,age\na.png,3\nb.png,4.5\n",
    "another column": "person,age,where is it\nann,3,a.png\nbob,4.5,b.png\n",
    "several that might be it": "id,age,original,name\n1,3,x.jpg,a.png\n2,4.5,y.jpg,b.png\n",
    "a first column without a name": ",age\na.png,3\nb.png,4.5\n",
    "a first column outside of the header": "age\tnote\na.png\t3\t\nb.png\t4.5\tx\n",
    "an ending delimiter": "file,age\na.png,3,\nb.png,4.5,\n",
    "names without suffix": "image_id,age\na,3\nb,4.5\n",
    "names of another system": "file,age\n.\\a.png,3\nb.png,4.5\n",
    "unknown labels": "file,age\na.png,3\nb.png,4.5\nd.png,?\ne.png,NA\nsub/c.png,null\n",
}


@pytest.mark.parametrize("case", SAME)
def test_tables_as_people_have_them_are_read(faces, case: str) -> None:
    assert labels_of(faces, SAME[case], "age") == {"a.png": 3, "b.png": 4.5}
    assert labels_of(faces, SAME[case].replace("\n", "\r\n"), "age") == {"a.png": 3, "b.png": 4.5}


def test_the_files_of_celeba_are_read(faces) -> None:
    text = "5\nMale Smiling \na.png  1  -1\nb.png -1   1\nsub/c.png  0  1\nd.png -1 -1\ne.png  1  0\n"
    table = "image_id,Male,Smiling\na.png,1,-1\nb.png,-1,1\nsub/c.png,0,1\nd.png,-1,-1\ne.png,1,0\n"
    for content in (text, table):
        assert labels_of(faces, content, "Male") == {"a.png": 1, "b.png": -1, "d.png": -1, "e.png": 1}
        assert labels_of(faces, content, "Male", "1") == {"a.png": 1, "b.png": 0, "d.png": 0, "e.png": 1}
        assert "t.csv: 1 rows left out as unknown: '0' 1" in read(faces, "Male", "1").notes
        # Who names it means it.
        assert labels_of(faces, content, "Male", "1", "0") == {"a.png": 1, "sub/c.png": 0, "e.png": 1}
    assert not any("first line" in note for note in read(faces, "Male").notes)
    (faces / "t.csv").write_text(text.replace("5", "202599", 1))
    assert "t.csv: its first line says 202599 rows, but 5 follow" in read(faces, "Male").notes


@pytest.mark.parametrize(
    "word",
    [
        "unknown",
        "Unknown",
        "NA",
        "n/a",
        "?",
        "",
        " ",
        "nan",
        "NaN",
        "null",
        "None",
        "-",
        "--",
        "not sure",
        "TBD",
        "...",
    ],
)
def test_unknown_labels_are_no_negatives(faces, word: str) -> None:
    text = f"file,smile\na.png,1\nb.png,0\nd.png,{word}\ne.png,{word}\n"
    for conditions in (("1",), (), (">=1",), ("1", "0"), ("1", "<1")):
        assert labels_of(faces, text, "smile", *conditions) == {"a.png": 1, "b.png": 0}
    (note,) = [note for note in read(faces, "smile", "1").notes if "unknown" in note]
    assert note.startswith("t.csv: 2 rows left out as unknown: ")


@pytest.mark.parametrize("word", ["maybe", "inf", "#VALUE!", "N\\A", "both", "1 or 0"])
def test_words_among_numbers_are_no_negatives(faces, word: str) -> None:
    for yes, no in (("1", "0"), ("yes", "no"), ("1.0", "-1"), ("T", "f")):
        text = f"file,smile\na.png,{yes}\nb.png,{no}\nd.png,{word}\n"
        assert labels_of(faces, text, "smile", "1") == {"a.png": 1, "b.png": 0}
        assert f"t.csv: 1 rows left out as unknown: {word!r} 1" in read(faces, "smile", "1").notes
        # Who names it means it.
        assert labels_of(faces, text, "smile", "1", word) == {"a.png": 1, "d.png": 0}
    text = f"file,smile\na.png,broad\nb.png,thin\nd.png,{word}\n"
    assert labels_of(faces, text, "smile", "broad") == {"a.png": 1, "b.png": 0, "d.png": 0}


def test_a_single_class_is_explained_by_what_was_left_out(faces) -> None:
    with pytest.raises(ArgumentError, match=r"All 1 images have the label 1\..* 2 of 3 files of t\.csv are not there"):
        labels_of(faces, "file,age\na.png,1\nx.png,0\nB.PNG,0\n", "age")
    with pytest.raises(ArgumentError, match=r"No image has a label\..* 2 rows left out as unknown: '\?' 2"):
        labels_of(faces, "file,age\na.png,?\nb.png,?\n", "age")


def test_unknown_words_count_where_they_are_asked_for(faces) -> None:
    text = "file,glasses\na.png,sun\nb.png,none\nd.png,none\ne.png,?\n"
    assert labels_of(faces, text, "glasses", "sun", "none") == {"a.png": 1, "b.png": 0, "d.png": 0}
    with pytest.raises(ArgumentError, match=r"meets anything but 'sun'.* Left out as unknown: 'none' 2, '\?' 1"):
        labels_of(faces, text, "glasses", "sun")


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("TRUE", "false"), ("yes", "No"), ("y", "n"), ("T", "f")])
def test_words_for_yes_and_no_are_labels(faces, yes: str, no: str) -> None:
    text = f"file,smile\na.png,{yes}\nb.png,{no}\nd.png,{yes.upper()}\n"
    for conditions in ((), ("1",), (yes,), (yes.lower(),), ("1", no)):
        assert labels_of(faces, text, "smile", *conditions) == {"a.png": 1, "b.png": 0, "d.png": 1}


def test_letters_that_may_mean_another_word_are_met_by_themselves_only(faces) -> None:
    text = "file,gender\na.png,F\nb.png,m\nd.png,n\ne.png,no\n"
    assert labels_of(faces, text, "gender", "f") == {"a.png": 1, "b.png": 0, "d.png": 0, "e.png": 0}


def test_names_are_compared_in_one_form_of_unicode(faces) -> None:
    composed, decomposed = "Zoë.png", "Zoe\u0308.png"
    (faces / "images" / decomposed).touch()
    (faces / "images" / "sub" / composed).touch()
    for name in (composed, decomposed):
        found = labels_of(faces, f"file,age\n{name},3\nsub/{name},4\n", "age")
        assert found == {decomposed: 3, f"sub/{composed}": 4}
    with pytest.raises(ArgumentError, match="has the label 3 and, again, the label 4"):
        labels_of(faces, f"file,age\n{composed},3\n{decomposed},4\n", "age")


def test_images_that_are_missing_are_named_and_left_out(faces) -> None:
    rows = "".join(f"x{index}.png,1\n" for index in range(7))
    assert labels_of(faces, f"file,age\na.png,1\nb.png,2\n{rows}sub,1\n{'n' * 5000},1\n", "age") == {
        "a.png": 1,
        "b.png": 2,
    }
    (warning,) = read(faces).warnings
    assert warning.startswith(f"{faces / 'images'}: 9 of 11 files of t.csv are not there and were left out: 'x0.png', ")
    assert warning.endswith("and 4 more")


def test_counts_of_each_label_are_told_with_its_cells(faces) -> None:
    labels_of(faces, FACES, "smile", "yes")
    assert read(faces, "smile", "yes").notes == (
        "t.csv: 1 rows left out as unknown: 'empty' 1",
        "2 images with label 1 ('yes' 2), 2 images with label 0 ('no' 2)",
    )
    assert read(faces, "age").notes[-1] == "4 images with labels from 20 to 60"
    assert "t.csv: 1 rows meet neither condition: '40' 1" in read(faces, "age", ">=55", "18..32").notes


def test_groups_are_a_column_or_the_folders_of_images(faces) -> None:
    (faces / "images" / "sub" / "f.png").touch()
    (faces / "t.csv").write_text("file,age,who\na.png,1,ann\nb.png,2,?\nsub/c.png,3,ann\nsub/f.png,4,bob\n")
    assert read(faces).groups == ()
    by_column = read(faces, group="who")
    assert by_column.groups == ("ann", None, "ann", "bob")
    (faces / "t.csv").write_text("file,age,who\na.png,1,Ann\nb.png,2,?\nsub/c.png,3, ANN\nsub/f.png,4,bob\n")
    assert read(faces, group="who").groups == by_column.groups
    assert by_column.warnings == ("1 of 4 images are in no known group, and each counts as one of its own",)
    assert read(faces, group="folder").groups == (None, None, "sub", "sub")
    with pytest.raises(ArgumentError, match="no column 'person', but 'file', 'age', 'who'"):
        read(faces, group="person")
    (faces / "t.csv").write_text("file,age,who\na.png,1,ann\nb.png,2,bob\na.png,1,bob\n")
    with pytest.raises(ArgumentError, match=r"a\.png has the group ann and, again, the group bob"):
        read(faces, group="who")


def test_a_pipe_is_refused(faces) -> None:
    os.mkfifo(faces / "pipe.csv")
    with pytest.raises(ArgumentError, match=r"pipe\.csv: not a regular file"):
        read_csv(faces / "pipe.csv", "age", faces / "images")


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
        "who,age\nann,3\n",
        "age",
        (),
        "t.csv: the header has no column 'file', nor another that names images: 'who', 'age'",
    ),
    "no such column": (FACES, "old", (), "no column 'old', but 'file', 'age', 'smile'"),
    "a column twice": ("file,age,age\na.png,3,4\n", "age", (), "2 columns 'age'"),
    "a cell too many": ("file,age\na.png,3\nb,png,4\n", "age", (), "line 3: 3 cells, but the header has 2"),
    "two columns that name images": (
        "one,age,two\na.png,3,b.png\n",
        "age",
        (),
        "has several columns that name images: 'one', 'age', 'two'. Call one",
    ),
    "a word for a number": ("file,age\na.png,old\n", "age", (), "t.csv, line 2: 'old' is not a number"),
    "a word in a comparison": (FACES, "smile", (">=1",), "t.csv, line 2: 'yes' is not a number"),
    "infinity": ("file,age\na.png,1\nb.png,inf\n", "age", (), "line 3: 'inf' is not a number"),
    "files that are missing": (
        "file,age\nx.png,2\ny.png,3\n",
        "age",
        (),
        "2 of 2 files of t.csv are not there, the first of them 'x.png'",
    ),
    "no line of names": ("a.png,1\nb.png,0\n", "1", (), "first line must name the columns, but it names .* 'a.png'"),
    "no line of names, with spaces": ("a.png 1\nb.png 0\n", "1", (), "first line must name the columns"),
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
