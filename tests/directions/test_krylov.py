"""Leading eigenvectors from products alone, beside the eigendecomposition of the whole matrix."""

import pytest
import torch
from torch import Tensor

from ddim_edit.directions.krylov import Eigenvectors, leading_eigenvectors

from .homes import randn

EXACT = {"iterations": 100, "tolerance": 1e-12}


class Matrix:
    """A positive semidefinite matrix with these eigenvalues, which counts its products."""

    def __init__(self, values: Tensor) -> None:
        turn = torch.linalg.qr(randn(len(values), len(values))).Q
        self.whole = turn @ torch.diag(values) @ turn.T
        self.vectors = turn.T
        self.products = 0

    def __call__(self, rows: Tensor) -> Tensor:
        self.products += len(rows)
        return rows @ self.whole

    def leading(self, count: int, **options: float) -> Eigenvectors:
        return leading_eigenvectors(self, len(self.whole), count, **{**EXACT, **options})  # type: ignore[arg-type]


@pytest.fixture
def matrix() -> Matrix:
    """Of a slowly falling spectrum: 1, 1 / 1.1, 1 / 1.2, ..."""
    return Matrix(1 / torch.linspace(1, 10, 91, dtype=torch.float64))


def test_values_and_vectors_are_those_of_the_whole_matrix(matrix: Matrix) -> None:
    found = matrix.leading(5)
    torch.testing.assert_close(found.values, 1 / torch.linspace(1, 1.4, 5, dtype=torch.float64), rtol=1e-12, atol=0)
    cosines = (found.vectors * matrix.vectors[:5]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-10)


def test_vectors_are_orthonormal(matrix: Matrix) -> None:
    vectors = matrix.leading(5, iterations=3).vectors
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_largest_number_of_each_vector_is_positive(matrix: Matrix) -> None:
    vectors = matrix.leading(5).vectors
    assert torch.equal(vectors.max(1).values, vectors.abs().max(1).values)


def test_residuals_are_those_of_the_whole_matrix(matrix: Matrix) -> None:
    found = matrix.leading(5, iterations=3)
    errors = found.vectors @ matrix.whole - found.values[:, None] * found.vectors
    torch.testing.assert_close(found.residuals, errors.norm(dim=1) / found.values, rtol=1e-9, atol=0)
    assert found.residuals.max() > 0.01


@pytest.mark.parametrize("tolerance", [0.1, 1e-3, 1e-9])
def test_iterations_end_where_all_residuals_are_within_the_tolerance(matrix: Matrix, tolerance: float) -> None:
    found = matrix.leading(5, tolerance=tolerance)
    assert found.residuals.max() <= tolerance
    assert found.products == matrix.products < len(matrix.whole)


def test_kept_blocks_need_fewer_products_than_subspace_iteration(matrix: Matrix) -> None:
    found = matrix.leading(5, tolerance=1e-3)
    rows = randn(7, 91, seed=3)
    for _ in range(found.products // 7):
        rows = torch.linalg.qr((rows @ matrix.whole).T).Q.T
    values = torch.linalg.eigvalsh(rows @ matrix.whole @ rows.T).flip(0)[:5]
    exact = 1 / torch.linspace(1, 1.4, 5, dtype=torch.float64)
    assert (exact - found.values).max() < 1e-3 * (exact - values).max()


def test_a_matrix_of_few_dimensions_is_solved_by_one_block() -> None:
    matrix = Matrix(torch.tensor([5.0, 4.0, 1.0], dtype=torch.float64))
    found = matrix.leading(3, iterations=1)
    torch.testing.assert_close(found.values, torch.tensor([5.0, 4.0, 1.0], dtype=torch.float64))
    assert matrix.products == 3


def test_equal_values_have_vectors_in_their_common_space() -> None:
    matrix = Matrix(torch.tensor([9.0, 9.0, 9.0, *[1.0] * 20], dtype=torch.float64))
    found = matrix.leading(3)
    inside = torch.linalg.svdvals(found.vectors @ matrix.vectors[:3].T)
    torch.testing.assert_close(inside, torch.ones_like(inside), rtol=0, atol=1e-12)


def test_values_beyond_the_rank_are_zero() -> None:
    values = Matrix(torch.tensor([4.0, 1.0, *[0.0] * 20], dtype=torch.float64)).leading(4).values
    torch.testing.assert_close(values, torch.tensor([4.0, 1.0, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_seed_determines_the_result(matrix: Matrix) -> None:
    first, again, other = (matrix.leading(2, iterations=2, seed=seed).vectors for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
