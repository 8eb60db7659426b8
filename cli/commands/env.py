"""`ddim-edit env`."""

import json

import click

from ..command import OptionGroup, command
from ..options import json_option

PACKAGES = (
    *("ddim-edit", "torch", "torchvision", "scikit-learn", "lpips", "safetensors", "Pillow", "numpy"),
    *("diffusers", "transformers"),
)


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [OptionGroup("Options", [json_option()])]


@command("Tools", 5, option_groups, "ddim-edit env")
def env(as_json: bool) -> None:
    """Print the versions and devices that results depend on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from ddim_edit import hardware, suited_dtype

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    facts = {"python": platform.python_version(), "platform": platform.platform(), "devices": ", ".join(devices)}
    if torch.backends.mps.is_available():
        facts["devices"] += ", mps"
    for device in devices:
        facts[device] = hardware(device)
    facts["threads"] = str(torch.get_num_threads())
    facts["dtype"] = suited_dtype("auto")
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    if as_json:
        click.echo(json.dumps(facts, sort_keys=True))
    else:
        click.echo("\n".join(f"{name:<14} {value}" for name, value in facts.items()))
