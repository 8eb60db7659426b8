"""Networks of the user's own as models: called plainly, hashed, and left as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddim_edit.diffusion.parametrization import (
    PREDICTION_TYPES,
    DDPMParametrization,
    EDMParametrization,
    FlowParametrization,
    Parametrization,
)
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.codec.pixels import Codec, codec_for
from ddim_edit.models.effective_weights import EffectiveWeights, unwrapped
from ddim_edit.models.identity import digest_config, digest_tensors

Weights = nn.Module | Mapping[str, Tensor] | Iterable[nn.Module]
"""What a function computes with: a module, tensors by name, or several modules."""
_CODEC = ("factor", "lossy", "encode", "decode")


class OwnNetwork(nn.Module):
    """A network of the user's own that is called as ours are: x [B, C, H, W] and time conditions [B], one tensor back.

    Args:
        inner: a module or a function of these; it may return an object with the tensor as `sample`, as networks of
            diffusers do.
    """

    def __init__(self, inner: Callable[..., Any]) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the output.

        Raises:
            ModelError: it is no tensor, or one of another shape than x.
        """
        found = self.inner(x, index)
        output = getattr(found, "sample", found)
        if not isinstance(output, Tensor):
            raise ModelError(
                f"The network {name_of(self.inner)} returned a {type(found).__name__} instead of a tensor "
                f"{list(x.shape)}. Wrap it in a module that returns one."
            )
        # As many channels again may follow, which are learned variances.
        shapes = [torch.Size((len(x), factor * x.shape[1], *x.shape[2:])) for factor in (1, 2)]
        if output.shape not in shapes:
            raise ModelError(
                f"The network {name_of(self.inner)} returned a tensor {list(output.shape)} for x {list(x.shape)}. Both "
                "must be of one shape."
            )
        return output


def name_of(network: object) -> str:
    """Return what to call a network: its own name, or that of its class."""
    network = unwrapped(network)
    return getattr(network, "__name__", type(network).__name__)


def find_parametrization(prediction_type: str | Parametrization, T: int) -> Parametrization:
    """Return a parametrization by its prediction type, or itself.

    Raises:
        ArgumentError: an unknown type.
    """
    if not isinstance(prediction_type, str):
        return prediction_type
    if prediction_type in PREDICTION_TYPES:
        return DDPMParametrization(prediction_type)
    if prediction_type == "flow_prediction":
        return FlowParametrization(T)
    if prediction_type == "edm":
        return EDMParametrization()
    known = ", ".join((*PREDICTION_TYPES, "flow_prediction", "edm"))
    raise ArgumentError(f"prediction_type must be one of {known}, or a Parametrization, not {prediction_type!r:.60}.")


def weights_of(network: object, weights: Weights | None) -> Mapping[str, Tensor]:
    """Return all tensors by name that a network computes with.

    Args:
        network: a module, whose own weights are meant if no others are given, or a function.
        weights: the weights of a function; an empty mapping for one that has none.

    Raises:
        ArgumentError: a function without weights.
    """
    if weights is None:
        if not isinstance(network, nn.Module):
            raise ArgumentError(
                f"{name_of(network)} is a function, whose weights cannot be found. Give them as weights=, a module or "
                "tensors by name; weights={} if it has none."
            )
        weights = network
    if isinstance(weights, nn.Module):
        return EffectiveWeights(weights)
    if isinstance(weights, Mapping):
        return weights
    found: dict[str, Tensor] = {}
    for number, module in enumerate(weights):
        found |= {f"{number}.{name}": tensor for name, tensor in EffectiveWeights(module).items()}
    return found


def network_digest(network: object, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of a network of the user's own: its class and its tensors."""
    return digest_config({"class": name_of(network)}, digest_tensors(tensors, name_of(network)))


def find_codec(codec: Codec | None, channels: int) -> Codec:
    """Return a codec, or that of pixels.

    Raises:
        ArgumentError: an object that is no codec.
        ModelError: no codec for a network of latents.
    """
    if codec is None:
        if channels not in (1, 3):
            raise ModelError(
                f"A network of {channels} channels is one of latents, and needs a codec between images and latents. "
                "Give it as codec=."
            )
        return codec_for(channels)
    if missing := [name for name in _CODEC if not hasattr(codec, name)]:
        raise ArgumentError(f"The codec {name_of(codec)} has no {', '.join(missing)}. A codec has {', '.join(_CODEC)}.")
    return codec


def codec_digest(codec: Codec) -> str:
    """Return what identifies a codec: its own `component`, or its class and its weights.

    The weights are those of the modules that it is or has as attributes.
    """
    component = getattr(codec, "component", "")
    if isinstance(component, str) and component:
        return component
    parts = {"": codec} if isinstance(codec, nn.Module) else vars(codec)
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            tensors |= {f"{name}.{each}": tensor for each, tensor in EffectiveWeights(part).items()}
    return digest_config({"class": name_of(codec)}, digest_tensors(tensors, name_of(codec)))


def place_of(tensors: Mapping[str, Tensor]) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype of the first tensor of floating-point numbers, or the CPU and float32."""
    for name in tensors:
        tensor = tensors[name]
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32
