"""What a UNet says of its own bottleneck, whatever its layers."""

from typing import Any

import pytest
import torch

from ddim_edit.diffusion.bottleneck import Bottleneck
from ddim_edit.errors import ArgumentError
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet

from ... import tiny

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "score": {"time_embedding_type": "fourier"},
    "no middle block": {"mid_block_type": None},
    "time scales": {"resnet_time_scale_shift": "scale_shift"},
    "attention": {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]},
}
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SHIFT = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(1))
TIME = torch.tensor([3.5, 700.0])


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def unet(request: pytest.FixtureRequest) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(UNetConfig.from_dict(tiny.UNET | request.param)).eval().requires_grad_(False)


def by_hand(unet: UNet, shift: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
    emb = unet.embed(TIME)
    bottom, skips = unet.encode(X, emb)
    h = unet.middle(bottom, emb)
    scale = TIME.view(2, 1, 1, 1) if unet.config.time_embedding_type == "fourier" else 1
    return unet.decode(h + shift, skips, emb) / scale, h


def test_a_unet_has_a_bottleneck(unet: UNet) -> None:
    assert isinstance(unet, Bottleneck)


def test_what_is_read_is_the_output_and_the_middle_blocks_answer(unet: UNet) -> None:
    output, h = unet.read(X, TIME)
    assert torch.equal(output, unet(X, TIME))
    assert torch.equal(output, by_hand(unet, 0.0)[0])
    assert torch.equal(h, by_hand(unet, 0.0)[1])


@pytest.mark.parametrize("shape", [(), (1,), (2,)], ids=["one for all", "one for a batch", "one each"])
def test_a_shift_is_added_before_decoding(unet: UNet, shape: tuple[int, ...]) -> None:
    own, shifted = unet.shifted(X, TIME, SHIFT.expand(*shape, *SHIFT.shape))
    assert torch.equal(own, unet(X, TIME))
    torch.testing.assert_close(shifted, by_hand(unet, SHIFT)[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(own, shifted)


@pytest.mark.parametrize("shape", [(), (1,), (2,)], ids=["one for all", "one for a batch", "one each"])
def test_no_shift_is_no_change_at_all(unet: UNet, shape: tuple[int, ...]) -> None:
    own, shifted = unet.shifted(X, TIME, torch.zeros(*shape, *SHIFT.shape))
    assert torch.equal(own, shifted)


def test_all_but_the_decoder_runs_once(unet: UNet) -> None:
    runs: list[str] = []
    for name in ("conv_in", "conv_out"):
        getattr(unet, name).register_forward_hook(lambda *_, name=name: runs.append(name))
    unet.shifted(X, TIME, SHIFT)
    assert runs == ["conv_in", "conv_out", "conv_out"]


@pytest.mark.parametrize("shape", [(16,), (16, 8, 4), (8, 8, 8), (3, 16, 8, 8), (1, 2, 16, 8, 8)])
def test_a_shift_of_another_shape_is_refused(unet: UNet, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"must have the shape \[16, 8, 8\], for all images"):
        unet.shifted(X, TIME, torch.zeros(shape))
