"""Place networks on devices, and move models from one device to another."""

from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError
from ddim_edit.models.blocks import prepare_blocks, restore_blocks
from ddim_edit.models.cast_layers import share_cast
from ddim_edit.models.checkpoint import LoadOptions
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.pixels import Codec
from ddim_edit.models.devices import DeviceNetwork, Precision, diffusers_memory_format, suited_memory_format
from ddim_edit.models.diffusers_network import DiffusersNetwork
from ddim_edit.models.executors import executor_for, is_compiled
from ddim_edit.models.offloading import offload
from ddim_edit.models.runtimes import RUNTIMES, RuntimeNetwork
from ddim_edit.models.unet.base import UNetBase

SHARED_FROM = 1 << 30
"""Bytes of a network from which on its coarser copy shares its weights. To cast them takes as long as a few percent of
an evaluation of Stable Diffusion at 512 pixels, but longer than one of a small network of small maps."""


def place_network(network: nn.Module, precision: Precision, options: LoadOptions) -> DeviceNetwork:
    """Return a network on its device, prepared to run there as fast as we know how to.

    Args:
        network: a module that is not used elsewhere; it is moved, cast, laid out and rewritten in place.
        precision: of its weights and activations.
        options: device, memory format, and how it is compiled.
    """
    module = network.to(options.device, precision.dtype)
    if not isinstance(module, UNetBase):
        memory_format = options.memory_format or diffusers_memory_format(options.device, precision.dtype)
        module = module.to(memory_format=memory_format)
    else:
        memory_format = options.memory_format or suited_memory_format(options.device)
        module = module.to_memory_format(memory_format)
        # We know the layers of these. A compiler packs weights for itself, and those packed for CPUs are channels_last.
        is_suited = options.device.type != "cpu" or memory_format == torch.channels_last
        if not options.compiled and (is_suited or options.blocks == "compiled"):
            module = prepare_blocks(module, options.blocks)
    return DeviceNetwork(module, options.device, precision, run=executor_for(options.device, options.compiled)(module))


def can_share(network: nn.Module, options: LoadOptions) -> bool:
    """Return whether a coarser copy of a network is to share its weights: where it is large, and its layers are plain.

    Args:
        network: before it is placed.
        options: device, and how it is compiled.
    """
    # Our own networks pack their weights, and graphs and compilers would keep what they round.
    if isinstance(network, UNetBase) or options.compiled or options.device.type != "cpu":
        return False
    return sum(parameter.nbytes for parameter in network.parameters()) >= SHARED_FROM


def place_cast(placed: DeviceNetwork, precision: Precision, options: LoadOptions) -> DeviceNetwork:
    """Return a coarser copy of a network that was placed, which shares its weights.

    Args:
        placed: the network.
        precision: of the copy.
        options: those that it was placed with.
    """
    assert isinstance(placed.network, nn.Module)
    module = share_cast(placed.network, precision.dtype)
    return DeviceNetwork(module, options.device, precision, run=executor_for(options.device, False)(module))


def place_offloaded(
    network: nn.Module, codec: Codec, precision: Precision, device: torch.device, how: str, name: str
) -> DeviceNetwork:
    """Return a network of diffusers that is on a device only while it runs, in turn with its autoencoder.

    Args:
        network: on the CPU.
        codec: of the model; its autoencoder is offloaded too.
        precision: of the network.
        device: where both run.
        how: one of `OFFLOADS`.
        name: the model's.

    Raises:
        ArgumentError: one of our own networks.
    """
    if not isinstance(network, DiffusersNetwork):
        raise ArgumentError(f"{name} runs on a network of this package, which is not offloaded. Leave offload out.")
    module = network.to(precision.dtype)
    networks = [module.inner]
    if isinstance(codec, AutoencoderCodec):
        networks.append(codec.autoencoder.network)
    offload(networks, device, how)
    # Hooks replace parameters, which inference mode would not forgive them later.
    return DeviceNetwork(module, device, precision, shared=True)


def place_in_runtime(network: nn.Module, precision: Precision, runtime: str) -> list[DeviceNetwork]:
    """Return a network whose output another runtime computes, and the same in its dtype for low noise, if it has one.

    The network itself, which computes bottlenecks and their gradients, stays in float32.

    Args:
        network: on the CPU.
        precision: of the runtime.
        runtime: its name, one of `RUNTIMES`.
    """
    module = network.to(torch.float32)
    placed = []
    for dtype in (precision.dtype, precision.low):
        if dtype is not None:
            run = RuntimeNetwork(module, runtime, dtype)
            placed.append(DeviceNetwork(module, torch.device("cpu"), Precision(torch.float32), run=run))
    return placed


class Mover:
    """Copies the parts of a model to a device; what two parts share is moved once, and shared by the copies.

    Networks, tensors and what dataclasses and mappings hold of them are moved. The blocks of a network run as by
    default afterwards, whatever they were loaded with.

    Args:
        device: where to.

    Raises:
        ArgumentError: when it is called for a network that accelerate offloads, or that another runtime computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moved: dict[int, Any] = {}

    def __call__(self, part: Any) -> Any:
        """Return a copy of a part on the device, or the part itself where nothing of it has a device."""
        if id(part) not in self._moved:
            self._moved[id(part)] = self._move(part)
        return self._moved[id(part)]

    def _move(self, part: Any) -> Any:
        if isinstance(part, torch.device):
            return self._device
        if isinstance(part, Tensor):
            return part.to(self._device)
        if isinstance(part, nn.Module):
            if any(hasattr(module, "_hf_hook") for module in part.modules()):
                raise ArgumentError("A network that is offloaded stays where it is. Load the model again to move it.")
            return restore_blocks(deepcopy(part)).to(self._device)
        if isinstance(part, DeviceNetwork) and isinstance(part.network, nn.Module):
            return self._move_network(part, self(part.network))
        if isinstance(part, dict):
            return {name: self(value) for name, value in part.items()}
        if is_dataclass(part) and not isinstance(part, type):
            moved = {each.name: self(getattr(part, each.name)) for each in fields(part) if each.init}
            # What has no device keeps its identity, as the entries of registries should.
            is_same = all(getattr(part, name) is value for name, value in moved.items())
            return part if is_same else replace(part, **moved)
        return part

    def _move_network(self, part: DeviceNetwork, module: nn.Module) -> DeviceNetwork:
        """Return a network with a module that was moved; networks of one module share what runs it."""
        if isinstance(part.run, RuntimeNetwork):
            name = RUNTIMES[part.run.runtime]
            raise ArgumentError(f"A network in {name} stays on the processor. Load the model again, without runtime.")
        if id(module) not in self._moved:
            options = LoadOptions(self._device, "", compiled=is_compiled(part.run))
            self._moved[id(module)] = place_network(module, part.precision, options)
        placed: DeviceNetwork = self._moved[id(module)]
        return replace(placed, conditioning=self(part.conditioning))
