"""The page's answers are the command line's files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ddim_edit import ArgumentError, ImageError, Latent
from ddim_edit.images import enlarge, read, read_recipe
from ddim_edit.ui.desk import Given, PageController
from ddim_edit.ui.framing import Framing
from ddim_edit.ui.studio import Change, Session

from .. import tiny
from ..rounding import assert_shown_alike
from .conftest import Types


def name_of(studio: Session, name: str) -> str:
    """What the command line calls a direction."""
    (found,) = (key for level in studio.levels.values() for key, each in level.items() if each.name == name)
    return found


def level_of(studio: Session, name: str) -> str:
    (found,) = (level for level, here in studio.levels.items() if any(each.name == name for each in here.values()))
    return found


def pixels(path: Path) -> torch.Tensor:
    return read(path, 16).pixels


def frames(path: Path) -> torch.Tensor:
    """A picture or an animation as uint8 [frames, H, W, 3]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.stack([np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]))


def assert_same_file(found: Path, wanted: Path) -> None:
    """Fail unless two loads of the model made both."""
    assert read_recipe(found) == read_recipe(wanted)
    assert_shown_alike(frames(found), frames(wanted))


def test_an_edit_is_the_command_lines(desk: PageController, photo: Given, types: Types) -> None:
    old, wide = (name_of(desk.studio, name) for name in ("old", "wide"))
    level = level_of(desk.studio, "old")
    opened = desk.open(photo, Framing(60, 20, 80))
    assert "--crop 2,18,18" in desk.edit(opened, Change(level)).command
    for change in (
        Change(level, {old: 2.0, wide: 0.0}),
        Change(level, {old: -1.3, wide: 0.1 + 0.2}),
        Change(level, {old: 2.5, wide: 0.0}, [wide, old]),
        Change(level_of(desk.studio, "low"), {name_of(desk.studio, "low"): 1.0}),
        Change(level),
    ):
        made = desk.edit(opened, change)
        types(made.command + " --overwrite")
        assert_same_file(made.picture, Path("edited", photo.name))


def test_what_is_shown_saved_and_told_is_one_picture(desk: PageController, photo: Given) -> None:
    old = name_of(desk.studio, "old")
    opened = desk.open(photo)
    made = desk.edit(opened, Change(level_of(desk.studio, "old"), {old: 3.0}))
    shown, saved = read(made.after, 512).pixels, pixels(made.picture)
    assert torch.equal(shown, enlarge(saved, 32))
    assert not torch.equal(saved, opened.subject.picture.pixels)
    told = json.loads(made.recipe.read_text())
    assert told == read_recipe(made.picture)
    assert told["set"] == {"old": 3.0}


def test_nothing_moved_is_the_very_photo_without_an_evaluation(desk: PageController, photo: Given) -> None:
    opened, heard = desk.open(photo), []
    made = desk.edit(opened, Change(level_of(desk.studio, "old"), {name_of(desk.studio, "old"): 0.0}), heard.append)
    assert torch.equal(pixels(made.picture), opened.subject.picture.pixels)
    assert made.after.read_bytes() == opened.before.read_bytes()
    assert not heard


def test_the_saved_latent_decodes_to_what_the_verdict_is_about(desk: PageController, photo: Given) -> None:
    opened = desk.open(photo)
    latent = Latent.load(opened.latent)
    assert opened.latent.name == "-my photo.latent.safetensors"
    assert torch.equal(desk.studio.editor.decode([latent]), opened.subject.trip.decoded)


@pytest.mark.parametrize(("count", "loop"), [(2, True), (3, False), (4, False)])
@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_a_walk_is_the_command_lines(
    desk: PageController, at_home: Path, types: Types, count: int, loop: bool, suffix: str
) -> None:
    paths = [tiny.save_picture(at_home / f"{seed}.png", seed) for seed in range(count)]
    made = desk.walk([Given(path, path.name) for path in paths], 3, loop, suffix)
    types(made.command)
    assert_same_file(made.strip, Path("between.png"))
    assert_same_file(made.animation, Path(f"between{suffix}"))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_walk_needs_two_to_four_pictures(desk: PageController, photo: Given, count: int) -> None:
    with pytest.raises(ArgumentError, match="wanted 2 to 4 pictures"):
        desk.walk([photo] * count, 3, True, ".webp")


def test_drawn_faces_are_the_command_lines(desk: PageController, types: Types) -> None:
    made = desk.draw(3, 7)
    types(made.command)
    assert [path.name for path in made.files] == ["seed-0007.png", "seed-0008.png", "seed-0009.png"]
    for path in made.files:
        assert_same_file(path, Path("faces", path.name))


def test_a_drawn_face_is_edited_and_walked_to_with_the_lines_that_draw_it_first(
    desk: PageController, photo: Given, types: Types
) -> None:
    face = desk.draw(2, 7).files[1]
    given = Given(face, face.name)
    made = desk.edit(desk.open(given), Change(level_of(desk.studio, "old"), {name_of(desk.studio, "old"): 2.0}))
    assert made.command.count("ddim-edit sample") == 1
    types(made.command)
    assert_same_file(made.picture, Path("edited", face.name))
    walked = desk.walk([given, photo, given], 2, False, ".webp")
    assert walked.command.count("ddim-edit sample") == 1
    types("\n".join(walked.command.splitlines()[1:]))
    assert_same_file(walked.strip, Path("between.png"))


@pytest.mark.parametrize("seed", [-1, 2**32 - 1])
def test_a_seed_that_is_none_is_refused(desk: PageController, seed: int) -> None:
    with pytest.raises(ArgumentError, match="wanted a seed"):
        desk.draw(2, seed)


def test_a_file_that_is_no_picture_is_refused_before_the_model_works(desk: PageController, at_home: Path) -> None:
    (at_home / "no.png").write_text("no picture")
    given, heard = Given(at_home / "no.png", "no.png"), []
    for step in (lambda: desk.open(given, tell=heard.append), lambda: desk.frame(given, Framing())):
        with pytest.raises(ImageError):
            step()
    assert not heard


def test_the_smallest_picture_is_opened_and_said_to_be_enlarged(desk: PageController, at_home: Path) -> None:
    path = tiny.save_picture(at_home / "dot.png", 0, 1, 1)
    opened = desk.open(Given(path, path.name))
    assert "nlarged from 1x1 to 16x16" in opened.verdict


def test_without_directions_there_is_a_picture_and_no_command_line(bare: Session, tmp_path: Path, photo: Given) -> None:
    desk = PageController(bare, tmp_path / "made")
    opened = desk.open(photo)
    made = desk.edit(opened, Change())
    assert made.command == ""
    assert torch.equal(pixels(made.picture), opened.subject.picture.pixels)
