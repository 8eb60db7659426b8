from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddim_edit import ArgumentError, Editor, InversionConfig, Latent, LatentCache, Latents, Model, load_model
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.solvers.registry import SOLVERS
from ddim_edit.images import Box, Fit

from .. import tiny
from .measures import QUICK, as_tensor, max_error

METHOD = InversionConfig(steps=8)
LEVELS = [300, "0.6T", "xT", "h", "h:0.2T"]


@pytest.mark.parametrize("solver", ["dpm2m", "ddim", "heun", "midpoint"])
@pytest.mark.parametrize("dequantise", [0, None])
def test_one_walk_reads_every_level_as_its_own_inversion_would(
    editor: Editor, files: list[Path], solver: str, dequantise: int | None
) -> None:
    method = InversionConfig(solver, steps=8, dequantise=dequantise)
    levels = {200.0: 200, 300.0: "300", 600.0: "0.6T", None: "xT"}
    found = editor.latents_at(files, list(levels.values()), method)
    for level, codes in zip(levels, found, strict=True):
        latents = editor.invert(files, replace(method, level=level))
        assert codes.values.dtype == torch.float32
        assert max_error(codes.values, latents.x.float()) < 1e-6
        assert codes.recipe.times == latents[0].recipe.times
        assert codes.times == ()


@pytest.mark.parametrize("solver", ["dpm2m", "ddim", "heun"])
def test_bottlenecks_are_those_of_the_network_at_the_states_on_the_way(
    editor: Editor, files: list[Path], solver: str
) -> None:
    """The steps of dpm2m and ddim ask at their guess of the next state, so that h is near that of the state itself."""
    method, denoiser = InversionConfig(solver, steps=8, dequantise=None), editor.model.denoiser
    (codes,) = editor.latents_at(files, ["h"], method)
    assert isinstance(denoiser, NetworkDenoiser)
    assert len(codes.times) >= 3
    assert codes.recipe.times == method.make_grid(editor.model.schedule).times
    tol = {"heun": 1e-5, "dpm2m": 0.02, "ddim": 0.3}[solver]
    for index, t in enumerate(codes.times):
        x = editor.invert(files, replace(method, level=t)).x
        _, h = denoiser.network.read(x.float(), torch.full((len(x),), t - 1))
        assert max_error(codes.values[:, index], h) < tol
    (one,) = editor.latents_at(files, [f"h:{codes.times[1]}"], method)
    assert one.times == codes.times[1:2]
    assert max_error(one.values, codes.values[:, 1:2]) < 1e-5


def test_a_walk_goes_no_further_than_the_levels_need(model: Model, files: list[Path]) -> None:
    spent: list[int] = []
    editor = Editor(model, batch_size=2, on_evaluation=spent.append)
    grid = METHOD.make_grid(model.schedule)
    for levels in (["0.4T"], ["0.2T", "0.4T"], ["xT"], ["h"], ["h:0.2T"], LEVELS):
        spent.clear()
        codes = editor.latents_at(files, levels, METHOD)
        last = max(grid.times.index(max(t for t in (c.times or c.recipe.times))) + bool(c.times) for c in codes)
        assert spent == [2] * last + [2] * last + [1] * last


@pytest.mark.parametrize("level", [200, 600.0, None])
@pytest.mark.parametrize("solver", SOLVERS)
def test_codes_of_a_level_decode_to_the_picture(
    editor: Editor, files: list[Path], solver: str, level: float | None
) -> None:
    """Exactly so where the inversion is exact, and a latent of any level says where it stands."""
    method = InversionConfig(solver, "karras:14", steps=8, exact=True, level=level)
    latents = editor.invert(files[:2], method)
    assert max_error(editor.decode(latents), as_tensor(files[:2])) < 0.0036
    grid = method.make_grid(editor.model.schedule)
    assert {latent.t for latent in latents} == {grid.times[-1]}
    assert latents[0].recipe.times == grid.times


def test_codes_can_be_made_latents_again(editor: Editor, files: list[Path]) -> None:
    (codes,) = editor.latents_at(files, ["0.6T"], replace(METHOD, dequantise=None))
    latents = Latents(Latent(x.double(), codes.recipe.times[-1], codes.recipe) for x in codes.values)
    own = editor.invert(files, replace(METHOD, dequantise=None, level=600))
    assert max_error(editor.decode(latents), editor.decode(own)) < 1e-4


def test_batches_do_not_change_codes(model: Model, files: list[Path]) -> None:
    for one, other in zip(*(Editor(model, size).latents_at(files, LEVELS, METHOD) for size in (1, 5)), strict=True):
        assert max_error(one.values, other.values) < 1e-5
        assert one.recipe == other.recipe


def test_a_shelf_saves_every_evaluation_and_changes_no_bit(model: Model, files: list[Path], tmp_path: Path) -> None:
    spent: list[int] = []
    editor, shelf = Editor(model, on_evaluation=spent.append), LatentCache(tmp_path)
    first = editor.latents_at(files[:3], LEVELS, METHOD, cache=shelf)
    assert len(shelf) == 3 * len(LEVELS)
    spent.clear()
    again = Editor(model, on_evaluation=spent.append).latents_at(files[:3], LEVELS, METHOD, cache=LatentCache(tmp_path))
    assert not spent
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.values, other.values)
    editor.latents_at(files[:3], ["0.6T", "h"], METHOD, cache=shelf)
    assert not spent
    editor.latents_at(files[1:4], ["xT"], METHOD, cache=shelf)
    assert spent == [1] * 8


def test_a_broken_cache_file_is_read_anew(model: Model, files: list[Path], tmp_path: Path) -> None:
    spent: list[int] = []
    editor, shelf = Editor(model, on_evaluation=spent.append), LatentCache(tmp_path)
    (first,) = editor.latents_at(files, ["xT"], METHOD, cache=shelf)
    broken = sorted(tmp_path.rglob("*.safetensors"))[2]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    spent.clear()
    (again,) = editor.latents_at(files, ["xT"], METHOD, cache=shelf)
    assert spent == [1] * 8
    assert max_error(first.values, again.values) < 1e-5
    assert len(broken.read_bytes()) == len(whole)


def test_another_walk_crop_or_seed_is_not_taken_from_the_shelf(model: Model, tmp_path: Path) -> None:
    file = tiny.save_picture(tmp_path / "wide.png", 3, 20, 30)
    spent: list[int] = []
    editor, shelf = Editor(model, on_evaluation=spent.append), {}
    crops = ({}, {"crop": Box(0, 0, 18)}, {"crop": Fit()})
    methods = (
        METHOD,
        replace(METHOD, dequantise=1),
        replace(METHOD, dequantise=None),
        InversionConfig("ddim", steps=8),
        QUICK,
    )
    for options in crops:
        editor.latents_at(file, ["0.4T"], METHOD, cache=shelf, **options)
    for method in methods[1:]:
        editor.latents_at(file, ["0.4T"], method, cache=shelf)
    assert len(shelf) == len(crops) + len(methods) - 1
    twin = load_model(tiny.save_model(tmp_path / "tiny", seed=5))
    Editor(twin).latents_at(file, ["0.4T"], METHOD, cache=shelf)
    assert len(shelf) == len(crops) + len(methods)
    spent.clear()
    editor.latents_at(file, ["0.4T"], METHOD, cache=shelf)
    assert not spent


@pytest.mark.parametrize("solver", ["belm", "bdia", "edict"])
def test_solvers_of_two_states_are_refused(editor: Editor, files: list[Path], solver: str) -> None:
    with pytest.raises(ArgumentError, match="exist for dpm2m, ddim, "):
        editor.latents_at(files, ["xT"], InversionConfig(solver, steps=4))


def test_what_cannot_be_read_is_refused_in_one_sentence(editor: Editor, files: list[Path]) -> None:
    refusals = [
        (files, [], METHOD),
        ([], ["xT"], METHOD),
        (files, ["half way"], METHOD),
        (files, [1001], METHOD),
        (files, ["h"], InversionConfig("midpoint", steps=4)),
        (files, ["h"], InversionConfig(steps=1)),
        (files, ["xT"], InversionConfig("rk45")),
        (files, ["xT"], InversionConfig(level=-1)),
    ]
    for images, levels, method in refusals:
        with pytest.raises(ArgumentError, match=r"^[^\n]+$"):
            editor.latents_at(images, levels, method)
