"""Results that are images are tensors with `to_pil`."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddim_edit import ArgumentError
from ddim_edit.images import ImageTensor, to_float, to_pil

from .. import tiny

BATCH = torch.stack([torch.from_numpy(tiny.pixels(seed)).permute(2, 0, 1) for seed in range(3)])
RESULT = to_float(BATCH).double().as_subclass(ImageTensor)


def test_a_batch_is_a_list_and_an_image_one_of_pillow() -> None:
    images = RESULT.to_pil()
    assert isinstance(images, list)
    assert [np.array_equal(np.asarray(image), tiny.pixels(seed)) for seed, image in enumerate(images)] == [True] * 3
    one = RESULT[1].to_pil()
    assert isinstance(one, Image.Image)
    assert np.array_equal(np.asarray(one), tiny.pixels(1))
    nested = RESULT[:2].unflatten(0, (1, 2)).as_subclass(ImageTensor).to_pil()
    assert [len(row) for row in nested] == [2]
    assert [image.size for image in [each.to_pil() for each in RESULT]] == [(16, 16)] * 3


def test_to_pil_takes_any_tensor_of_images() -> None:
    assert np.array_equal(np.asarray(to_pil(BATCH[2])), tiny.pixels(2))
    assert np.asarray(to_pil(torch.full((3, 2, 2), 9.0))).min() == 255
    assert to_pil(torch.zeros(0, 3, 4, 4)) == []
    for wrong in (torch.zeros(4, 4), torch.zeros(1, 4, 4), torch.zeros(3, 4, 4, dtype=torch.int64)):
        with pytest.raises(ArgumentError):
            to_pil(wrong)
    with pytest.raises(ArgumentError, match="NaN"):
        to_pil(torch.full((3, 2, 2), torch.nan))


def test_it_is_a_plain_tensor_in_everything_else() -> None:
    for made in (RESULT + 1, RESULT.clamp(-1, 1), torch.stack([RESULT]), RESULT[..., 0], RESULT[:, 0], RESULT.mean()):
        assert type(made) is torch.Tensor
    assert torch.equal(RESULT, to_float(BATCH).double())
    assert RESULT.numpy().shape == (3, 3, 16, 16)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_keep_their_kind(duplicate) -> None:
    made = duplicate(RESULT)
    assert type(made) is ImageTensor
    assert torch.equal(made, RESULT)


def test_files_hold_plain_tensors(tmp_path: Path) -> None:
    """Which torch.load and programs without this package open."""
    torch.save(RESULT, tmp_path / "a.pt")
    for loaded in (torch.load(tmp_path / "a.pt", weights_only=True), pickle.loads(pickle.dumps(RESULT))):
        assert type(loaded) is torch.Tensor
        assert torch.equal(loaded, RESULT)


def test_notebooks_show_the_first_images() -> None:
    shown = Image.open(io.BytesIO(RESULT._repr_png_()))
    assert shown.size == (3 * 16 * 8, 16 * 8)
    assert np.array_equal(np.asarray(shown)[::8, : 16 * 8 : 8], tiny.pixels(0))
    assert torch.full((3, 2, 2), torch.nan).as_subclass(ImageTensor)._repr_png_() is None
    assert RESULT[:0]._repr_png_() is None
