"""Keep the networks of a model in the memory of the processor, and on the device only while they run.

The hooks are accelerate's, as in `enable_model_cpu_offload` and `enable_sequential_cpu_offload` of diffusers. Text
encoders always visit the device (`prompts.VisitingEncoders`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ArgumentError
from ddim_edit.io.extras import import_extra

if TYPE_CHECKING:
    import torch

    from ddim_edit.models.checkpoint import LoadOptions

OFFLOADS = {
    "model": "one network at a time is on the device",
    "sequential": "one layer at a time is on the device, which is far slower",
}
"""Ways to offload, and what each means."""


def require_offload(options: LoadOptions) -> None:
    """Refuse offloading where it cannot be, or is of no use, before anything large is read.

    Args:
        options: how to load a model, with `offload` among its parts or not.

    Raises:
        ArgumentError: an unknown way, a device without memory of its own, or options that do not go with it.
        MissingExtraError: accelerate is not installed.
    """
    how = options.parts.get("offload")
    if how is None:
        return
    if how not in OFFLOADS:
        raise ArgumentError(f"offload must be one of {', '.join(OFFLOADS)}, not {how!r:.60}.")
    if options.device.type in ("cpu", "mps"):
        raise ArgumentError(
            f"offload frees the memory of a GPU that has its own, and {options.device} has that of the processor. "
            "Leave it out."
        )
    if options.dtype == "mixed":
        raise ArgumentError("mixed holds the network in two dtypes, which are not offloaded. Name another dtype.")
    if options.compiled:
        raise ArgumentError("A network that is offloaded cannot be compiled. Leave one of the two out.")
    import_extra("accelerate", "diffusers", "Offloading")


def offload(networks: list[Any], device: torch.device, how: str) -> None:
    """Have networks of diffusers on a device only while they run.

    Args:
        networks: on the CPU; of "model", one at a time is on the device, where it stays until another one runs.
        device: where they run.
        how: "model" or "sequential".
    """
    accelerate = import_extra("accelerate", "diffusers", "Offloading")
    if how == "sequential":
        for network in networks:
            # Parameters of the network itself, such as learned tokens, have no layer that would fetch them.
            accelerate.cpu_offload(network, device, offload_buffers=bool(network._parameters))
        return
    hooks: list[Any] = []
    for network in networks:
        _, hook = accelerate.cpu_offload_with_hook(network, device, hooks[-1] if hooks else None)
        hooks.append(hook)
    # In turn: whichever runs sends the one before it away, the first one the last.
    if len(hooks) > 1:
        hooks[0].hook.prev_module_hook = hooks[-1]
