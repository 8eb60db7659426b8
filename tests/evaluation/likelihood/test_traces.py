"""Traces of the Jacobian of eps, against those that are known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.parametrization import DDPMParametrization, Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError
from ddim_edit.evaluation.likelihood.traces import FiniteDifferences, Hutchinson, exact_trace
from ddim_edit.models.loading import load_model
from ddim_edit.models.model import Model
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet

from ... import tiny
from .closed_forms import DATA, DIM, LINEAR, SHAPE, Data, correlated, diagonal, exact_linearization, randn

MATRIX = randn(DIM, DIM, seed=5)


def times(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: (v.flatten(1) @ matrix.T).view_as(v)


def jacobian(data: Data, x: Tensor, t: float) -> Tensor:
    """J [B, D, D] by reverse-mode differentiation, row by row."""
    level = LINEAR.level(t)
    rows = [torch.autograd.functional.jacobian(lambda z: data(z, level).eps, one[None]) for one in x]
    return torch.stack(rows).view(len(x), DIM, DIM)


def test_signs_read_the_diagonal_alone_where_there_is_nothing_else() -> None:
    x, product = randn(3, *SHAPE), times(torch.diag(MATRIX.diagonal()))
    value, variance = Hutchinson(2, range(3))(x, product)
    torch.testing.assert_close(value, MATRIX.trace().expand(3))
    torch.testing.assert_close(variance, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-24)


def test_a_trace_by_signs_is_unbiased_and_its_variance_is_the_one_that_theory_has() -> None:
    """Each v^T M v has variance 2 (|S|^2 - sum of squares of its diagonal), S = (M + M^T) / 2; Hutchinson (1990)."""
    rows, probes = 6_000, 3
    value, variance = Hutchinson(probes, range(rows))(torch.zeros(rows, *SHAPE, dtype=torch.float64), times(MATRIX))
    symmetric = (MATRIX + MATRIX.T) / 2
    exact = 2 * (symmetric.square().sum() - symmetric.diagonal().square().sum()) / probes
    assert abs(value.mean() - MATRIX.trace()) < 4 * (exact / rows).sqrt()
    torch.testing.assert_close(value.var(), exact, rtol=0.05, atol=0)
    torch.testing.assert_close(variance.mean(), exact, rtol=0.05, atol=0)


def test_exact_trace_vector_gives_the_whole_trace() -> None:
    value, variance = exact_trace(randn(2, *SHAPE), times(MATRIX))
    torch.testing.assert_close(value, MATRIX.trace().expand(2))
    assert not variance.any()


def test_the_signs_of_a_row_are_its_own_and_new_for_every_trace() -> None:
    x, product = randn(2, *SHAPE), times(MATRIX)
    together, alone = Hutchinson(2, [7, 8]), Hutchinson(2, [8])
    for _ in range(2):
        torch.testing.assert_close(together(x, product).value[1:], alone(x[1:], product).value)
    assert abs(alone(x[1:], product).value - alone(x[1:], product).value) > 1e-3


@pytest.mark.parametrize("t", [0.5, 1, 40, 400, 1000])
@pytest.mark.parametrize("name", DATA)
def test_products_are_those_of_the_jacobian(name: str, t: float) -> None:
    data, level = DATA[name], LINEAR.level(t)
    x, v = level.alpha * DATA[name].draw(3) + level.sigma * randn(3, *SHAPE, seed=2), randn(3, *SHAPE, seed=3)
    matrices = jacobian(data, x, t)
    torch.testing.assert_close(matrices, matrices.mT)  # as J is s times a Hessian of ln p
    expected = torch.einsum("bij,bj->bi", matrices, v.flatten(1)).view_as(v)
    for linearization, tolerance in ((exact_linearization, 1e-12), (FiniteDifferences(LINEAR.level(1).sigma), 3e-3)):
        eps, product = linearization(data, x, level)
        torch.testing.assert_close(eps, data(x, level).eps)
        assert (product(v) - expected).norm() <= tolerance * expected.norm()


def test_differences_of_what_is_linear_are_exact() -> None:
    data, level = correlated(), LINEAR.level(300)
    _, product = FiniteDifferences(LINEAR.level(1).sigma)(data, randn(2, *SHAPE), level)
    _, exact = exact_linearization(data, randn(2, *SHAPE), level)
    torch.testing.assert_close(product(randn(2, *SHAPE, seed=4)), exact(randn(2, *SHAPE, seed=4)), rtol=0, atol=1e-10)


def test_differences_at_the_clean_image_are_as_wide_as_at_the_first_level() -> None:
    least = LINEAR.level(1).sigma
    seen = []

    def spy(x: Tensor, level: Level) -> Prediction:
        seen.append(x)
        return diagonal()(x, level)

    _, product = FiniteDifferences(least, step=0.1)(spy, torch.zeros(1, *SHAPE), LINEAR.level(0))
    product(torch.ones(1, *SHAPE))
    torch.testing.assert_close(seen[1] - seen[0], torch.full((1, *SHAPE), 0.1 * least))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, NetworkDenoiser]:
    """The small model as it is loaded, and its network as it is written, for 8x8 pictures."""
    folder = tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")
    network = UNet(UNetConfig.from_dict(tiny.UNET)).requires_grad_(False)
    network.load_state_dict(tiny.load_weights(folder))
    return load_model(folder, size=8), NetworkDenoiser(network, DDPMParametrization("v_prediction"))


@pytest.mark.parametrize("t", [0, 1, 100, 500, 1000])
def test_the_trace_of_a_loaded_network_is_that_of_its_derivative(
    small: tuple[Model, NetworkDenoiser], t: float
) -> None:
    model, plain = small
    level = model.schedule.level(t)
    x = level.alpha * 0.5 * randn(1, 3, 8, 8) + level.sigma * randn(1, 3, 8, 8, seed=1)
    matrix = torch.autograd.functional.jacobian(lambda z: plain(z, level).eps, x).view(192, 192)
    _, product = FiniteDifferences(model.schedule.level(1).sigma)(model.denoiser, x, level)
    found = exact_trace(x, product).value.item()
    # A walk weighs a trace by about this noise.
    assert abs(found - matrix.trace()) * max(level.sigma, 0.01) < 192e-4


def test_one_probe_has_no_spread() -> None:
    with pytest.raises(ArgumentError, match="at least 2 probes, not 1"):
        Hutchinson(1, [0])
