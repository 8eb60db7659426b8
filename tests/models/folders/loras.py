"""LoRAs in a pipeline's UNet, by PEFT where it is installed, and by layers that keep to its interface."""

from typing import Any

import torch
from torch import Tensor, nn

RANK = 2


class AdaptedLinear(nn.Module):
    """A linear layer with one LoRA as PEFT has it: W x + scale B A x."""

    adapter_layer_names = ("lora_A", "lora_B")
    disable_adapters = False

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"ink": nn.Linear(base_layer.in_features, RANK, bias=False)})
        self.lora_B = nn.ModuleDict({"ink": nn.Linear(RANK, base_layer.out_features, bias=False)})
        self.scaling = {"ink": 1.0}
        self.active_adapters = ["ink"]
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        if not (self.merged or self.disable_adapters):
            result = result + self.scaling["ink"] * self.lora_B["ink"](self.lora_A["ink"](x))
        return result

    def get_delta_weight(self, adapter: str) -> Tensor:
        return self.lora_B[adapter].weight @ self.lora_A[adapter].weight * self.scaling[adapter]

    def merge(self) -> None:
        self.base_layer.weight.data += self.get_delta_weight("ink").detach()
        self.merged = True


def add_lora(pipe: Any, with_peft: bool) -> None:
    """Give every query and value of the UNet a LoRA with weights that matter."""
    if with_peft:
        from peft import LoraConfig

        pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_v"]), "ink")
    else:
        for module in list(pipe.unet.modules()):
            for name in ("to_q", "to_v"):
                if isinstance(getattr(module, name, None), nn.Linear):
                    setattr(module, name, AdaptedLinear(getattr(module, name)))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2


def layers(pipe: Any) -> list[Any]:
    """The adapted layers."""
    found = [module for module in pipe.unet.modules() if hasattr(module, "get_delta_weight")]
    assert found
    return found


def scale_lora(pipe: Any, scale: float) -> None:
    for layer in layers(pipe):
        layer.scaling["ink"] = scale


def fuse_lora(pipe: Any) -> None:
    for layer in layers(pipe):
        layer.merge()


def disable_lora(pipe: Any) -> None:
    for layer in layers(pipe):
        if isinstance(layer, AdaptedLinear):
            layer.disable_adapters = True
        else:
            layer.enable_adapters(False)
