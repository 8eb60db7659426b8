"""EDM's networks, DDPM++, NCSN++ and ADM, under its own parameter names.

References:
    Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
    arXiv:2206.00364, appendix F.7.
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, "Score-Based Generative Modeling through Stochastic Differential
    Equations", ICLR 2021, arXiv:2011.13456 (DDPM++, NCSN++).
    Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv:2105.05233 (ADM).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.models.layers import GroupNormAct, ResidualBlock, ResidualSum, TimeFeatures
from ddim_edit.models.unet.base import Split, UNetBase, require_images, require_label

Resize = Callable[[Tensor, Tensor], Tensor]
"""Halves or doubles x [B, C, H, W] with a filter [1, 1, n, n] that sums to 1."""


def _filtered(x: Tensor, taps: Tensor, padding: int) -> Tensor:
    return F.conv2d(x, taps.expand(x.shape[1], -1, -1, -1), stride=2, padding=padding, groups=x.shape[1])


def halve(x: Tensor, taps: Tensor) -> Tensor:
    """Return every second pixel of every channel, filtered; for filters of even length."""
    return _filtered(x, taps, (taps.shape[-1] - 1) // 2)


def double(x: Tensor, taps: Tensor) -> Tensor:
    """Return the pixels, spread with the filter over twice the height and width; for filters of even length."""
    spread = 4 * taps.expand(x.shape[1], -1, -1, -1)
    padding = (taps.shape[-1] - 1) // 2
    return F.conv_transpose2d(x, spread, stride=2, padding=padding, groups=x.shape[1])


class BlockStyle(NamedTuple):
    """How the blocks of one of EDM's two architectures are made.

    Fields: head_width, channels of an attention head (None is one head of all); skip_scale, what sums with a shortcut
    are multiplied by; eps of the norms; resample_proj, whether every shortcut that resizes has weights; scale_shift,
    whether the embedding scales and shifts what a block has normalized, or is added before.
    """

    head_width: int | None
    skip_scale: float
    eps: float
    resample_proj: bool
    scale_shift: bool


SONG = BlockStyle(None, math.sqrt(0.5), 1e-6, True, False)
DHARIWAL = BlockStyle(64, 1.0, 1e-5, False, True)


class AuxiliaryInput(Protocol):
    """What is added to the encoder beside its blocks, at the beginning of a level: EDM's `encoder_type`."""

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """Its layers, by the ends of their names."""
        ...

    def __call__(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features with it, and the auxiliary input of the next level."""
        ...


@dataclass(frozen=True)
class EDMConfig:
    """The layers of one of EDM's networks, as its weights show by their names and shapes.

    Args:
        channels: of x.
        outputs: channels of the output.
        sizes: heights (and widths) of the levels in training, each half of the one before; they are in the names.
        first: channels of the first convolution.
        widths: channels of each level.
        blocks: residual blocks of a level in the encoder; the decoder has one more.
        attending: the blocks that attend, such as "enc.16x16_block0".
        noise: number of features of the noise level.
        emb: width of the embedding.
        taps: length of the filter of layers that resize.
        classes: how many, or 0.
        augment: augmentation labels, or 0; their weights are held, and take zeros.
        fourier: whether the frequencies of the noise are in the file.
        encoder_type: what is added to the encoder's levels: "standard" for nothing, "skip" for the halved input,
            "residual" for the halved sums.
        pyramid: whether every level of the decoder has an output, or only the last.
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
    encoder_type: str
    pyramid: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The beginnings of the names of each level's layers."""
        return tuple(f"{size}x{size}" for size in self.sizes)

    @property
    def incoming(self) -> tuple[int, ...]:
        """Channels of the input of each level of the encoder."""
        return (self.first, *self.widths[:-1])

    @property
    def stride(self) -> int:
        """Heights and widths must be multiples of it."""
        return 1 << (len(self.sizes) - 1)


class EDMResize(nn.Module):
    """Halves or doubles every channel on its own; no weights."""

    resample_filter: Tensor

    def __init__(self, taps: int, resize: Resize) -> None:
        super().__init__()
        self.register_buffer("resample_filter", torch.zeros(1, 1, taps, taps))
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        """Return the resized features."""
        return self.resize(x, self.resample_filter)


class EDMResizeConv(nn.Conv2d):
    """Halves or doubles, then convolves."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, taps: int, resize: Resize) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.register_buffer("resample_filter", torch.zeros(1, 1, taps, taps))
        self.resize = resize

    def forward(self, x: Tensor) -> Tensor:
        """Return the resized features."""
        return super().forward(self.resize(x, self.resample_filter))


class EDMConvHalve(nn.Conv2d):
    """Convolves, then halves; unlike `halve`, the filter sees what the convolution makes of the rim."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, taps: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1 + (taps - 1) // 2)
        self.register_buffer("resample_filter", torch.zeros(1, 1, taps, taps))

    def forward(self, x: Tensor) -> Tensor:
        """Return the halved features."""
        return _filtered(super().forward(x), self.resample_filter, 0)


class EDMInputConv(nn.Conv2d):
    """The first convolution, called as the blocks are."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        """Return the convolution of x."""
        return super().forward(x)


def _groups(width: int) -> int:
    return min(32, width // 4)


def _activated_norm(width: int, eps: float, scale_shift: bool = False) -> GroupNormAct:
    return GroupNormAct(_groups(width), width, eps, nn.SiLU(inplace=True), scale_shift)


class EDMBlock(ResidualBlock):
    """Two convolutions, the second one with the embedding, plus a shortcut: inputs -> outputs channels."""

    normed = (("conv0", "norm1"),)
    summed = ("conv1", "skip")

    def __init__(
        self, style: BlockStyle, config: EDMConfig, inputs: int, outputs: int, resize: Resize | None = None
    ) -> None:
        super().__init__()
        self.style = style
        self.norm0 = _activated_norm(inputs, style.eps)
        self.conv0 = _conv(config, inputs, outputs, 3, resize)
        self.affine = nn.Linear(config.emb, 2 * outputs if style.scale_shift else outputs)
        self.norm1 = _activated_norm(outputs, style.eps, style.scale_shift)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or (resize and style.resample_proj):
            self.skip = _conv(config, inputs, outputs, 1, resize)
        elif resize:
            self.skip = EDMResize(config.taps, resize)
        self.residual_sum = ResidualSum(factor=style.skip_scale)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        h = self.conv0(self.norm0(x))
        h = self.conv1(self.norm1(h, self.affine(emb)))
        out: Tensor = self.residual_sum(h, self.skip(x))
        return out


class EDMAttentionBlock(EDMBlock):
    """An `EDMBlock` with self-attention over the pixels after it."""

    def __init__(
        self, style: BlockStyle, config: EDMConfig, inputs: int, outputs: int, resize: Resize | None = None
    ) -> None:
        super().__init__(style, config, inputs, outputs, resize)
        self.heads = max(outputs // (style.head_width or outputs), 1)
        self.norm2 = nn.GroupNorm(_groups(outputs), outputs, style.eps)
        self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
        self.proj = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return the features."""
        h = super().forward(x, emb)
        # q, k and v of a channel lie beside one another.
        qkv = self.qkv(self.norm2(h)).reshape(len(h), self.heads, -1, 3, h.shape[2] * h.shape[3])
        q, k, v = qkv.transpose(2, 4).unbind(3)
        a = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(h.shape)
        out: Tensor = (h + self.proj(a)) * self.style.skip_scale
        return out


def _conv(config: EDMConfig, inputs: int, outputs: int, kernel: int, resize: Resize | None) -> nn.Module:
    if resize:
        return EDMResizeConv(inputs, outputs, kernel, config.taps, resize)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class NoAuxiliaryInput:
    """Nothing, as in DDPM++ and ADM: `encoder_type` "standard"."""

    layers: Mapping[str, nn.Module] = {}

    def __call__(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Return both as they were."""
        return x, aux


class SkipInput:
    """The network's input, halved from level to level and projected: `encoder_type` "skip"."""

    def __init__(self, config: EDMConfig, level: int) -> None:
        self.down = EDMResize(config.taps, halve)
        self.skip = nn.Conv2d(config.channels, config.incoming[level], 1)

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """Its layers, by the ends of their names."""
        return {"aux_down": self.down, "aux_skip": self.skip}

    def __call__(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Return x plus the halved input's projection, and the halved input."""
        aux = self.down(aux)
        return x + self.skip(aux), aux


class ResidualInput:
    """The network's input, and from then on the sum it was added to, as in NCSN++: `encoder_type` "residual"."""

    def __init__(self, config: EDMConfig, level: int) -> None:
        inputs = (config.channels, *config.incoming[1:])[level - 1]
        self.residual = EDMConvHalve(inputs, config.incoming[level], config.taps)

    @property
    def layers(self) -> Mapping[str, nn.Module]:
        """Its layers, by the ends of their names."""
        return {"aux_residual": self.residual}

    def __call__(self, x: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled sum, twice."""
        x = (x + self.residual(aux)) * math.sqrt(0.5)
        return x, x


class PositionalNoiseFeatures(TimeFeatures):
    """Cosines and sines of the noise index at 10000^(-i / last), i < width / 2, index [B] -> [B, width]."""

    def __init__(self, width: int, last: int) -> None:
        # Rounded as in training: at index 1000 another last digit is seen. Real numbers even on "meta".
        exponents = torch.arange(width // 2, dtype=torch.float32, device="cpu") / last
        super().__init__(1e-4**exponents, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        """Return the features."""
        angle = index[:, None].float() * self.weight
        return torch.cat((angle.cos(), angle.sin()), dim=1)


class FourierNoiseFeatures(TimeFeatures):
    """Cosines and sines of the noise index at the checkpoint's own frequencies, index [B] -> [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__(torch.zeros(width // 2, device="cpu"), persistent=True)

    def forward(self, index: Tensor) -> Tensor:
        """Return the features."""
        angle = index[:, None].float() * (2 * math.pi * self.weight)
        return torch.cat((angle.cos(), angle.sin()), dim=1)


class EDMUNet(UNetBase):
    """Base of EDM's networks, for inference: without dropout and augmentation.

    x [B, channels, H, W], index [B] -> [B, outputs, H, W], in the dtype of the weights, which x must have. index is
    EDM's c_noise and is read in float32. label goes to networks with classes, and only to them: [B] int64 from 0 to
    classes, where classes itself, or no label at all, is EDM's all-zero vector of classes. The bottleneck h is the
    output of the decoder's `in1`, the last block of the lowest level before any skip.

    Args:
        config: its layers.

    Raises:
        ArgumentError: when called, a shape that does not fit, or a label that is not expected.
    """

    style: ClassVar[BlockStyle]
    map_label: nn.Linear | None

    def __init__(self, config: EDMConfig) -> None:
        super().__init__()
        self.config = config
        self.map_layer0 = nn.Linear(config.noise, config.emb)
        self.map_layer1 = nn.Linear(config.emb, config.emb)
        self.map_augment = nn.Linear(config.augment, config.noise, bias=False) if config.augment else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        levels = list(zip(config.names, config.incoming, config.widths, strict=True))

        # Every step down makes one skip; the auxiliary input is added after it.
        self._down: list[tuple[nn.Module, AuxiliaryInput]] = []
        for level, (name, inputs, width) in enumerate(levels):
            auxiliary: AuxiliaryInput = NoAuxiliaryInput()
            if level == 0:
                opening: nn.Module = EDMInputConv(config.channels, inputs, 3, padding=1)
                self.enc[f"{name}_conv"] = opening
            else:
                opening = self._add_block("enc", f"{name}_down", inputs, inputs, halve)
                if config.encoder_type != "standard":
                    auxiliary = (SkipInput if config.encoder_type == "skip" else ResidualInput)(config, level)
                self.enc.update({f"{name}_{part}": layer for part, layer in auxiliary.layers.items()})
            self._down.append((opening, auxiliary))
            for i in range(config.blocks):
                block = self._add_block("enc", f"{name}_block{i}", width if i else inputs, width)
                self._down.append((block, NoAuxiliaryInput()))

        lowest = config.names[-1]
        below = config.widths[-1]
        self._middle = [self._add_block("dec", f"{lowest}_in{i}", below, below) for i in range(2)]

        # Every level up: the block that doubles, if any, and blocks that each take one skip.
        self._up: list[tuple[nn.Module | None, list[nn.Module]]] = []
        for depth, (name, first, width) in enumerate(reversed(levels)):
            double_block = self._add_block("dec", f"{name}_up", below, below, double) if depth else None
            blocks = []
            for i in range(config.blocks + 1):
                skip = width if i < config.blocks else first
                blocks.append(self._add_block("dec", f"{name}_block{i}", (width if i else below) + skip, width))
            self._up.append((double_block, blocks))
            below = width

    def _add_block(self, path: str, name: str, inputs: int, outputs: int, resize: Resize | None = None) -> nn.Module:
        block_class = EDMAttentionBlock if f"{path}.{name}" in self.config.attending else EDMBlock
        block = block_class(self.style, self.config, inputs, outputs, resize)
        (self.enc if path == "enc" else self.dec)[name] = block
        return block

    def split_at_bottleneck(self, x: Tensor, index: Tensor, label: Tensor | None) -> Split:
        """Return the bottleneck of x, and the rest of the network."""
        require_images(x, self.config.channels, self.config.stride)
        count = self.config.classes
        dtype = self.map_layer0.weight.dtype
        classes: Tensor | None = None
        if not count:
            require_label(label, classes=False)
        elif label is None:
            classes = x.new_zeros(len(x), count, dtype=dtype)
        else:
            # The last label, for no class, has no column of its own: all are 0.
            classes = F.one_hot(label, count + 1)[:, :count].to(dtype)
        emb = self.embed(index, classes)
        aux, h = x, x
        skips: list[Tensor] = []
        for block, auxiliary in self._down:
            h, aux = auxiliary(block(h, emb), aux)
            skips.append(h)
        for block in self._middle:
            h = block(h, emb)

        def decode(h: Tensor) -> Tensor:
            rest = list(skips)
            features = []
            for double_block, blocks in self._up:
                if double_block is not None:
                    h = double_block(h, emb)
                for block in blocks:
                    h = block(torch.cat((h, rest.pop()), dim=1), emb)
                features.append(h)
            return self.output(features)

        return h, decode

    def embed(self, index: Tensor, classes: Tensor | None) -> Tensor:
        """Return noise and classes [B, classes], if the network has any, as [B, emb]."""
        raise NotImplementedError

    def output(self, features: Sequence[Tensor]) -> Tensor:
        """Return the output, from the features of each level of the decoder, lowest first."""
        raise NotImplementedError


class SongUNet(EDMUNet):
    """EDM's `SongUNet`, for inference: DDPM++, NCSN++ and what lies between them; see `EDMUNet`."""

    style = SONG

    def __init__(self, config: EDMConfig) -> None:
        super().__init__(config)
        half = config.noise // 2
        if config.fourier:
            self.map_noise: TimeFeatures = FourierNoiseFeatures(config.noise)
        else:
            self.map_noise = PositionalNoiseFeatures(config.noise, half - 1)
        self.map_label = nn.Linear(config.classes, config.noise) if config.classes else None
        # The levels that have an output, lowest first.
        levels = range(len(config.names))[::-1] if config.pyramid else range(1)
        self._output_names = [config.names[level] for level in levels]
        self._doubled: list[nn.Module] = []
        for level in levels:
            name = config.names[level]
            width = config.widths[level]
            if level != levels[0]:
                self.dec[f"{name}_aux_up"] = EDMResize(config.taps, double)
                self._doubled.append(self.dec[f"{name}_aux_up"])
            self.dec[f"{name}_aux_norm"] = _activated_norm(width, self.style.eps)
            self.dec[f"{name}_aux_conv"] = nn.Conv2d(width, config.outputs, 3, padding=1)

    def embed(self, index: Tensor, classes: Tensor | None) -> Tensor:
        """Return the embedding: noise, sines first, and classes of length sqrt(count), added up before two layers."""
        cosines, sines = self.map_noise(index).to(self.map_layer0.weight.dtype).chunk(2, dim=1)
        emb = torch.cat((sines, cosines), dim=1)
        if self.map_label is not None and classes is not None:
            emb = emb + self.map_label(classes * math.sqrt(self.config.classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def output(self, features: Sequence[Tensor]) -> Tensor:
        """Return the outputs of the levels that have one, each doubled until the next can be added."""
        outputs: list[Tensor] = []
        for name, h in zip(self._output_names, features[-len(self._output_names) :], strict=True):
            # Looked up here, as `cpu_layers` and `blocks` put other layers under these names.
            outputs.append(self.dec[f"{name}_aux_conv"](self.dec[f"{name}_aux_norm"](h)))
        output = outputs[0]
        for up, finer in zip(self._doubled, outputs[1:], strict=True):
            output = up(output) + finer
        return output


class DhariwalUNet(EDMUNet):
    """EDM's `DhariwalUNet`, for inference: ADM; see `EDMUNet`."""

    style = DHARIWAL

    def __init__(self, config: EDMConfig) -> None:
        super().__init__(config)
        self.map_noise = PositionalNoiseFeatures(config.noise, config.noise // 2)
        self.map_label = nn.Linear(config.classes, config.emb, bias=False) if config.classes else None
        self.out_norm = _activated_norm(config.widths[0], self.style.eps)
        self.out_conv = nn.Conv2d(config.widths[0], config.outputs, 3, padding=1)

    def embed(self, index: Tensor, classes: Tensor | None) -> Tensor:
        """Return the embedding: two layers of the noise, and the classes added after them."""
        waves = self.map_noise(index).to(self.map_layer0.weight.dtype)
        emb = self.map_layer1(F.silu(self.map_layer0(waves)))
        if self.map_label is not None and classes is not None:
            emb = emb + self.map_label(classes)
        return F.silu(emb)

    def output(self, features: Sequence[Tensor]) -> Tensor:
        """Return norm and convolution of the finest features."""
        output: Tensor = self.out_conv(self.out_norm(features[-1]))
        return output
