"""EDM's networks, DDPM++, NCSN++ and ADM, under its own parameter names."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.models.layers import GroupNormAct, ResidualBlock
from ddim_edit.models.unet.base import Opened, UNetBase, require_images, require_label
from ddim_edit.models.unet.time_features import TimeFeatures

Resize = Callable[[Tensor, Tensor], Tensor]
"""Halves or doubles x [B, C, H, W] with a filter [1, 1, n, n] that sums to 1."""


def _filtered(x: Tensor, taps: Tensor, padding: int) -> Tensor:
    return F.conv2d(x, taps.expand(x.shape[1], -1, -1, -1), stride=2, padding=padding, groups=x.shape[1])


def halve(x: Tensor, taps: Tensor) -> Tensor:
    """Filter every channel and keep each second pixel; for filters of even length."""
    return _filtered(x, taps, (taps.shape[-1] - 1) // 2)


def double(x: Tensor, taps: Tensor) -> Tensor:
    """Spread every pixel with the filter over twice the height and width; for filters of even length."""
    spread, padding = 4 * taps.expand(x.shape[1], -1, -1, -1), (taps.shape[-1] - 1) // 2
    return F.conv_transpose2d(x, spread, stride=2, padding=padding, groups=x.shape[1])


class Style(NamedTuple):
    """How the blocks of one of EDM's two code bases are made.

    Fields: channels of an attention head (None is one head of all), what sums with a shortcut are multiplied by, eps
    of the norms, whether every shortcut that resizes has weights, whether the noise scales and shifts what a block has
    normalized or is added before.
    """

    head: int | None
    skip_scale: float
    eps: float
    projects: bool
    scale_shift: bool


SONG = Style(None, math.sqrt(0.5), 1e-6, True, False)
DHARIWAL = Style(64, 1.0, 1e-5, False, True)


class Side(Protocol):
    """What comes into the encoder beside its blocks, at the beginning of a level."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Its layers, by the ends of their names."""
        ...

    def __call__(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """X after it came in, and what the next level's will be shown."""
        ...


@dataclass(frozen=True)
class EDMConfig:
    """What shapes one of EDM's networks, all of it told by the names and shapes of its weights.

    Attributes:
        channels: of x.
        outputs: channels of the answer.
        sizes: heights (and widths) of the levels in training, each half of the one before; they are in the names.
        first: channels that x is taken to.
        widths: channels of each level.
        blocks: residual blocks of a level in the encoder; the decoder has one more.
        attending: the blocks that attend, such as "enc.16x16_block0".
        noise: features of the noise level.
        emb: width of the embedding.
        taps: length of the filter of resized layers.
        classes: how many, or 0.
        augment: augmentation labels, or 0; their weights are held, and take zeros.
        fourier: whether the frequencies of the noise are in the file.
        side: makes what comes in beside the encoder's level k > 0: `NothingBeside`, `PictureBeside`, `ResidualBeside`.
        pyramid: whether every level of the decoder answers, or only the last.
    """

    channels: int
    outputs: int
    sizes: tuple[int, ...]
    first: int
    widths: tuple[int, ...]
    blocks: int
    attending: frozenset[str]
    noise: int
    emb: int
    taps: int
    classes: int
    augment: int
    fourier: bool
    side: "Callable[[EDMConfig, int], Side]"
    pyramid: bool

    @property
    def names(self) -> tuple[str, ...]:
        """What the layers of each level begin with."""
        return tuple(f"{size}x{size}" for size in self.sizes)

    @property
    def incoming(self) -> tuple[int, ...]:
        """Channels that each level of the encoder is given."""
        return (self.first, *self.widths[:-1])

    @property
    def stride(self) -> int:
        """What heights and widths must be multiples of."""
        return 1 << (len(self.sizes) - 1)


class _Resized(nn.Module):
    """Every channel halved or doubled on its own; no weights."""

    resample_filter: Tensor

    def __init__(self, taps: int, resize: Resize) -> None:
        super().__init__()
        self.register_buffer("resample_filter", torch.zeros(1, 1, taps, taps))
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(x, self.resample_filter)


class _ResizedConv(nn.Conv2d):
    """A convolution of what was halved or doubled before."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, taps: int, resize: Resize) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.register_buffer("resample_filter", torch.zeros(1, 1, taps, taps))
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.resize(x, self.resample_filter))


class _HalvedConv(nn.Conv2d):
    """A convolution that is halved after; unlike `halve`, the filter sees what the convolution makes of the rim."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, taps: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1 + (taps - 1) // 2)
        self.register_buffer("resample_filter", torch.zeros(1, 1, taps, taps))

    def forward(self, x: Tensor) -> Tensor:
        return _filtered(super().forward(x), self.resample_filter, 0)


class _Input(nn.Conv2d):
    """The first convolution, called as the blocks are."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


def _groups(width: int) -> int:
    return min(32, width // 4)


def _activated_norm(width: int, eps: float, scale_shift: bool = False) -> GroupNormAct:
    return GroupNormAct(_groups(width), width, eps, nn.SiLU(inplace=True), scale_shift)


class _Block(ResidualBlock):
    """Two convolutions, the second one told the noise, plus a shortcut: inputs -> outputs channels."""

    def __init__(
        self, style: Style, config: EDMConfig, inputs: int, outputs: int, resize: Resize | None = None
    ) -> None:
        super().__init__()
        self.style = style
        self.norm0 = _activated_norm(inputs, style.eps)
        self.conv0 = _conv(config, inputs, outputs, 3, resize)
        self.affine = nn.Linear(config.emb, 2 * outputs if style.scale_shift else outputs)
        self.norm1 = _activated_norm(outputs, style.eps, style.scale_shift)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = self._shortcut(config, inputs, outputs, resize)

    def _shortcut(self, config: EDMConfig, inputs: int, outputs: int, resize: Resize | None) -> nn.Module:
        if inputs != outputs or (resize and self.style.projects):
            return _conv(config, inputs, outputs, 1, resize)
        return _Resized(config.taps, resize) if resize else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(self.norm0(x))
        h = self.conv1(self.norm1(h, self.affine(emb)))
        out: Tensor = (h + self.skip(x)) * self.style.skip_scale
        return out


class _AttendingBlock(_Block):
    """The same, with self-attention over the pixels after it."""

    def __init__(
        self, style: Style, config: EDMConfig, inputs: int, outputs: int, resize: Resize | None = None
    ) -> None:
        super().__init__(style, config, inputs, outputs, resize)
        self.heads = max(outputs // (style.head or outputs), 1)
        self.norm2 = nn.GroupNorm(_groups(outputs), outputs, style.eps)
        self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
        self.proj = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = super().forward(x, emb)
        # q, k and v of a channel lie beside one another.
        qkv = self.qkv(self.norm2(h)).reshape(len(h), self.heads, -1, 3, h.shape[2] * h.shape[3])
        q, k, v = qkv.transpose(2, 4).unbind(3)
        a = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(h.shape)
        out: Tensor = (h + self.proj(a)) * self.style.skip_scale
        return out


def _conv(config: EDMConfig, inputs: int, outputs: int, kernel: int, resize: Resize | None) -> nn.Module:
    if resize:
        return _ResizedConv(inputs, outputs, kernel, config.taps, resize)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class NothingBeside:
    """Nothing comes in, as in DDPM++ and ADM."""

    parts: Mapping[str, nn.Module] = {}

    def __init__(self, config: EDMConfig, level: int) -> None:
        pass

    def __call__(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they were."""
        return x, aux


class PictureBeside:
    """The network's input, halved from level to level and projected: `encoder_type` "skip"."""

    def __init__(self, config: EDMConfig, level: int) -> None:
        self.down = _Resized(config.taps, halve)
        self.skip = nn.Conv2d(config.channels, config.incoming[level], 1)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Its layers, by the ends of their names."""
        return {"aux_down": self.down, "aux_skip": self.skip}

    def __call__(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """X plus the halved input's projection, and the halved input."""
        aux = self.down(aux)
        return x + self.skip(aux), aux


class ResidualBeside:
    """The network's input, and from then on the sum it went into, as in NCSN++: `encoder_type` "residual"."""

    def __init__(self, config: EDMConfig, level: int) -> None:
        inputs = (config.channels, *config.incoming[1:])[level - 1]
        self.residual = _HalvedConv(inputs, config.incoming[level], config.taps)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Its layers, by the ends of their names."""
        return {"aux_residual": self.residual}

    def __call__(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled sum, twice."""
        x = (x + self.residual(aux)) * math.sqrt(0.5)
        return x, x


class _PositionalNoise(TimeFeatures):
    """Cosines and sines of the noise index at 10000^(-i / last), i < width / 2, index [B] -> [B, width]."""

    def __init__(self, width: int, last: int) -> None:
        # Rounded as in training: at index 1000 another last digit is seen. Real numbers even on "meta".
        exponents = torch.arange(width // 2, dtype=torch.float32, device="cpu") / last
        super().__init__(1e-4**exponents, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        angle = index[:, None].float() * self.weight
        return torch.cat((angle.cos(), angle.sin()), dim=1)


class _FourierNoise(TimeFeatures):
    """Cosines and sines of the noise index at the checkpoint's own frequencies, index [B] -> [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__(torch.zeros(width // 2, device="cpu"), persistent=True)

    def forward(self, index: Tensor) -> Tensor:
        angle = index[:, None].float() * (2 * math.pi * self.weight)
        return torch.cat((angle.cos(), angle.sin()), dim=1)


def _unmoved(x: Tensor, emb: Tensor) -> Tensor:
    return x


class EDMUNet(UNetBase):
    """One of EDM's networks, for inference: dropout and augmentation are left out.

    x [B, channels, H, W], index [B] -> [B, outputs, H, W], in the dtype of the weights, which x must have. index is
    EDM's c_noise and is read in float32. label goes to networks with classes, and only to them: [B] int64 from 0 to
    classes, where classes itself, or no label at all, is EDM's all-zero vector of classes. As a `hspace.Bottleneck`,
    its h is what the decoder's `in1`, the last block of the lowest level before any skip comes in, puts out.

    Raises:
        ArgumentError: when called, a shape that does not fit, or a label that is not expected.

    Karras, Aittala, Aila, Laine (2022), appendix F.7.
    """

    style: ClassVar[Style]
    map_label: nn.Linear | None

    def __init__(self, config: EDMConfig) -> None:
        super().__init__()
        self.config = config
        self.map_layer0 = nn.Linear(config.noise, config.emb)
        self.map_layer1 = nn.Linear(config.emb, config.emb)
        self.map_augment = nn.Linear(config.augment, config.noise, bias=False) if config.augment else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self._down = tuple(self._encoder())
        lowest, width = config.names[-1], config.widths[-1]
        self._middle = tuple(self._new_block(self.dec, f"{lowest}_in{i}", width, width) for i in range(2))
        self._up = tuple(self._decoder())

    def _new_block(
        self, path: nn.ModuleDict, name: str, inputs: int, outputs: int, resize: Resize | None = None
    ) -> nn.Module:
        place = f"{'enc' if path is self.enc else 'dec'}.{name}"
        kind = _AttendingBlock if place in self.config.attending else _Block
        path[name] = kind(self.style, self.config, inputs, outputs, resize)
        return path[name]

    def _encoder(self) -> Iterator[tuple[nn.Module, Side]]:
        """Every step down, each of which makes one skip, and what comes in after it."""
        config = self.config
        for level, (name, inputs, width) in enumerate(zip(config.names, config.incoming, config.widths, strict=True)):
            yield self._opened_level(level, name, inputs)
            for i in range(config.blocks):
                block = self._new_block(self.enc, f"{name}_block{i}", width if i else inputs, width)
                yield block, NothingBeside(config, level)

    def _opened_level(self, level: int, name: str, width: int) -> tuple[nn.Module, Side]:
        config = self.config
        if level == 0:
            self.enc[f"{name}_conv"] = _Input(config.channels, width, 3, padding=1)
            return self.enc[f"{name}_conv"], NothingBeside(config, level)
        block = self._new_block(self.enc, f"{name}_down", width, width, halve)
        side = config.side(config, level)
        self.enc.update({f"{name}_{part}": layer for part, layer in side.parts.items()})
        return block, side

    def _decoder(self) -> Iterator[tuple[Callable[[Tensor, Tensor], Tensor], Sequence[nn.Module]]]:
        """Every level up: what opens it, and its blocks, each of which takes one skip."""
        config = self.config
        below = config.widths[-1]
        levels = list(zip(config.names, config.incoming, config.widths, strict=True))
        for depth, (name, first, width) in enumerate(reversed(levels)):
            opening = self._new_block(self.dec, f"{name}_up", below, below, double) if depth else _unmoved
            skips = [width] * config.blocks + [first]
            inputs = [below] + [width] * config.blocks
            yield (
                opening,
                [
                    self._new_block(self.dec, f"{name}_block{i}", sum(n), width)
                    for i, n in enumerate(zip(inputs, skips, strict=True))
                ],
            )
            below = width

    def opened(self, x: Tensor, index: Tensor, label: Tensor | None) -> Opened:
        """The bottleneck, and what makes an output of it."""
        require_images(x, self.config.channels, self.config.stride)
        emb = self.embed(index, self._one_hot(label, len(x)))
        h, skips = self.encode(x, emb)
        for block in self._middle:
            h = block(h, emb)
        return h, partial(self.decode, skips=skips, emb=emb)

    def embed(self, index: Tensor, classes: Tensor | None) -> Tensor:
        """Noise and classes [B, classes], if the network has any, as [B, emb]."""
        raise NotImplementedError

    def answer(self, features: Sequence[Tensor]) -> Tensor:
        """The output, from what each level of the decoder made, lowest first."""
        raise NotImplementedError

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's last features, and the skips, of which they are the last."""
        aux, skips = x, []
        for block, side in self._down:
            x, aux = side(block(x, emb), aux)
            skips.append(x)
        return x, skips

    def decode(self, h: Tensor, skips: Sequence[Tensor], emb: Tensor) -> Tensor:
        """The output [B, outputs, H, W] from a bottleneck and the skips, which are left as they are."""
        rest, features = list(skips), []
        for opening, blocks in self._up:
            h = opening(h, emb)
            for block in blocks:
                h = block(torch.cat((h, rest.pop()), dim=1), emb)
            features.append(h)
        return self.answer(features)

    def _one_hot(self, label: Tensor | None, batch: int) -> Tensor | None:
        weight, count = self.map_layer0.weight, self.config.classes
        if not count:
            require_label(label, classes=False)
            return None
        if label is None:
            return weight.new_zeros(batch, count)
        return F.one_hot(label, count + 1)[:, :count].to(weight.dtype)


class SongUNet(EDMUNet):
    """EDM's `SongUNet`, for inference: DDPM++, NCSN++ and what lies between them; see `EDMUNet`.

    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole (2021).
    """

    style = SONG

    def __init__(self, config: EDMConfig) -> None:
        super().__init__(config)
        half = config.noise // 2
        self.map_noise = _FourierNoise(config.noise) if config.fourier else _PositionalNoise(config.noise, half - 1)
        self.map_label = nn.Linear(config.classes, config.noise) if config.classes else None
        answering = range(len(config.names))[::-1] if config.pyramid else range(1)
        self._answering = tuple(config.names[level] for level in answering)
        for level in answering:
            name, width = config.names[level], config.widths[level]
            self.dec[f"{name}_aux_norm"] = _activated_norm(width, self.style.eps)
            self.dec[f"{name}_aux_conv"] = nn.Conv2d(width, config.outputs, 3, padding=1)
        self._doubled = tuple(self._doubling(config.names[level]) for level in answering[1:])

    def _doubling(self, name: str) -> nn.Module:
        up = self.dec[f"{name}_aux_up"] = _Resized(self.config.taps, double)
        return up

    def embed(self, index: Tensor, classes: Tensor | None) -> Tensor:
        """Noise, sines first, and classes of the size sqrt(count), added up before two layers."""
        cosines, sines = self.map_noise(index).to(self.map_layer0.weight.dtype).chunk(2, dim=1)
        emb = torch.cat((sines, cosines), dim=1)
        if self.map_label is not None and classes is not None:
            emb = emb + self.map_label(classes * math.sqrt(self.config.classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def answer(self, features: Sequence[Tensor]) -> Tensor:
        """The answers of the levels that give one, each doubled until the next can be added."""
        first, *others = (
            # Looked up here, where a rewritten network has other layers under these names.
            self.dec[f"{name}_aux_conv"](self.dec[f"{name}_aux_norm"](h))
            for name, h in zip(self._answering, features[-len(self._answering) :], strict=True)
        )
        output: Tensor = first
        for up, finer in zip(self._doubled, others, strict=True):
            output = up(output) + finer
        return output


class DhariwalUNet(EDMUNet):
    """EDM's `DhariwalUNet`, for inference: ADM; see `EDMUNet`.

    Dhariwal and Nichol (2021).
    """

    style = DHARIWAL

    def __init__(self, config: EDMConfig) -> None:
        super().__init__(config)
        self.map_noise = _PositionalNoise(config.noise, config.noise // 2)
        self.map_label = nn.Linear(config.classes, config.emb, bias=False) if config.classes else None
        self.out_norm = _activated_norm(config.widths[0], self.style.eps)
        self.out_conv = nn.Conv2d(config.widths[0], config.outputs, 3, padding=1)

    def embed(self, index: Tensor, classes: Tensor | None) -> Tensor:
        """Two layers of the noise, and the classes added to what comes out."""
        waves = self.map_noise(index).to(self.map_layer0.weight.dtype)
        emb = self.map_layer1(F.silu(self.map_layer0(waves)))
        if self.map_label is not None and classes is not None:
            emb = emb + self.map_label(classes)
        return F.silu(emb)

    def answer(self, features: Sequence[Tensor]) -> Tensor:
        """Norm and convolution of the finest features."""
        output: Tensor = self.out_conv(self.out_norm(features[-1]))
        return output
