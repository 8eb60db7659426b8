"""A network rewritten for the CPU that it runs on: faster layers, the same answers but for rounding."""

from functools import cache, cached_property
from itertools import pairwise
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.models.layers import GroupNormAct

_FEW_PIXELS = 1024
"""PyTorch normalises bfloat16 maps of fewer pixels up to ten times slower than float32 ones."""
_WIDE, _TILES = 128, 16
"""Channels and tiles of one picture; below either, a direct convolution is faster. Batches play no part in it: how a
picture is rounded must not depend on the pictures beside it."""
_CHUNK = 2 << 20
"""Bytes of transformed tiles at work at once: more would leave the caches."""


def packed(network: nn.Module) -> nn.Module:
    """The network itself, its layers replaced by faster ones that cannot be trained, moved, cast or saved.

    To be called once, on a channels_last network in its device and dtype; away from CPUs, and for dtypes that oneDNN
    does not convolve here, nothing changes. Convolutions get their weights in oneDNN's own layout; in float32, wide 3x3
    ones of large maps become `Winograd`; in bfloat16, norms of small maps are worked out in float32.
    """
    weight = next(network.parameters(), None)
    if weight is not None and weight.device.type == "cpu" and _can_convolve(weight.dtype):
        for module in list(network.modules()):
            _pack_children(module)
    return network


def _pack_children(module: nn.Module) -> None:
    # What doubles a map is registered right before the convolution that it is called right before.
    for (before, double), (name, child) in pairwise([("", nn.Identity()), *module.named_children()]):
        if isinstance(child, nn.GroupNorm) and child.weight.dtype == torch.bfloat16:
            setattr(module, name, _Norm(child))
        elif type(child) is nn.Conv2d and _is_wide(child) and _doubles(double):
            setattr(module, before, nn.Identity())
            setattr(module, name, Winograd(child, DOUBLED, nn.Sequential(double, Direct(child))))
        elif type(child) is nn.Conv2d and child.padding_mode == "zeros" and not isinstance(child.padding, str):
            direct = Direct(child)
            setattr(module, name, Winograd(child, PLAIN, direct) if _is_wide(child) else direct)


def _is_wide(conv: nn.Conv2d) -> bool:
    same = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    wide = conv.groups == 1 and min(conv.in_channels, conv.out_channels) >= _WIDE
    return same and wide and conv.padding_mode == "zeros" and conv.weight.dtype == torch.float32


def _doubles(module: nn.Module) -> bool:
    return isinstance(module, nn.Upsample) and module.mode == "nearest" and module.scale_factor == 2


@cache
def _can_convolve(dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolution is there, and right: PyTorch keeps it private, and promises nothing."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        x = torch.randn(2, 16, 8, 8).to(dtype=dtype, memory_format=torch.channels_last)
        conv = nn.Conv2d(16, 32, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
        try:
            return torch.allclose(Direct(conv)(x), conv(x), rtol=0, atol=16 * torch.finfo(dtype).eps)
        except (AttributeError, RuntimeError):
            return False


class Direct(nn.Module):
    """A 2D convolution whose weights are laid out once; knows no padding but zeros, and no gradients."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.settings = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.detach(), *self.settings)

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution: [B, inputs, H, W] -> [B, outputs, H', W'] in the dtype of the weights."""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.settings, "none", [], None
        )
        return out


class Scheme(NamedTuple):
    """How a row of 4 outputs is had from few products; a square of them goes through it both ways.

    4 outputs = write [4, points] ((weigh [points, 3] kernel) * (read [points, window] inputs)); windows begin `step`
    inputs apart.
    """

    read: Tensor
    weigh: Tensor
    write: Tensor

    @property
    def step(self) -> int:
        """Inputs from one window to the next."""
        return self.read.shape[1] - 2

    @classmethod
    def at(cls, sees: Tensor) -> Self:
        """Through the points 0, 1, -1, 2, -2 and infinity, for a window [6] that `sees` [6, window] inputs."""
        read = _READ @ sees
        needed = read.any(1)
        return cls(read[needed], _WEIGH[needed], _WRITE[:, needed])


_READ = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
_WEIGH = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
_WRITE = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)
PLAIN = Scheme.at(torch.eye(6, dtype=torch.float64))
"""Of a map as it is: 36 products for 16 outputs, where 144 are needed directly."""
DOUBLED = Scheme.at(torch.eye(4, dtype=torch.float64)[[0, 1, 1, 2, 2, 3]])
"""Of a map that would be doubled first, to the nearest pixel: one point sees nothing, so 25 products do."""


class Winograd(nn.Module):
    """A 3x3 convolution by few products, to some 3e-6 of its values in float32; holds up to 4 times the weights.

    out = A ((G k G^T) * (B^T d B)) A^T for each 4x4 of outputs, summed over channels between the brackets.

    Maps that are no whole windows, or fewer than 16, are convolved directly.

    Args:
        conv: 3x3, stride and padding 1.
        scheme: A, G and B.
        direct: what answers alike.

    Winograd (1980); Lavin and Gray (2016), "Fast Algorithms for Convolutional Neural Networks".
    """

    def __init__(self, conv: nn.Conv2d, scheme: Scheme, direct: nn.Module) -> None:
        super().__init__()
        self.scheme, self.direct = scheme, direct
        self.kernel = conv.weight.detach()
        self.bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.read, self.write = (torch.kron(way, way).float() for way in (scheme.read, scheme.write))

    @cached_property
    def weight(self) -> Tensor:
        """The transformed kernel [points^2, inputs, outputs], made when a map first needs it."""
        weigh = self.scheme.weigh
        made = torch.einsum("ak,oikl,bl->abio", weigh, self.kernel.double(), weigh)
        return made.flatten(0, 1).float().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, 4 H / step, 4 W / step], channels_last."""
        batch, _, height, width = x.shape
        (rows, rest), (columns, rest_) = divmod(height, self.scheme.step), divmod(width, self.scheme.step)
        if rest or rest_ or rows * columns < _TILES:
            out: Tensor = self.direct(x)
            return out
        outputs, inputs = self.kernel.shape[:2]
        made = x.new_empty(batch, rows, 4, columns, 4, outputs)
        chunk = max(1, _CHUNK // (4 * len(self.weight) * max(inputs, outputs) * rows * columns))
        for pictures, answers in zip(torch.split(x, chunk), torch.split(made, chunk), strict=True):
            self._answer(pictures, answers.permute(2, 4, 0, 1, 3, 5))
        return made.view(batch, 4 * rows, 4 * columns, outputs).permute(0, 3, 1, 2)

    def _answer(self, x: Tensor, out: Tensor) -> None:
        """Fill out [4, 4, B, rows, columns, outputs]."""
        step = self.scheme.step
        windows = F.pad(x, (1, 1, 1, 1)).unfold(2, step + 2, step).unfold(3, step + 2, step)
        tiles = windows.permute(4, 5, 0, 2, 3, 1).reshape((step + 2) ** 2, -1)
        products = torch.bmm((self.read @ tiles).view(len(self.weight), -1, x.shape[1]), self.weight)
        torch.add((self.write @ products.flatten(1)).view(out.shape), self.bias, out=out)


class _Norm(GroupNormAct):
    """A group norm of bfloat16 maps, in float32 where they are small."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        activation = norm.activation if isinstance(norm, GroupNormAct) else nn.Identity()
        scale_shift = isinstance(norm, GroupNormAct) and norm.scale_shift
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, activation, scale_shift)
        self.weight, self.bias = norm.weight, norm.bias
        self.weight32, self.bias32 = norm.weight.detach().float(), norm.bias.detach().float()

    def normalize(self, x: Tensor) -> Tensor:
        if x[0, 0].numel() >= _FEW_PIXELS:
            return super().normalize(x)
        return F.group_norm(x.float(), self.num_groups, self.weight32, self.bias32, self.eps).to(x.dtype)
