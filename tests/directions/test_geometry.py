"""The geometry of directions: projections against least squares, and the laws of moves on the shell."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.directions.geometry import complement, cosines, rotate
from ddim_edit.errors import ArgumentError


def vectors(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SEEDS = st.integers(0, 10_000)
HELD = st.integers(0, 5)
SIZES = st.floats(1e-3, 3)
"""Of a step, in radii; an edit is seldom over 0.5."""


def case(seed: int, k: int, size: float, d: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Four vectors of different lengths, a step for each, and k directions to hold."""
    z = vectors(seed, 4, d) * torch.tensor([[0.1], [1], [3], [10]], dtype=torch.float64)
    step = vectors(seed + 1, 4, d)
    return z, size * z.norm(dim=1, keepdim=True) * step / step.norm(dim=1, keepdim=True), vectors(seed + 2, k, d)


def apart(a: Tensor, b: Tensor) -> float:
    """The largest distance of two rows, in units of the second."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


@settings(max_examples=30)
@given(seed=SEEDS, k=st.integers(1, 8))
def test_the_complement_is_the_residual_of_least_squares(seed, k) -> None:
    vector, against = vectors(seed, 24), vectors(seed + 1, k, 24)
    fit = torch.linalg.lstsq(against.T, vector[:, None]).solution[:, 0]
    rest = complement(vector, against)
    torch.testing.assert_close(rest, vector - fit @ against, rtol=0, atol=1e-10)
    assert float((against @ rest).abs().max()) < 1e-11


def test_complement_of_empty_set_is_identity() -> None:
    vector = vectors(0, 24)
    assert torch.equal(complement(vector, vector.new_zeros(0, 24)), vector)


@given(seed=SEEDS, scales=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3))
def test_complement_is_independent_of_lengths(seed, scales) -> None:
    vector, against = vectors(seed, 24), vectors(seed + 1, 3, 24)
    scaled = against * torch.tensor(scales, dtype=torch.float64)[:, None]
    torch.testing.assert_close(complement(vector, scaled), complement(vector, against), rtol=0, atol=1e-10)


@given(seed=SEEDS, k=st.integers(1, 6))
def test_vector_inside_span_is_refused(seed, k) -> None:
    against = vectors(seed, k, 24)
    inside = vectors(seed + 1, k) @ against
    with pytest.raises(ArgumentError, match="Hold fewer directions"):
        complement(inside, against)


def test_vector_inside_span_up_to_float32_is_refused() -> None:
    against = vectors(0, 2, 24)
    with pytest.raises(ArgumentError, match="Hold fewer directions"):
        complement(against.sum(0).float().double(), against)


@pytest.mark.parametrize(
    "dependent",
    [
        lambda a: torch.stack([a[0], a[0]]),
        lambda a: torch.stack([a[0], a[0].float().double()]),
        lambda a: torch.stack([a[0], -3 * a[0]]),
        lambda a: torch.stack([a[0], a[1], a[0] + a[1]]),
        lambda a: torch.stack([a[0], 0 * a[1]]),
        lambda a: a[:, :2],
    ],
    ids=["identical", "identical but for rounding", "opposite", "a sum", "zero", "more than dimensions"],
)
def test_linearly_dependent_directions_are_refused(dependent) -> None:
    against = dependent(vectors(0, 3, 24))
    vector = vectors(1, against.shape[1])
    with pytest.raises(ArgumentError, match="combinations of the others"):
        complement(vector, against)
    with pytest.raises(ArgumentError, match="combinations of the others"):
        rotate(vector[None], vector, against)


def test_nearly_parallel_directions_are_accepted() -> None:
    a, b = vectors(0, 2, 24)
    against = torch.stack([a, a + 1e-3 * b])
    rest = complement(vectors(1, 24), against)
    assert float((against @ rest).abs().max()) < 1e-10
    assert abs(float(b @ rest)) < 1e-8


def test_cosines_of_known_angles() -> None:
    angles = torch.tensor([0.0, 30.0, 90.0, 180.0], dtype=torch.float64).deg2rad()
    fan = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [2.0], [0.1], [7.0]], dtype=torch.float64)
    torch.testing.assert_close(cosines(fan), (angles[:, None] - angles).cos(), rtol=0, atol=1e-15)


def test_zero_vector_has_no_cosines() -> None:
    with pytest.raises(ArgumentError, match="length zero"):
        cosines(torch.zeros(2, 5))


@given(seed=SEEDS, k=HELD)
def test_zero_step_is_identity_bit_for_bit(seed, k) -> None:
    z, step, held = case(seed, k, 1.0)
    assert torch.equal(rotate(z, 0 * step, held), z)


@given(seed=SEEDS, k=HELD, size=SIZES)
def test_rotation_preserves_norms(seed, k, size) -> None:
    z, step, held = case(seed, k, size)
    torch.testing.assert_close(rotate(z, step, held).norm(dim=1), z.norm(dim=1), rtol=1e-12, atol=0)


@given(seed=SEEDS, k=HELD, size=SIZES)
def test_rotation_preserves_held_scores(seed, k, size) -> None:
    z, step, held = case(seed, k, size)
    change = (rotate(z, step, held) - z) @ held.T
    assert float((change / z.norm(dim=1, keepdim=True)).abs().max() if k else 0) < 1e-12


@given(seed=SEEDS, k=HELD, size=SIZES)
def test_opposite_steps_cancel(seed, k, size) -> None:
    z, step, held = case(seed, k, size)
    assert apart(rotate(rotate(z, step, held), -step, held), z) < 1e-12


@given(seed=SEEDS, k=HELD, size=SIZES, share=st.floats(0, 1))
def test_parallel_steps_add(seed, k, size, share) -> None:
    z, step, held = case(seed, k, size)
    assert apart(rotate(rotate(z, share * step, held), (1 - share) * step, held), rotate(z, step, held)) < 1e-12


@given(seed=SEEDS, k=HELD, size=SIZES)
def test_move_is_rotation_in_plane_of_vector_and_step(seed, k, size) -> None:
    z, step, held = case(seed, k, size)
    for before, along, after in zip(z, step, rotate(z, step, held), strict=True):
        r, s, moved = (complement(each, held) for each in (before, along, after))
        fit = torch.linalg.lstsq(torch.stack([r, s], 1), moved[:, None]).solution[:, 0]
        assert apart(fit[0] * r + fit[1] * s, moved) < 1e-11
        assert float(moved @ s) > float(r @ s)


@given(size=SIZES)
def test_angle_of_orthogonal_step_follows_tanh(size) -> None:
    z, step = torch.eye(24, dtype=torch.float64)[:2]
    moved = rotate(z[None], size * step, z.new_zeros(0, 24))[0]
    assert float(moved @ step) == pytest.approx(math.tanh(size), rel=1e-12)
    assert float(moved @ z) == pytest.approx(1 / math.cosh(size), rel=1e-12)


def test_small_step_is_linear_in_tangent_plane() -> None:
    z, step, held = case(3, 0, 1e-6)
    radial = (step * z).sum(1, keepdim=True) / (z * z).sum(1, keepdim=True) * z
    assert apart(rotate(z, step, held) - z, step - radial) < 1e-5


@given(seed=SEEDS, size=SIZES)
def test_shared_step_equals_step_per_vector(seed, size) -> None:
    z, step, held = case(seed, 2, size)
    each = torch.cat([rotate(z[i : i + 1], step[0], held) for i in range(4)])
    torch.testing.assert_close(rotate(z, step[0], held), each, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("times", [-2.0, -1.0, 0.5, 1.0])
def test_parallel_step_is_identity(times) -> None:
    z, _, held = case(0, 0, 1.0)
    assert apart(rotate(z, times * z, held), z) < 1e-12


def test_almost_parallel_step_is_reversible() -> None:
    z, step, held = case(0, 0, 1.0)
    almost = z + 1e-3 * step
    assert apart(rotate(rotate(z, almost, held), -almost, held), z) < 1e-12


def test_vectors_inside_held_span_are_unchanged() -> None:
    _, step, held = case(0, 3, 1.0)
    inside = vectors(9, 4, 3) @ held
    assert apart(rotate(inside, step, held), inside) < 1e-12
    assert torch.equal(rotate(torch.zeros(1, 24), torch.ones(24), torch.zeros(0, 24)), torch.zeros(1, 24))
