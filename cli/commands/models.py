"""`ddim-edit models`."""

import json
from pathlib import Path
from typing import Any

import click

from ..command import OptionGroup, command
from ..options import json_option


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [OptionGroup("Options", [json_option()])]


@command("Tools", 3, option_groups, "ddim-edit models")
def models(as_json: bool) -> None:
    """List the models that come with the package."""
    from ddim_edit import packaged_models

    for name, folder in packaged_models().items():
        row = _describe(name, folder)
        plain = f"{row['name']:<12} {row['size']}x{row['size']}  {row['prediction']}  {row['card']}"
        click.echo(json.dumps(row, sort_keys=True) if as_json else plain)


def _describe(name: str, folder: Path) -> dict[str, Any]:
    """Return name, size, prediction and the first sentence of the card of a model, from its files alone."""
    unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    card = next(line for line in lines if line and line[0] != "#")
    return {"name": name, "size": unet["sample_size"], "prediction": scheduler["prediction_type"], "card": card}
