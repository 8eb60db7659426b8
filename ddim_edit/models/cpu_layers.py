"""Faster layers for networks on CPUs, which compute the same up to rounding.

Measured on faces64 with one thread, both interleaved: the network with Winograd convolutions is 1.06 times as fast at
batch 1, and 1.21 times at batch 4, as with weights in oneDNN's layout alone. So Winograd pays for batches of a few
images or more, and hardly for single ones.
"""

from functools import cache, cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.models.layers import GroupNormAct, share_norm

_FEW_PIXELS = 1024
"""PyTorch normalises bfloat16 maps of fewer pixels up to ten times slower than float32 ones."""
_WIDE = 128
_TILES = 16
"""Channels, and tiles of one image; below either, a direct convolution is faster. Batches play no part in it: how an
image is rounded must not depend on the images beside it."""
_CHUNK = 2 << 20
"""Bytes of transformed tiles at work at once: more would leave the caches."""


def optimize_for_cpu(network: nn.Module) -> nn.Module:
    """Replace layers of a network by faster ones, which cannot be trained, moved or cast, and return it.

    `restore_layers` undoes it. Call it once, on a channels_last network in its final device and dtype; away from CPUs,
    and for dtypes that oneDNN does not convolve here, nothing changes. Convolutions get their weights in oneDNN's own
    layout; in float32, wide 3x3 ones of large maps become `WinogradConv2d`; in bfloat16, norms of small maps are
    computed in float32.
    """
    weight = next(network.parameters(), None)
    if weight is not None and weight.device.type == "cpu" and _can_convolve(weight.dtype):
        for module in list(network.modules()):
            _replace_children(module)
    return network


def _replace_children(module: nn.Module) -> None:
    # An nn.Upsample is assumed to be registered right before the convolution that takes its output.
    for (before, previous), (name, child) in pairwise([("", nn.Identity()), *module.named_children()]):
        if isinstance(child, nn.GroupNorm) and child.weight.dtype == torch.bfloat16:
            setattr(module, name, Float32GroupNorm(child))
        elif type(child) is nn.Conv2d and child.padding_mode == "zeros" and not isinstance(child.padding, str):
            packed = PackedConv2d(child)
            same = (child.kernel_size, child.stride, child.padding, child.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
            wide = child.groups == 1 and min(child.in_channels, child.out_channels) >= _WIDE
            if not (same and wide and child.weight.dtype == torch.float32):
                setattr(module, name, packed)
            elif isinstance(previous, nn.Upsample) and previous.mode == "nearest" and previous.scale_factor == 2:
                setattr(module, before, nn.Identity())
                setattr(module, name, WinogradConv2d(child, UPSAMPLED, nn.Sequential(previous, packed)))
            else:
                setattr(module, name, WinogradConv2d(child, PLAIN, packed))


def restore_layers(network: nn.Module) -> nn.Module:
    """Replace the layers that `optimize_for_cpu` made by plain ones with the same weights, in place, and return it."""
    # Inner ones first: a Winograd convolution holds the direct one that takes its place.
    for module in reversed(list(network.modules())):
        for name, child in list(module.named_children()):
            if isinstance(child, PackedConv2d):
                setattr(module, name, child.unpacked())
            elif isinstance(child, WinogradConv2d):
                setattr(module, name, child.direct)
            elif isinstance(child, Float32GroupNorm):
                parameters = child.weight, child.bias
                plain = share_norm(*parameters, child.num_groups, child.eps, child.activation, child.scale_shift)
                setattr(module, name, plain)
    return network


@cache
def _can_convolve(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's convolution is there, and right: PyTorch keeps it private, and promises nothing."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        x = torch.randn(2, 16, 8, 8).to(dtype=dtype, memory_format=torch.channels_last)
        conv = nn.Conv2d(16, 32, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
        try:
            return torch.allclose(PackedConv2d(conv)(x), conv(x), rtol=0, atol=16 * torch.finfo(dtype).eps)
        except (AttributeError, RuntimeError):
            return False


class PackedConv2d(nn.Module):
    """A 2D convolution whose weights are laid out once; without gradients, and with zero padding only.

    Args:
        conv: the convolution to run.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.settings = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.weight = self._pack(conv.weight.detach())

    def _pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.settings)
        return packed

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with plain weights: torch neither copies nor saves packed ones."""
        return {**self.__dict__, "weight": self.weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.weight = self._pack(state["weight"])

    def unpacked(self) -> nn.Conv2d:
        """Return the same convolution by torch, channels_last and without gradients."""
        weight = self.weight.to_dense()
        padding, stride, dilation, groups = cast(Any, self.settings)  # of a Conv2d
        outputs, inputs, height, width = weight.shape
        biased = self.bias is not None
        conv = nn.Conv2d(inputs * groups, outputs, (height, width), stride, padding, dilation, groups, biased)
        conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias, requires_grad=False)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x [B, inputs, H, W], [B, outputs, H', W'] in the dtype of the weights."""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.settings, "none", [], None
        )
        return out


class WinogradTransform(NamedTuple):
    """The matrices B^T, G and A^T that make 4 outputs of a row from few products; a tile goes through them both ways.

    4 outputs = A^T [4, points] ((G [points, 3] kernel) * (B^T [points, window] inputs)); windows begin `step` inputs
    apart.

    Fields: read is B^T, weigh is G, write is A^T.
    """

    read: Tensor
    weigh: Tensor
    write: Tensor

    @property
    def step(self) -> int:
        """Inputs from one window to the next."""
        return self.read.shape[1] - 2

    @classmethod
    def of_window(cls, inputs: Tensor) -> Self:
        """Return the transform F(4, 3) for a window [6] made of `inputs` [6, window]; points that it leaves 0 go."""
        read = _READ @ inputs
        needed = read.any(1)
        return cls(read[needed], _WEIGH[needed], _WRITE[:, needed])


# F(4, 3) of Winograd's algorithm through the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, section 4.1).
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
PLAIN = WinogradTransform.of_window(torch.eye(6, dtype=torch.float64))
"""Of a map as it is: 36 products for 16 outputs, where 144 are needed directly."""
UPSAMPLED = WinogradTransform.of_window(torch.eye(4, dtype=torch.float64)[[0, 1, 1, 2, 2, 3]])
"""Of a map that is doubled to the nearest pixel first: one point is always 0, so 25 products suffice."""


class WinogradConv2d(nn.Module):
    """A 3x3 convolution by few products, to some 3e-6 of its values in float32; holds up to 4 times the weights.

    out = A^T ((G k G^T) * (B^T d B)) A for each 4x4 of outputs, summed over channels between the brackets. Maps that
    are no whole windows, or have fewer than 16, are convolved directly.

    Args:
        conv: 3x3, stride and padding 1.
        transform: A, G and B.
        direct: the same convolution by other means.

    References:
        Winograd, "Arithmetic Complexity of Computations", SIAM, 1980.
        Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308.
    """

    def __init__(self, conv: nn.Conv2d, transform: WinogradTransform, direct: nn.Module) -> None:
        super().__init__()
        self.transform = transform
        self.direct = direct
        self.kernel = conv.weight.detach()
        self.bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        # Both ways at once: vec(B^T d B) = (B^T kron B^T) vec(d), one product of matrices for all tiles.
        self.read = torch.kron(transform.read, transform.read).float()
        self.write = torch.kron(transform.write, transform.write).float()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the transformed kernel, which is made again where it is needed."""
        return {name: value for name, value in self.__dict__.items() if name != "weight"}

    @cached_property
    def weight(self) -> Tensor:
        """The transformed kernel [points^2, inputs, outputs], made in float64 when a map first needs it."""
        weigh = self.transform.weigh
        made = torch.einsum("ak,oikl,bl->abio", weigh, self.kernel.double(), weigh)
        return made.flatten(0, 1).float().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x [B, inputs, H, W]: [B, outputs, 4 H / step, 4 W / step], channels_last."""
        batch, _, height, width = x.shape
        step = self.transform.step
        rows, columns = height // step, width // step
        if height % step or width % step or rows * columns < _TILES:
            out: Tensor = self.direct(x)
            return out
        outputs, inputs = self.kernel.shape[:2]
        made = x.new_empty(batch, rows, 4, columns, 4, outputs)
        chunk = max(1, _CHUNK // (4 * len(self.weight) * max(inputs, outputs) * rows * columns))
        for part, filled in zip(torch.split(x, chunk), torch.split(made, chunk), strict=True):
            self._convolve(part, filled.permute(2, 4, 0, 1, 3, 5))
        return made.view(batch, 4 * rows, 4 * columns, outputs).permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor, out: Tensor) -> None:
        """Fill out [4, 4, B, rows, columns, outputs]."""
        step = self.transform.step
        windows = F.pad(x, (1, 1, 1, 1)).unfold(2, step + 2, step).unfold(3, step + 2, step)
        tiles = windows.permute(4, 5, 0, 2, 3, 1).reshape((step + 2) ** 2, -1)
        products = torch.bmm((self.read @ tiles).view(len(self.weight), -1, x.shape[1]), self.weight)
        torch.add((self.write @ products.flatten(1)).view(out.shape), self.bias, out=out)


class Float32GroupNorm(GroupNormAct):
    """A group norm of bfloat16 maps that is computed in float32 where they are small.

    Args:
        norm: the norm to run; its parameters are shared.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        activation = norm.activation if isinstance(norm, GroupNormAct) else nn.Identity()
        scale_shift = isinstance(norm, GroupNormAct) and norm.scale_shift
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, activation, scale_shift)
        self.weight, self.bias = norm.weight, norm.bias
        self.weight32, self.bias32 = norm.weight.detach().float(), norm.bias.detach().float()

    def normalize(self, x: Tensor) -> Tensor:
        """Return norm(x), without embedding and activation."""
        if x[0, 0].numel() >= _FEW_PIXELS:
            return super().normalize(x)
        return F.group_norm(x.float(), self.num_groups, self.weight32, self.bias32, self.eps).to(x.dtype)
