"""Fused biases and residual sums against their formula in float64; as a script, on the CPU in Triton's interpreter.

`TRITON_INTERPRET=1 python sum_cases.py` says nothing where all is well, and fails at the first case that is not.
"""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from ddim_edit.models.blocks import fusion_error
from ddim_edit.models.layers import ResidualSum
from ddim_edit.models.residual_sum import FusedBiasConv2d, FusedResidualSum, add_up

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPES = [(2, 6, 5, 7), (3, 1, 4, 4), (2, 5, 1, 1), (1, 6, 41, 53), (2, 70, 9, 13)]
"""The last two take several tiles, none of them full at the end."""
ALL = (True, True, True)
"""That there are a bias, a shortcut and a bias of the shortcut."""


def random(*shape: int, seed: int, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


@torch.inference_mode()
def check_formula(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, given: tuple[bool, ...], device: str
) -> None:
    """out = (h + shortcut + (bias + shortcut_bias)) * factor in the place of h, with and without each of the terms."""
    h, shortcut = (random(*shape, seed=i, device=device).to(dtype).contiguous(memory_format=layout) for i in (0, 1))
    bias, shortcut_bias = (random(shape[1], seed=i, device=device).to(dtype) for i in (2, 3))
    exact = h.double()
    if given[0]:
        exact = exact + bias.double()[:, None, None]
    if given[1]:
        exact = exact + shortcut.double()
    if given[2]:
        exact = exact + shortcut_bias.double()[:, None, None]
    terms = (term if there else None for term, there in zip((bias, shortcut, shortcut_bias), given, strict=True))
    place = h.clone()
    made = add_up(place, *terms, factor=0.3)
    assert made.data_ptr() == place.data_ptr()
    assert made.stride() == h.stride()
    # float32 rounds every operation, on numbers of up to 8; the others are rounded once, at the end.
    torch.testing.assert_close(made, (0.3 * exact).to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@torch.inference_mode()
def check_other_layouts(device: str) -> None:
    """Shortcuts laid out otherwise, maps that are neither contiguous nor channels_last, and other numbers of axes."""
    bias = random(6, seed=2, device=device).float()
    h, shortcut = (random(2, 6, 4, 10, seed=i, device=device).float() for i in (0, 1))
    exact = h + shortcut + bias[:, None, None]
    for layout, other in product(LAYOUTS, LAYOUTS):
        made = add_up(h.clone(memory_format=layout), bias, shortcut.clone(memory_format=other))
        torch.testing.assert_close(made, exact)
    made = add_up(h[..., ::2], bias, shortcut[..., ::2])
    torch.testing.assert_close(made, exact[..., ::2])
    torch.testing.assert_close(add_up(h[..., 0].clone(), bias), h[..., 0] + bias[:, None])
    torch.testing.assert_close(add_up(h[..., 0, 0].clone(), bias), h[..., 0, 0] + bias)


@torch.inference_mode()
def check_layers(device: str) -> None:
    """The layers made of it are those that they stand for."""
    h, shortcut = (random(2, 6, 5, 7, seed=i, device=device).float() for i in (0, 1))
    for plain in (ResidualSum(), ResidualSum(divisor=3), ResidualSum(factor=0.7)):
        fused = FusedResidualSum(plain)
        torch.testing.assert_close(fused(h.clone(), shortcut), plain(h.clone(), shortcut))
        torch.testing.assert_close(fused.unfused()(h.clone(), shortcut), plain(h.clone(), shortcut))
    conv = nn.Conv2d(6, 4, 3, stride=2, padding=1).to(device)
    exact = conv(h)
    conv.__class__ = FusedBiasConv2d
    torch.testing.assert_close(conv(h), exact)


@torch.inference_mode()
def check_batches(device: str) -> None:
    """An image is summed alike whatever stands beside it."""
    h, shortcut = (random(2, 8, 9, 17, seed=i, device=device).float() for i in (0, 1))
    bias = random(8, seed=2, device=device).float()
    made = add_up(h.clone(), bias, shortcut, bias, 0.3)
    assert torch.equal(made[:1], add_up(h[:1].clone(), bias, shortcut[:1], bias, 0.3))


def check_gradients(device: str) -> None:
    """There are none, which is said rather than left out silently, and with nothing overwritten."""
    h, shortcut = (torch.ones(1, 6, 5, 7, device=device) for _ in range(2))
    for maps in ((h, shortcut.clone().requires_grad_()), (h.clone().requires_grad_(), shortcut)):
        with pytest.raises(RuntimeError, match="no gradients"):
            FusedResidualSum(ResidualSum())(*maps)
    assert torch.equal(h, shortcut)
    conv = nn.Conv2d(6, 4, 3).to(device)
    conv.__class__ = FusedBiasConv2d
    with pytest.raises(RuntimeError, match="no gradients"):
        conv(h)


def check(device: str) -> None:
    """Run every check on a device."""
    for dtype, layout, shape in product(DTYPES, LAYOUTS, SHAPES):
        check_formula(shape, dtype, layout, ALL, device)
    for given in product((True, False), repeat=3):
        check_formula(SHAPES[0], torch.float32, torch.channels_last, given, device)
    check_other_layouts(device)
    check_layers(device)
    check_batches(device)
    check_gradients(device)
    for dtype in DTYPES:  # what `fusion_obstacle` asks of them
        assert fusion_error(torch.device(device), dtype) < 16 * torch.finfo(dtype).eps


if __name__ == "__main__":
    check("cpu")
