from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddim_edit import ArgumentError, Editor, InversionConfig, LatentMismatchError, Latents
from ddim_edit.latents.interpolation import linear_combination

from .measures import QUICK, max_error


def test_noise_is_a_code_like_any_other(editor: Editor) -> None:
    latents = editor.noise(range(64), QUICK)
    assert torch.equal(editor.decode(latents[3:5]), editor.sample(2, seed=3, config=QUICK))
    assert all(latent.recipe.times[0] == 0 for latent in latents)
    assert float(latents.x.std()) == pytest.approx(1, abs=0.02)
    assert float(latents.x.mean()) == pytest.approx(0, abs=0.02)


def test_samples_of_a_gaussian_model_are_gaussian(editor: Editor) -> None:
    """The small model is nearly that of unit Gaussians: DDIM and DDPM both keep their variance."""
    for eta in (0.0, 0.5, 1.0):
        pictures = editor.sample(8, config=InversionConfig("ddim", steps=50), eta=eta)
        assert float(pictures.std()) == pytest.approx(1, abs=0.1)
    mean_path = editor.sample(8, config=InversionConfig("ddim", steps=50), posterior_mean=True)
    assert float(mean_path.std()) < 0.5


@pytest.mark.parametrize(("n", "eta"), [(0, 0.0), (1, -0.1), (1, 1.1), (1, float("nan"))])
def test_impossible_samples_are_refused(editor: Editor, n: int, eta: float) -> None:
    with pytest.raises(ArgumentError, match="n must be at least 1 and eta from 0 to 1"):
        editor.sample(n, eta=eta)


@pytest.mark.parametrize("blend", ["slerp", "lerp", "norm"])
def test_paths_begin_and_end_at_their_latents(editor: Editor, files: list[Path], blend: str) -> None:
    ends = editor.invert(files[:3], QUICK)
    walk = editor.interpolate(ends, 4, blend)
    assert isinstance(walk, Latents)
    assert len(walk) == 7
    stops = Latents([walk[0], walk[3], walk[6]])
    assert torch.equal(stops.x, ends.x)
    assert max_error(editor.decode(stops), editor.decode(ends)) == 0


def test_slerp_keeps_the_length_of_codes_of_one_length(editor: Editor) -> None:
    ends = [replace(latent, x=latent.x / latent.x.norm()) for latent in editor.noise([1, 2], QUICK)]
    norms = {name: editor.interpolate(ends, 5, name).x.flatten(1).norm(dim=1) for name in ("slerp", "norm", "lerp")}
    assert max_error(norms["slerp"], torch.ones(5)) < 1e-12
    assert max_error(norms["norm"], torch.ones(5)) < 1e-12
    assert float(norms["lerp"][2]) < 0.8


def test_a_path_of_pairs_is_a_path_of_both_parts(editor: Editor, files: list[Path]) -> None:
    a, b = editor.invert(files[:2], InversionConfig("bdia", steps=5))
    middle = editor.interpolate([a, b], 3)[1]
    assert a.delta is not None
    assert b.delta is not None
    assert middle.delta is not None
    assert max_error(middle.delta, (a.delta + b.delta) / 2) < 1e-15


def test_a_sheet_has_its_corners_and_straight_sides(editor: Editor, files: list[Path]) -> None:
    corners = editor.invert(files[:4], QUICK)
    rows = editor.sheet(corners, rows=2, columns=3)
    assert [len(row) for row in rows] == [3, 3]
    assert torch.equal(torch.stack([rows[0][0].x, rows[0][2].x, rows[1][0].x, rows[1][2].x]), corners.x)
    assert torch.equal(rows[0].x, editor.interpolate(corners[:2], 3).x)
    assert torch.equal(rows[1].x, editor.interpolate(corners[2:], 3).x)
    with pytest.raises(ArgumentError, match="The corners of a sheet make at least 2 full rows"):
        editor.sheet(corners[:3])


def test_a_sheet_over_a_grid_is_sheets_side_by_side(editor: Editor) -> None:
    grid = editor.noise(range(6), QUICK)
    whole = editor.sheet(grid, rows=3, columns=5, across=3)
    left = editor.sheet([grid[0], grid[1], grid[3], grid[4]], rows=3, columns=3)
    right = editor.sheet([grid[1], grid[2], grid[4], grid[5]], rows=3, columns=3)
    for row, one, other in zip(whole, left, right, strict=True):
        assert torch.equal(row.x, torch.cat([one.x, other.x[1:]]))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(across=st.integers(2, 3), down=st.integers(2, 3), rows=st.integers(2, 5), columns=st.integers(2, 5))
def test_a_sheet_of_any_shape_keeps_its_four_corners(
    editor: Editor, across: int, down: int, rows: int, columns: int
) -> None:
    grid = editor.noise(range(across * down), QUICK)
    sheet = editor.sheet(grid, rows, columns, across=across)
    assert [len(row) for row in sheet] == [columns] * rows
    found = torch.stack([sheet[0][0].x, sheet[0][-1].x, sheet[-1][0].x, sheet[-1][-1].x])
    wanted = torch.stack([grid[0].x, grid[across - 1].x, grid[-across].x, grid[-1].x])
    assert torch.equal(found, wanted)


def test_latents_and_images_are_combined(editor: Editor, files: list[Path]) -> None:
    ends = editor.invert(files[:3], QUICK)
    weights = [0.5, 0.3, -0.2]
    made = editor.combine(ends, weights)
    assert torch.equal(made.x, linear_combination([latent.x for latent in ends], weights))
    assert max_error(editor.combine(files[:3], weights, QUICK).x, made.x) < 1e-5
    assert editor.decode(made).isfinite().all()


def test_a_combination_with_a_single_weight_decodes_as_its_latent(editor: Editor, files: list[Path]) -> None:
    ends = editor.invert(files[:3], QUICK)
    assert torch.equal(editor.decode(editor.combine(ends, [0, 1, 0])), editor.decode(ends[1]))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.integers(2, 4), columns=st.integers(2, 4))
def test_a_sheet_turned_over_is_the_sheet_of_turned_corners(
    editor: Editor, corners: Latents, rows: int, columns: int
) -> None:
    sheet = torch.stack([row.x for row in editor.sheet(corners, rows, columns)])
    a, b, c, d = corners
    turned = torch.stack([row.x for row in editor.sheet([d, c, b, a], rows, columns)])
    assert max_error(sheet, turned.flip(0, 1)) < 1e-12


@pytest.fixture(scope="module")
def corners(editor: Editor) -> Latents:
    return editor.noise([1, 2, 3, 4], QUICK)


Refused = Callable[[Editor, Latents], object]


@pytest.mark.parametrize(
    "refused",
    [
        lambda editor, latents: editor.interpolate(latents[:1]),
        lambda editor, latents: editor.interpolate([]),
        lambda editor, latents: editor.interpolate(latents, 1),
        lambda editor, latents: editor.interpolate(latents, 3, "spline"),
        lambda editor, latents: editor.combine([]),
        lambda editor, latents: editor.combine(latents, [1, 2]),
        lambda editor, latents: editor.sheet(latents, rows=1),
        lambda editor, latents: editor.sheet(latents, across=4),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), InversionConfig("rk45")),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), InversionConfig(grid="zigzag")),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), grid=[3, 2, 1]),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), solver=dict),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), InversionConfig(steps=0)),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), InversionConfig("bdia", steps=1)),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), InversionConfig(tol=0.0)),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(editor: Editor, corners: Latents, refused: Refused) -> None:
    with pytest.raises(ArgumentError, match=r"^[^\n]+$"):
        refused(editor, corners)


def test_latents_of_different_walks_have_no_path(editor: Editor, files: list[Path]) -> None:
    ends = [editor.invert(files[0], QUICK), editor.invert(files[1], InversionConfig(steps=5))]
    with pytest.raises(LatentMismatchError, match="These latents differ in times"):
        editor.interpolate(ends)
