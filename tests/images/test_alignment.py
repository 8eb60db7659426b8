"""Similarities and resampling through them, against closed forms."""

import cmath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddim_edit.errors import ArgumentError, ImageError
from ddim_edit.images import Box, CentreSquare, FaceTemplate, Fit, Similarity
from ddim_edit.images.alignment import warp

POINTS = [(0.0, 0.0), (10.0, 0.0), (3.0, 7.0), (-2.0, 5.0)]
NUMBERS = st.floats(-100, 100)


@settings(deadline=None)
@given(st.floats(0.1, 10), st.floats(-3, 3), NUMBERS, NUMBERS)
def test_fit_finds_the_similarity_that_moved_the_points(scale: float, angle: float, x: float, y: float) -> None:
    moved = Similarity(cmath.rect(scale, angle), complex(x, y))
    found = Similarity.fit(POINTS, moved(POINTS))
    assert abs(found.a - moved.a) < 1e-9
    assert abs(found.b - moved.b) < 1e-8
    assert np.allclose(found.inverse(found(POINTS)), POINTS)


def test_fit_is_the_least_squares_solution() -> None:
    target = [(1.0, 2.0), (12.0, 1.0), (5.0, 9.0), (0.0, 6.5)]
    rows, right = [], []
    for (x, y), (u, v) in zip(POINTS, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        right += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    found = Similarity.fit(POINTS, target)
    assert np.allclose([found.a.real, found.a.imag, found.b.real, found.b.imag], [a, b, c, d])


def test_a_part_of_the_image_and_a_larger_frame() -> None:
    alignment = Similarity(2 + 1j, 3 - 4j)
    (whole,) = alignment([(10.0, 20.0)])
    assert alignment.of_part(4, 5, 0.5)([(3.0, 7.5)]) == [whole]
    assert alignment.enlarged(3)([(10.0, 20.0)]) == [(3 * whole[0], 3 * whole[1])]
    assert Similarity.from_list(alignment.to_list()) == alignment


def test_warp_by_whole_pixels_is_a_crop(coordinates) -> None:
    image = Image.fromarray(coordinates(40, 30))
    assert np.array_equal(np.asarray(warp(image, Similarity(1, -5 - 3j), (20, 10))), coordinates(40, 30)[3:13, 5:25])


def test_warp_reflects_beyond_the_border(coordinates) -> None:
    image = Image.fromarray(coordinates(40, 30))
    reflected = np.pad(coordinates(40, 30), ((6, 0), (4, 0), (0, 0)), mode="symmetric")
    assert np.array_equal(np.asarray(warp(image, Similarity(1, 4 + 6j), (20, 20))), reflected[:20, :20])


@pytest.mark.parametrize("degrees", [0, 30, -75])
@pytest.mark.parametrize("scale", [0.06, 0.3, 0.9, 2.5])
def test_warp_of_a_ramp_is_the_ramp(scale: float, degrees: float) -> None:
    y, x = np.mgrid[:400, :400] + 0.5
    ramp = np.stack([x / 2, y / 2, (x + y) / 4], axis=-1).round().astype(np.uint8)
    a = cmath.rect(scale, np.radians(degrees))
    alignment = Similarity(a, 10 + 10j - a * (200 + 200j))
    shown = np.asarray(warp(Image.fromarray(ramp), alignment, (20, 20))).astype(float)
    v, u = np.mgrid[:20, :20] + 0.5
    z = (u + 1j * v - alignment.b) / alignment.a
    expected = np.stack([z.real / 2, z.imag / 2, (z.real + z.imag) / 4], axis=-1)
    inside = (abs(z.real - 200) < 150) & (abs(z.imag - 200) < 150)
    assert abs(shown - expected)[inside].max() < 1.2


def test_a_frame_outside_the_image(coordinates) -> None:
    with pytest.raises(ImageError, match="outside the image"):
        warp(Image.fromarray(coordinates(40, 30)), Similarity(1, 500), (20, 10))


@pytest.mark.parametrize("crop", [CentreSquare(), Fit(), Box(10, 20, 100)], ids=str)
def test_placed_crops_have_an_alignment(crop: CentreSquare | Fit | Box) -> None:
    place = crop.place(800, 400, (64, 64))
    left, top, right, bottom = place.region
    moved = place.alignment((64, 64))([(left, top), (right, bottom)])
    margin = (64 - place.inner[1]) // 2
    assert np.allclose(moved, [(0, margin), (64, 64 - margin)], atol=1e-9)


def test_ffhq_template_is_the_square_of_its_dataset_script() -> None:
    # recreate_aligned_images of the script: the square that eyes and mouth span is the frame.
    template = FaceTemplate.named("ffhq")
    left_eye, right_eye, _, left_mouth, right_mouth = (complex(x, y) for x, y in template.landmarks)
    eye, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    down = mouth - eye
    x = (right_eye - left_eye) + down * -1j
    x *= max(2.0 * abs(right_eye - left_eye), 1.8 * abs(down)) / abs(x)
    centre = eye + 0.1 * down
    corners = [centre - x - x * 1j, centre + x + x * 1j]
    assert max(abs(corners[0]), abs(corners[1] - (512 + 512j))) < 0.02 * 512 * 2**0.5


def test_a_square_frame_of_a_portrait_template_is_its_centre() -> None:
    template = FaceTemplate.named("celeba")
    alignment = template.align(template.landmarks, (178, 178))
    assert np.allclose(alignment([(0, 20)]), [(0, 0)], atol=1e-6)
    assert abs(alignment.a - 1) < 1e-9


def test_templates_are_checked(tmp_path) -> None:
    with pytest.raises(ArgumentError, match="no face template 'ffqh'"):
        FaceTemplate.named("ffqh")
    (tmp_path / "a.json").write_text('{"format": 1, "name": "a", "width": 64, "height": 64, "landmarks": {}}')
    with pytest.raises(ImageError, match="no left_eye"):
        FaceTemplate.load(tmp_path / "a.json")
