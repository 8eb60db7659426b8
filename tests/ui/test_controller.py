"""The page's answers are the command line's files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ddim_edit import ArgumentError, Editor, ImageError, InputWarning, Latent, Typicality
from ddim_edit.images import enlarge, read, read_recipe
from ddim_edit.ui.controller import PageController, UploadedImage
from ddim_edit.ui.crop_choice import CropChoice
from ddim_edit.ui.session import EditSettings, ProgressCounter, Session

from .. import tiny
from ..rounding import assert_shown_alike
from .conftest import Types


def name_of(session: Session, name: str) -> str:
    """What the command line calls a direction."""
    (found,) = (key for level in session.directions.values() for key, each in level.items() if each.name == name)
    return found


def level_of(session: Session, name: str) -> str:
    (found,) = (level for level, here in session.directions.items() if any(each.name == name for each in here.values()))
    return found


def edit_old(controller: PageController, strength: float) -> EditSettings:
    session = controller.session
    return EditSettings(level_of(session, "old"), {name_of(session, "old"): strength})


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


def test_edits_equal_those_of_the_command_line(controller: PageController, photo: UploadedImage, types: Types) -> None:
    old, wide = (name_of(controller.session, name) for name in ("old", "wide"))
    level = level_of(controller.session, "old")
    opened = controller.open(photo, CropChoice(60, 20, 80))
    assert "--crop 2,18,18" in controller.edit(opened, EditSettings(level)).command
    for change in (
        EditSettings(level, {old: 2.0, wide: 0.0}),
        EditSettings(level, {old: -1.3, wide: 0.1 + 0.2}),
        EditSettings(level, {old: 2.5, wide: 0.0}, [wide, old]),
        EditSettings(level_of(controller.session, "low"), {name_of(controller.session, "low"): 1.0}),
        EditSettings(level),
    ):
        made = controller.edit(opened, change)
        types(made.command + " --overwrite")
        assert_same_file(made.image, Path("edited", f"{Path(photo.name).stem}-edited.png"))


def test_shown_and_saved_images_and_recipes_agree(controller: PageController, photo: UploadedImage) -> None:
    old = name_of(controller.session, "old")
    opened = controller.open(photo)
    made = controller.edit(opened, EditSettings(level_of(controller.session, "old"), {old: 3.0}))
    shown, saved = read(made.after, 512).pixels, pixels(made.image)
    assert torch.equal(shown, enlarge(saved, 32))
    assert not torch.equal(saved, opened.photo.image.pixels)
    told = json.loads(made.recipe.read_text())
    assert told == read_recipe(made.image)
    assert told["set"] == {"old": 3.0}


def test_edits_of_nothing_return_the_photo(controller: PageController, photo: UploadedImage) -> None:
    opened, heard = controller.open(photo), []
    made = controller.edit(
        opened,
        edit_old(controller, 0.0),
        heard.append,
    )
    assert torch.equal(pixels(made.image), opened.photo.image.pixels)
    assert made.after.read_bytes() == opened.before.read_bytes()
    assert not heard


def test_the_saved_latent_decodes_to_the_reconstruction(controller: PageController, photo: UploadedImage) -> None:
    opened = controller.open(photo)
    latent = Latent.load(opened.latent)
    assert opened.latent.name == "-my photo.latent.safetensors"
    assert torch.equal(controller.session.editor.decode([latent]), opened.photo.reconstruction.decoded)


@pytest.mark.parametrize(("count", "loop"), [(2, True), (3, False), (4, False)])
@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_interpolations_equal_those_of_the_command_line(
    controller: PageController, at_home: Path, types: Types, count: int, loop: bool, suffix: str
) -> None:
    paths = [tiny.save_picture(at_home / f"{seed}.png", seed) for seed in range(count)]
    made = controller.interpolate([UploadedImage(path, path.name) for path in paths], 3, loop, suffix)
    types(made.command)
    assert_same_file(made.strip, Path("between.png"))
    assert_same_file(made.animation, Path(f"between{suffix}"))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_interpolations_need_two_to_four_images(controller: PageController, photo: UploadedImage, count: int) -> None:
    with pytest.raises(ArgumentError, match="Choose 2 to 4 images"):
        controller.interpolate([photo] * count, 3, True, ".webp")


def test_samples_equal_those_of_the_command_line(controller: PageController, types: Types) -> None:
    made = controller.sample(3, 7)
    types(made.command)
    assert [path.name for path in made.files] == ["seed-0007.png", "seed-0008.png", "seed-0009.png"]
    for path in made.files:
        assert_same_file(path, Path("faces", path.name))


def test_command_lines_of_sampled_images_sample_them_first(
    controller: PageController, photo: UploadedImage, types: Types
) -> None:
    face = controller.sample(2, 7).files[1]
    upload = UploadedImage(face, face.name)
    made = controller.edit(
        controller.open(upload),
        edit_old(controller, 2.0),
    )
    assert made.command.count("ddim-edit sample") == 1
    types(made.command)
    assert_same_file(made.image, Path("edited", f"{Path(face.name).stem}-edited.png"))
    walked = controller.interpolate([upload, photo, upload], 2, False, ".webp")
    assert walked.command.count("ddim-edit sample") == 1
    types("\n".join(walked.command.splitlines()[1:]))
    assert_same_file(walked.strip, Path("between.png"))


@pytest.mark.parametrize("seed", [-1, 2**32 - 1])
def test_seeds_outside_their_range_are_refused(controller: PageController, seed: int) -> None:
    with pytest.raises(ArgumentError, match="The seed must be from 0"):
        controller.sample(2, seed)


def test_bad_files_are_refused_before_the_model_runs(controller: PageController, at_home: Path) -> None:
    (at_home / "no.png").write_text("no picture")
    upload, heard = UploadedImage(at_home / "no.png", "no.png"), []
    with pytest.raises(ImageError):
        controller.open(upload, on_progress=heard.append)
    with pytest.raises(ImageError):
        controller.show_crop(upload, CropChoice())
    assert not heard


def test_the_summary_notes_enlargement(controller: PageController, at_home: Path) -> None:
    path = tiny.save_picture(at_home / "dot.png", 0, 1, 1)
    opened = controller.open(UploadedImage(path, path.name))
    assert "nlarged from 1x1 to 16x16" in opened.summary


def test_the_summary_begins_with_what_is_wrong_with_the_image(bare: Session, at_home: Path) -> None:
    editor = bare.editor
    usual = [tiny.save_picture(at_home / "usual" / f"{seed}.png", seed) for seed in range(60)]
    typicality = Typicality.fit(editor.typicality_features(usual), editor.model)
    session = Session(Editor(replace(editor.model, typicality=typicality)), {}, ProgressCounter())
    controller = PageController(session, at_home / "made")
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(at_home / "noise.png")
    with pytest.warns(InputWarning, match="^noise: does not look like"):
        opened = controller.open(UploadedImage(at_home / "noise.png", "noise.png"))
    assert opened.summary.startswith("**Warning.** This image does not look like the images that tiny was trained on")
    assert controller.open(UploadedImage(usual[7], "7.png")).summary.startswith("**There and back.**")


def test_without_directions_there_is_no_command_line(bare: Session, tmp_path: Path, photo: UploadedImage) -> None:
    controller = PageController(bare, tmp_path / "made")
    opened = controller.open(photo)
    made = controller.edit(opened, EditSettings())
    assert made.command == ""
    assert torch.equal(pixels(made.image), opened.photo.image.pixels)
