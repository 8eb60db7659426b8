"""A session keeps codes while their photograph is worked on, and says how far it is."""

from pathlib import Path

import pytest

from ddim_edit import InversionConfig
from ddim_edit.images import CentreSquare
from ddim_edit.ui.records import UploadedImage
from ddim_edit.ui.session import CroppedPhoto, EditSettings, Session, directions_by_level

from .. import tiny


def change(session: Session, name: str, strength: float) -> EditSettings:
    """A change by one direction."""
    found = [
        EditSettings(level, {key: strength})
        for level, here in session.directions.items()
        for key, each in here.items()
        if each.name == name
    ]
    return found[0]


def test_levels_are_inverted_once(session: Session, photo: UploadedImage) -> None:
    heard: list[float] = []
    opened = session.open(session.load(photo.path))
    session.edit(opened, change(session, "old", 1), heard.append)
    first = len(heard)
    heard.clear()
    session.edit(opened, change(session, "wide", 2), heard.append)
    assert len(heard) * 3 == first
    heard.clear()
    session.edit(opened, change(session, "low", 1), heard.append)
    assert heard[0] < 0.5
    heard.clear()
    session.edit(opened, change(session, "old", -1), heard.append)
    assert len(heard) * 3 == first


def test_repeated_interpolations_reuse_latents(session: Session, at_home: Path) -> None:
    paths = [tiny.save_picture(at_home / f"{seed}.png", seed) for seed in range(2)]
    photos = [CroppedPhoto(session.load(path), CentreSquare()) for path in paths]
    heard: list[float] = []
    session.interpolate(photos, 3, False, heard.append)
    first = len(heard)
    heard.clear()
    session.interpolate(photos, 3, True, heard.append)
    assert first - len(heard) == InversionConfig().steps


@pytest.mark.parametrize("work", ["open", "edit", "interpolate", "sample"])
def test_progress_rises_to_one(session: Session, photo: UploadedImage, work: str) -> None:
    heard: list[float] = []
    opened = session.open(session.load(photo.path))
    other = photo.path.with_name("other.png")
    tiny.save_picture(other, 9)
    one, two = (CroppedPhoto(session.load(path), CentreSquare()) for path in (photo.path, other))
    {
        "open": lambda: session.open(session.load(photo.path), None, heard.append),
        "edit": lambda: session.edit(opened, change(session, "old", 1), heard.append),
        "interpolate": lambda: session.interpolate([one, two, one], 3, True, heard.append),
        "sample": lambda: session.sample(2, 0, heard.append),
    }[work]()
    assert heard == sorted(heard)
    assert heard[0] <= 0.2
    assert heard[-1] == pytest.approx(1, abs=0.1)


def test_parts_of_a_photo_are_opened_once(session: Session, photo: UploadedImage) -> None:
    source = session.load(photo.path)
    assert session.open(source) is session.open(source)


def test_moved_directions_are_not_kept_and_strengths_are_rounded() -> None:
    asked = EditSettings("", {"old": 0.1 + 0.2, "light": 0.0, "warm": 1e-9}, ["old", "light"])
    assert asked.moved == {"old": 0.3}
    assert asked.kept == ["light"]


def test_directions_are_named_by_package_or_file(fitted: Path) -> None:
    straight, guided = directions_by_level("faces64").values()
    assert list(straight) == ["age", "baby", "female", "light", "old", "warm"]
    assert list(guided) == ["baby-guided", "female-guided", "old-guided"]
    assert directions_by_level("another model") == {}
    there = directions_by_level("faces64", fitted)
    assert sorted(len(names) for names in there.values()) == [1, 2]
    assert all(Path(name).is_file() for names in there.values() for name in names)
