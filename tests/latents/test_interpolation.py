import math
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.latents.interpolation import (
    INTERPOLATIONS,
    PathPoint,
    count_rows,
    find_interpolation,
    find_shares,
    lerp,
    linear_combination,
    norm,
    plan_line,
    plan_path,
    slerp,
)

SHAPE = (2, 3, 4)
SEEDS, W, SCALES = st.integers(0, 2**31), st.floats(0, 1), st.floats(1e-3, 1e3)


def randn(seed: int = 0, *batch: int) -> Tensor:
    return torch.randn(*batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def length(x: Tensor) -> Tensor:
    return x.flatten(-3).norm(dim=-1)


def angle(a: Tensor, b: Tensor) -> float:
    u, v = a.flatten() / length(a), b.flatten() / length(b)
    return 2 * math.atan2(float((u - v).norm()), float((u + v).norm()))


def max_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", INTERPOLATIONS)
@given(SEEDS, SEEDS, SCALES)
def test_the_ends_come_back_bit_by_bit(name: str, one: int, other: int, scale: float) -> None:
    a, b = randn(one), scale * randn(other)
    assert torch.equal(INTERPOLATIONS[name](a, b, 0), a)
    assert torch.equal(INTERPOLATIONS[name](a, b, 1), b)


@pytest.mark.parametrize("name", INTERPOLATIONS)
@given(SEEDS, SEEDS, W, SCALES)
def test_there_is_the_way_back(name: str, one: int, other: int, w: float, scale: float) -> None:
    a, b = randn(one), scale * randn(other + 1)
    assert max_error(INTERPOLATIONS[name](a, b, w), INTERPOLATIONS[name](b, a, 1 - w)) < 1e-12 * max(1, scale)


@pytest.mark.parametrize("name", INTERPOLATIONS)
@given(SEEDS, W)
def test_between_a_latent_and_itself_there_is_only_itself(name: str, seed: int, w: float) -> None:
    a = randn(seed)
    assert max_error(INTERPOLATIONS[name](a, a.clone(), w), a) < 1e-14


@pytest.mark.parametrize("name", ["slerp", "norm"])
@given(SEEDS, SEEDS, W, SCALES)
def test_radii_are_interpolated(name: str, one: int, other: int, w: float, scale: float) -> None:
    a, b = randn(one), scale * randn(other + 1)
    expected = (1 - w) * float(length(a)) + w * float(length(b))
    assert float(length(INTERPOLATIONS[name](a, b, w))) == pytest.approx(expected, rel=1e-12)


@given(SEEDS, SEEDS, W, SCALES)
def test_slerp_turns_evenly_in_the_plane_of_both(one: int, other: int, w: float, scale: float) -> None:
    a, b = randn(one), scale * randn(other + 1)
    x, whole = slerp(a, b, w), angle(a, b)
    assert angle(a, x) == pytest.approx(w * whole, abs=1e-7)
    assert angle(x, b) == pytest.approx((1 - w) * whole, abs=1e-7)


@given(SEEDS, SEEDS, W)
def test_slerp_is_shoemake_s_formula(one: int, other: int, w: float) -> None:
    assume(one != other + 1)  # between equal latents his formula is 0 / 0
    a, b = (x / length(x) for x in (randn(one), randn(other + 1)))
    theta = angle(a, b)
    expected = (math.sin((1 - w) * theta) * a + math.sin(w * theta) * b) / math.sin(theta)
    assert max_error(slerp(a, b, w), expected) < 1e-9


@given(SEEDS, SEEDS, W)
def test_lerp_is_the_straight_line_and_norm_lies_above_it(one: int, other: int, w: float) -> None:
    a, b = randn(one), randn(other + 1)
    line = (1 - w) * a + w * b
    assert max_error(lerp(a, b, w), line) < 1e-14
    radius = (1 - w) * length(a) + w * length(b)
    assert max_error(norm(a, b, w), radius * line / length(line)) < 1e-12
    assert float(length(lerp(a, b, w))) <= float(radius) * (1 + 1e-12)


@given(W)
def test_orthogonal_latents_of_one_radius_blend_by_cosine_and_sine(w: float) -> None:
    a, b = torch.zeros(2, *SHAPE, dtype=torch.float64)
    a[0, 0, 0], b[1, 2, 3] = 3.0, 3.0
    x = slerp(a, b, w)
    assert float(x[0, 0, 0]) == pytest.approx(3 * math.cos(w * math.pi / 2), abs=1e-14)
    assert float(x[1, 2, 3]) == pytest.approx(3 * math.sin(w * math.pi / 2), abs=1e-14)


ODD = {
    "random": randn(3),
    "constant": torch.ones(SHAPE, dtype=torch.float64),
    "alternating": torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(12).view(SHAPE),
    "single": torch.eye(24, dtype=torch.float64)[5].view(SHAPE),
}


@pytest.mark.parametrize("name", ODD)
@given(w=W)
def test_opposite_latents_go_round_by_a_half_circle(name: str, w: float) -> None:
    a = ODD[name]
    x = slerp(a, -a, w)
    assert float(length(x)) == pytest.approx(float(length(a)), rel=1e-12)
    assert angle(a, x) == pytest.approx(w * math.pi, abs=1e-7)


@given(SEEDS, W, st.floats(1e-14, 1e-6))
def test_nearly_equal_and_nearly_opposite_latents_are_safe(seed: int, w: float, distance: float) -> None:
    a = randn(seed)
    near = a + distance * randn(seed + 1)
    assert max_error(slerp(a, near, w), torch.lerp(a, near, w)) < 1e-8
    x = slerp(a, -near, w)
    expected = (1 - w) * float(length(a)) + w * float(length(near))
    assert float(length(x)) == pytest.approx(expected, rel=1e-6)
    assert angle(a, x) == pytest.approx(w * angle(a, -near), abs=1e-6)


@given(SEEDS, W)
def test_a_latent_of_zeros_is_safe(seed: int, w: float) -> None:
    """It has no direction, so all that can be asked is the other's direction and no more than its radius."""
    a, nothing = randn(seed), torch.zeros(SHAPE, dtype=torch.float64)
    assert max_error(slerp(a, nothing, w), (1 - w) * a) < 1e-14
    x = slerp(nothing, a, w)
    assert max_error(x, length(x) / length(a) * a) < 1e-14
    assert float(length(x)) <= w * float(length(a)) + 1e-14
    assert torch.equal(slerp(nothing, nothing, w), nothing)


@pytest.mark.parametrize("name", INTERPOLATIONS)
@given(SEEDS, W)
def test_every_picture_is_blended_by_itself(name: str, seed: int, w: float) -> None:
    a, b = randn(seed, 3), randn(seed + 1, 3) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None, None]
    together = INTERPOLATIONS[name](a, b, w)
    for row in range(3):
        assert max_error(together[row], INTERPOLATIONS[name](a[row], b[row], w)) < 1e-12 * 1e3


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_latents_that_cannot_be_mixed_are_refused(name: str) -> None:
    mix, a = INTERPOLATIONS[name], randn()
    for w in (math.nan, math.inf, -0.1, 1.1):
        with pytest.raises(ArgumentError, match="w must be from 0 to 1"):
            mix(a, 2 * a, w)
    for value in (math.nan, math.inf):
        with pytest.raises(ArgumentError, match="NaN or infinite values"):
            mix(a, a * value, 0.5)
    for b in (a[..., :2], a.int()):
        with pytest.raises(ArgumentError, match="floats of one shape"):
            mix(a, b, 0.5)
        with pytest.raises(ArgumentError, match="floats of one shape"):
            mix(b, a, 0.5)
    assert mix(a.half(), 2 * a, 0.5).dtype == torch.float16


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_norm_refuses_a_line_through_zero(scale: float) -> None:
    a = randn()
    with pytest.raises(ArgumentError, match="not defined for opposite latents"):
        norm(a, -scale * a, 1 / (1 + scale))


def test_blends_are_found_by_name() -> None:
    assert [find_interpolation(name) for name in INTERPOLATIONS] == [slerp, lerp, norm]
    with pytest.raises(ArgumentError, match=r"There is no interpolation 'cubic'\. Use slerp, lerp, norm\."):
        find_interpolation("cubic")


def test_the_registry_needs_no_torch() -> None:
    code = (
        "import sys; from ddim_edit.latents.interpolation import INTERPOLATION_ENTRIES as entries;"
        "assert list(entries) == ['slerp', 'lerp', 'norm'] and all(e.help for e in entries.values());"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


WEIGHTS = st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=1, max_size=6).filter(
    lambda weights: max(map(abs, weights)) > 0.1
)


@given(WEIGHTS)
def test_a_combination_is_the_weighted_sum_at_the_mean_length(weights: list[float]) -> None:
    latents = [(1 + index) * randn(index) for index in range(len(weights))]
    total = sum(weight * x for weight, x in zip(weights, latents, strict=True))
    assert isinstance(total, Tensor)
    sizes = [abs(weight) for weight in weights]
    radius = sum(size * float(length(x)) for size, x in zip(sizes, latents, strict=True)) / sum(sizes)
    assert max_error(linear_combination(latents, weights), radius / length(total) * total) < 1e-12 * radius


@given(SEEDS, SEEDS, W, SCALES)
def test_a_combination_of_two_is_the_interpolation_norm(one: int, other: int, w: float, scale: float) -> None:
    a, b = randn(one), scale * randn(other + 1)
    assert max_error(linear_combination([a, b], [1 - w, w]), norm(a, b, w)) < 1e-12 * max(1, scale)


@given(WEIGHTS, st.randoms())
def test_the_order_of_latents_does_not_matter(weights: list[float], random: random.Random) -> None:
    pairs = [(randn(index), weight) for index, weight in enumerate(weights)]
    shuffled = random.sample(pairs, len(pairs))
    found = linear_combination([x for x, _ in shuffled], [weight for _, weight in shuffled])
    assert max_error(found, linear_combination([x for x, _ in pairs], weights)) < 1e-12


@given(WEIGHTS, st.floats(1e-200, 1e200))
def test_only_the_ratios_of_weights_count(weights: list[float], factor: float) -> None:
    latents = [randn(index) for index in range(len(weights))]
    found = linear_combination(latents, [factor * weight for weight in weights])
    assert max_error(found, linear_combination(latents, weights)) < 1e-12


@pytest.mark.parametrize("weight", [1.0, 0.3, 1e-300])
def test_a_single_weight_returns_its_latent_bit_by_bit(weight: float) -> None:
    latents = [randn(index).half() for index in range(3)]
    assert torch.equal(linear_combination(latents, [0, weight, 0]), latents[1])
    assert torch.equal(linear_combination(latents, [0, -weight, 0]), -latents[1])


def test_a_combination_of_normal_latents_is_normal() -> None:
    """d is N(0, sum w^2 I), so d / ||d|| is uniform, and the length is that of its sources: see the paper."""
    weights, shape, count = [0.5, 0.3, -0.2], (1, 2, 2), 200_000
    generator = torch.Generator().manual_seed(7)
    latents = [torch.randn(count, *shape, generator=generator, dtype=torch.float64) for _ in weights]
    x = linear_combination(latents, weights).flatten(1)
    # The length is a mean of independent chi variables, whose mean and variance are known, and so is its square's mean.
    D = 4
    mean = math.sqrt(2) * math.gamma((D + 1) / 2) / math.gamma(D / 2)
    shares = find_shares(weights, 3)
    squared = mean**2 + (D - mean**2) * sum(share**2 for share in shares)
    assert max_error(x.mean(0), torch.zeros(D)) < 5 / math.sqrt(count)
    assert max_error(x.T @ x / count, squared / D * torch.eye(D)) < 10 / math.sqrt(count)
    assert float(x.norm(dim=1).mean()) == pytest.approx(mean, abs=5 / math.sqrt(count))


def test_the_length_of_independent_latents_is_that_of_lol() -> None:
    """In as many dimensions as latents have, dividing by the square root of the sum of w^2 is the same to a percent."""
    weights = [0.5, 0.3, 0.2, -0.4]
    generator = torch.Generator().manual_seed(3)
    latents = list(torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64))
    lol = sum(weight * x for weight, x in zip(weights, latents, strict=True)) / math.hypot(*weights)
    assert float(length(linear_combination(latents, weights)) / length(lol)) == pytest.approx(1, abs=0.01)


def test_a_combination_of_equal_latents_is_that_latent() -> None:
    """Where LOL takes them for independent, its result is longer by the square root of their number."""
    a = randn()
    assert max_error(linear_combination([a, a.clone(), a.clone()], [1, 1, 1]), a) < 1e-14


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "needs one weight for each latent, not 1 for 2"),
        ([1.0, math.nan], "Weights must be finite numbers, and not all of them 0, unlike 1, nan"),
        ([1.0, math.inf], "Weights must be finite"),
        ([0.0, 0.0], "Weights must be finite numbers, and not all of them 0, unlike 0, 0"),
        ([1.0, 0.5], "These latents cancel with these weights"),
    ],
)
def test_weights_that_make_no_combination_are_refused(weights: list[float], message: str) -> None:
    a = randn()
    with pytest.raises(ArgumentError, match=message):
        linear_combination([a, -2 * a], weights)


def test_a_combination_of_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match="needs one weight for each latent, not 0 for 0"):
        linear_combination([], [])


def test_latents_that_do_not_fit_together_are_not_combined() -> None:
    for other in (randn()[:1], randn().int(), math.nan * randn()):
        with pytest.raises(ArgumentError, match=r"floats of one shape|NaN or infinite"):
            linear_combination([randn(), other], [1, 1])


def places(stops: list[PathPoint]) -> list[float]:
    """Where stops lie on a line with the ends at 0, 1, 2, ..."""
    return [(1 - stop.w) * stop.start + stop.w * stop.end for stop in stops]


@given(st.integers(2, 6), st.integers(2, 12))
def test_a_path_visits_every_end_once_and_evenly(ends: int, frames: int) -> None:
    stops = plan_path(ends, frames)
    legs = ends - 1
    assert len(stops) == legs * (frames - 1) + 1
    assert places(stops) == pytest.approx([i / (frames - 1) for i in range(len(stops))])
    assert [place for place in places(stops) if place in range(ends)] == list(range(ends))


@given(st.integers(2, 6), st.integers(2, 12))
def test_a_loop_returns_without_repeating_its_beginning(ends: int, frames: int) -> None:
    stops = plan_path(ends, frames, loop=True)
    assert len(stops) == ends * (frames - 1)
    assert stops[: (ends - 1) * (frames - 1)] == plan_path(ends, frames)[:-1]
    back = stops[(ends - 1) * (frames - 1) :]
    expected = [(ends - 1) * (1 - i / (frames - 1)) for i in range(frames - 1)]
    assert places(back) == pytest.approx(expected)


@given(st.integers(2, 12))
def test_there_and_back_is_the_same_stops_twice(frames: int) -> None:
    stops = plan_path(2, frames, loop=True)
    assert stops[frames:] == stops[1 : frames - 1][::-1]


def test_the_ends_of_legs_are_exact() -> None:
    assert [stop.w for stop in plan_path(3, 4)] == [0, 1 / 3, 2 / 3, 0, 1 / 3, 2 / 3, 1]
    assert plan_path(2, 2) == [PathPoint(0, 1, 0.0), PathPoint(0, 1, 1.0)]


@pytest.mark.parametrize(("ends", "frames"), [(1, 5), (0, 5), (3, 1)])
def test_a_path_needs_two_pictures_and_two_frames(ends: int, frames: int) -> None:
    with pytest.raises(ArgumentError, match=f"not {ends} images and {frames} frames"):
        plan_path(ends, frames)


@given(st.integers(2, 6), st.integers(2, 12))
def test_the_points_of_a_line_are_evenly_from_its_first_to_its_last_end(ends: int, count: int) -> None:
    stops = plan_line(ends, count)
    assert places(stops) == pytest.approx([i * (ends - 1) / (count - 1) for i in range(count)])
    assert (stops[0].w, stops[-1].w) == (0, 1)


@given(st.integers(2, 6), st.integers(2, 6))
def test_a_line_with_room_for_every_end_is_the_path(ends: int, frames: int) -> None:
    stops = plan_line(ends, (ends - 1) * (frames - 1) + 1)
    assert places(stops) == pytest.approx(places(plan_path(ends, frames)))
    assert [place for place in places(stops) if place in range(ends)] == list(range(ends))


@pytest.mark.parametrize(("ends", "count"), [(1, 5), (3, 1)])
def test_a_line_needs_two_pictures_and_two_points(ends: int, count: int) -> None:
    with pytest.raises(ArgumentError, match=f"not {ends} images and {count} points"):
        plan_line(ends, count)


def test_corners_make_full_rows() -> None:
    assert [count_rows(4, 2), count_rows(6, 3), count_rows(6, 2), count_rows(12, 4)] == [2, 2, 3, 3]
    for corners, across in ((3, 2), (5, 2), (3, 3), (4, 1), (4, 0), (0, 2)):
        with pytest.raises(ArgumentError, match=f"not {corners} in rows of {across}"):
            count_rows(corners, across)


FAR: dict[str, tuple[float, float, float]] = {
    "another direction": (0.0, 0.6, 1.7),
    "nearly parallel": (1.7, 1e-3, 1.0),
    "parallel": (1.7, 0.0, 1.0),
    "antiparallel": (-1.7, 0.0, 1.0),
    "nearly antiparallel": (-1.7, 1e-3, 1.0),
    "zeros": (0.0, 0.0, 1.0),
    "huge": (-1.7, 0.3, 1e4),
    "tiny": (-1.7, 0.3, 1e-6),
    "far apart in length": (-1e-6, 1e-6, 1e3),
}
"""b = scale (along a + across c), and a times the scale."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", FAR)
def test_slerp_in_any_precision_is_that_in_double(case: str, dtype: torch.dtype) -> None:
    """For b = -1.7 a the lengths were off by a quarter in float32, and NaN in float16."""
    along, across, scale = FAR[case]
    a = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    first, second = (scale * a).to(dtype), (scale * (along * a + across * c)).to(dtype)
    for one, other in ((first, second), (second, first)):
        for w in (0.0, 1e-3, 0.25, 0.5, 0.9, 1.0):
            found = slerp(one, other, w)
            assert found.dtype == dtype
            expected = slerp(one.double(), other.double(), w)
            size = float(expected.abs().max())
            spacing = max(
                torch.finfo(dtype).eps * size, float(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps)
            )
            assert max_error(found.double(), expected) <= spacing
            radius = (1 - w) * length(one.double()) + w * length(other.double())
            assert float(length(expected) - radius) == pytest.approx(0, abs=1e-9 * float(radius))


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e150, 1e200, 1e300])
@pytest.mark.parametrize("name", ["slerp", "norm"])
def test_lengths_that_do_not_square_are_interpolated(name: str, scale: float) -> None:
    a, b = randn(0), randn(1)
    found, expected = INTERPOLATIONS[name](scale * a, scale * b, 0.3), scale * INTERPOLATIONS[name](a, b, 0.3)
    assert max_error(found, expected) <= max(1e-12 * scale, 1e-322)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_is_not_scaled_to_the_length_of_latents(dtype: torch.dtype) -> None:
    a = randn(0).to(dtype)
    with pytest.raises(ArgumentError, match="is not defined for opposite latents"):
        norm(a, (-1.7 * a.double()).to(dtype), 1 / 2.7)
    b = randn(1).to(dtype)
    assert max_error(norm(a, b, 0.5).double(), norm(a.double(), b.double(), 0.5)) < 4 * torch.finfo(dtype).eps
