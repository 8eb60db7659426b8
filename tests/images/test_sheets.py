import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.images import captioned, comparison, enlarge, labelled, sheet, strip
from ddim_edit.images.sheets import std_map

GENERATOR = torch.Generator().manual_seed(5)


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=GENERATOR)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
def test_enlarge_repeats_pixels(n: int, h: int, w: int, factor: int) -> None:
    small = random_images(n, 3, h, w)
    large = enlarge(small, factor)
    assert large.shape == (n, 3, h * factor, w * factor)
    for offset in range(factor):
        assert torch.equal(large[..., offset::factor, offset::factor], small)


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 5), st.integers(0, 255))
def test_sheet_keeps_every_pixel(counts: list[int], gap: int, grey: int) -> None:
    rows = [random_images(count, 3, 4, 6) for count in counts]
    result = sheet(rows, gap, grey)
    assert result.shape == (3, len(rows) * (4 + gap) - gap, max(counts) * (6 + gap) - gap)
    rest = torch.ones(result.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (4 + gap), j * (6 + gap)
            assert torch.equal(result[:, top : top + 4, left : left + 6], image)
            rest[:, top : top + 4, left : left + 6] = False
    assert (result[rest] == grey).all()


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 4))
def test_strip_without_its_gaps_is_the_images(n: int, gap: int) -> None:
    frames = random_images(n, 3, 4, 6)
    row = torch.nn.functional.pad(strip(frames, gap), (0, gap))
    assert torch.equal(row.unfold(2, 6, 6 + gap).permute(2, 0, 1, 3), frames)


@pytest.mark.parametrize("rows", [[], [random_images(1, 3, 4, 4), random_images(1, 3, 4, 5)], [random_images(3, 4, 4)]])
def test_rows_of_several_sizes(rows: list[Tensor]) -> None:
    with pytest.raises(ArgumentError, match="of one size"):
        sheet(rows)


def test_enlarge_by_zero() -> None:
    with pytest.raises(ArgumentError, match="at least 1"):
        enlarge(random_images(1, 3, 4, 4), 0)


def cells(result: Tensor, count: int, width: int, across: int = 3) -> list[list[Tensor]]:
    """The images of every row of a comparison of images 128 pixels wide, by its stated layout."""
    heading, gap = 28, 4
    block = across * width + (across - 1) * gap
    margin = block // 24
    found = []
    for index in range(count):
        top = heading + index % 8 * (width + gap)
        left = margin + index // 8 * (block + margin)
        columns = [left + k * (width + gap) for k in range(across)]
        found.append([result[:, top : top + width, x : x + width] for x in columns])
    return found


@pytest.mark.parametrize("count", [1, 8, 11])
def test_comparison_shows_both_and_their_difference(count: int) -> None:
    originals = random_images(count, 3, 64, 64)
    shifts = torch.randint(-9, 10, originals.shape, generator=GENERATOR)
    reconstructions = (originals + shifts).clamp(0, 255).to(torch.uint8)
    result = comparison(originals, reconstructions, gain=20)
    gained = ((originals.int() - reconstructions.int()).abs() * 20).clamp(max=255).to(torch.uint8)
    for index, shown in enumerate(cells(result, count, 128)):
        for cell, image in zip(shown, (originals, reconstructions, gained), strict=True):
            assert torch.equal(cell, enlarge(image[index], 2))


def test_difference_of_equal_images_is_black() -> None:
    originals = random_images(1, 3, 64, 64)
    assert not cells(comparison(originals, originals), 1, 128)[0][2].any()


def test_comparison_shows_where_latents_are_quiet_or_loud() -> None:
    stds = torch.tensor([[1.0, 0.5], [1.25, 3.0]])
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    shown = std_map(stds, (64, 64))
    colours = [[255, 255, 255], [0, 0, 255], [255, 128, 128], [255, 0, 0]]
    assert shown[:, 16::32, 16::32].flatten(1).T.tolist() == colours
    assert torch.equal(cells(comparison(white, white, patch_stds=[stds]), 1, 128, 4)[0][3], enlarge(shown, 2))


def test_comparison_labels_every_column() -> None:
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    ink = (comparison(white, white) < 128).any(0)
    margin = (3 * 128 + 2 * 4) // 24
    columns = [ink[:28, margin + k * 132 : margin + k * 132 + 128] for k in range(3)]
    assert all(column.any() and not column[:, 0].any() and not column[:, -1].any() for column in columns)
    assert ink[28:, : margin + 264].sum() == 0


@pytest.mark.parametrize("other", [random_images(2, 3, 8, 8), random_images(1, 3, 8, 9)])
def test_comparison_of_different_shapes(other: Tensor) -> None:
    with pytest.raises(ArgumentError, match="must have one shape"):
        comparison(random_images(1, 3, 8, 8), other)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([4, 8, 16, 32, 64, 128]))
def test_labelled_adds_a_line_above_the_sheet(columns: int, rows: int, size: int) -> None:
    grid = [random_images(columns, 3, size, size) for _ in range(rows)]
    result, gap = labelled(grid, [f"{column:+d}" for column in range(columns)]), max(2, size // 32)
    body = sheet(grid, gap)
    assert result.shape[2] == body.shape[2]
    assert torch.equal(result[:, -body.shape[1] :], body)
    heading = result[:, : -body.shape[1]]
    assert heading.shape[1] > 0
    assert heading.max() == 255


def test_labels_stand_over_their_columns() -> None:
    white = [torch.full((3, 3, 90, 90), 255, dtype=torch.uint8)]
    heading = (labelled(white, ["-3", "", "+3"])[:, :-90] < 128).any(0)
    ink = [bool(heading[:, k * 92 : k * 92 + 90].any()) for k in range(3)]
    assert ink == [True, False, True]


@pytest.mark.parametrize("labels", [[], ["one"], ["one", "two", "three"]])
def test_wrong_number_of_labels(labels: list[str]) -> None:
    with pytest.raises(ArgumentError, match=f"one label per column: 2, not {len(labels)}"):
        labelled([random_images(2, 3, 16, 16), random_images(1, 3, 16, 16)], labels)


@pytest.mark.parametrize("size", [48, 64, 130])
def test_row_labels_stand_left_of_their_rows(size: int) -> None:
    white = [torch.full((2, 3, size, size), 255, dtype=torch.uint8)] * 3
    plain, whole = labelled(white, ["a", "b"]), labelled(white, ["a", "b"], ["old", "", "very, very long indeed"])
    side = whole.shape[2] - plain.shape[2]
    assert torch.equal(whole[:, :, side:], plain)
    gap, ink = max(2, size // 32), (whole[:, :, :side] < 230).any(0)
    tops = [whole.shape[1] - (3 - row) * size - (2 - row) * gap for row in range(3)]
    assert [bool(ink[top : top + size].any()) for top in tops] == [True, False, True]
    assert not ink[: tops[0]].any()
    assert not ink[:, [0, -1]].any()


@pytest.mark.parametrize("width", [32, 64, 128, 300])
def test_long_labels_do_not_overlap(width: int) -> None:
    white = [torch.full((2, 3, 40, width), 255, dtype=torch.uint8)]
    labels = ["a reconstruction of everything", "a reconstruction of everything"]
    gap, ink = max(2, width // 32), (labelled(white, labels)[:, :-40] < 200).any(0)
    assert ink[:, :width].any()
    assert not ink[:, width : width + gap].any()


@pytest.mark.parametrize("size", [8, 64, 512])
def test_letters_grow_with_large_images(size: int) -> None:
    white = [torch.full((1, 3, size, size), 255, dtype=torch.uint8)]
    assert labelled(white, ["x"]).shape[1] - size == {8: 2, 64: 14, 512: 42}[size]


@pytest.mark.parametrize("labels", [["one"], ["one", "two", "three"]])
def test_wrong_number_of_row_labels(labels: list[str]) -> None:
    with pytest.raises(ArgumentError, match=f"one label per row, or none: 2, not {len(labels)}"):
        labelled([random_images(1, 3, 16, 16)] * 2, [""], labels)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 7), st.integers(1, 4), st.sampled_from([8, 32, 80]))
def test_captions_stand_below_their_images(count: int, columns: int, size: int) -> None:
    grid, gap = random_images(count, 3, size, size), max(2, size // 32)
    result = captioned(grid, [str(seed) for seed in range(count)], columns)
    down = -(-count // columns)
    across = -(-count // down)
    band = result.shape[1] // down
    assert result.shape == (3, down * band, across * (size + gap) - gap)
    for index, image in enumerate(grid):
        top, left = index // across * band, index % across * (size + gap)
        assert torch.equal(result[:, top : top + size, left : left + size], image)
        assert (result[:, top + size : top + band, left : left + size] < 255).any()
    for index in range(count, across * down):
        assert (result[:, -band:, index % across * (size + gap) :] == 255).all()


@pytest.mark.parametrize(("count", "captions", "columns"), [(0, 0, 1), (2, 1, 1), (2, 2, 0)])
def test_wrong_number_of_captions(count: int, captions: int, columns: int) -> None:
    with pytest.raises(ArgumentError, match=f"{count} images with {captions} captions in {columns} columns"):
        captioned(random_images(count, 3, 8, 8), [""] * captions, columns)
