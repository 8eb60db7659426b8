import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_edit.errors import ArgumentError
from ddim_edit.images import to_float, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(256,), (4, 64), (1, 2, 2, 64)])
def test_every_level_survives_the_round_trip(shape: tuple[int, ...]) -> None:
    assert torch.equal(to_uint8(to_float(LEVELS.reshape(shape))), LEVELS.reshape(shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_every_level_survives_other_dtypes(dtype: torch.dtype) -> None:
    assert torch.equal(to_uint8(to_float(LEVELS).to(dtype)), LEVELS)


def test_the_ends_are_minus_one_and_one() -> None:
    assert to_float(LEVELS)[[0, 255]].tolist() == [-1.0, 1.0]
    assert to_float(LEVELS).dtype == torch.float32


@settings(deadline=None)
@given(st.floats(-3, 3))
def test_rounding_is_to_the_nearest_level_inside_the_range(value: float) -> None:
    level = to_uint8(torch.tensor(value, dtype=torch.float64)).item()
    exact = (min(max(value, -1), 1) + 1) * 127.5
    assert abs(level - exact) <= 0.5 + 1e-4


def test_infinities_are_cut_off_and_nan_is_refused() -> None:
    assert to_uint8(torch.tensor([float("-inf"), float("inf")])).tolist() == [0, 255]
    with pytest.raises(ArgumentError, match="NaN"):
        to_uint8(torch.tensor([0.0, float("nan")]))
