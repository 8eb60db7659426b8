"""Networks of diffusers behind our own call: x, index and what is given, by keyword, and one tensor back."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddim_edit.errors import ModelError
from ddim_edit.models.component import read_json
from ddim_edit.models.conditioning import Given
from ddim_edit.models.entries import word
from ddim_edit.models.extra import diffusers, load_network
from ddim_edit.models.unet.base import require_shift


class Described(NamedTuple):
    """What a network says of itself: channels of x and of its answer, and the size that it was trained on."""

    in_channels: int
    out_channels: int
    sample_size: int | tuple[int, int] | None


Arrange = Callable[[Given], Mapping[str, Any]]
ADDED = ("text_embeds", "time_ids")
"""What Stable Diffusion XL is told besides the prompt's tokens: the prompt as one vector, and sizes."""


class DiffusersNetwork(nn.Module):
    """A diffusers network called as ours are; its bottleneck cannot be read, so there is no h-space.

    Args:
        inner: the network.
        arrange: from what is given to its own keyword arguments.
    """

    def __init__(self, inner: Any, arrange: Arrange) -> None:
        super().__init__()
        self.inner = inner
        self.arrange = arrange

    def forward(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        """The raw output."""
        output: Tensor = self.inner(x, timestep=index, **self.arrange(given), return_dict=False)[0]
        return output

    @property
    def config(self) -> Described:
        """Its channels and its size."""
        told = self.inner.config
        return Described(told.in_channels, told.out_channels or told.in_channels, told.sample_size)


class Flux(DiffusersNetwork):
    """Flux's transformer, which sees 2x2 cells of x as one token, with its place; no h-space.

    Black Forest Labs (2024).
    """

    def forward(self, x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        """The raw output; x in even numbers of cells."""
        patches = F.pixel_unshuffle(x, 2)
        rows, columns = patches.shape[-2:]
        text = given["encoder_hidden_states"]
        output: Tensor = self.inner(
            patches.flatten(2).mT,
            timestep=index / 1000,
            img_ids=_places(rows, columns, x.device).to(x.dtype),
            txt_ids=text.new_zeros(text.shape[1], 3),
            **self.arrange(given),
            return_dict=False,
        )[0]
        return F.pixel_shuffle(output.mT.reshape(len(x), -1, rows, columns), 2)

    @property
    def config(self) -> Described:
        """In cells: four of them are a token. The size is that of diffusers' pipeline, 1024 pixels."""
        tokens = self.inner.config
        return Described(tokens.in_channels // 4, (tokens.out_channels or tokens.in_channels) // 4, 128)


def _places(rows: int, columns: int, device: torch.device) -> Tensor:
    """Row and column of every token, [rows x columns, 3]; the first number tells pictures apart."""
    # Made on the device itself: a copy from the host cannot be captured in a CUDA graph.
    down, along = torch.arange(rows, device=device), torch.arange(columns, device=device)
    row, column = torch.meshgrid(down, along, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).flatten(0, 1)


class DiffusersUNet(DiffusersNetwork):
    """A diffusers UNet called as ours are, whose bottleneck h is what its middle block answers."""

    def read(self, x: Tensor, index: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        """The raw output, and h."""
        seen: list[Tensor] = []
        output = self._hooked(lambda h: seen.append(h.clone()), x, index, **given)
        return output, seen[0]

    def shifted(self, x: Tensor, index: Tensor, shift: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        """The raw output, and the one with the shift added to h; both take a whole evaluation.

        Raises:
            ArgumentError: a shift of another shape.
        """

        def move(h: Tensor) -> Tensor:
            require_shift(shift, h)
            return h + shift

        return self(x, index, **given), self._hooked(move, x, index, **given)

    def _hooked(self, act: Callable[[Tensor], Tensor | None], x: Tensor, index: Tensor, **given: Tensor) -> Tensor:
        hook = self.inner.mid_block.register_forward_hook(lambda module, inputs, h: act(h))
        try:
            output: Tensor = self(x, index, **given)
        finally:
            hook.remove()
        return output


def _as_given(given: Given) -> Mapping[str, Any]:
    return given


def _by_class(given: Given) -> Mapping[str, Any]:
    return {"class_labels": given["label"]} if given else {}


def _with_added(given: Given) -> Mapping[str, Any]:
    added = {name: given[name] for name in ADDED if name in given}
    rest = {name: value for name, value in given.items() if name not in added}
    return {**rest, "added_cond_kwargs": added} if added else rest


class _Kind(NamedTuple):
    adapter: type[DiffusersNetwork]
    arrange: Arrange


_KINDS: Mapping[str, _Kind] = {
    "UNet2DModel": _Kind(DiffusersUNet, _by_class),
    "UNet2DConditionModel": _Kind(DiffusersUNet, _with_added),
    "DiTTransformer2DModel": _Kind(DiffusersNetwork, _by_class),
    "SD3Transformer2DModel": _Kind(DiffusersNetwork, _as_given),
    "FluxTransformer2DModel": _Kind(Flux, _as_given),
}


def load_diffusers_network(folder: Path) -> DiffusersNetwork:
    """The network in a component's folder of a diffusers checkpoint, on the CPU in float32.

    Raises:
        ModelError: diffusers is missing, or the folder holds no network that can be run.
    """
    name = word(read_json(folder / "config.json"), "_class_name", "nothing")
    if name not in _KINDS:
        raise ModelError(f"a network out of {', '.join(_KINDS)}", f"a {name}", "use another checkpoint")
    kind = _KINDS[name]
    return kind.adapter(load_network(getattr(diffusers(f"a {name}"), name), folder), kind.arrange)
