"""Summaries of inversions, and the part of a photo that is chosen."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.images import CentreSquare, read
from ddim_edit.ui.crop_choice import CropChoice, preview, preview_scale, read_shape
from ddim_edit.ui.inversion_summary import summarize_inversion

from .. import tiny

SIDES = st.integers(1, 3000)
PERCENT = st.floats(0, 100)
SCORES = {
    "psnr": 50.0,
    "lpips": 0.0004,
    "identical_pixels": 0.6,
    "xt_mean": 0.001,
    "xt_std": 0.999,
    "xt_corr": -0.01,
    "xt_kurtosis": 3.02,
}


@given(SIDES, SIDES, SIDES, SIDES, st.floats(1, 100), PERCENT, PERCENT)
def test_regions_lie_inside_the_image(
    height: int, width: int, high: int, wide: int, size: float, across: float, down: float
) -> None:
    shape, target = (height, width), (high, wide)
    left, top, w, h = CropChoice(size, across, down).box(shape, target)
    assert left >= 0
    assert top >= 0
    assert 1 <= w <= width - left
    assert 1 <= h <= height - top
    crop = CropChoice(size, across, down).crop((height, width), (64, 64))
    crop.place(width, height, (64, 64))  # complains of a region that reaches outside


@given(SIDES, SIDES)
def test_the_middle_is_the_default_of_the_command_line(height: int, width: int) -> None:
    assert CropChoice().crop((height, width), (64, 64)) == CentreSquare()
    region, _ = CentreSquare().place(width, height, (64, 64))
    left, top, wide, high = CropChoice().box((height, width), (64, 64))
    assert (wide, high) == (region[2] - region[0], region[3] - region[1])
    assert abs(left - region[0]) <= 1
    assert abs(top - region[1]) <= 1


@given(st.integers(50, 3000), st.integers(50, 3000), st.floats(10, 60), PERCENT, PERCENT)
def test_centred_moves_the_middle_there(height: int, width: int, size: float, x: float, y: float) -> None:
    before = CropChoice(size)
    _, _, wide, high = before.box((height, width), (64, 64))
    # A place so far inside that the region fits around it.
    at = wide / 2 + x / 100 * (width - wide), high / 2 + y / 100 * (height - high)
    left, top, w, h = before.centred((height, width), (64, 64), *at).box((height, width), (64, 64))
    assert (w, h) == (wide, high)
    assert abs(left + w / 2 - at[0]) <= 1 + width / 1000
    assert abs(top + h / 2 - at[1]) <= 1 + height / 1000


def test_previews_dim_all_but_the_region(tmp_path: Path) -> None:
    path = tiny.save_picture(tmp_path / "a.png", 0, 240, 480)
    assert read_shape(path) == (240, 480)
    assert preview_scale((240, 480)) == 1
    seen, whole = preview(path, (240, 480), CropChoice(50, 100, 0), (64, 64)), read(path, (240, 480)).pixels
    assert seen.shape == (3, 240, 480)
    region = slice(3, 117), slice(363, 477)
    assert torch.equal(seen[:, region[0], region[1]], whole[:, region[0], region[1]])
    assert int(seen[:, 0, 360:].min()) == 255
    assert torch.equal(seen[:, 120:], (whole[:, 120:].float() * 0.35).to(torch.uint8))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"psnr": None, "identical_pixels": 1.0}, "Every pixel comes back (PSNR ∞, LPIPS 0.0004)."),
        ({"identical_pixels": 1.0}, "Every pixel comes back (PSNR 50.0 dB"),
        ({}, "No eye will see a difference: PSNR 50.0 dB, LPIPS 0.0004, 60% of the pixels identical."),
        ({"psnr": 40.0}, "The difference is hard to see"),
        ({"psnr": 20.0}, "Only a likeness comes back"),
        ({}, "as good as white noise, where edits work best: std 0.999 (ideal 1), neighbour correlation -0.010 (0)"),
        ({"xt_corr": 0.1}, "nearly white noise"),
        ({"xt_kurtosis": 3.8}, "nearly white noise"),
        ({"xt_std": 0.7}, "not quite noise, so edits may go astray"),
        ({"xt_mean": -0.3}, "not quite noise, so edits may go astray"),
        ({"xt_corr": None, "xt_kurtosis": None}, "not noise at all"),
    ],
)
def test_summaries_put_figures_into_words(changed: dict[str, object], words: str) -> None:
    assert words in summarize_inversion(SCORES | changed)


def test_summaries_note_what_was_done_to_the_file() -> None:
    assert summarize_inversion(SCORES).count("\n\n") == 1
    assert summarize_inversion(SCORES, ["first of 3 frames", "resized"]).endswith(
        "**The file.** First of 3 frames; resized."
    )


def test_summaries_begin_with_what_is_wrong_with_the_image() -> None:
    problem = "does not look like the images that faces64 was trained on (score 9.1, typical up to 1)."
    assert summarize_inversion(SCORES, problem=problem).startswith(f"**Warning.** This image {problem}\n\n**There")
