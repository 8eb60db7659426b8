"""`ddim-edit models`."""

import json
from pathlib import Path
from typing import Any

import click

from ..command import Option, OptionGroup, command
from ..options import json_option


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    families = Option("--families", is_flag=True, help="List the families of checkpoints that can be loaded instead.")
    return [OptionGroup("Options", [families, json_option()])]


@command("Tools", 3, option_groups, "ddim-edit models", "ddim-edit models --families")
def models(families: bool, as_json: bool) -> None:
    """List the models that come with the package, or the families of checkpoints that can be loaded."""
    for row in _describe_families() if families else _describe_packaged():
        if as_json:
            click.echo(json.dumps(row, sort_keys=True))
        elif families:
            lines = (row["title"], row["files"], f"recognised by: {row['recognised']}", f"works: {row['works']}")
            click.echo(f"{row['name']:<28}" + f"\n{'':<28}".join(lines))
        else:
            click.echo(f"{row['name']:<12} {row['size']}x{row['size']}  {row['prediction']}  {row['card']}")


def _describe_packaged() -> list[dict[str, Any]]:
    """Return name, size, prediction and the first sentence of the card of each model, from its files alone."""
    from ddim_edit import packaged_models

    rows = []
    for name, folder in packaged_models().items():
        unet = _read_json(folder / "unet" / "config.json")
        scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
        card = next(line for line in lines if line and line[0] != "#")
        rows.append(
            {"name": name, "size": unet["sample_size"], "prediction": scheduler["prediction_type"], "card": card}
        )
    return rows


def _describe_families() -> list[dict[str, Any]]:
    """Return what is known of each family of the registry, as docs/models.md has it."""
    from ddim_edit import FAMILIES

    rows = []
    for family in FAMILIES.values():
        # Markdown marks code.
        facts = {name: text.replace("`", "") for name, text in family.facts.items()}
        rows.append({"name": family.name, "title": family.title, **facts})
    return rows


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
