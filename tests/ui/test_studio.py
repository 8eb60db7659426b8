"""A studio keeps codes while their photograph is worked on, and says how far it is."""

from pathlib import Path

import pytest

from ddim_edit.images import CentreSquare
from ddim_edit.ui.desk import Given
from ddim_edit.ui.studio import Change, Session, Ticks, levels_of

from .. import tiny


def change(studio: Session, name: str, strength: float) -> Change:
    """A change by one direction."""
    found = [
        Change(level, {key: strength})
        for level, here in studio.levels.items()
        for key, each in here.items()
        if each.name == name
    ]
    return found[0]


def test_a_level_is_inverted_to_once_and_then_costs_the_way_back_alone(studio: Session, photo: Given) -> None:
    heard: list[float] = []
    subject = studio.open(photo.path)
    studio.edit(subject, change(studio, "old", 1), heard.append)
    first = len(heard)
    heard.clear()
    studio.edit(subject, change(studio, "wide", 2), heard.append)
    assert len(heard) * 3 == first
    heard.clear()
    studio.edit(subject, change(studio, "low", 1), heard.append)
    assert heard[0] < 0.5
    heard.clear()
    studio.edit(subject, change(studio, "old", -1), heard.append)
    assert len(heard) * 3 == first


def test_a_walk_again_with_more_frames_inverts_nothing(studio: Session, at_home: Path) -> None:
    paths = [tiny.save_picture(at_home / f"{seed}.png", seed) for seed in range(2)]
    heard: list[float] = []
    studio.walk(paths, 3, False, heard.append)
    first = len(heard)
    heard.clear()
    studio.walk(paths, 3, True, heard.append)
    assert len(heard) * 2 == first


@pytest.mark.parametrize("work", ["open", "edit", "walk", "draw"])
def test_progress_rises_to_the_whole(studio: Session, photo: Given, work: str) -> None:
    heard: list[float] = []
    subject = studio.open(photo.path, CentreSquare())
    other = photo.path.with_name("other.png")
    tiny.save_picture(other, 9)
    {
        "open": lambda: studio.open(photo.path, None, heard.append),
        "edit": lambda: studio.edit(subject, change(studio, "old", 1), heard.append),
        "walk": lambda: studio.walk([photo.path, other, photo.path], 3, True, heard.append),
        "draw": lambda: studio.draw(2, 0, heard.append),
    }[work]()
    assert heard == sorted(heard)
    assert heard[0] <= 0.2
    assert heard[-1] == pytest.approx(1, abs=0.1)


def test_ticks_tell_shares_and_fall_silent() -> None:
    ticks, heard = Ticks(), []
    ticks(5)
    with ticks.towards(4, heard.append):
        for _ in range(5):
            ticks(1)
    ticks(1)
    assert heard == [0.25, 0.5, 0.75, 1, 1]


def test_what_is_moved_is_not_kept_and_strengths_are_what_a_line_shows() -> None:
    asked = Change("", {"old": 0.1 + 0.2, "light": 0.0, "warm": 1e-9}, ["old", "light"])
    assert asked.moved == {"old": 0.3}
    assert asked.kept == ["light"]


def test_the_packaged_directions_are_found_by_name_and_a_folders_by_file(fitted: Path) -> None:
    ((_, here),) = levels_of("faces64").items()
    assert list(here) == ["age", "baby", "female", "light", "old", "warm"]
    assert levels_of("another model") == {}
    there = levels_of("faces64", fitted)
    assert sorted(len(names) for names in there.values()) == [1, 2]
    assert all(Path(name).is_file() for names in there.values() for name in names)
