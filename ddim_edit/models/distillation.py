"""Tell models that were distilled to sample in a few steps, and what it means to invert them."""

import re
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
_NAMES: Mapping[str, str] = {
    "turbo": "Turbo",
    "lightning": "Lightning",
    "lcm": "a latent consistency model",
    "latent-consistency": "a latent consistency model",
    r"hyper(?![ _-]*real)": "Hyper-SD",
    "schnell": "FLUX.1-schnell",
    "tcd": "trajectory consistency",
    "dmd2?": "distribution matching",
    "pcm": "a phased consistency model",
}
"""Kinds of distillation, by words in the names of models."""
_NEW_WORD = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word begins within one, as in dreamshaperXLTurbo and lightningDPMSDE."""
_SCHEDULERS: Mapping[object, str] = {
    "LCMScheduler": "a latent consistency model",
    "FlowMatchLCMScheduler": "a latent consistency model",
    "TCDScheduler": "trajectory consistency",
}


def describe_distillation(name: str, index: Config, network: Config, scheduler: Config) -> tuple[str, ...]:
    """Return what to know of a model that was distilled to few steps, as sentences; nothing of others.

    Args:
        name: what the model is called.
        index: its model_index.json.
        network: the config of its network.
        scheduler: the config of its scheduler.
    """
    kind = _find_kind(name, index, network, scheduler)
    if kind is None:
        return ()
    notes = [
        f"{name} is distilled to sample in a few steps ({kind}): its answers lead to images at once and are no longer "
        "the noise of a diffusion, so x_T is less like Gaussian noise, and edits are rougher, than with the model that "
        "it was distilled from. --exact and --lossless bring images back all the same"
    ]
    if network.get("time_cond_proj_dim"):
        notes.append(f"{name} takes --guidance-scale as an input; 8 is usual")
    return tuple(notes)


def _find_kind(name: str, index: Config, network: Config, scheduler: Config) -> str | None:
    if network.get("time_cond_proj_dim"):
        return "a latent consistency model"
    if index.get("is_distilled"):
        return "FLUX.2 klein"
    if (found := str(scheduler.get("_class_name"))) in _SCHEDULERS:
        return _SCHEDULERS[found]
    for each in (name, index.get("_name_or_path"), network.get("_name_or_path")):
        words = _NEW_WORD.sub(" ", each).lower() if isinstance(each, str) else ""
        for word, kind in _NAMES.items():
            if re.search(rf"(?<![a-z]){word}(?![a-z])", words):
                return kind
    dynamic = scheduler.get("use_dynamic_shifting")
    if network.get("_class_name") == "FluxTransformer2DModel" and not (network.get("guidance_embeds") or dynamic):
        return "FLUX.1-schnell"
    # No other model is released with these three together.
    euler = str(scheduler.get("_class_name")).startswith("Euler")
    trailing = scheduler.get("timestep_spacing") == "trailing"
    if euler and trailing and scheduler.get("prediction_type", "epsilon") == "epsilon":
        return "Turbo or Lightning, by its scheduler"
    return None
