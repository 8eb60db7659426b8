"""Grids that start above the image: what decodes latents that stayed and latents that were moved."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import (
    SOLVERS,
    Condition,
    Editor,
    InversionConfig,
    Latent,
    LatentError,
    MixtureDenoiser,
    NoiseSchedule,
    Recipe,
    make_grid,
)
from ddim_edit.diffusion.grids import Karras, grid_below
from ddim_edit.diffusion.integration import Ending, Inversion, Sampled, invert, sample
from ddim_edit.diffusion.noise import SeededNoise
from ddim_edit.directions import make_edit
from ddim_edit.errors import InputWarning
from ddim_edit.latents.exchange import export_latents, import_latents
from ddim_edit.latents.interpolation import slerp
from ddim_edit.latents.latent import interpolate
from ddim_edit.latents.store.shard import Shard, join_shards, write_shard

from .attributes import made
from .measures import max_error

SCHEDULE = NoiseSchedule.linear()
STARTED = InversionConfig(steps=5, grid="karras:10@80")
WIDTH = 0.6
STEPS = 100


@pytest.fixture(scope="module")
def gaussian() -> MixtureDenoiser:
    """The exact denoiser of images from N(0, WIDTH^2)."""
    return MixtureDenoiser(torch.zeros(1, 3, 8, 8), torch.tensor([WIDTH], dtype=torch.float64), torch.ones(1))


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return SeededNoise([5, 6]).draw((3, 8, 8))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return WIDTH * SeededNoise([1, 2]).draw((3, 8, 8))


def inverted(denoiser: MixtureDenoiser, images: Tensor, noise: Tensor | None, solver: str = "dpm2m") -> Inversion:
    return invert(denoiser, images, SCHEDULE.spans(Karras(10, 80)(SCHEDULE, STEPS)), SOLVERS[solver], noise)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_detail_is_what_the_denoiser_loses_at_the_first_level(
    gaussian: MixtureDenoiser, images: Tensor, noise: Tensor, solver: str
) -> None:
    """Of N(0, c^2) the denoiser's image is c^2 / (c^2 + s^2) y, whatever the solver."""
    found = inverted(gaussian, images, noise, solver)
    s = SCHEDULE.s(80)
    kept = WIDTH**2 / (WIDTH**2 + s**2)
    assert found.detail is not None
    assert max_error(found.detail, images - kept * (images + s * noise)) < 1e-12


def test_the_detail_costs_no_evaluation(gaussian: MixtureDenoiser, images: Tensor, noise: Tensor) -> None:
    assert inverted(gaussian, images, noise).nfe.tolist() == [STEPS, STEPS]


def test_there_is_no_detail_without_noise_or_right_above_the_image(
    gaussian: MixtureDenoiser, images: Tensor, noise: Tensor
) -> None:
    assert inverted(gaussian, images, None).detail is None
    spans = SCHEDULE.spans(make_grid("karras:14", SCHEDULE, 20))
    assert invert(gaussian, images, spans, SOLVERS["dpm2m"], noise).detail is None


def decoded(gaussian: MixtureDenoiser, found: Inversion, part: float) -> Sampled:
    assert found.detail is not None
    spans = SCHEDULE.spans(Karras(10, 80)(SCHEDULE, STEPS))
    ending = Ending(part * found.detail, [part] * 2, SCHEDULE.spans(grid_below(80, SCHEDULE)))
    return sample(gaussian, found.state, spans, SOLVERS["dpm2m"], None, ending)


@pytest.mark.parametrize("part", [1.0, 0.5, 0.0])
def test_moved_latents_end_with_the_detail_of_the_image_and_the_model_s_own(
    gaussian: MixtureDenoiser, images: Tensor, noise: Tensor, part: float
) -> None:
    """The ODE of N(0, c^2) leads from y at s to the image c / sqrt(c^2 + s^2) y."""
    found = inverted(gaussian, images, noise)
    s = SCHEDULE.s(80)
    own = WIDTH / math.hypot(WIDTH, s) * (images + s * noise)
    ended = decoded(gaussian, found, part)
    assert max_error(ended.x0, part * images + (1 - part) * own) < 0.015  # of the few steps below
    below = grid_below(80, SCHEDULE).steps
    assert ended.nfe.tolist() == [STEPS + (1 if part == 1 else below)] * 2


@pytest.mark.parametrize("grid", ["karras:10@80", "times:160,400,700,1000"])
def test_exact_is_of_the_image_wherever_the_grid_starts(editor: Editor, files: list[Path], grid: str) -> None:
    """The state is alpha times the image, and so its error is smaller."""
    config = InversionConfig(grid=grid, steps=4, exact=True)
    found = editor.reconstruct(files[:2], config)
    errors = (found.decoded - found.originals).abs().amax((1, 2, 3))
    assert all(latent.report["converged"] for latent in found.latents)
    assert float(errors.max()) <= config.tol


@pytest.mark.parametrize("start", [80.0, 20.0, 1.5])
def test_steps_below_a_start_are_even_and_small(start: float) -> None:
    times = grid_below(start, SCHEDULE).times
    assert (times[0], times[1], times[-1]) == (0.0, 1.0, start)
    ratios = torch.tensor([SCHEDULE.s(t) for t in times[1:]]).log().diff().exp()
    assert max_error(ratios, ratios.mean().expand(len(ratios))) < 1e-4
    assert 1 < float(ratios[0]) <= 1.75


def test_the_level_of_the_start_is_that_of_the_seeded_noise() -> None:
    grid = make_grid("karras:14@20", SCHEDULE, 20)
    assert (grid.name, grid.times[0], grid.times[-1], grid.steps) == ("karras:14@20", 20.0, 1000.0, 20)
    roots = torch.tensor([SCHEDULE.s(t) ** (1 / 14) for t in grid.times], dtype=torch.float64)
    assert max_error(roots.diff(), roots.diff().mean().expand(20)) < 1e-9
    assert make_grid(Karras(7, start=1), SCHEDULE, 20) == make_grid("karras:7", SCHEDULE, 20)
    part = make_grid("karras:14@0.02T", SCHEDULE, 20)
    assert (part.name, part.times) == ("karras:14@0.02T", grid.times)


@pytest.fixture(scope="module")
def latents(editor: Editor, files: list[Path]) -> list[Latent]:
    return list(editor.invert(files[:2], STARTED))


def test_what_stayed_decodes_without_its_detail_and_what_moved_with_it(editor: Editor, latents: list[Latent]) -> None:
    latent = latents[0]
    assert latent.detail is not None
    assert torch.equal(editor.decode(latent), editor.decode(replace(latent, detail=None)))
    moved = latent.moved()
    other = replace(moved, detail=latent.detail + 0.25)
    assert max_error(editor.decode(other), editor.decode(moved) + 0.25) < 1e-6


@pytest.mark.parametrize(("w", "part"), [(0.25, 0.5), (0.5, 0.0), (0.9, 0.8)])
def test_details_of_two_images_are_never_added(latents: list[Latent], w: float, part: float) -> None:
    nearest = latents[round(w)]
    mixed = interpolate(*latents, "slerp", w)
    assert mixed.detail is not None
    assert nearest.detail is not None
    assert (mixed.recipe.detail, mixed.recipe.dequantise) == (pytest.approx(part), ())
    assert max_error(mixed.detail, part * nearest.detail) < 1e-7


def test_mixtures_of_mixtures_keep_the_part_of_what_they_are_made_of(latents: list[Latent]) -> None:
    once = interpolate(*latents, "slerp", 0.25)
    assert interpolate(once, latents[1], "slerp", 0.25).recipe.detail == pytest.approx(0.25)


def test_the_ends_of_a_path_are_the_latents_themselves(editor: Editor, latents: list[Latent]) -> None:
    path = editor.interpolate(latents, 3)
    assert [latent.recipe.detail for latent in path] == [None, 0.0, None]
    assert torch.equal(editor.decode([path[0], path[2]]), editor.decode(latents))


def test_moved_and_unmoved_latents_are_decoded_side_by_side(editor: Editor, latents: list[Latent]) -> None:
    path = editor.interpolate(latents, 4)
    together = editor.decode(path)
    for latent, image in zip(path, together, strict=True):
        assert max_error(editor.decode(latent), image) < 1e-5


@pytest.mark.parametrize("level", ["0.4T", "h"])
def test_an_edit_moves_and_strength_0_does_not(editor: Editor, files: list[Path], level: str) -> None:
    direction = made(editor, "a", 1, level, STARTED)
    latents = editor.invert(files[:2], direction.config)
    for strength, detail in ((0.0, None), (1.0, 1.0)):
        edited, _ = make_edit({direction: strength})(latents, editor.model.denoiser)
        assert [latent.recipe.detail for latent in edited] == [detail] * 2


def test_a_weak_edit_is_near_the_image(editor: Editor, files: list[Path]) -> None:
    """The two ways to end a decode meet at strength 0 but for what the denoiser makes of the solver's error."""
    direction = made(editor, "a", 1, "0.4T", replace(STARTED, steps=20))
    still, weak = editor.edits(files[:2], [{direction: 0.0}, {direction: 1e-6}]).unbind(1)
    assert max_error(still, weak) < 0.05


def test_another_condition_moves_a_latent(latents: list[Latent]) -> None:
    assert latents[0].with_condition(Condition(label=1)).recipe.detail == 1


def test_sampling_goes_down_to_the_image(editor: Editor) -> None:
    (latent,) = editor.noise([3], STARTED)
    assert latent.recipe.times[:2] == (0.0, 1.0)
    assert torch.equal(editor.decode(latent), editor.decode(editor.noise([3], grid="karras:10", steps=5)[0]))


def test_a_moved_latent_reads_back_from_its_file(editor: Editor, latents: list[Latent], tmp_path: Path) -> None:
    middle = interpolate(*latents, "slerp", 0.25)
    middle.save(tmp_path / "middle.latent.safetensors")
    back = Latent.load(tmp_path / "middle.latent.safetensors")
    assert back.recipe == middle.recipe
    assert torch.equal(editor.decode(back), editor.decode(middle))


def test_recipes_of_latents_that_stayed_are_written_as_ever(latents: list[Latent]) -> None:
    record = latents[0].recipe.to_json()
    assert "detail" not in record
    assert Recipe.from_json(json.loads(json.dumps(record))) == latents[0].recipe
    moved = latents[0].moved().recipe
    assert Recipe.from_json(json.loads(json.dumps(moved.to_json()))) == moved


def test_a_moved_latent_without_its_detail_is_refused(editor: Editor, latents: list[Latent]) -> None:
    with pytest.raises(LatentError, match="ends with the denoiser's image plus a detail, which is missing"):
        editor.decode(replace(latents[0].moved(), detail=None))


def test_stores_keep_the_detail(latents: list[Latent], tmp_path: Path) -> None:
    a, b = latents
    shape = tuple(a.x.shape)
    for name, latent in (("a", a), ("b", b)):
        write_shard(tmp_path / name, {name: latent}, {}, shape)
    join_shards(tmp_path / "joined", [tmp_path / "a", tmp_path / "b"])
    for kept, latent in zip(Shard(tmp_path / "joined"), latents, strict=True):
        assert kept.parts.keys() == latent.parts.keys() == {"x", "detail"}
        assert all(torch.equal(part, latent.parts[name]) for name, part in kept.parts.items())


def test_latents_that_went_through_another_program_keep_what_they_still_are(
    latents: list[Latent], tmp_path: Path
) -> None:
    a, b = latents
    path = tmp_path / "x.npy"
    changed = {0.0: a.x, 0.25: slerp(a.x, b.x, 0.25), 1.0: b.x}
    for w, x in changed.items():
        with pytest.warns(InputWarning, match=r"below t = 80, where its grid starts, is not in x"):
            export_latents(path, replace(a, x=x), "npy")
        (back,) = import_latents(path, a)
        assert back.detail is not None
        assert a.detail is not None
        cosine = float((x * a.x).sum() / (x.norm() * a.x.norm()))
        if w == 0:
            assert back.recipe.detail is None
            assert back.recipe.dequantise == a.recipe.dequantise
        else:
            assert back.recipe.detail == pytest.approx(max(0, 2 * cosine - 1))
            assert max_error(back.detail, back.recipe.detail * a.detail) < 1e-6


def test_what_is_imported_like_a_mixture_keeps_no_more_detail_than_that_has(
    latents: list[Latent], tmp_path: Path
) -> None:
    like = interpolate(*latents, "slerp", 0.25)
    with pytest.warns(InputWarning, match="is not in x"):
        export_latents(tmp_path / "x.npy", replace(like, x=slerp(like.x, latents[0].x, 0.25)), "npy")
    (back,) = import_latents(tmp_path / "x.npy", like)
    assert like.recipe.detail == pytest.approx(0.5)
    assert back.recipe.detail is not None
    assert 0 < back.recipe.detail < 0.5
