import os
from pathlib import Path

import pytest

from ddim_edit.errors import ImageError
from ddim_edit.images import find, list_folder


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


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    for name in ["a.png", "b.xyz", "c.xyz", "labels.csv", "nameless", ".hidden", "below/d.png", "below/deep/e.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    told = []
    assert [path.name for path in find([tmp_path], on_skip=lambda *said: told.append(said))] == ["a.png"]
    others = "1 suffixless file, 1 .csv file, 2 .xyz files"
    assert told == [(tmp_path, f"1 subfolder (--recursive looks into them), {others}")]
    told.clear()
    found = find([tmp_path], recursive=True, on_skip=lambda *said: told.append(said))
    assert [path.name for path in found] == ["a.png", "d.png", "e.png"]
    assert told == [(tmp_path, others)]


def test_a_folder_of_a_format_that_needs_a_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddim_edit.images.plugins.is_installed", lambda name: False)
    for name in ["a.HEIC", "b.heic"]:
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match=r"but 2 \.heic files \(needs pillow-heif: pip install 'ddim-edit\[heic\]'\)"):
        find([tmp_path])


def test_a_link_to_its_own_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.png").touch()
    (tmp_path / "below" / "loop").symlink_to(tmp_path)
    assert len(find([tmp_path], recursive=True)) == 1


def test_links_that_lead_nowhere_end_no_listing_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "lost.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    for recursive in (False, True):
        listing = list_folder(tmp_path, recursive)
        assert listing.files == [tmp_path / "a.png"]
        assert listing.skipped == "3 broken links or pipes"
    (tmp_path / "lost.png").unlink()
    (tmp_path / "loop.png").unlink()
    assert list_folder(tmp_path).skipped == "1 broken link or pipe"
