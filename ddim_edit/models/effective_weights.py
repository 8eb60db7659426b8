"""The weights that a module in memory computes with: adapters merged, offloaded tensors fetched, wrappers taken off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddim_edit.errors import ModelError

_WRAPPERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}


def unwrapped(module: Any) -> Any:
    """Return the module itself of one that was compiled as a whole, or that trains on several devices."""
    while (inner := getattr(module, _WRAPPERS.get(type(module).__name__, ""), None)) is not None:
        module = inner
    return module


class EffectiveWeights(Mapping[str, Tensor]):
    """The tensors that a module computes with, under the names that they have without adapters.

    A layer with active LoRAs, as PEFT adds them, has one weight, W + sum_i scale_i B_i A_i, computed as PEFT fuses it:
    so a LoRA that is loaded equals the same one fused, and one that is disabled, or of scale 0, equals none. What other
    adapters add to a layer is under its own names. A tensor is made when it is asked for, since all merged weights at
    once would be a second copy of the network. Where accelerate keeps tensors elsewhere until their layer runs, they
    are fetched from there.

    Args:
        module: the module, which is not changed.
    """

    def __init__(self, module: nn.Module) -> None:
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        self._deltas: dict[str, tuple[Any, list[str]]] = {}
        self._computed: dict[str, Tensor] = {}
        self._collect(unwrapped(module), "")

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor."""
        if name in self._computed:
            return self._computed[name]
        owner, attribute = self._owners[name]
        with torch.no_grad():
            tensor = _stored(owner, attribute)
            layer, adapters = self._deltas.get(name, (None, []))
            for adapter in adapters:
                tensor = tensor + layer.get_delta_weight(adapter).to(tensor.dtype)
        return tensor

    def __iter__(self) -> Iterator[str]:
        yield from self._owners
        yield from self._computed

    def __len__(self) -> int:
        return len(self._owners) + len(self._computed)

    def _collect(self, module: nn.Module, prefix: str) -> None:
        if hasattr(module, "base_layer") and hasattr(module, "adapter_layer_names"):
            self._collect_adapted(module, prefix)
            return
        self._collect_own(module, prefix)
        for name, child in module.named_children():
            self._collect(child, f"{prefix}{name}.")

    def _collect_own(self, module: nn.Module, prefix: str) -> None:
        transient = module._non_persistent_buffers_set
        for name in (*module._parameters, *module._buffers):
            if getattr(module, name) is not None and name not in transient:
                self._owners[prefix + name] = module, name

    def _collect_adapted(self, layer: Any, prefix: str) -> None:
        """Collect the tensors of a layer of PEFT, which wraps the one that it adapts."""
        self._collect(layer.base_layer, prefix)
        # Of merged layers PEFT runs the base alone, which then has the adapters in it.
        active = [] if layer.disable_adapters or layer.merged else list(layer.active_adapters)
        for number, adapter in enumerate(active):
            parts = {name: getattr(layer, name) for name in layer.adapter_layer_names}
            parts = {name: part[adapter] for name, part in parts.items() if adapter in part}
            scale = getattr(layer, "scaling", {}).get(adapter, 1.0)
            if not parts or scale == 0:
                continue
            plain = set(parts) == {"lora_A", "lora_B"} and adapter not in getattr(layer, "lora_variant", ())
            if plain and getattr(parts["lora_B"], "bias", None) is None:
                self._deltas.setdefault(f"{prefix}weight", (layer, []))[1].append(adapter)
                continue
            self._computed[f"{prefix}adapter_{number}.scale"] = torch.tensor(float(scale))
            for name, part in parts.items():
                if isinstance(part, nn.Module):
                    self._collect(part, f"{prefix}adapter_{number}.{name}.")
                else:
                    self._computed[f"{prefix}adapter_{number}.{name}"] = part


def _stored(owner: nn.Module, name: str) -> Tensor:
    """Return a tensor of a module, from where the module's hook of accelerate keeps it if it is not in the module."""
    tensor: Tensor = getattr(owner, name)
    if not tensor.is_meta:
        return tensor
    hook: Any = getattr(owner, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        if getattr(each, "weights_map", None) is not None:
            stored: Tensor = each.weights_map[name]
            return stored
    raise ModelError(
        f"The tensor {name} of a {type(owner).__name__} is on the device meta, where it has no values. Load its "
        "weights first."
    )
