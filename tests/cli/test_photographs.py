"""Photographs in, photographs out: crops, faces and results in the size of the input."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddim_edit import Editor, Latent
from ddim_edit.images import FaceCrop, FaceTemplate, Photograph, read, read_recipe

from .. import tiny
from .conftest import Run, files_in, pixels_of

PORTRAIT = Path(str(resources.files("ddim_edit.assets"))) / "images" / "astronaut.png"
POINTS = {
    "left_eye": [18, 18],
    "right_eye": [45, 18],
    "nose": [31, 33],
    "left_mouth": [20, 43],
    "right_mouth": [42, 43],
}
TEMPLATE = json.dumps({"format": 1, "name": "tiny", "width": 64, "height": 64, "landmarks": POINTS})
SUFFIX = ".direction.safetensors"


@pytest.fixture(scope="module")
def face_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with a face template."""
    folder = tiny.save_model(tmp_path_factory.mktemp("faces") / "tiny")
    (folder / "face_template.json").write_text(TEMPLATE)
    return folder


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A larger and a smaller portrait side by side."""
    with Image.open(PORTRAIT) as image:
        portrait = image.convert("RGB").crop((90, 0, 360, 270))
    picture = Image.new("RGB", (520, 290), (90, 110, 130))
    picture.paste(portrait, (10, 10))
    picture.paste(portrait.resize((200, 200)), (300, 40))
    path = tmp_path / "in" / "group.png"
    path.parent.mkdir(exist_ok=True)
    picture.save(path)
    return path


def edit(fitted: Path, strength: float = 0.5) -> list[object]:
    return ["--set", f"{fitted / 'old'}{SUFFIX}={strength}"]


def test_photographs_keep_size_format_and_surroundings(done: Run, fitted: Path, model: Path, tmp_path: Path) -> None:
    photo = tiny.save_picture(tmp_path / "photo.webp", 3, 60, 90)
    tiny.save_picture(tmp_path / "photo.png", 3, 60, 90)
    done("edit", tmp_path / "photo.png", *edit(fitted), "--crop", "20,10,32", "-o", tmp_path / "out", "-q")
    before, after = pixels_of(tmp_path / "photo.png"), pixels_of(tmp_path / "out" / "photo-edited.png")
    assert after.shape == before.shape
    changed = (before != after).any(0)
    assert changed[10:42, 20:52].any()
    changed[10:42, 20:52] = False
    assert not changed.any()
    recipe = read_recipe(tmp_path / "out" / "photo-edited.png")
    assert recipe is not None
    assert recipe["frames"][0]["crop"] == {"kind": "box", "x": 20, "y": 10, "size": 32}
    done("edit", photo, *edit(fitted), "--crop", "20,10,32", "-o", tmp_path / "out", "-q")
    assert files_in(tmp_path / "out") == ["photo-edited.png", "photo-edited.webp"]


@pytest.mark.parametrize("command", ["edit", "reconstruct"])
def test_strength_0_and_exact_round_trips_return_the_photograph(
    done: Run, fitted: Path, tmp_path: Path, command: str
) -> None:
    photo = tiny.save_picture(tmp_path / "photo.png", 3, 60, 90)
    options = edit(fitted, 0) if command == "edit" else ["--exact", "--lossless"]
    done(command, photo, *options, "--crop", "centre", "-o", tmp_path / "out.png")
    assert torch.equal(pixels_of(tmp_path / "out.png"), pixels_of(photo))


def test_sizes_of_results(done: Run, fitted: Path, tmp_path: Path) -> None:
    photo = tiny.save_picture(tmp_path / "photo.png", 3, 60, 90)
    line = ["edit", photo, *edit(fitted), "--crop", "centre", "--overwrite", "-o", tmp_path / "out.png"]
    for options, size in (([], (60, 90)), (["--output-size", "model"], (16, 16)), (["--upscale", "4"], (64, 64))):
        done(*line, *options)
        assert pixels_of(tmp_path / "out.png").shape[1:] == size
    small = tiny.save_picture(tmp_path / "small.png")
    done("edit", small, *edit(fitted), "-o", tmp_path / "small-out.png")
    assert pixels_of(tmp_path / "small-out.png").shape[1:] == (16, 16)


def test_a_face_model_aligns_faces(done: Run, face_model: Path, tmp_path: Path) -> None:
    outcome = done("invert", PORTRAIT, "-o", tmp_path, "--model", face_model, "--steps", "2")
    assert "astronaut.png: face aligned, turned by -" in outcome.err
    latent = Latent.load(tmp_path / "astronaut.latent.safetensors")
    template = FaceTemplate.load(face_model / "face_template.json")
    image = read(PORTRAIT, 16, FaceCrop(template))
    assert latent.recipe.origin.preprocessing == image.preprocessing
    same = Editor.from_pretrained(face_model).invert(PORTRAIT, steps=2)
    assert same.recipe.origin.preprocessing == image.preprocessing


def test_every_form_of_crop(done: Run, run: Run, face_model: Path, group: Path, tmp_path: Path) -> None:
    inputs = [f"{group}@face:2", f"{group}@30,20,200", f"{group}@fit", f"{group}@centre", group]
    line = ["-o", tmp_path / "out", "--model", face_model, "--steps", "2"]
    done("invert", *inputs, *line)
    kinds = []
    for number in ("", "-2", "-3", "-4", "-5"):
        latent = Latent.load(tmp_path / "out" / f"group{number}.latent.safetensors")
        kinds.append(latent.recipe.origin.preprocessing["crop"]["kind"])
    assert kinds == ["face", "box", "fit", "centre square", "face"]
    crops = ["--crop", "face:2", "--crop", "centre"]
    done("invert", group, group, *crops, *line, "--overwrite")
    second = Latent.load(tmp_path / "out" / "group.latent.safetensors").recipe.origin.preprocessing
    assert second["landmarks"][0][0] > 300
    outcome = run("invert", group, *crops, *line, "--overwrite")
    assert (outcome.status, "There are 1 inputs and 2 --crop" in outcome.err) == (2, True)


def test_faces_of_one_photograph_are_interpolated(done: Run, face_model: Path, group: Path, tmp_path: Path) -> None:
    line = ["--model", face_model, "--steps", "2", "--frames", "3", "-o", tmp_path / "out.png"]
    done("interpolate", f"{group}@face:1", f"{group}@face:2", *line)
    ends = read_recipe(tmp_path / "out.png")["ends"]
    assert [end["origin"]["preprocessing"]["landmarks"][0][0] > 300 for end in ends] == [False, True]


def test_faces_are_edited_one_or_all(done: Run, fitted: Path, face_model: Path, group: Path, tmp_path: Path) -> None:
    line = ["edit", group, *edit(fitted), "--model", face_model, "--overwrite", "-o", tmp_path / "out.png"]
    before = pixels_of(group)
    changed = {}
    for face in ("1", "2", "all"):
        done(*line, "--face", face)
        changed[face] = (pixels_of(tmp_path / "out.png") != before).any(0)
    assert changed["1"][:, :280].any()
    assert not changed["1"][:, 280:].any()
    assert not changed["2"][:, :280].any()
    assert torch.equal(changed["all"], changed["1"] | changed["2"])
    assert len(read_recipe(tmp_path / "out.png")["frames"]) == 2
    editor = Editor.from_pretrained(face_model)
    pasted = editor.edit_photograph(group, {f"{fitted / 'old'}{SUFFIX}": 0.5}, face="all")
    written = pixels_of(tmp_path / "out.png").permute(1, 2, 0).numpy().astype(int)
    assert abs(np.asarray(pasted.to_pil()).astype(int) - written).max() <= 1


def test_photographs_without_a_face(run: Run, done: Run, fitted: Path, face_model: Path, tmp_path: Path) -> None:
    cup = tiny.save_picture(tmp_path / "cup.png", 3, 60, 90)
    line = [cup, "--model", face_model, "-o", tmp_path / "out.png"]
    outcome = run("edit", *line, *edit(fitted))
    assert outcome.status == 1
    assert outcome.errors == [
        f"error: {cup}: no face was found. Choose the part to use by another crop (--crop centre, fit or X,Y,SIZE)."
    ]
    assert not (tmp_path / "out.png").exists()
    done("edit", *line, *edit(fitted), "--crop", "centre")
    outcome = done("edit", *line, *edit(fitted), "--crop", "auto", "--overwrite")
    assert outcome.warnings == ["warning: cup.png: no face was found, so the centre square is used."]
    outcome = done("invert", cup, "--model", face_model, "-o", tmp_path, "--steps", "2")
    assert outcome.warnings == ["warning: cup.png: no face was found, so the centre square is used."]
    assert run("invert", cup, "--model", face_model, "-o", tmp_path, "--crop", "face", "--overwrite").status == 1


def test_without_opencv_the_centre_is_used(
    run: Run, done: Run, face_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddim_edit.images.faces.is_installed", lambda name: False)
    outcome = done("invert", PORTRAIT, "--model", face_model, "-o", tmp_path, "--steps", "2")
    assert outcome.err.count("pip install 'ddim-edit[faces]'") == 1
    latent = Latent.load(tmp_path / "astronaut.latent.safetensors")
    assert latent.recipe.origin.preprocessing["crop"] == {"kind": "centre square"}
    outcome = run("invert", PORTRAIT, "--model", face_model, "-o", tmp_path / "b", "--crop", "face")
    assert outcome.status == 1
    assert "Finding faces needs opencv-python-headless, which is not installed." in outcome.err


def test_a_model_without_template_takes_a_named_one(run: Run, done: Run, tmp_path: Path) -> None:
    outcome = run("invert", PORTRAIT, "-o", tmp_path, "--crop", "face")
    assert (outcome.status, "has no face template" in outcome.err) == (1, True)
    done("invert", PORTRAIT, "-o", tmp_path, "--template", "ffhq", "--steps", "2")
    latent = Latent.load(tmp_path / "astronaut.latent.safetensors")
    assert latent.recipe.origin.preprocessing["crop"] == {"kind": "face", "template": "ffhq"}


def test_decode_puts_latents_in_their_photographs(run: Run, done: Run, tmp_path: Path) -> None:
    photo = tiny.save_picture(tmp_path / "in" / "photo.png", 3, 60, 90)
    done("invert", photo, "-o", tmp_path / "in", "--lossless", "--exact")
    latent = tmp_path / "in" / "photo.latent.safetensors"
    done("decode", latent, "-o", tmp_path / "beside.png")
    assert torch.equal(pixels_of(tmp_path / "beside.png"), pixels_of(photo))
    (tmp_path / "photos").mkdir()
    photo.rename(tmp_path / "photos" / "photo.png")
    outcome = done("decode", latent, "-o", tmp_path / "alone.png")
    assert "photo.latent.safetensors: its photograph was not found" in outcome.err
    assert pixels_of(tmp_path / "alone.png").shape[1:] == (16, 16)
    for place in (tmp_path / "photos", tmp_path / "photos" / "photo.png"):
        done("decode", latent, "-o", tmp_path / "named.png", "--photo", place, "--overwrite")
        assert torch.equal(pixels_of(tmp_path / "named.png"), pixels_of(tmp_path / "photos" / "photo.png"))
    other = tiny.save_picture(tmp_path / "other.png", 4, 60, 90)
    outcome = run("decode", latent, "-o", tmp_path / "wrong.png", "--photo", other)
    assert (outcome.status, "is not the photograph that it was made from" in outcome.err) == (1, True)
    assert not (tmp_path / "wrong.png").exists()


def test_stores_are_decoded_into_their_photographs(run: Run, done: Run, tmp_path: Path) -> None:
    photos = [tiny.save_picture(tmp_path / "in" / name, place, 60, 90) for place, name in enumerate(["a.png", "b.png"])]
    store = tmp_path / "in.latents"
    done("invert", tmp_path / "in", "-o", store, "--lossless", "--exact")
    done("decode", store, "-o", tmp_path / "out", "--photo", tmp_path / "in")
    for photo in photos:
        assert torch.equal(pixels_of(tmp_path / "out" / photo.name), pixels_of(photo))
    done("decode", store, "-o", tmp_path / "alone", "--upscale", "2")
    assert pixels_of(tmp_path / "alone" / "a.png").shape[1:] == (32, 32)
    before = photos[0].read_bytes()
    assert run("decode", store, "-o", tmp_path / "in", "--photo", tmp_path / "in", "--overwrite").status == 1
    assert photos[0].read_bytes() == before
    photos[1].unlink()
    outcome = run("decode", store, "-o", tmp_path / "some", "--photo", tmp_path / "in")
    assert (outcome.status, "b.png: its photograph was not found. Name it with --photo" in outcome.err) == (1, True)
    assert files_in(tmp_path / "some") == ["a.png"]


def test_translations_are_put_in_photographs(done: Run, model: Path, tmp_path: Path) -> None:
    photo = tiny.save_picture(tmp_path / "photo.png", 3, 60, 90)
    done("translate", photo, "--to", model, "-o", tmp_path / "out", "--crop", "20,10,32", "--steps", "4")
    assert pixels_of(tmp_path / "out" / "photo-translated.png").shape == pixels_of(photo).shape


def test_faces_are_translated_one_or_all(done: Run, face_model: Path, model: Path, group: Path, tmp_path: Path) -> None:
    line = ["translate", group, "--model", face_model, "--to", model, "--steps", "4", "--overwrite"]
    before = pixels_of(group)
    changed = {}
    for face in ("1", "2", "all"):
        done(*line, "-o", tmp_path / "out.png", "--face", face)
        changed[face] = (pixels_of(tmp_path / "out.png") != before).any(0)
    for one, other in (("1", "2"), ("2", "1")):
        alone = changed[one] & ~changed[other]  # the soft edges of the two meet
        assert alone.any()
        assert changed["all"][alone].all()
    assert len(read_recipe(tmp_path / "out.png")["frames"]) == 2


def test_the_faces_command(done: Run, run: Run, group: Path, tmp_path: Path) -> None:
    outcome = done("faces", group, "-o", tmp_path / "faces.png")
    assert [line.split()[:2] for line in outcome.out.splitlines()[1:]] == [["group", "1"], ["group", "2"]]
    assert pixels_of(tmp_path / "faces.png").shape[1:] == (290, 520)
    rows = done("faces", group, PORTRAIT, "--json").rows
    assert [(Path(row["input"]).name, row["face"]) for row in rows] == [
        ("group.png", 1),
        ("group.png", 2),
        ("astronaut.png", 1),
    ]
    assert set(rows[0]) == {"input", "face", "box", "landmarks", "score", "degrees"}
    cup = tiny.save_picture(tmp_path / "cup.png", 3, 60, 90)
    outcome = done("faces", cup)
    assert (outcome.out, "cup.png: no face was found" in outcome.err) == ("", True)
    assert run("faces", tmp_path / "missing.png").status == 1


def test_exif_is_kept_unless_metadata_is_not_wanted(done: Run, fitted: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 3, "a camera"
    Image.fromarray(tiny.pixels(3, 60, 90)).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    line = ["edit", tmp_path / "photo.jpg", *edit(fitted), "--crop", "20,10,32", "-o"]
    done(*line, tmp_path / "kept")
    done(*line, tmp_path / "bare", "--no-metadata")
    with Image.open(tmp_path / "kept" / "photo-edited.jpg") as kept:
        assert (kept.getexif().get(0x010F), kept.getexif().get(0x0112)) == ("a camera", None)
        turned = np.asarray(Photograph.open(tmp_path / "photo.jpg").to_pil()).astype(int)
        assert abs(np.asarray(kept).astype(int) - turned)[:8].mean() < 3
    with Image.open(tmp_path / "bare" / "photo-edited.jpg") as bare:
        assert not len(bare.getexif())
    assert read_recipe(tmp_path / "bare" / "photo-edited.jpg") is None
