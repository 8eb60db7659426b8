from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit import (
    ArgumentError,
    Editor,
    ImageError,
    LatentMismatchError,
    Latents,
    Method,
    load_model,
    make_grid,
    metrics,
)
from ddim_edit.editor import Model
from ddim_edit.images import Box, read, to_float, to_uint8
from ddim_edit.solve import SOLVERS

from . import tiny

QUICK = Method(steps=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def editor(model: Model) -> Editor:
    return Editor(model)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [tiny.save_picture(folder / f"{seed}.png", seed) for seed in range(5)]


def as_tensor(files: list[Path]) -> Tensor:
    return torch.stack([to_float(read(path, tiny.SIZE).pixels) for path in files])


def max_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# What comes in.


def test_pictures_may_come_in_many_ways(editor: Editor, files: list[Path]) -> None:
    """Files, folders and pictures have one fingerprint, so one noise, and give one code bit by bit."""
    wanted = editor.invert(files, QUICK)
    pictures = [read(path, tiny.SIZE) for path in files]
    for images in (
        files[0].parent,
        str(files[0].parent),
        [files[0].parent],
        pictures,
        [*pictures[:2], *files[2:4], str(files[4])],
    ):
        found = editor.invert(images, QUICK)
        assert torch.equal(found.x, wanted.x)
        assert [latent.recipe for latent in found] == [latent.recipe for latent in wanted]
    assert torch.equal(editor.invert(pictures[0], QUICK).x, editor.invert(files[0], QUICK).x)


def test_tensors_are_pictures_too(editor: Editor, files: list[Path]) -> None:
    """A tensor has its own fingerprint; without noise it gives the very code that its file gives."""
    plain = replace(QUICK, dequantise=None)
    x = as_tensor(files)
    wanted = editor.invert(files, plain).x
    assert torch.equal(editor.invert(x, plain).x, wanted)
    assert torch.equal(editor.invert(x.double(), plain).x, wanted)
    assert max_error(editor.invert(x[0], plain).x, wanted[:1]) < 1e-5
    same = editor.invert(torch.stack([x[0], x[0], x[1]]), QUICK)
    assert same[0].recipe == same[1].recipe != same[2].recipe


def test_files_larger_than_the_model_are_cropped_as_asked(editor: Editor, tmp_path: Path) -> None:
    path = tiny.save_picture(tmp_path / "large.png", 9, 30, 40)
    box = Box(5, 6, 20)
    (latent,) = editor.invert(path, QUICK, box)
    picture = read(path, tiny.SIZE, box)
    assert torch.equal(latent.x, editor.invert(picture, QUICK)[0].x)
    assert latent.recipe.origin["preprocessing"] == picture.preprocessing
    assert latent.recipe.origin["source"] == picture.source
    assert torch.equal(editor.reconstruct(path, QUICK, box).originals[0], picture.tensor.double())


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 16, 15),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(16, 16),
        torch.zeros(1, 1, 3, 16, 16),
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
    ],
    ids=lambda x: f"{list(x.shape)} {x.dtype}",
)
def test_other_tensors_are_refused_in_one_sentence(editor: Editor, images: Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"^wanted [^\n]+, was given [^\n]+: [^\n]+$"):
        editor.invert(images)


def test_a_picture_of_another_size_is_refused(editor: Editor, files: list[Path]) -> None:
    with pytest.raises(ArgumentError, match=r"wanted pictures of shape \[3, 16, 16\], was given shape \[3, 8, 8\]"):
        editor.invert(read(files[0], 8))


def test_a_missing_file_is_refused(editor: Editor, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png"):
        editor.invert([tmp_path / "missing.png"])


def test_nothing_gives_no_codes_and_no_reconstruction(editor: Editor) -> None:
    assert len(editor.invert([])) == 0
    assert len(editor.invert(torch.zeros(0, 3, 16, 16))) == 0
    for refuse in (editor.reconstruct, editor.decode):
        with pytest.raises(ArgumentError, match=r"wanted at least one .*, was given none"):
            refuse([])


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_at_least_one_picture(model: Model, size: int) -> None:
    with pytest.raises(ArgumentError, match="batch size"):
        Editor(model, batch_size=size)


def test_from_pretrained_is_the_model_in_an_editor(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "tiny")
    editor = Editor.from_pretrained(folder, "cpu", "bf16", batch_size=3)
    assert (editor.model.name, editor.model.dtype, editor.batch_size) == ("tiny", "bfloat16", 3)


# Codes and their reports.


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("exact", [False, True], ids=["plain", "exact"])
def test_reports_count_every_evaluation(model: Model, files: list[Path], solver: str, exact: bool) -> None:
    """Beside an independent count at the denoiser, picture by picture."""
    spent: list[int] = []
    editor = Editor(model, on_evaluation=spent.append)
    method = Method(solver, steps=6, exact=exact)
    latents = editor.invert(files[:3], method)
    assert sum(latent.report["nfe"] for latent in latents) == sum(spent)
    spent.clear()
    trip = editor.reconstruct(files[:3], method)
    assert sum(score["nfe"] for score in trip.scores) == sum(spent)
    assert all(score["nfe_in"] + score["nfe_out"] == score["nfe"] for score in trip.scores)
    spent.clear()
    editor.decode(trip.latents)
    assert sum(score["nfe_out"] for score in trip.scores) == sum(spent)


def test_pictures_that_have_converged_or_stalled_cost_nothing_more(model: Model, files: list[Path]) -> None:
    """A picture of one grey is a stiff case: the network's norms divide by a deviation of nearly nothing."""
    batches: list[int] = []
    editor = Editor(model, on_evaluation=batches.append)
    grey = torch.zeros(1, 3, 16, 16)
    latents = editor.invert(torch.cat([grey, as_tensor(files[:1])]), Method(steps=10, exact=True, dequantise=None))
    assert [latent.report["converged"] for latent in latents] == [False, True]
    stalled, quick = (latent.report["nfe"] for latent in latents)
    assert batches == [2] * quick + [1] * (stalled - quick)
    assert latents[0].report["error"] > 1 / 255


def test_reports_are_json_and_tell_the_health_of_the_code(editor: Editor, files: list[Path]) -> None:
    latents = editor.invert(files, replace(QUICK, check=True))
    health = metrics.health(latents.x)
    decoded = editor.decode(latents)
    for index, latent in enumerate(latents):
        for name in ("mean", "std", "corr", "kurtosis", "norm"):
            assert latent.report[f"xt_{name}"] == pytest.approx(float(getattr(health, name)[index]), rel=1e-12)
        assert latent.report["error"] == pytest.approx(max_error(decoded[index], as_tensor(files)[index]), rel=1e-4)
        assert {type(value) for value in latent.report.values()} <= {float, int, bool}


def test_a_code_stands_at_the_end_of_its_grid(editor: Editor, files: list[Path]) -> None:
    for name in ("karras:7", "leading", "quad"):
        (latent,) = editor.invert(files[0], Method("ddim", name, 5))
        grid = make_grid(name, editor.model.schedule, 5)
        assert latent.recipe.times == grid.times
        assert latent.t == grid.times[-1]
        assert latent.recipe.grid == grid.name


def test_the_recipe_names_the_model(editor: Editor, files: list[Path]) -> None:
    (latent,) = editor.invert(files[0], QUICK)
    model, recipe = editor.model, latent.recipe
    assert (recipe.model, recipe.weights, recipe.dtype) == (model.name, model.weights, model.dtype)
    assert (recipe.prediction, recipe.schedule) == (model.prediction, model.schedule.description)


@pytest.mark.parametrize("solver", ["dpm2m", "ddim", "heun", "midpoint", "bdia"])  # the others amplify a last bit
def test_neither_batch_nor_order_moves_a_code(model: Model, files: list[Path], solver: str) -> None:
    method = Method(solver, steps=8)
    whole = Editor(model).invert(files, method)
    for size in (1, 2):
        shuffled = Editor(model, size).invert(files[::-1], method)
        for latent, other in zip(whole, reversed(shuffled), strict=True):
            assert latent.recipe == other.recipe
            assert max_error(latent.x, other.x) < 1e-5
    assert max_error(Editor(model, 2).decode(whole), Editor(model).decode(whole)) < 1e-5


def test_the_same_twice_is_the_same_bit_by_bit(editor: Editor, files: list[Path]) -> None:
    method = Method(steps=6, exact=True)
    first, second = editor.invert(files, method), editor.invert(files, method)
    assert torch.equal(first.x, second.x)
    assert [latent.report for latent in first] == [latent.report for latent in second]
    assert torch.equal(editor.decode(first), editor.decode(second))
    assert torch.equal(editor.sample(3), editor.sample(3))


def test_no_global_randomness_is_used_or_moved(editor: Editor, files: list[Path]) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = editor.reconstruct(files[:1], QUICK).pictures
    editor.sample(1, eta=1.0, method=QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(editor.reconstruct(files[:1], QUICK).pictures, first)


# There and back.


@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_is_exact(editor: Editor, files: list[Path], solver: str) -> None:
    trip = editor.reconstruct(files, Method(solver, steps=10, exact=True))
    assert torch.equal(to_uint8(trip.pictures), to_uint8(trip.originals))
    assert torch.equal(to_uint8(editor.decode(trip.latents)), to_uint8(trip.originals))
    assert all(score["converged"] and score["identical_pixels"] == 1 for score in trip.scores)


@pytest.mark.parametrize("solver", ["belm", "bdia"])
@pytest.mark.parametrize("dequantise", [0, None])
def test_lossless_is_lossless(editor: Editor, files: list[Path], solver: str, dequantise: int | None) -> None:
    trip = editor.reconstruct(files, Method(solver, dequantise=dequantise))
    assert max_error(trip.pictures, trip.originals) <= 1e-12
    assert all(score["nfe_in"] == 20 for score in trip.scores)


def test_bare_noise_and_a_pair_are_decoded_together(editor: Editor, files: list[Path]) -> None:
    method = Method("bdia", "uniform", 10)
    latents = [*editor.noise([3], method), *editor.invert(files[:1], method)]
    together = editor.decode(latents)
    assert max_error(together, torch.cat([editor.decode([latent]) for latent in latents])) < 1e-5


def test_decoding_keeps_the_order_of_mixed_walks(editor: Editor, files: list[Path]) -> None:
    methods = [QUICK, Method("ddim", steps=5), QUICK, Method("heun", "quad", 3), QUICK]
    latents = [editor.invert(path, method)[0] for path, method in zip(files, methods, strict=True)]
    together = editor.decode(latents)
    alone = torch.cat([editor.decode([latent]) for latent in latents])
    assert max_error(together, alone) < 1e-5


def test_scores_are_those_of_the_metrics(editor: Editor, files: list[Path]) -> None:
    trip = editor.reconstruct(files, QUICK)
    pair = trip.originals, trip.pictures
    assert torch.equal(trip.originals, as_tensor(files).double())
    assert max_error(trip.pictures, editor.decode(trip.latents)) < 1e-12
    for name, metric in {"mse": metrics.mse, "psnr": metrics.psnr, "ssim": metrics.ssim}.items():
        assert [score[name] for score in trip.scores] == pytest.approx(metric(*pair).tolist(), rel=1e-12)
    assert [score["lpips"] for score in trip.scores] == pytest.approx(metrics.LPIPS()(*pair).tolist(), rel=1e-5)
    same = (to_uint8(pair[0]) == to_uint8(pair[1])).all(1).flatten(1).double().mean(1)
    assert [score["identical_pixels"] for score in trip.scores] == same.tolist()


def test_latents_of_others_are_refused(editor: Editor, files: list[Path]) -> None:
    (latent,) = editor.invert(files[0], QUICK)
    foreign = {
        "model": replace(latent.recipe, model="other"),
        "weights": replace(latent.recipe, weights="0" * 64),
        "dtype": replace(latent.recipe, dtype="bfloat16"),
        "schedule": replace(latent.recipe, schedule={"kind": "cosine"}),
        "prediction": replace(latent.recipe, prediction="epsilon"),
    }
    for name, recipe in foreign.items():
        theirs = replace(latent, recipe=recipe)
        with pytest.raises(LatentMismatchError) as caught:
            editor.decode([latent, theirs])
        assert str(getattr(recipe, name))[:8] in str(caught.value)
        assert str(getattr(latent.recipe, name))[:8] in str(caught.value)
        assert max_error(editor.decode([theirs], force=True), editor.decode([latent])) < 1e-5
    narrow = replace(latent, x=latent.x[..., :8])
    with pytest.raises(LatentMismatchError, match=r"\[3, 16, 8\]"):
        editor.decode([narrow], force=True)


# Noise, samples and paths.


def test_noise_is_a_code_like_any_other(editor: Editor) -> None:
    latents = editor.noise(range(64), QUICK)
    assert torch.equal(editor.decode(latents[3:5]), editor.sample(2, seed=3, method=QUICK))
    assert all(latent.recipe.times[0] == 0 for latent in latents)
    assert float(latents.x.std()) == pytest.approx(1, abs=0.02)
    assert float(latents.x.mean()) == pytest.approx(0, abs=0.02)


def test_samples_of_a_gaussian_model_are_gaussian(editor: Editor) -> None:
    """The small model is nearly that of unit Gaussians: DDIM and DDPM both keep their variance."""
    for eta in (0.0, 0.5, 1.0):
        pictures = editor.sample(8, method=Method("ddim", steps=50), eta=eta)
        assert float(pictures.std()) == pytest.approx(1, abs=0.1)
    mean_path = editor.sample(8, method=Method("ddim", steps=50), posterior_mean=True)
    assert float(mean_path.std()) < 0.5


@pytest.mark.parametrize(("n", "eta"), [(0, 0.0), (1, -0.1), (1, 1.1), (1, float("nan"))])
def test_impossible_samples_are_refused(editor: Editor, n: int, eta: float) -> None:
    with pytest.raises(ArgumentError, match="n of at least 1, eta from 0 to 1"):
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
    a, b = editor.invert(files[:2], Method("bdia", steps=5))
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
    with pytest.raises(ArgumentError, match="4 latents"):
        editor.sheet(corners[:3])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), Method("rk45")),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), Method(grid="zigzag")),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), Method(steps=0)),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), Method("bdia", steps=1)),
        lambda editor, latents: editor.invert(torch.zeros(1, 3, 16, 16), Method(tol=0.0)),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(editor: Editor, corners: Latents, refused: Refused) -> None:
    with pytest.raises(ArgumentError, match=r"^wanted [^\n]+, was given [^\n]+: [^\n]+$"):
        refused(editor, corners)


def test_latents_of_different_walks_have_no_path(editor: Editor, files: list[Path]) -> None:
    ends = [editor.invert(files[0], QUICK)[0], editor.invert(files[1], Method(steps=5))[0]]
    with pytest.raises(LatentMismatchError, match="latents of one times"):
        editor.interpolate(ends)
