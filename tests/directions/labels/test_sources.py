from pathlib import Path

import pytest

from ddim_edit.directions.labels import from_callable, from_folders
from ddim_edit.errors import ArgumentError, ImageError


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).touch()
    return path


def test_two_folders_give_ones_and_zeros(tmp_path) -> None:
    glasses, plain = folder(tmp_path / "glasses", "2.png", "10.png", "note.txt"), folder(tmp_path / "plain", "2.png")
    found = from_folders(glasses, str(plain))
    assert found.files == (glasses / "2.png", glasses / "10.png", plain / "2.png")
    assert found.labels.tolist() == [1, 1, 0]
    assert from_folders(plain, glasses).labels.tolist() == [1, 0, 0]


def test_an_empty_folder_and_one_named_twice_are_refused(tmp_path) -> None:
    one = folder(tmp_path / "one", "a.png")
    with pytest.raises(ImageError, match="there are no images in this folder"):
        from_folders(one, folder(tmp_path / "empty"))
    with pytest.raises(ArgumentError, match=r"^1 images are in both folders, the first of them .*a\.png"):
        from_folders(one, tmp_path / "empty" / ".." / "one")


def test_a_function_labels_files_or_leaves_them_out() -> None:
    files = ["old_a.png", Path("young_b.png"), "unclear.png"]
    ages = {"old": 70.5, "young": 20}
    found = from_callable(files, lambda file: ages.get(file.name.split("_")[0]))
    assert found.files == (Path("old_a.png"), Path("young_b.png"))
    assert found.labels.tolist() == [70.5, 20]
    assert from_callable(files, lambda file: "old" in file.name).labels.tolist() == [1, 0, 0]


def test_equal_missing_and_nan_labels_are_refused() -> None:
    with pytest.raises(ArgumentError, match="No image has a label"):
        from_callable(["a.png"], lambda file: None)
    with pytest.raises(ArgumentError, match="All 2 images have the label 1"):
        from_callable(["a.png", "b.png"], lambda file: True)
    with pytest.raises(ArgumentError, match=r"a\.png: labels must be finite, not nan"):
        from_callable(["a.png"], lambda file: float("nan"))


def test_folders_of_persons_are_groups_on_both_sides(tmp_path) -> None:
    for side, name in (("with", "ann"), ("with", "bob"), ("without", "ann")):
        (tmp_path / side / name).mkdir(parents=True, exist_ok=True)
        for index in (1, 2):
            (tmp_path / side / name / f"{index}.png").touch()
    (tmp_path / "without" / "alone.png").touch()
    found = from_folders(tmp_path / "with", tmp_path / "without", "folder")
    assert found.groups == ("ann", "ann", "bob", "bob", None, "ann", "ann")
    assert found.labels.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert found.notes == ("4 images with label 1 (with), 3 with label 0 (without)",)
    assert found.warnings == ("1 of 7 images are in no known group, and each counts as one of its own",)
    with pytest.raises(ImageError, match="there are no images in this folder"):
        from_folders(tmp_path / "with", tmp_path / "without")
    with pytest.raises(ArgumentError, match=r"have no column 'who'\. Their group can be 'folder'"):
        from_folders(tmp_path / "with", tmp_path / "without", "who")
