from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import ArgumentError, Editor, ImageError, Model
from ddim_edit.images import Box, read

from .. import tiny
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


def test_tensors_are_pictures_too(editor: Editor, files: list[Path]) -> None:
    """A tensor has its own fingerprint; without noise it gives the very code that its file gives."""
    plain = replace(QUICK, dequantise=None)
    x = as_tensor(files)
    wanted = editor.invert(files, plain).x
    assert torch.equal(editor.invert(x, plain).x, wanted)
    assert torch.equal(editor.invert(x.double(), plain).x, wanted)
    assert max_error(editor.invert(x[0], plain).x, wanted[:1]) < 1e-5
    same = editor.invert(torch.stack([x[0], x[0], x[1]]), QUICK)
    assert same[0].recipe == same[1].recipe != same[2].recipe


def test_files_larger_than_the_model_are_cropped_as_asked(editor: Editor, tmp_path: Path) -> None:
    path = tiny.save_picture(tmp_path / "large.png", 9, 30, 40)
    box = Box(5, 6, 20)
    (latent,) = editor.invert(path, QUICK, crop=box)
    picture = read(path, tiny.SIZE, box)
    assert torch.equal(latent.x, editor.invert(picture, QUICK)[0].x)
    assert latent.recipe.origin.preprocessing == picture.preprocessing
    assert latent.recipe.origin.source == picture.source
    assert torch.equal(editor.reconstruct(path, QUICK, crop=box).originals[0], picture.tensor.double())


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


def test_nothing_gives_no_codes_and_no_reconstruction(editor: Editor) -> None:
    assert len(editor.invert([])) == 0
    assert len(editor.invert(torch.zeros(0, 3, 16, 16))) == 0
    for refuse in (editor.reconstruct, editor.decode):
        with pytest.raises(ArgumentError, match=r"There are no (images|latents)"):
            refuse([])


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_at_least_one_picture(model: Model, size: int) -> None:
    with pytest.raises(ArgumentError, match="batch size"):
        Editor(model, batch_size=size)


def test_from_pretrained_is_the_model_in_an_editor(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "tiny")
    editor = Editor.from_pretrained(folder, "cpu", "bf16", batch_size=3)
    assert (editor.model.name, editor.model.dtype, editor.batch_size) == ("tiny", "bfloat16", 3)
