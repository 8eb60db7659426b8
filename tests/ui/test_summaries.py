"""Summaries of inversions, and the part of a photo that is chosen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.images import Box, CentreSquare, FaceCrop, FaceTemplate, Fit
from ddim_edit.ui.crop_choice import BOX, CropChoice
from ddim_edit.ui.inversion_summary import summarize_inversion

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
    "xt_patch_low": 0.87,
    "xt_patch_high": 1.12,
    "xt_deviation": 0.4,
}


@given(SIDES, SIDES, SIDES, SIDES, st.floats(1, 100), PERCENT, PERCENT)
def test_regions_lie_inside_the_image(
    height: int, width: int, high: int, wide: int, size: float, across: float, down: float
) -> None:
    shape, target = (height, width), (high, wide)
    left, top, w, h = CropChoice(BOX, size, across, down).box(shape, target)
    assert left >= 0
    assert top >= 0
    assert 1 <= w <= width - left
    assert 1 <= h <= height - top
    crop = CropChoice(BOX, size, across, down).crop((height, width), (64, 64), None)
    assert isinstance(crop, Box)
    crop.place(width, height, (64, 64))  # complains of a region that reaches outside


def test_choices_are_crops() -> None:
    shape, target = (240, 480), (64, 64)
    template = FaceTemplate.named("faces64")
    assert CropChoice("centre").crop(shape, target, template) == CentreSquare()
    assert CropChoice("fit").crop(shape, target, template) == Fit()
    assert CropChoice.of_face(1).crop(shape, target, template) == FaceCrop(template)
    assert CropChoice.of_face(3).crop(shape, target, template) == FaceCrop(template, 3)
    assert CropChoice(BOX, 50, 100, 0).crop(shape, target, template) == Box(360, 0, 120)


def test_a_box_around_a_part_has_its_size_and_middle() -> None:
    corners = [(110.0, 60.0), (170.0, 60.0), (170.0, 120.0), (110.0, 120.0)]
    around = CropChoice("face:2").around((240, 480), (64, 64), corners)
    assert around.box((240, 480), (64, 64)) == (110, 60, 60, 60)


@given(st.integers(50, 3000), st.integers(50, 3000), st.floats(10, 60), PERCENT, PERCENT)
def test_centred_moves_the_middle_there(height: int, width: int, size: float, x: float, y: float) -> None:
    before = CropChoice(BOX, size)
    _, _, wide, high = before.box((height, width), (64, 64))
    # A place so far inside that the region fits around it.
    at = wide / 2 + x / 100 * (width - wide), high / 2 + y / 100 * (height - high)
    left, top, w, h = before.centred((height, width), (64, 64), *at).box((height, width), (64, 64))
    assert (w, h) == (wide, high)
    assert abs(left + w / 2 - at[0]) <= 1 + width / 1000
    assert abs(top + h / 2 - at[1]) <= 1 + height / 1000


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"psnr": None, "identical_pixels": 1.0}, "Every pixel comes back (PSNR ∞, LPIPS 0.0004)."),
        ({"identical_pixels": 1.0}, "Every pixel comes back (PSNR 50.0 dB"),
        ({}, "No eye will see a difference: PSNR 50.0 dB, LPIPS 0.0004, 60% of the pixels identical."),
        ({"psnr": 40.0}, "The difference is hard to see"),
        ({"psnr": 20.0}, "Only a likeness comes back"),
        ({}, "as good as white noise, where edits work best (deviation 0.4, healthy up to 1): std 0.999 (ideal 1)"),
        ({}, "of patches 0.87 to 1.12, neighbour correlation -0.010 (0), kurtosis 3.02 (3)"),
        ({"xt_deviation": 1.4}, "nearly white noise"),
        ({"xt_deviation": 4.1}, "not quite noise, so edits may go astray"),
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
    problems = ["no face was found.", "This image does not look like faces."]
    wanted = "**Warning.** No face was found.\n\n**Warning.** This image does not look like faces.\n\n**There"
    assert summarize_inversion(SCORES, problems=problems).startswith(wanted)
