"""What the page says: command lines, verdicts, the part of a photograph."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.images import CentreSquare, read
from ddim_edit.ui.framing import Framing, scale_of, shape_of, view
from ddim_edit.ui.verdict import verdict

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
def test_a_region_lies_inside_the_picture_in_the_models_shape(
    height: int, width: int, high: int, wide: int, size: float, across: float, down: float
) -> None:
    shape, target = (height, width), (high, wide)
    left, top, w, h = Framing(size, across, down).box(shape, target)
    assert left >= 0
    assert top >= 0
    assert 1 <= w <= width - left
    assert 1 <= h <= height - top
    crop = Framing(size, across, down).crop((height, width), (64, 64))
    crop.place(width, height, (64, 64))  # complains of a region that reaches outside


@given(SIDES, SIDES)
def test_the_middle_is_the_default_of_the_command_line(height: int, width: int) -> None:
    assert Framing().crop((height, width), (64, 64)) == CentreSquare()
    region, _ = CentreSquare().place(width, height, (64, 64))
    left, top, wide, high = Framing().box((height, width), (64, 64))
    assert (wide, high) == (region[2] - region[0], region[3] - region[1])
    assert abs(left - region[0]) <= 1
    assert abs(top - region[1]) <= 1


@given(st.integers(50, 3000), st.integers(50, 3000), st.floats(10, 60), PERCENT, PERCENT)
def test_a_click_moves_the_middle_there(height: int, width: int, size: float, x: float, y: float) -> None:
    before = Framing(size)
    _, _, wide, high = before.box((height, width), (64, 64))
    # A place so far inside that the region fits around it.
    at = wide / 2 + x / 100 * (width - wide), high / 2 + y / 100 * (height - high)
    left, top, w, h = before.centred((height, width), (64, 64), *at).box((height, width), (64, 64))
    assert (w, h) == (wide, high)
    assert abs(left + w / 2 - at[0]) <= 1 + width / 1000
    assert abs(top + h / 2 - at[1]) <= 1 + height / 1000


def test_a_view_shows_the_region_as_it_is_and_dims_the_rest(tmp_path: Path) -> None:
    path = tiny.save_picture(tmp_path / "a.png", 0, 240, 480)
    assert shape_of(path) == (240, 480)
    assert scale_of((240, 480)) == 1
    seen, whole = view(path, (240, 480), Framing(50, 100, 0), (64, 64)), read(path, (240, 480)).pixels
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
        ({"xt_corr": None, "xt_kurtosis": None}, "no noise at all"),
    ],
)
def test_a_verdict_says_in_words_what_the_figures_mean(changed: dict[str, object], words: str) -> None:
    assert words in verdict(SCORES | changed)


def test_a_verdict_tells_what_was_done_to_the_file() -> None:
    assert verdict(SCORES).count("\n\n") == 1
    assert verdict(SCORES, ["first of 3 frames", "resized"]).endswith("**The file.** First of 3 frames; resized.")
