from pathlib import Path

import pytest

from ddim_edit.errors import ImageError
from ddim_edit.images import find


def test_folder_gives_its_images_in_natural_order(tmp_path: Path) -> None:
    for name in ["10.png", "2.JPG", "a10.gif", "a9.webp", "B1.tif", "notes.txt", ".hidden.png", "x.safetensors"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "below.png").touch()
    assert [path.name for path in find([tmp_path])] == ["2.JPG", "10.png", "a9.webp", "a10.gif", "B1.tif"]


def test_files_are_kept_as_given(tmp_path: Path) -> None:
    for name in ["b.unknown", "a.png"]:
        (tmp_path / name).touch()
    given = [tmp_path / "b.unknown", str(tmp_path / "a.png"), tmp_path / "b.unknown"]
    assert [path.name for path in find(given)] == ["b.unknown", "a.png", "b.unknown"]
    assert find([]) == []


def test_missing_path_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing: no such file or folder\. Check the path\."):
        find([tmp_path / "missing"])
    with pytest.raises(ImageError, match=r"there are no images in this folder\. Name another one\."):
        find([tmp_path])
