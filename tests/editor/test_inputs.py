import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddim_edit import (
    ArgumentError,
    Direction,
    Editor,
    ImageError,
    Latent,
    LikelihoodConfig,
    Model,
    evaluate,
    log_likelihood,
)
from ddim_edit.images import Box, ImageTensor, read

from .. import tiny
from .attributes import made
from .measures import QUICK, as_tensor, max_error


def test_pictures_may_come_in_many_ways(editor: Editor, files: list[Path]) -> None:
    """Files, folders and pictures have one fingerprint, so one noise, and give one code bit by bit."""
    wanted = editor.invert(files, QUICK)
    pictures = [read(path, tiny.SIZE) for path in files]
    for images in (
        files[0].parent,
        str(files[0].parent),
        [files[0].parent],
        pictures,
        [*pictures[:2], *files[2:4], str(files[4])],
    ):
        found = editor.invert(images, QUICK)
        assert torch.equal(found.x, wanted.x)
        assert [latent.recipe for latent in found] == [latent.recipe for latent in wanted]
    assert torch.equal(editor.invert(pictures[0], QUICK).x, editor.invert(files[0], QUICK).x)
    contents = [path.read_bytes() for path in files]
    for images in (contents, tuple(contents), iter(contents), [io.BytesIO(content) for content in contents]):
        found = editor.invert(images, QUICK)
        assert torch.equal(found.x, wanted.x)
        assert [latent.recipe for latent in found] == [latent.recipe for latent in wanted]


def test_pictures_in_memory_agree(editor: Editor, files: list[Path]) -> None:
    """Pillow images and arrays have one fingerprint, of their pixels; without noise they give the codes of files."""
    arrays = np.stack([tiny.pixels(seed) for seed in range(5)])
    opened = [Image.open(io.BytesIO(path.read_bytes())) for path in files]
    wanted = editor.invert(opened, QUICK)
    for images in (arrays, list(arrays), arrays / 255, (array for array in arrays), [*opened[:2], arrays[2:]]):
        found = editor.invert(images, QUICK)
        assert torch.equal(found.x, wanted.x)
        assert [latent.recipe for latent in found] == [latent.recipe for latent in wanted]
    plain = replace(QUICK, dequantise=None)
    assert torch.equal(editor.invert(arrays, plain).x, editor.invert(files, plain).x)
    x = as_tensor(files)
    assert torch.equal(editor.invert([x[0], x[1:3], files[3], arrays[4]], plain).x, editor.invert(files, plain).x)


def test_tensors_are_pictures_too(editor: Editor, files: list[Path]) -> None:
    """A tensor has its own fingerprint; without noise it gives the very code that its file gives."""
    plain = replace(QUICK, dequantise=None)
    x = as_tensor(files)
    wanted = editor.invert(files, plain).x
    assert torch.equal(editor.invert(x, plain).x, wanted)
    assert torch.equal(editor.invert(x.double(), plain).x, wanted)
    assert max_error(editor.invert(x[0], plain).x, wanted[0]) < 1e-5
    same = editor.invert(torch.stack([x[0], x[0], x[1]]), QUICK)
    assert same[0].recipe == same[1].recipe != same[2].recipe


def test_files_larger_than_the_model_are_cropped_as_asked(editor: Editor, tmp_path: Path) -> None:
    path = tiny.save_picture(tmp_path / "large.png", 9, 30, 40)
    box = Box(5, 6, 20)
    latent = editor.invert(path, QUICK, crop=box)
    picture = read(path, tiny.SIZE, box)
    assert torch.equal(latent.x, editor.invert(picture, QUICK).x)
    assert latent.recipe.origin.preprocessing == picture.preprocessing
    assert latent.recipe.origin.source == picture.source
    assert torch.equal(editor.reconstruct(path, QUICK, crop=box).original, picture.tensor.double())


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 16, 15),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(16, 16),
        torch.zeros(1, 1, 3, 16, 16),
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
    ],
    ids=lambda x: f"{list(x.shape)} {x.dtype}",
)
def test_other_tensors_are_refused_in_one_sentence(editor: Editor, images: Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"^Images must [^\n]+, not [^\n]+\.$"):
        editor.invert(images)


def test_a_picture_of_another_size_is_refused(editor: Editor, files: list[Path]) -> None:
    with pytest.raises(ArgumentError, match=r"must have shape \[3, 16, 16\], not \[3, 8, 8\]"):
        editor.invert(read(files[0], 8))


def test_a_missing_file_is_refused(editor: Editor, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png"):
        editor.invert([tmp_path / "missing.png"])


def verbs(editor: Editor, direction: Direction, photo: Path) -> dict[str, Callable[[Any], Any]]:
    """Everything that takes images, each with few steps."""
    likelihood = LikelihoodConfig(steps=1)
    return {
        "invert": lambda images: editor.invert(images, QUICK),
        "reconstruct": lambda images: editor.reconstruct(images, QUICK),
        "interpolate": lambda images: editor.interpolate(images, 2, config=QUICK),
        "latents_at": lambda images: editor.latents_at(images, ["0.4T"], QUICK),
        "edit": lambda images: editor.edit(images, {direction: 1.0}),
        "edits": lambda images: editor.edits(images, [{direction: 1.0}, {direction: 2.0}]),
        "attribute_from": lambda images: editor.attribute_from(images, [photo], config=QUICK),
        "attribute_from, without": lambda images: editor.attribute_from([photo], images, config=QUICK),
        "analogy": lambda images: editor.analogy(images, [photo], [photo], config=QUICK),
        "analogy, c": lambda images: editor.analogy(photo, tiny.pixels(8), images, config=QUICK),
        "translate": lambda images: editor.translate(images, editor, QUICK),
        "typicality_features": lambda images: editor.typicality_features(images),
        "log_likelihood": lambda images: log_likelihood(editor.model, images, likelihood),
        "evaluate": lambda images: evaluate(editor, images, ("ddim",), ("uniform",), (2,)),
        "invert_batches": lambda images: list(editor.invert_batches([images], QUICK)),
    }


NO_IMAGES = {
    "an int": 5,
    "a float": 0.5,
    "None": None,
    "an object": object(),
    "a dict": {"image": tiny.pixels(0)},
    "a set": {"a.png"},
    "a range": range(3),
    "a class": Path,
    "a list of mixed junk": [tiny.pixels(0), {}, None],
    "a list in a list": [[tiny.pixels(0)]],
    "a text": "no such image.png",
    "an empty path": "",
    "bytes that are no image": b"junk",
    "a list with bytes that are no image": [tiny.pixels(0), b"junk"],
    "an array of objects": np.array([object()]),
    "an array of numbers": np.arange(300),
    "an array without pixels": np.zeros((0, 16, 3), np.uint8),
    "an array with two channels": np.zeros((16, 16, 2), np.uint8),
    "an array with five channels": np.zeros((16, 16, 5), np.uint8),
    "an array of floats below 0": np.full((16, 16, 3), -0.5),
    "an array with NaN": np.full((16, 16, 3), np.nan),
    "a tensor with NaN": torch.full((3, 16, 16), torch.nan),
    "a tensor of another size": torch.zeros(3, 8, 8),
    "a file open as text": io.StringIO("text"),
    "an image without pixels": Image.new("RGB", (0, 0)),
}
NOTHING = {
    "a list": [],
    "a tuple": (),
    "an iterator": iter(()),
    "a tensor": torch.zeros(0, 3, 16, 16),
    "an array": np.zeros((0, 16, 16, 3), np.uint8),
}
VERBS = verbs(None, None, None)  # type: ignore[arg-type]  # only their names are needed here


@pytest.fixture(scope="module")
def direction(editor: Editor) -> Direction:
    return made(editor, "a", 1)


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_image_is_refused_in_plain_words(
    editor: Editor, direction: Direction, files: list[Path], verb: str
) -> None:
    take = verbs(editor, direction, files[0])[verb]
    for name, images in NO_IMAGES.items():
        with pytest.raises((ArgumentError, ImageError)) as raised:
            take(images)
        message = str(raised.value)
        assert re.fullmatch(r"[^\n]{20,400}\.", message), (name, message)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "invert_batches"])
def test_no_images_are_refused_in_plain_words(
    editor: Editor, direction: Direction, files: list[Path], verb: str
) -> None:
    take = verbs(editor, direction, files[0])[verb]
    for images in NOTHING.values():
        with pytest.raises(ArgumentError, match=r"[Tt]here are no images|at least (2 images|one image)"):
            take(images)
    with pytest.raises(ArgumentError, match="There are no latents"):
        editor.decode([])


def test_one_image_has_one_result_and_a_list_of_one_has_a_list(
    editor: Editor, direction: Direction, files: list[Path]
) -> None:
    photo, take = tiny.pixels(0), verbs(editor, direction, files[0])
    for one, several in ((files[0], [files[0]]), (photo, photo[None]), (Image.fromarray(photo), [photo])):
        latent, latents = take["invert"](one), take["invert"](several)
        assert isinstance(latent, Latent)
        assert torch.equal(latent.x, latents[0].x)
        trip, trips = take["reconstruct"](one), take["reconstruct"](several)
        assert torch.equal(trip.decoded, trips[0].decoded)
        assert trip.scores["nfe_in"] == trips.scores[0]["nfe_in"] == 4
        assert trip.to_pil().size == trips.to_pil()[0].size == (16, 16)
        for verb in ("edit", "edits", "translate", "analogy, c"):
            single, batch = take[verb](one), take[verb](several)
            assert single.shape == batch.shape[1:]
            assert torch.equal(single, batch[0])
            assert isinstance(single, ImageTensor)
        assert take["log_likelihood"](one).bits.ndim == 0
        assert take["log_likelihood"](several).bits.shape == (1,)
        assert len(take["evaluate"](one).rows) == 1
        assert torch.equal(editor.decode(latent), editor.decode(latents)[0])
        there = editor.invert(several, direction.config)
        assert torch.equal(editor.edit(there[0], {direction: 1.0}), editor.edit(there, {direction: 1.0})[0])
        # Estimators fit on tables, with a row for each image.
        assert take["latents_at"](one)[0].values.shape == (1, 3, 16, 16)


def test_images_are_interpolated_as_their_latents(editor: Editor, files: list[Path]) -> None:
    path = editor.interpolate(files[:2], 3, config=QUICK)
    assert torch.equal(path.x, editor.interpolate(editor.invert(files[:2], QUICK), 3).x)
    with pytest.raises(ArgumentError, match=r"image 2: it must be given as .*, not as a Latent"):
        editor.interpolate([files[0], path[0]], 3)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_at_least_one_picture(model: Model, size: int) -> None:
    with pytest.raises(ArgumentError, match="batch size"):
        Editor(model, batch_size=size)


def test_from_pretrained_is_the_model_in_an_editor(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "tiny")
    editor = Editor.from_pretrained(folder, "cpu", "bf16", batch_size=3)
    assert (editor.model.name, editor.model.dtype, editor.batch_size) == ("tiny", "bfloat16", 3)
