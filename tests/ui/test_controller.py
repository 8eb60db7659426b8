"""The page's answers are the command line's files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ddim_edit import ArgumentError, Editor, ImageError, InputWarning, Latent, Typicality
from ddim_edit.images import Face, photograph_suffix, read, read_recipe, upscale
from ddim_edit.ui.controller import REMEMBERED, PageController
from ddim_edit.ui.crop_choice import BOX, CropChoice
from ddim_edit.ui.model_queue import ModelQueue
from ddim_edit.ui.records import LoadedPhoto, UploadedImage
from ddim_edit.ui.session import EditSettings, Session

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


@pytest.mark.parametrize(
    "choice", [CropChoice(), CropChoice(BOX, 60, 20, 80), CropChoice("fit")], ids=["default", "box", "fit"]
)
def test_edits_equal_those_of_the_command_line(
    controller: PageController, photo: UploadedImage, types: Types, choice: CropChoice
) -> None:
    old, wide = (name_of(controller.session, name) for name in ("old", "wide"))
    level = level_of(controller.session, "old")
    opened = controller.open(controller.load(photo), choice)
    for change in (
        EditSettings(level, {old: 2.0, wide: 0.0}),
        EditSettings(level, {old: -1.3, wide: 0.1 + 0.2}),
        EditSettings(level, {old: 2.5, wide: 0.0}, [wide, old]),
        EditSettings(level_of(controller.session, "low"), {name_of(controller.session, "low"): 1.0}),
    ):
        made = controller.edit(opened, change)
        assert ("--crop 2,18,18" in made.command) == (choice.kind == BOX)
        types(made.command + " --overwrite")
        assert_same_file(controller.save(opened, made).image, Path("edited", f"{Path(photo.name).stem}-edited.png"))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_photos_keep_their_format_and_size(
    controller: PageController, at_home: Path, types: Types, suffix: str
) -> None:
    upload = UploadedImage(at_home / f"a{suffix}", f"a{suffix}")
    with Image.open(tiny.save_picture(at_home / "b.png", 3, 40, 30)) as picture:
        picture.save(upload.path)
    opened = controller.open(controller.load(upload))
    made = controller.edit(opened, edit_old(controller, 2.0))
    image = controller.save(opened, made).image
    assert image.name == f"a-edited{photograph_suffix(upload.path)}"
    types(made.command)
    assert image.read_bytes() == Path("edited", image.name).read_bytes()
    with Image.open(image) as edited:
        assert edited.size == (30, 40)


def test_images_of_the_models_size_are_written_in_a_format_that_can_be(
    controller: PageController, at_home: Path, types: Types
) -> None:
    upload = UploadedImage(at_home / "a.jpg", "a.jpg")
    with Image.open(tiny.save_picture(at_home / "b.png", 3)) as picture:
        picture.save(upload.path)
    opened = controller.open(controller.load(upload))
    made = controller.edit(opened, edit_old(controller, 2.0))
    files = controller.save(opened, made)
    types(made.command)
    assert files.image.read_bytes() == Path("edited", files.image.name).read_bytes()
    # What is shown is the very image, enlarged.
    before, after = controller.compare(opened, made)
    assert torch.equal(read(after, 512).pixels, upscale(made.edited.pixels, 32))
    assert torch.equal(read(before, 512).pixels, upscale(opened.photo.image.pixels, 32))
    assert json.loads(files.recipe.read_text()) == read_recipe(files.image)


def test_whole_photo_and_close_up_are_shown(controller: PageController, at_home: Path) -> None:
    path = tiny.save_picture(at_home / "wide.png", 3, 40, 90)
    opened = controller.open(controller.load(UploadedImage(path, path.name)))
    made = controller.edit(opened, edit_old(controller, 2.0))
    sizes = []
    for close_up in (False, True):
        for shown in controller.compare(opened, made, close_up):
            with Image.open(shown) as picture:
                sizes.append(picture.size)
    assert sizes == [(90, 40)] * 2 + [(53, 40)] * 2


def test_edits_of_nothing_return_the_photo(controller: PageController, photo: UploadedImage) -> None:
    opened, heard = controller.open(controller.load(photo)), []
    made = controller.edit(opened, edit_old(controller, 0.0), heard.append)
    before, after = controller.compare(opened, made)
    assert before.read_bytes() == after.read_bytes()
    assert controller.save(opened, made) == (photo.path, None)
    assert made.command == ""
    assert not heard


def test_faces_are_chosen_by_clicks_and_have_numbers(controller: PageController, photo: UploadedImage) -> None:
    faces = [Face((20, 4, 8, 10), ((22, 8),) * 5, 0.9), Face((2, 4, 6, 8), ((4, 6),) * 5, 0.9)]
    loaded = controller.load(photo)
    loaded = loaded._replace(source=replace(loaded.source, faces=faces))
    assert controller.crop_choices(loaded)[:2] == [("Face 1, the largest", "face:1"), ("Face 2", "face:2")]
    centre = CropChoice("centre")
    assert controller.choose_at(loaded, centre, 4, 8) == CropChoice.of_face(2)
    assert controller.choose_at(loaded, centre, 24, 8) == CropChoice.of_face(1)
    assert controller.choose_at(loaded, centre, 15, 30) == centre
    box = controller.choose_at(loaded, CropChoice(BOX, 50), 12, 22)
    assert box.box(loaded.source.shape, (16, 16)) == (4, 14, 15, 15)


def test_photos_are_found_again_by_a_token_that_cannot_be_guessed(
    controller: PageController, photo: UploadedImage
) -> None:
    loaded = [controller.load(photo) for _ in range(REMEMBERED + 1)]
    assert controller.recall(loaded[-1].token) is loaded[-1]
    assert controller.recall(loaded[0].token) is None
    assert len({each.token for each in loaded}) == len(loaded)
    assert min(len(each.token) for each in loaded) >= 20


def test_the_saved_latent_decodes_to_the_reconstruction(controller: PageController, photo: UploadedImage) -> None:
    opened = controller.open(controller.load(photo))
    latent = Latent.load(opened.latent)
    assert opened.latent.name == "-my photo.latent.safetensors"
    assert torch.equal(controller.session.editor.decode([latent]), opened.photo.reconstruction.decoded)


def load_all(controller: PageController, paths: list[Path]) -> list[tuple[LoadedPhoto, CropChoice]]:
    return [(controller.load(UploadedImage(path, path.name)), CropChoice()) for path in paths]


def test_animations_are_large_and_take_two_seconds(controller: PageController, at_home: Path) -> None:
    photos = load_all(controller, [tiny.save_picture(at_home / f"{seed}.png", seed) for seed in range(2)])
    for frames, duration in ((4, 2000), (13, 2000), (25, 4000)):
        made = controller.interpolate(photos, frames, True, ".gif")
        durations = []
        with Image.open(made.animation) as animation:
            assert animation.size == (256, 256)
            for number in range(animation.n_frames):
                animation.seek(number)
                durations.append(animation.info["duration"])
        assert abs(sum(durations) - duration) <= 2


@pytest.mark.parametrize(("count", "loop"), [(2, True), (3, False), (4, False)])
@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_interpolations_equal_those_of_the_command_line(
    controller: PageController, at_home: Path, types: Types, count: int, loop: bool, suffix: str
) -> None:
    paths = [tiny.save_picture(at_home / f"{seed}.png", seed) for seed in range(count)]
    photos = load_all(controller, paths)
    photos[1] = (photos[1][0], CropChoice("fit"))
    made = controller.interpolate(photos, 3, loop, suffix)
    types(made.command)
    assert_same_file(made.strip, Path("between.png"))
    assert_same_file(made.animation, Path(f"between{suffix}"))


@pytest.mark.parametrize("weights", [[0.5, 0.30000001, -0.2], [1, 1, 1]])
def test_combinations_equal_those_of_the_command_line(
    controller: PageController, at_home: Path, types: Types, weights: list[float]
) -> None:
    photos = load_all(controller, [tiny.save_picture(at_home / f"{seed}.png", seed) for seed in range(3)])
    photos[1] = (photos[1][0], CropChoice("fit"))
    made = controller.combine(photos, weights)
    types(made.command)
    assert_same_file(made.image, Path("combined.png"))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_combinations_need_two_to_four_images(controller: PageController, photo: UploadedImage, count: int) -> None:
    with pytest.raises(ArgumentError, match="Choose 2 to 4 images"):
        controller.combine([(controller.load(photo), CropChoice())] * count, [1.0] * count)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_interpolations_need_two_to_four_images(controller: PageController, photo: UploadedImage, count: int) -> None:
    with pytest.raises(ArgumentError, match="Choose 2 to 4 images"):
        controller.interpolate([(controller.load(photo), CropChoice())] * count, 3, True, ".webp")


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
    opened = controller.open(controller.load(upload))
    made = controller.edit(opened, edit_old(controller, 2.0))
    assert made.command.count("ddim-edit sample") == 1
    types(made.command)
    assert_same_file(controller.save(opened, made).image, Path("edited", f"{Path(face.name).stem}-edited.png"))
    one, two = ((controller.load(each), CropChoice()) for each in (upload, photo))
    walked = controller.interpolate([one, two, one], 2, False, ".webp")
    assert walked.command.count("ddim-edit sample") == 1
    types("\n".join(walked.command.splitlines()[1:]))
    assert_same_file(walked.strip, Path("between.png"))


@pytest.mark.parametrize("seed", [-1, 2**32 - 1])
def test_seeds_outside_their_range_are_refused(controller: PageController, seed: int) -> None:
    with pytest.raises(ArgumentError, match="The seed must be from 0"):
        controller.sample(2, seed)


def test_bad_files_are_refused(controller: PageController, at_home: Path) -> None:
    (at_home / "no.png").write_text("no picture")
    upload = UploadedImage(at_home / "no.png", "no.png")
    with pytest.raises(ImageError):
        controller.load(upload)


def test_the_summary_notes_enlargement(controller: PageController, at_home: Path) -> None:
    path = tiny.save_picture(at_home / "dot.png", 0, 1, 1)
    opened = controller.open(controller.load(UploadedImage(path, path.name)))
    assert "nlarged from 1x1 to 16x16" in opened.summary


def test_the_summary_begins_with_what_is_wrong_with_the_image(bare: Session, at_home: Path) -> None:
    editor = bare.editor
    usual = [tiny.save_picture(at_home / "usual" / f"{seed}.png", seed) for seed in range(60)]
    typicality = Typicality.fit(editor.typicality_features(usual), editor.model)
    session = Session(Editor(replace(editor.model, typicality=typicality)), {}, ModelQueue())
    controller = PageController(session, at_home / "made")
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(at_home / "noise.png")
    with pytest.warns(InputWarning, match="^noise: does not look like"):
        opened = controller.open(controller.load(UploadedImage(at_home / "noise.png", "noise.png")))
    assert opened.summary.startswith("**Warning.** This image does not look like the images that tiny was trained on")
    assert controller.open(controller.load(UploadedImage(usual[7], "7.png"))).summary.startswith("**There and back.**")


def test_without_directions_there_is_no_command_line(bare: Session, tmp_path: Path, photo: UploadedImage) -> None:
    controller = PageController(bare, tmp_path / "made")
    opened = controller.open(controller.load(photo))
    assert controller.edit(opened, EditSettings()).command == ""
