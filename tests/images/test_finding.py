import pytest

from ddim_edit.errors import ImageError
from ddim_edit.images import find


def test_a_folder_gives_its_pictures_in_natural_order(tmp_path) -> None:
    for name in [
        "10.png",
        "2.JPG",
        "a10.gif",
        "a9.webp",
        "B1.tif",
        "notes.txt",
        ".hidden.png",
        "x.safetensors",
    ]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "below.png").touch()
    found = [path.name for path in find([tmp_path])]
    assert found == ["2.JPG", "10.png", "a9.webp", "a10.gif", "B1.tif"]


def test_files_come_as_given_whatever_their_suffix(tmp_path) -> None:
    for name in ["b.unknown", "a.png"]:
        (tmp_path / name).touch()
    given = [tmp_path / "b.unknown", str(tmp_path / "a.png"), tmp_path / "b.unknown"]
    assert [path.name for path in find(given)] == ["b.unknown", "a.png", "b.unknown"]


def test_nothing_gives_nothing() -> None:
    assert find([]) == []


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path) -> None:
    with pytest.raises(ImageError, match="where nothing is: check the path"):
        find([tmp_path / "missing"])
    with pytest.raises(ImageError, match="which holds none: name another folder"):
        find([tmp_path])
