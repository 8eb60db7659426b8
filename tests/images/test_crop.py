import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images import Box, CentreSquare, Fit, read

SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("width", "height", "region"),
    [
        (800, 640, (80, 0, 720, 640)),
        (640, 800, (0, 80, 640, 720)),
        (5, 4, (0, 0, 4, 4)),
        (64, 64, (0, 0, 64, 64)),
    ],
)
def test_centre_square_regions(width: int, height: int, region: tuple[int, ...]) -> None:
    assert CentreSquare().place(width, height, (64, 64)) == (region, (64, 64))


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from([(64, 64), (64, 96), (7, 3)]))
def test_centre_square_is_centred_and_touches_two_sides(width: int, height: int, target: tuple[int, int]) -> None:
    (left, top, right, below), _ = CentreSquare().place(width, height, target)
    assert 0 <= left < right <= width
    assert 0 <= top < below <= height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - below)) <= 1
    assert right - left == width or below - top == height


@settings(deadline=None)
@given(SIDES, SIDES)
def test_fit_keeps_all_and_fills_one_side(width: int, height: int) -> None:
    region, inner = Fit().place(width, height, (64, 64))
    assert region == (0, 0, width, height)
    assert max(inner) == 64
    assert abs(inner[0] - 64 * width / max(width, height)) <= 1
    assert abs(inner[1] - 64 * height / max(width, height)) <= 1


def test_centre_square_of_a_file(save, coordinates) -> None:
    image = read(save(coordinates(40, 30)), 30)
    assert np.array_equal(image.pixels.permute(1, 2, 0), coordinates(40, 30)[:, 5:35])
    assert image.notes == ("centre square 30x30 of 40x30",)
    expected = {"crop": {"kind": "centre square"}, "original_height": 30, "original_width": 40}
    assert image.preprocessing == expected


def test_box_of_a_file(save, coordinates) -> None:
    image = read(save(coordinates(40, 30)), 12, Box(3, 18, 12))
    assert np.array_equal(image.pixels.permute(1, 2, 0), coordinates(40, 30)[18:30, 3:15])
    assert image.notes == ("box at (3, 18) 12x12 of 40x30",)
    assert image.preprocessing["crop"] == {"kind": "box", "x": 3, "y": 18, "size": 12}


def test_fit_repeats_the_edges(save, coordinates) -> None:
    original = coordinates(20, 9)
    image = read(save(original), 20, Fit())
    padded = np.concatenate([original[:1].repeat(5, 0), original, original[-1:].repeat(6, 0)])
    assert np.array_equal(image.pixels.permute(1, 2, 0), padded)
    assert image.notes == ("padded from 20x9 to 20x20 with its edge pixels",)
    assert image.preprocessing["crop"] == {"kind": "fit"}


def test_shapes_other_than_squares(save, coordinates) -> None:
    path = save(coordinates(40, 30))
    wide = read(path, (10, 40)).pixels.permute(1, 2, 0)
    assert np.array_equal(wide, coordinates(40, 30)[10:20])
    boxed = read(path, (10, 20), Box(1, 2, 20)).pixels.permute(1, 2, 0)
    assert np.array_equal(boxed, coordinates(40, 30)[2:12, 1:21])


@pytest.mark.parametrize("box", [Box(21, 0, 20), Box(0, 11, 20), Box(0, 0, 31), Box(100, 100, 1)])
def test_box_outside_the_image(save, coordinates, box: Box) -> None:
    with pytest.raises(ImageError, match=r"image\.png: the box .* outside the image of 40x30 pixels"):
        read(save(coordinates(40, 30)), 8, box)


@pytest.mark.parametrize("values", [(-1, 0, 4), (0, -1, 4), (0, 0, 0)])
def test_impossible_box(values: tuple[int, int, int]) -> None:
    with pytest.raises(ArgumentError, match="size at least 1"):
        Box(*values)


@pytest.mark.parametrize("size", [0, -3, (0, 4)])
def test_impossible_size(save, coordinates, size) -> None:
    with pytest.raises(ArgumentError, match="at least 1x1"):
        read(save(coordinates(4, 4)), size)
