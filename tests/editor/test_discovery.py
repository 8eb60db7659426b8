"""Directions without labels, beside the singular value decomposition of the whole Jacobian dh / dx."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import (
    ArgumentError,
    Direction,
    DirectionError,
    DirectionMismatchError,
    Editor,
    Model,
    ModelError,
    NoiseSchedule,
    NonFiniteError,
    load_model,
)
from ddim_edit.directions.unlabelled import jacobian_directions
from ddim_edit.memory import AdaptiveBatcher
from ddim_edit.models.differentiation import BottleneckJacobian

from .. import tiny

QUICK = {"steps": 4}
EXACT = {"iterations": 100, "tolerance": 1e-6}


def jacobian_at(editor: Editor, file: Path) -> Tensor:
    """dh / dx [h, d] at the latent of an image, from a product with every unit vector."""
    (latents,) = editor.latents_at(file, ["0.4T"], **QUICK)
    level = editor.model.schedule.level(latents.recipe.times[-1])
    units = torch.eye(latents.values[0].numel(), dtype=torch.float64).view(-1, *editor.model.shape)
    product = BottleneckJacobian(editor.model.denoiser, level).times(latents.values.double().expand_as(units), units)
    return product.flatten(1).T.double()


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """On images of 192 numbers, whose whole Jacobians are small."""
    return Editor(load_model(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny"), size=8))


@pytest.fixture(scope="module")
def jacobians(editor: Editor, files: list[Path]) -> list[Tensor]:
    return [jacobian_at(editor, file) for file in files[:2]]


@pytest.fixture(scope="module")
def found(editor: Editor, files: list[Path]) -> list[Direction]:
    return editor.discover(files[0], 4, **QUICK, **EXACT)


def vectors_of(directions: list[Direction]) -> Tensor:
    return torch.stack([each.vector.flatten() for each in directions])


def assert_one_space(vectors: Tensor, others: Tensor) -> None:
    cosines = torch.linalg.svdvals(vectors @ others.T)
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-4)


def test_of_one_image_they_are_right_singular_vectors(found: list[Direction], jacobians: list[Tensor]) -> None:
    _, values, vectors = torch.linalg.svd(jacobians[0], full_matrices=False)
    singular_values = torch.tensor([each.report["singular_value"] for each in found], dtype=torch.float64)
    torch.testing.assert_close(singular_values, values[:4], rtol=1e-4, atol=0)
    assert_one_space(vectors_of(found), vectors[:4])


def test_of_several_they_are_principal_axes_of_the_weighted_vectors_of_all(
    editor: Editor, files: list[Path], jacobians: list[Tensor]
) -> None:
    directions = editor.discover(files[:2], 3, **QUICK, **EXACT)
    # The singular vectors of all, each times its value: a turn of the rows of the stacked Jacobians, and signs of rows.
    _, values, axes = torch.linalg.svd(torch.cat(jacobians) / 2**0.5, full_matrices=False)
    singular_values = torch.tensor([each.report["singular_value"] for each in directions], dtype=torch.float64)
    torch.testing.assert_close(singular_values, values[:3], rtol=1e-4, atol=0)
    assert_one_space(vectors_of(directions), axes[:3])
    assert [each.report["n"] for each in directions] == [2, 2, 2]


def test_they_are_orthonormal_and_named_in_order(found: list[Direction]) -> None:
    vectors = vectors_of(found)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)
    assert [each.name for each in found] == ["v1", "v2", "v3", "v4"]


def test_score_is_measured_from_the_image_and_strength_is_length(
    editor: Editor, files: list[Path], found: list[Direction]
) -> None:
    (latents,) = editor.latents_at(files[0], ["0.4T"], **QUICK)
    for direction in found:
        moved = latents.values.double() + 3 * direction.vector
        torch.testing.assert_close(direction.score(latents.values), torch.zeros(1, dtype=torch.float64))
        torch.testing.assert_close(direction.score(moved), torch.full((1,), 3.0, dtype=torch.float64))


def test_report_tells_of_convergence(editor: Editor, files: list[Path], found: list[Direction]) -> None:
    assert all(each.report["converged"] and each.report["residual"] <= 1e-6 for each in found)
    (rough,) = editor.discover(files[0], 1, iterations=1, **QUICK)
    assert not rough.report["converged"]
    assert rough.report["residual"] > 0.01
    assert rough.report["products"] == 3


def test_products_are_counted_as_passes_of_each_image(editor: Editor, files: list[Path]) -> None:
    passes: list[int] = []
    counted = Editor(editor.model, on_evaluation=passes.append)
    direction, _ = counted.discover(files[:2], 2, **QUICK)
    inversion = 2 * editor.invert(files[0], level="0.4T", **QUICK).report["nfe"]
    assert sum(passes) == inversion + 2 * direction.report["products"]


def test_batches_change_no_result(editor: Editor, files: list[Path]) -> None:
    whole, single = (Editor(editor.model, size).discover(files[:2], 2, iterations=3, **QUICK) for size in (64, 3))
    torch.testing.assert_close(vectors_of(whole), vectors_of(single), rtol=0, atol=1e-4)


def test_files_edit_as_the_directions_do(
    editor: Editor, files: list[Path], found: list[Direction], tmp_path: Path
) -> None:
    file = tmp_path / "v1.direction.safetensors"
    found[0].save(file)
    loaded = Direction.load(file)
    assert loaded.recipe == found[0].recipe
    assert (loaded.name, loaded.sd, loaded.report) == ("v1", 1.0, found[0].report)
    by_file = editor.edit(files[1], {file: 3}, keep=[found[1]])
    torch.testing.assert_close(by_file, editor.edit(files[1], {found[0]: 3}, keep=[found[1]]), rtol=0, atol=1e-5)
    assert (by_file - editor.edit(files[1], {file: 0})).abs().max() > 0.01


def test_a_step_moves_h_more_than_a_random_one(
    editor: Editor, files: list[Path], found: list[Direction], jacobians: list[Tensor]
) -> None:
    random = torch.nn.functional.normalize(torch.randn(4, 192, generator=torch.Generator().manual_seed(0)).double())
    moves = [(each @ jacobians[0].T).norm(dim=1) for each in (vectors_of(found), random)]
    assert moves[0].min() > 1.5 * moves[1].max()


@pytest.mark.parametrize("level", ["h", "h:0.4T"])
def test_levels_of_the_bottleneck_are_refused(editor: Editor, files: list[Path], level: str) -> None:
    with pytest.raises(ArgumentError, match=r"^Directions are discovered in x, not in h\. [^\n]+$"):
        editor.discover(files[0], level=level, **QUICK)


@pytest.mark.parametrize("count", [0, 193])
def test_impossible_numbers_are_refused(editor: Editor, files: list[Path], count: int) -> None:
    with pytest.raises(ArgumentError, match=r"^count must be from 1 to the 192 numbers of a latent, not [^\n]+$"):
        editor.discover(files[0], count, **QUICK)


def test_directions_of_another_level_do_not_go_with_them(
    editor: Editor, files: list[Path], found: list[Direction]
) -> None:
    (higher,) = editor.discover(files[0], 1, "xT", iterations=1, **QUICK)
    with pytest.raises(DirectionMismatchError, match="was fitted to latents of level"):
        editor.edit(files[0], {found[0]: 1, higher: 1})


def test_a_network_without_a_bottleneck_is_refused_before_images_are_read() -> None:
    model = Model.from_network(torch.nn.Conv2d(3, 3, 1), NoiseSchedule.linear(), shape=(3, 8, 8))
    with pytest.raises(ModelError, match="does not expose its bottleneck h"):
        Editor(model).discover("nosuch.png")


class Flat(BottleneckJacobian):
    """Of an h that sees one number of x."""

    def __init__(self) -> None:
        pass

    def times(self, x: Tensor, v: Tensor) -> Tensor:
        return v[:, :1, :1, :1]

    def transposed_times(self, x: Tensor, u: Tensor) -> Tensor:
        back = torch.zeros_like(x)
        back[:, :1, :1, :1] = u
        return back


def test_more_directions_than_h_has_are_refused(editor: Editor, files: list[Path]) -> None:
    (latents,) = editor.latents_at(files[0], ["0.4T"], **QUICK)
    with pytest.raises(
        DirectionError, match=r"^The number of directions that h changes along is 1, not 2\. Ask for fewer\.$"
    ):
        jacobian_directions(Flat(), latents, 2, batches=AdaptiveBatcher(4))


class Broken(Flat):
    """Of an h whose slope overflows."""

    def times(self, x: Tensor, v: Tensor) -> Tensor:
        return v[:, :1, :1, :1] * torch.inf


def test_a_jacobian_that_is_not_finite_is_refused(editor: Editor, files: list[Path]) -> None:
    (latents,) = editor.latents_at(files[0], ["0.4T"], **QUICK)
    with pytest.raises(NonFiniteError, match=r"^The Jacobian of h has NaN or infinite values\. [^\n]+$"):
        jacobian_directions(Broken(), latents, 1, batches=AdaptiveBatcher(4))
