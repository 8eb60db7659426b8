import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_edit.errors import ArgumentError
from ddim_edit.images import to_float, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((256,), torch.float32), ((4, 64), torch.float16), ((1, 2, 2, 64), torch.float64)], ids=str
)
def test_every_level_survives_the_round_trip(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    levels = LEVELS.reshape(shape)
    assert torch.equal(to_uint8(to_float(levels).to(dtype)), levels)


def test_range_and_dtype() -> None:
    assert to_float(LEVELS)[[0, 255]].tolist() == [-1.0, 1.0]
    assert to_float(LEVELS).dtype == torch.float32


@settings(deadline=None)
@given(st.floats(-3, 3))
def test_values_round_to_the_nearest_level(value: float) -> None:
    level = to_uint8(torch.tensor(value, dtype=torch.float64)).item()
    exact = (min(max(value, -1), 1) + 1) * 127.5
    assert abs(level - exact) <= 0.5 + 1e-4


def test_infinities_are_clipped_and_nan_is_refused() -> None:
    assert to_uint8(torch.tensor([float("-inf"), float("inf")])).tolist() == [0, 255]
    with pytest.raises(ArgumentError, match="NaN"):
        to_uint8(torch.tensor([0.0, float("nan")]))
