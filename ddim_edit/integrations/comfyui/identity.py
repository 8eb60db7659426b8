"""What identifies a MODEL and a CONDITIONING of ComfyUI: digests of their content."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from ddim_edit.integrations.comfyui.process import SamplingProcess
from ddim_edit.models.condition import Condition
from ddim_edit.models.identity import Components, digest_config, digest_tensors

_NETWORK = "diffusion_model."
_known: "WeakKeyDictionary[Any, str]" = WeakKeyDictionary()
"""The digests of the networks in memory: reading gigabytes of weights takes seconds."""


def find_components(model: Any, process: SamplingProcess) -> Components:
    """Return what identifies a MODEL: its weights, its process and, if it has any, its patches of weights (LoRAs)."""
    network = model.model
    if network not in _known:
        weights = {name: each for name, each in network.state_dict().items() if name.startswith(_NETWORK)}
        # While patches are merged into the weights, the ones without them are here.
        weights |= {name: kept.weight for name, kept in model.backup.items() if name in weights}
        _known[network] = digest_config({"class": type(network).__name__}, digest_tensors(weights, "the MODEL"))
    schedule = dict(process.schedule.description)
    components = {
        "network": _known[network],
        "process": digest_config({"schedule": schedule, "prediction": process.prediction}),
    }
    if model.patches:
        components["patches"] = _digest_content(model.patches)
    return components


def find_condition(positive: Any, negative: Any, cfg: float) -> Condition:
    """Return the record of CONDITIONINGs, the digests of their content, and of the scale of guidance.

    Without guidance the negative one is not used.
    """
    if cfg == 1:
        return Condition(prompt=_digest_content(positive))
    return Condition(_digest_content(positive), _digest_content(negative), guidance_scale=cfg)


def _digest_content(value: Any) -> str:
    """Return the digest of nested lists, mappings, tensors and plain values; of other objects the class counts."""
    tensors: dict[str, Tensor] = {}

    def to_plain(value: Any, place: str) -> Any:
        if isinstance(value, Tensor):
            tensors[place] = value
            return "tensor"
        if hasattr(value, "weights"):  # a LoRA or another adapter
            return [type(value).__name__, to_plain(value.weights, place)]
        if isinstance(value, Mapping):
            return {str(key): to_plain(each, f"{place}.{key}") for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [to_plain(each, f"{place}.{index}") for index, each in enumerate(value)]
        return value if isinstance(value, str | int | float | None) else type(value).__name__

    plain = to_plain(value, "")
    return digest_config(plain, digest_tensors(tensors, "the CONDITIONING"))
