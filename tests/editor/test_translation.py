"""Attributes by example, analogies, and translation to another model's domain."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import (
    ArgumentError,
    DirectionError,
    Editor,
    InversionConfig,
    LatentMismatchError,
    MixtureDenoiser,
    Model,
    NoiseSchedule,
    load_model,
)
from ddim_edit.directions import to_unit
from ddim_edit.models.codec.pixels import ColourCodec

from .. import tiny
from .measures import QUICK, as_tensor, max_error

LINEAR, SHAPE = NoiseSchedule.linear(), (3, 4, 4)
PLAIN = replace(QUICK, dequantise=None)


def gaussian(name: str, mean: float, width: float, seed: int, schedule: NoiseSchedule = LINEAR) -> Editor:
    """An editor on the exact model of pictures from N(m, width^2), with m around a mean."""
    means = mean + 0.2 * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    denoiser = MixtureDenoiser(means, width * one, one)
    return Editor(Model(denoiser, ColourCodec(), schedule, SHAPE, name, {"network": name}, "epsilon"))


def mean_of(editor: Editor) -> Tensor:
    assert isinstance(editor.model.denoiser, MixtureDenoiser)
    return editor.model.denoiser.means


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(load_model(tiny.save_model(tmp_path_factory.mktemp("models") / "other", seed=1)))


def test_attribute_of_two_images_is_the_difference_of_their_latents(editor: Editor, files: list[Path]) -> None:
    direction = editor.attribute_from(files[0], files[1], "one", "0.6T", QUICK)
    (codes,) = editor.latents_at(files[:2], ["0.6T"], QUICK)
    way = (codes.values[0] - codes.values[1]).double()
    assert max_error(direction.vector, to_unit(way)) < 1e-6
    assert direction.sd == pytest.approx(float(way.norm()) / 2, rel=1e-6)
    assert direction.score(codes.values).tolist() == pytest.approx([1, -1], abs=1e-5)
    assert direction.report["gap"] == pytest.approx(float(way.norm()), rel=1e-6)
    assert direction.report["auc"] is None
    assert (direction.name, direction.recipe) == ("one", codes.recipe)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_attribute_from_few_images(editor: Editor, tmp_path: Path, n: int, m: int) -> None:
    """Too few for every class to be in every fold of shuffled labels by chance."""
    pictures = [tiny.save_picture(tmp_path / f"{seed}.png", seed) for seed in range(n + m)]
    direction = editor.attribute_from(pictures[:n], pictures[n:], level="0.6T", config=PLAIN)
    (codes,) = editor.latents_at(pictures, ["0.6T"], PLAIN)
    way = codes.values[:n].double().mean(0) - codes.values[n:].double().mean(0)
    assert max_error(direction.vector, to_unit(way)) < 1e-6
    assert direction.report["gap"] == pytest.approx(float(way.norm()), rel=1e-5)
    assert (direction.report["positive"], direction.report["negative"]) == (n, m)
    assert direction.report["folds"] == (min(n, m) if min(n, m) > 1 else 0)


def test_attribute_in_h_is_the_difference_of_means_at_each_time(editor: Editor, files: list[Path]) -> None:
    method = InversionConfig(steps=8)
    direction = editor.attribute_from(files[:2], files[2:5], level="h", config=method)
    with_, without = (editor.latents_at(part, ["h"], method)[0] for part in (files[:2], files[2:5]))
    assert direction.times == with_.times
    assert len(direction.times) >= 3
    for index in range(len(direction.times)):
        difference = with_.values[:, index].double().mean(0) - without.values[:, index].double().mean(0)
        assert max_error(direction.report["gap"] * direction.vector[index], difference) < 1e-5


@pytest.mark.parametrize("level", ["0.4T", "h"])
def test_analogy_is_an_edit_by_the_difference_of_latents(editor: Editor, files: list[Path], level: str) -> None:
    method = InversionConfig(steps=6)
    a, b, c = files[0], files[1], files[2:4]
    direction = editor.attribute_from(a, b, level=level, config=method)
    made = editor.analogy(a, b, c, 0.5, level, method)
    assert max_error(made, editor.edit(c, {direction: 1.0})) < 1e-5  # half of a - b, which is two units apart
    assert max_error(made, as_tensor(c)) > 1e-2


def test_analogy_of_weight_0_returns_c(editor: Editor, files: list[Path]) -> None:
    assert max_error(editor.analogy(files[0], files[1], files[2:], 0.0, config=QUICK), as_tensor(files[2:])) < 1e-12


def test_analogy_converges_to_c_as_a_converges_to_b(editor: Editor, files: list[Path]) -> None:
    """In proportion, as a - b + c has it; where a is b, there is no direction to go to."""
    b, c = as_tensor(files[:1]), files[2:3]
    errors = [max_error(editor.analogy(b + near, b, c, config=PLAIN), as_tensor(c)) for near in (1e-2, 1e-3)]
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 5
    with pytest.raises(DirectionError, match="no direction tells the labels apart"):
        editor.analogy(b, b, c, config=PLAIN)


def test_analogy_on_gaussian_data_is_tangent_sum() -> None:
    """The codes of one Gaussian are straight in the pictures, so that a small a - b is added but for the shell."""
    editor, method = gaussian("g", 0.0, 1.0, 0), InversionConfig(steps=60, dequantise=None)
    draw = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    b, c, small = draw[:1], draw[1:2], 1e-3 * draw[2:]
    made = editor.analogy(b + small, b, c, level="0.6T", config=method)
    latents = editor.invert(c, replace(method, level=600))
    level = LINEAR.level(latents[0].t)
    x = latents.x / level.alpha
    tangent = small - x * (small * x).sum() / (x * x).sum()
    assert max_error(made - c, tangent) < 2e-5


@pytest.mark.parametrize("solver", ["dpm2m", "ddim", "heun"])
def test_translation_to_same_model_is_the_round_trip(editor: Editor, files: list[Path], solver: str) -> None:
    """Down to t = 0, where a round trip of the default grids ends at t = 1."""
    image = files[:1]
    method = InversionConfig(solver, "uniform", 20, dequantise=None)
    assert max_error(editor.translate(image, editor, method), editor.decode(editor.invert(image, method))) < 1e-5
    default = InversionConfig(solver, "karras:14", dequantise=None)
    assert max_error(editor.translate(image, editor, default), editor.decode(editor.invert(image, default))) < 0.1


def test_translation_and_back_returns_the_image(editor: Editor, other: Editor, files: list[Path]) -> None:
    errors = []
    for steps in (10, 40):
        method = InversionConfig("dpm2m", "quad", steps, dequantise=None)
        there = editor.translate(files, other, method)
        assert max_error(there, as_tensor(files)) > 0.1
        errors.append(float((other.translate(there, editor, method) - as_tensor(files)).square().mean().sqrt()))
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.05


@pytest.mark.parametrize("solver", ["dpm2m", "ddim", "heun", "midpoint", "bdia"])
def test_translation_of_gaussians_is_the_optimal_map(solver: str) -> None:
    """Dual bridges transport N(m_A, c_A^2) to N(m_B, c_B^2); a terminal s that is finite leaves a trace of m_A.

    y_T = m_A + (x - m_A) sqrt((c_A^2 + s_T^2) / c_A^2), and the same way down with m_B and c_B from s_T.
    """
    a, b = gaussian("a", 0.3, 0.5, 0), gaussian("b", -0.4, 0.25, 1)
    x = mean_of(a) + 0.5 * torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    s = LINEAR.s(LINEAR.T)
    y = mean_of(a) + (x - mean_of(a)) * math.sqrt((0.5**2 + s**2) / 0.5**2)
    exact = mean_of(b) + (y - mean_of(b)) * math.sqrt(0.25**2 / (0.25**2 + s**2))
    bridge = mean_of(b) + (0.25 / 0.5) * (x - mean_of(a))
    assert max_error(exact, bridge) < 5e-3
    errors = {}
    for steps in (50, 200):
        made = a.translate(x, b, InversionConfig(solver, "quad", steps, dequantise=None))
        errors[steps] = max_error(made, exact)
    first_order = solver == "ddim"
    assert errors[200] < (0.05 if first_order else 5e-3)
    assert errors[200] < errors[50] / 2


def test_translated_latents_record_their_origin(editor: Editor, other: Editor, files: list[Path]) -> None:
    seen = []
    monitor = Editor(other.model)
    monitor.decode = lambda latents, force=False: seen.extend(latents) or Editor.decode(monitor, latents)  # type: ignore[method-assign]
    editor.translate(files[:1], monitor, QUICK)
    (latent,) = seen
    assert (latent.recipe.model, latent.recipe.components) == (other.model.name, other.model.components)
    assert latent.recipe.times[:2] == (0.0, 1.0)
    assert latent.recipe.origin.of.model == editor.model.name


def test_translation_does_not_depend_on_batch(model: Model, other: Editor, files: list[Path]) -> None:
    wanted = Editor(model).translate(files, other, QUICK)
    small = Editor(model, 2).translate(files[::-1], Editor(other.model, 3), QUICK)
    assert max_error(small.flip(0), wanted) < 1e-5


def test_models_of_other_shapes_are_refused_before_inversion(model: Model, files: list[Path], tmp_path: Path) -> None:
    spent: list[int] = []
    large = Editor(load_model(tiny.save_model(tmp_path / "large", unet={"sample_size": 32})))
    with pytest.raises(LatentMismatchError, match=r"large of \[3, 32, 32\]"):
        Editor(model, on_evaluation=spent.append).translate(files, large, QUICK)
    assert not spent


@pytest.mark.parametrize("level", [200, 1000.0])
def test_translation_with_level_is_refused(editor: Editor, other: Editor, files: list[Path], level: float) -> None:
    with pytest.raises(ArgumentError, match=rf"takes no level, but the config has level {level}"):
        editor.translate(files, other, replace(QUICK, level=level))


def test_empty_inputs_are_refused(editor: Editor, other: Editor) -> None:
    with pytest.raises(ArgumentError, match=r"There are no (images|latents)"):
        editor.translate([], other, QUICK)
    for images in (([], torch.zeros(1, 3, 16, 16)), (torch.zeros(1, 3, 16, 16), [])):
        with pytest.raises(ArgumentError, match=r"There are no (images|latents)"):
            editor.attribute_from(*images, config=QUICK)


def test_translation_changes_the_domain_and_keeps_what_it_shares() -> None:
    """Red images with a ramp become blue ones with that ramp, by the exact models of both domains."""
    red, blue = torch.tensor((0.4, -0.1, -0.4)).double(), torch.tensor((-0.4, -0.1, 0.4)).double()
    shape = (3, tiny.SIZE, tiny.SIZE)
    ramp = torch.linspace(-1, 1, tiny.SIZE, dtype=torch.float64).expand(shape[1:])

    def images(tint: Tensor, slopes: Tensor) -> Tensor:
        """Images [n, 3, H, W] of one tint, with a ramp of each slope from left to right."""
        return tint[:, None, None] + slopes[:, None, None, None] * ramp

    def domain(name: str, tint: Tensor) -> Editor:
        """An editor on the exact model of the images of all slopes, and a little noise."""
        means = images(tint, torch.linspace(-0.5, 0.5, 21))
        denoiser = MixtureDenoiser(means, torch.full((21,), 0.05).double(), torch.full((21,), 1 / 21).double())
        return Editor(Model(denoiser, ColourCodec(), LINEAR, shape, name, {"network": name}, "epsilon"))

    slopes = torch.linspace(-0.5, 0.5, 9).double()
    x = images(red, slopes)
    x = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    method = InversionConfig(steps=100, dequantise=None)
    translated = domain("red", red).translate(x, domain("blue", blue), method)
    assert (translated.mean((0, 2, 3)) - blue).abs().max() < 0.05
    found = (translated.mean(1) * ramp).sum((1, 2)) / ramp.square().sum()
    assert max_error(found, slopes) < 0.05
