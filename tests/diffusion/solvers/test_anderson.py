import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.diffusion.solvers.anderson import PATIENCE, AndersonAccelerator, FixedPoint, Tensors, fixed_point

from .closed_forms import max_error, randn

SEEDS = st.integers(0, 2**31)
ROWS, DIM = 5, 4
PLAIN = 0


class Affine:
    """Rows of problems z = A z + b with spectral radius below `radius`; counts what it is asked."""

    def __init__(self, seed: int, radius: float = 0.6, rows: int = ROWS, dim: int = DIM) -> None:
        square = randn(rows, dim, dim, seed=seed)
        self.matrix = radius * square / torch.linalg.matrix_norm(square, 2)[:, None, None]
        self.offset = randn(rows, dim, seed=seed + 1)
        self.asked = torch.zeros(rows, dtype=torch.int64)

    def __call__(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensors]:
        self.asked[rows] += 1
        image = self.image(z, rows)
        return image, (image, rows)

    def image(self, z: Tensor, rows: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", self.matrix[rows], z) + self.offset[rows]

    @property
    def solution(self) -> Tensor:
        return torch.linalg.solve(torch.eye(self.offset.shape[1], dtype=torch.float64) - self.matrix, self.offset)

    def permuted(self, order: Tensor) -> "Affine":
        other = Affine(0, rows=len(order), dim=self.offset.shape[1])
        other.matrix, other.offset = self.matrix[order], self.offset[order]
        return other


def solve(problem: Affine, tol: float = 1e-10, memory: int = 3, limit: int = 200) -> FixedPoint:
    return fixed_point(problem, torch.zeros_like(problem.offset), tol, AndersonAccelerator(memory=memory), limit)


@given(SEEDS, st.integers(0, 5), st.floats(0.1, 0.6))
def test_contractions_are_solved_row_by_row(seed: int, memory: int, radius: float) -> None:
    problem = Affine(seed, radius)
    root = solve(problem, memory=memory)
    assert (root.residual <= 1e-10).all()
    assert max_error(root.outputs[0], problem.solution) <= 1e-10 * DIM**0.5 / (1 - radius)
    assert root.outputs[1].tolist() == list(range(ROWS))
    assert torch.equal(root.evaluations, problem.asked)


@settings(max_examples=10)
@given(SEEDS)
def test_acceleration_saves_evaluations(seed: int) -> None:
    plain, fast = (solve(Affine(seed), memory=memory).evaluations for memory in (PLAIN, DIM))
    assert (fast <= plain).all()
    assert fast.sum() < 0.8 * plain.sum()


@given(SEEDS)
def test_with_a_column_for_every_dimension_it_ends_like_gmres(seed: int) -> None:
    root = solve(Affine(seed), tol=1e-7, memory=DIM)
    assert (root.evaluations <= DIM + 3).all()


@given(SEEDS, st.integers(1, 3))
def test_iterates_are_images_of_gmres_iterates(seed: int, k: int) -> None:
    """Walker and Ni (2011): untruncated, undamped Anderson steps to g of the GMRES iterate."""
    problem, every = Affine(seed), torch.arange(ROWS)
    z, seen = torch.zeros_like(problem.offset), []
    method = AndersonAccelerator(memory=DIM)
    for _ in range(k + 1):
        seen.append(z)
        z = method.next(z, problem.image(z, every) - z)
    krylov = torch.stack([problem.offset, *_powers(problem, k - 1)], 2)
    system = torch.eye(DIM, dtype=torch.float64) - problem.matrix
    weights = torch.linalg.lstsq(system @ krylov, problem.offset[:, :, None]).solution
    gmres = (krylov @ weights)[:, :, 0]
    assert max_error(z, problem.image(gmres, every)) < 1e-7


def _powers(problem: Affine, k: int) -> list[Tensor]:
    vectors = [problem.offset]
    for _ in range(k):
        vectors.append(torch.einsum("bij,bj->bi", problem.matrix, vectors[-1]))
    return vectors[1:]


@pytest.mark.parametrize("mixing", [0.5, 1.0, 1.6])
def test_without_memory_it_is_relaxed_iteration(mixing: float) -> None:
    problem, every, method = Affine(3), torch.arange(ROWS), AndersonAccelerator(mixing, memory=0)
    z = by_hand = randn(ROWS, DIM)
    for _ in range(5):
        z = method.next(z, problem.image(z, every) - z)
        by_hand = (1 - mixing) * by_hand + mixing * problem.image(by_hand, every)
    assert max_error(z, by_hand) < 1e-14


@settings(max_examples=10)
@given(SEEDS, st.permutations(range(ROWS)))
def test_the_order_of_rows_means_nothing(seed: int, order: list[int]) -> None:
    problem, places = Affine(seed), torch.tensor(order)
    root, moved = solve(problem), solve(problem.permuted(places))
    assert max_error(moved.outputs[0], root.outputs[0][places]) < 1e-12
    plain, moved = (solve(each, memory=PLAIN) for each in (problem, problem.permuted(places)))
    assert torch.equal(moved.evaluations, plain.evaluations[places])


@settings(max_examples=10)
@given(SEEDS)
def test_a_row_alone_is_solved_as_in_company(seed: int) -> None:
    problem = Affine(seed)
    together = solve(problem)
    for row in range(ROWS):
        alone = solve(problem.permuted(torch.tensor([row])))
        assert max_error(alone.outputs[0][0], together.outputs[0][row]) < 1e-12


def test_a_row_that_converged_costs_no_more() -> None:
    problem = Affine(0)
    problem.matrix[1], problem.matrix[3] = 0, 0
    root = solve(problem, memory=PLAIN)
    assert root.evaluations[[1, 3]].tolist() == [2, 2]
    assert (root.evaluations[[0, 2, 4]] > 10).all()
    assert torch.equal(root.evaluations, problem.asked)


def test_a_row_that_stalls_is_given_up_and_the_others_go_on() -> None:
    problem = Affine(0)

    def hopeless_in_row_2(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensors]:
        image, parts = problem(z, rows)
        return torch.where((rows == 2)[:, None], z + 1, image), parts

    root = fixed_point(
        hopeless_in_row_2, torch.zeros(ROWS, DIM, dtype=torch.float64), 1e-10, AndersonAccelerator(), 200
    )
    assert root.evaluations[2] == 1 + PATIENCE
    assert root.residual[2] == 1
    assert (root.residual[[0, 1, 3, 4]] <= 1e-10).all()


def test_the_best_iterate_is_kept_with_what_belongs_to_it() -> None:
    residuals = iter([3.0, 1.0, 2.0, 5.0, 4.0])

    def wandering(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensors]:
        step = next(residuals)
        return z + step, (torch.full_like(z, step), rows)

    root = fixed_point(wandering, torch.zeros(1, 2, dtype=torch.float64), 1e-10, AndersonAccelerator(memory=0), 40)
    assert root.evaluations.tolist() == [5]
    assert root.residual.tolist() == [1.0]
    assert root.outputs[0].tolist() == [[1.0, 1.0]]


def test_what_g_gave_is_kept_as_it_was_and_never_written_to() -> None:
    """Rows end one after the other, so that the result is written in pieces."""
    problem, given = Affine(0), list[tuple[Tensor, Tensor]]()
    problem.matrix[1], problem.matrix[3] = 0, 0

    def remembered(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensors]:
        image, parts = problem(z, rows)
        given.extend((part, part.clone()) for part in parts)
        return image, parts

    root = fixed_point(remembered, torch.zeros_like(problem.offset), 1e-10, AndersonAccelerator(), 200)
    assert len(set(root.evaluations.tolist())) > 1
    assert root.outputs[1].tolist() == list(range(ROWS))
    assert all(torch.equal(part, copy) for part, copy in given)


def test_a_singular_system_of_differences_ends_its_row_and_not_the_solve() -> None:
    """A residual that grows evenly has equal differences; in float32 the ridge is lost beside them."""
    sizes = iter([1.0, 2.0, 3.0, 4.0, 5.0])

    def growing_in_row_1(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensors]:
        image = torch.where((rows == 1)[:, None], z + next(sizes), z / 2 + 1)
        return image, (image,)

    root = fixed_point(growing_in_row_1, torch.zeros(3, 2), 1e-6, AndersonAccelerator(), 5)
    assert (root.residual[[0, 2]] <= 1e-6).all()
    assert (root.residual[1], root.evaluations[1]) == (1.0, 1 + PATIENCE)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_limit_is_one_of_evaluations(limit: int) -> None:
    problem = Affine(0)
    assert solve(problem, memory=PLAIN, limit=limit).evaluations.tolist() == [limit] * ROWS
    assert problem.asked.tolist() == [limit] * ROWS


def test_an_infinite_tolerance_takes_the_first_image() -> None:
    problem = Affine(0)
    root = solve(problem, tol=math.inf)
    assert root.evaluations.tolist() == [1] * ROWS
    assert torch.equal(root.outputs[0], problem.offset)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("memory", [0, 3])
def test_a_row_that_is_no_number_poisons_no_other(memory: int, poison: float) -> None:
    problem = Affine(0)

    def poisoned(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensors]:
        image, parts = problem(z, rows)
        return torch.where((rows == 2)[:, None], poison, image), parts

    healthy = solve(Affine(0), memory=memory)
    root = fixed_point(
        poisoned, torch.zeros(ROWS, DIM, dtype=torch.float64), 1e-10, AndersonAccelerator(memory=memory), 200
    )
    others = [0, 1, 3, 4]
    assert max_error(root.outputs[0][others], healthy.outputs[0][others]) < 1e-9
    assert root.residual[2] == math.inf
    assert root.evaluations[2] <= 1 + PATIENCE
