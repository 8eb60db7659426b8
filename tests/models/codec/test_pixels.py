import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.errors import ModelError
from ddim_edit.models.codec.pixels import ColourCodec, GreyCodec, codec_for


def randn(channels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_models_get_the_codec_of_their_channels() -> None:
    assert isinstance(codec_for(3), ColourCodec)
    assert isinstance(codec_for(1), GreyCodec)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_channels_are_refused(channels: int) -> None:
    with pytest.raises(ModelError, match=f"must have 1 or 3 channels, not {channels}"):
        codec_for(channels)


def test_colour_is_left_alone() -> None:
    x = randn(3)
    assert torch.equal(ColourCodec().encode(x), x)
    assert torch.equal(ColourCodec().decode(x), x)


def test_grey_comes_back_and_stays_grey() -> None:
    codec, x0 = GreyCodec(), randn(1)
    pictures = codec.decode(x0)
    assert pictures.shape == (2, 3, 4, 5)
    assert all(torch.equal(pictures[:, channel], x0[:, 0]) for channel in range(3))
    torch.testing.assert_close(codec.encode(pictures), x0, rtol=1e-14, atol=1e-14)


def test_luma_has_the_weights_of_bt_601() -> None:
    primaries = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    assert GreyCodec().encode(primaries).flatten().tolist() == [0.299, 0.587, 0.114]


@given(st.floats(-1, 1), st.integers(0, 9))
def test_luma_is_linear_and_keeps_the_range(w: float, seed: int) -> None:
    codec, a, b = GreyCodec(), randn(3, seed).clamp(-1, 1), randn(3, seed + 1).clamp(-1, 1)
    mixed = codec.encode(torch.lerp(a, b, w))
    torch.testing.assert_close(mixed, torch.lerp(codec.encode(a), codec.encode(b), w), rtol=1e-12, atol=1e-12)
    assert codec.encode(a).abs().max() <= 1 + 1e-12
