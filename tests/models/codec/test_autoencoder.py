"""The codec around autoencoders whose every answer is known in closed form."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.models.codec.autoencoder import Affine, AutoencoderCodec
from ddim_edit.models.codec.pixels import Codec, ColourCodec, GreyCodec

from .closed_forms import Folding, randn


def test_factor_and_lossy() -> None:
    codecs: list[Codec] = [ColourCodec(), GreyCodec(), AutoencoderCodec(Folding(), factor=2)]
    assert [(codec.factor, codec.lossy) for codec in codecs] == [(1, False), (1, True), (2, True)]


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1.0, 0.0), (0.18215, 0.0), (1.5305, 0.0609), (tuple(0.1 + 0.1 * c for c in range(12)), tuple(range(12)))],
)
def test_invertible_autoencoder_round_trips_at_any_scale(scale: Affine, shift: Affine) -> None:
    codec, pictures = AutoencoderCodec(Folding(), scale, shift, factor=2), randn(3, 3, 6, 8)
    torch.testing.assert_close(codec.decode(codec.encode(pictures)), pictures, rtol=0, atol=1e-6)


def test_x0_is_the_shifted_and_scaled_latent() -> None:
    folding, pictures = Folding(), randn(2, 3, 4, 4)
    z = folding.encode(pictures.float()).double()
    x0 = AutoencoderCodec(folding, 1.5305, 0.0609, 2).encode(pictures)
    torch.testing.assert_close(x0, (z - 0.0609) * 1.5305, rtol=1e-14, atol=1e-14)


def test_every_channel_may_have_its_own_shift_and_scale() -> None:
    folding, pictures = Folding(), randn(2, 3, 4, 4)
    z = folding.encode(pictures.float()).double()
    x0 = AutoencoderCodec(folding, tuple(range(1, 13)), tuple(range(12)), 2).encode(pictures)
    for channel in range(12):
        torch.testing.assert_close(x0[:, channel], (z[:, channel] - channel) * (channel + 1), rtol=1e-14, atol=1e-14)


@dataclass
class Spy:
    """Passes pictures on as their own latents, and remembers them."""

    seen: list[Tensor] = field(default_factory=list)

    def encode(self, pictures: Tensor) -> Tensor:
        self.seen.append(pictures)
        return pictures

    decode = encode


def test_the_latents_survive_scaling_bit_for_bit() -> None:
    spy = Spy()
    codec = AutoencoderCodec(spy, 0.18215, 0.0609, 1)
    codec.decode(codec.encode(randn(4, 3, 16, 16)))
    for before, after in zip(spy.seen[:4], spy.seen[4:], strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_network_gets_single_float32_images(dtype: torch.dtype) -> None:
    spy = Spy()
    codec = AutoencoderCodec(spy, 0.5, factor=1)
    x0 = codec.encode(randn(3, 3, 4, 4).to(dtype))
    assert x0.dtype == codec.decode(x0.to(dtype)).dtype == torch.float64
    assert [(each.dtype, each.shape) for each in spy.seen] == [(torch.float32, (1, 3, 4, 4))] * 6


def test_gradients_flow_through_decoding_to_x0_alone() -> None:
    codec = AutoencoderCodec(Folding(), 0.5, 0.1, 2)
    x0 = codec.encode(randn(2, 3, 4, 4))
    assert not x0.requires_grad
    assert not codec.decode(x0).requires_grad
    x0.requires_grad_()
    weights = randn(2, 3, 4, 4, seed=1)
    (codec.decode(x0) * weights).sum().backward()
    # D is orthogonal, so that its adjoint is E, and dp / dx_0 = D / scale.
    assert x0.grad is not None
    torch.testing.assert_close(x0.grad, Folding().encode(weights.float()).double() / 0.5, rtol=1e-5, atol=1e-5)


def test_pictures_that_do_not_fill_whole_cells_are_refused() -> None:
    wanted = "The sides of images must be multiples of 2, which 5x4 are not. Crop or resize them."
    with pytest.raises(ArgumentError, match=wanted):
        AutoencoderCodec(Folding(), factor=2).encode(randn(1, 3, 4, 5))


def test_the_closed_form_is_orthogonal() -> None:
    folding, pictures = Folding(), randn(2, 3, 4, 6).float()
    z = folding.encode(pictures)
    assert z.shape == (2, 12, 2, 3)
    torch.testing.assert_close(z.square().sum(), pictures.square().sum())
    unmixed = torch.einsum("ck,bchw->bkhw", folding.mixing, z)
    torch.testing.assert_close(F.pixel_shuffle(unmixed, 2), pictures)
