"""Which pictures teach, which measure, and which are left out."""

import shutil
from pathlib import Path

import pytest

from ddim_edit import ImageError
from ddim_edit.training import ImageFolder, Split

from .conftest import SIZE, save_discs


@pytest.mark.parametrize(("share", "held_out"), [(0.001, 1), (0.25, 3), (0.5, 6), (0.999, 11)])
def test_splits_have_the_share_and_no_empty_side(discs: Path, share: float, held_out: int) -> None:
    split = Split.read(discs, share, SIZE, seed=0)
    assert (len(split.validation), len(split.train)) == (held_out, 12 - held_out)
    assert not set(split.validation.sources) & set(split.train.sources)


def test_splits_depend_on_content_and_seed_only(discs: Path, tmp_path: Path) -> None:
    other = tmp_path / "renamed"
    other.mkdir()
    for number, file in enumerate(sorted(discs.iterdir(), reverse=True)):
        shutil.copy(file, other / f"{number:03}.png")
    held = {
        (folder.name, seed): set(Split.read(folder, 0.3, SIZE, seed).validation.sources)
        for folder in (discs, other)
        for seed in (0, 1)
    }
    assert held["discs", 0] == held["renamed", 0]
    assert held["discs", 0] != held["discs", 1]


def test_copies_are_on_the_same_side(discs: Path) -> None:
    for file in sorted(discs.iterdir()):
        shutil.copy(file, discs / f"copy-{file.name}")
    split = Split.read(discs, 0.4, SIZE, seed=0)
    assert not set(split.validation.sources) & set(split.train.sources)
    assert (len(split.validation), len(split.train)) == (10, 14)


def test_validation_images_may_be_another_folder(discs: Path, tmp_path: Path) -> None:
    split = Split.read(discs, save_discs(tmp_path / "others", 3, first=50), SIZE, seed=0)
    assert (len(split.validation), len(split.train)) == (3, 12)


def test_bad_images_are_listed_and_left_out(discs: Path) -> None:
    (discs / "003.png").write_bytes(b"no picture")
    (discs / "005.png").write_bytes(b"")
    found = ImageFolder.read(discs, SIZE)
    assert len(found) == 10
    assert list(found.failures) == ["003.png", "005.png"]
    assert "the file is empty" in found.failures["005.png"]


def test_images_are_resized(discs: Path) -> None:
    assert ImageFolder.read(discs, 8).pixels.shape == (12, 3, 8, 8)


@pytest.mark.parametrize("usable", [0, 1])
def test_fewer_than_two_usable_pictures_are_refused(tmp_path: Path, usable: int) -> None:
    folder = save_discs(tmp_path / "few", usable)
    (folder / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=f"at least 2 different images.*there are {usable}\\."):
        Split.read(folder, 0.5, SIZE, seed=0)


def test_copies_count_once(tmp_path: Path) -> None:
    folder = save_discs(tmp_path / "few", 1)
    shutil.copy(folder / "000.png", folder / "001.png")
    with pytest.raises(ImageError, match=r"there are 1\."):
        Split.read(folder, 0.5, SIZE, seed=0)


def test_validation_folders_need_a_usable_image(discs: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="one for validation"):
        Split.read(discs, bad, SIZE, seed=0)
