"""Networks of diffusers behind our own call: x, index and what is given, by keyword, and one tensor back."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ddim_edit.backends.extra import diffusers, load_network
from ddim_edit.backends.process import read_json
from ddim_edit.errors import ArgumentError, ModelError

Given = Mapping[str, Tensor]
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
            if shift.shape[-3:] != h.shape[1:]:
                given = f"the shape {list(shift.shape)}"
                raise ArgumentError(f"a shift {list(h.shape[1:])}", given, "use one from this model's h-space")
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
}


def load_diffusers_network(folder: Path) -> DiffusersNetwork:
    """The network in a component's folder of a diffusers checkpoint, on the CPU in float32.

    Raises:
        ModelError: diffusers is missing, or the folder holds no network that can be run.
    """
    name = read_json(folder / "config.json").get("_class_name", "nothing")
    if name not in _KINDS:
        raise ModelError(f"a network out of {', '.join(_KINDS)}", f"a {name}", "use another checkpoint")
    kind = _KINDS[name]
    return kind.adapter(load_network(getattr(diffusers(f"a {name}"), name), folder), kind.arrange)
