"""Fused norms against torch's group norm and SiLU in float64; as a script, on the CPU in Triton's interpreter.

`TRITON_INTERPRET=1 python norm_cases.py` says nothing where all is well, and fails at the first case that is not.
"""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.models.group_norm import FusedGroupNorm
from ddim_edit.models.layers import GroupNormAct

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Case(NamedTuple):
    """A map, its groups and layout, how an embedding enters ("added" or "scaled"), and the activation after it.

    With `conv_bias`, the norm adds the bias of the convolution before it.
    """

    shape: tuple[int, int, int, int]
    groups: int
    channels_last: bool
    embedding: str | None = None
    activation: type[nn.Module] = nn.SiLU
    mean: float = 0.5
    conv_bias: bool = False


CASES = [
    Case((1, 6, 5, 7), 3, True),
    Case((1, 6, 5, 7), 3, False, "added"),
    Case((2, 12, 3, 11), 1, True, "added"),
    Case((2, 12, 3, 11), 1, False, "scaled"),
    Case((1, 32, 4, 4), 32, True, "scaled"),
    Case((1, 40, 9, 13), 8, True, activation=nn.Identity),
    Case((1, 10, 3, 3), 2, False, activation=nn.Mish),
    Case((3, 4, 1, 1), 1, True, "added"),
    Case((2, 6, 5, 7), 2, True, conv_bias=True),
    Case((2, 6, 5, 7), 2, False, "added", conv_bias=True),
    Case((2, 6, 5, 7), 3, True, "scaled", conv_bias=True),
]
"""For every dtype."""
LARGE = [
    Case((1, 80, 9, 17), 8, True, "added"),  # several tiles both ways, none of them full at the end
    Case((1, 6, 41, 53), 2, False),
    Case((1, 64, 46, 47), 2, True),  # more tiles than are combined at a time
    Case((1, 8, 33, 35), 2, True, "added", mean=1000),  # where E[x^2] - E[x]^2 would have no digit left
]
"""In float32 alone."""


def random(*shape: int, seed: int, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def layer(case: Case, dtype: torch.dtype, device: str) -> GroupNormAct:
    channels = case.shape[1]
    norm = GroupNormAct(case.groups, channels, 1e-5, case.activation(), case.embedding == "scaled")
    norm.weight.data = 1 + 0.5 * random(channels, seed=1, device=device)
    norm.bias.data = random(channels, seed=2, device=device)
    return norm.to(dtype)


def exactly(case: Case, norm: GroupNormAct, x: Tensor, emb: Tensor | None, conv_bias: Tensor | None) -> Tensor:
    """The formula, in float64, without the layer that it is tested for."""
    x, weight, bias = x.double(), norm.weight.double(), norm.bias.double()
    if conv_bias is not None:
        x = x + conv_bias.double()[:, None, None]
    if emb is not None:
        emb = emb.double()[:, :, None, None]
    if emb is not None and case.embedding == "added":
        x = x + emb
    h = F.group_norm(x.contiguous(), case.groups, weight, bias, norm.eps)
    if emb is not None and case.embedding == "scaled":
        scale, shift = emb.chunk(2, dim=1)
        h = h * (1 + scale) + shift
    return norm.activation(h)


@torch.inference_mode()
def check_case(case: Case, dtype: torch.dtype, device: str) -> None:
    x = (case.mean + 2 * random(*case.shape, seed=0, device=device)).to(dtype)
    if case.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    norm = layer(case, dtype, device)
    rows = 1 if case.shape[0] == 2 else case.shape[0]  # one embedding may stand for all images
    width = 2 * case.shape[1] if case.embedding == "scaled" else case.shape[1]
    emb = random(rows, width, seed=3, device=device).to(dtype) if case.embedding else None
    conv_bias = 2 * random(case.shape[1], seed=4, device=device).to(dtype) if case.conv_bias else None
    before = x.clone()
    made = FusedGroupNorm(norm, conv_bias)(x, emb)
    assert torch.equal(x, before)
    assert made.stride() == x.stride()
    eps = torch.finfo(dtype).eps
    # SiLU is rounded to the dtype once, and other activations of values that were rounded before.
    absolute = 1e-5 if case.activation is nn.SiLU else 1e-5 + 4 * eps
    if case.mean > 100:
        absolute = 1e-3
    torch.testing.assert_close(
        made, exactly(case, norm, x, emb, conv_bias).to(dtype), rtol=max(eps, 2e-6), atol=absolute
    )


@torch.inference_mode()
def check_other_layouts(device: str) -> None:
    """A map that is neither contiguous nor channels_last, and features without pixels."""
    norm = layer(Case((2, 6, 1, 1), 3, False), torch.float32, device)
    wide = random(2, 6, 4, 10, seed=0, device=device).float()
    for x in (wide[..., ::2], wide.transpose(2, 3), wide[..., 0, 0]):
        made = FusedGroupNorm(norm)(x)
        torch.testing.assert_close(made, F.silu(F.group_norm(x, 3, norm.weight, norm.bias)), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def check_batches(device: str) -> None:
    """An image is normalized alike whatever stands beside it."""
    case = Case((2, 8, 9, 17), 2, True)
    norm = FusedGroupNorm(layer(case, torch.float32, device))
    x = random(*case.shape, seed=0, device=device).float().contiguous(memory_format=torch.channels_last)
    assert torch.equal(norm(x)[:1], norm(x[:1]))


def check_gradients(device: str) -> None:
    """There are none, which is said rather than left out silently."""
    case = Case((1, 6, 5, 7), 3, True)
    norm = FusedGroupNorm(layer(case, torch.float32, device))
    with pytest.raises(RuntimeError, match="no gradients"):
        norm(torch.ones(case.shape, device=device).requires_grad_())


def check(device: str) -> None:
    """Run every check on a device."""
    for case in CASES:
        for dtype in DTYPES:
            check_case(case, dtype, device)
    for case in LARGE:
        check_case(case, torch.float32, device)
    check_other_layouts(device)
    check_batches(device)
    check_gradients(device)


if __name__ == "__main__":
    check("cpu")
