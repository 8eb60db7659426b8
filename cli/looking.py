"""`show`, `models` and `env`: what files, models and machines are."""

import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from .files import LATENT
from .storing import is_store

PACKAGES = (
    "ddim-edit",
    "torch",
    "torchvision",
    "scikit-learn",
    "lpips",
    "safetensors",
    "Pillow",
    "numpy",
    "diffusers",
    "transformers",
)
json_flag = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Print as JSON what FILE is.

    A latent's or a written picture's recipe, what is in a store of latents, or what is read from a checkpoint.
    """
    record = _record_of(file)(file)
    click.echo(json.dumps(record, indent=2, sort_keys=True))


def _record_of(file: Path) -> Callable[[Path], dict[str, Any]]:
    if file.name.endswith(LATENT):
        return _latent_record
    if is_store(file):
        return _store_record
    return _checkpoint_record if file.is_dir() or file.suffix.lower() in CHECKPOINTS else _picture_record


def _checkpoint_record(path: Path) -> dict[str, Any]:
    from ddim_edit import load_model

    model = load_model(path)
    return {
        "codec": type(model.codec).__name__,
        "follows": model.follows,
        "model": model.name,
        "pictures": list(model.size),
        "prediction": model.prediction,
        "schedule": dict(model.schedule.description),
        "weights": model.weights,
        "x0": list(model.shape),
    }


def _latent_record(file: Path) -> dict[str, Any]:
    from ddim_edit import Latent

    latent = Latent.load(file)
    return {
        "recipe": latent.recipe.to_json(),
        "report": dict(latent.report),
        "t": latent.t,
        "shape": list(latent.x.shape),
    }


def _store_record(folder: Path) -> dict[str, Any]:
    from ddim_edit import LatentStore

    store = LatentStore(folder)
    return {
        "complete": store.complete,
        "failures": store.failures,
        "latents": len(store),
        "recipe": _in_short(store.recipe.to_json()) if store else None,
        "shape": list(store.shape) if store else None,
        "shards": store.shards,
        "unconverged": store.unconverged,
    }


def _in_short(recipe: Mapping[str, Any]) -> dict[str, Any]:
    told = ("model", "weights", "prediction", "dtype", "condition", "solver", "grid")
    times = recipe["times"]
    return {**{name: recipe[name] for name in told}, "steps": len(times) - 1, "t": times[-1]}


def _picture_record(file: Path) -> dict[str, Any]:
    from ddim_edit import ImageError
    from ddim_edit.images import read_recipe

    recipe = read_recipe(file)
    if recipe is None:
        raise ImageError("a picture written by ddim-edit", f"{file}, which holds no recipe", "show another one")
    return {"recipe": recipe}


@click.command()
@json_flag
def models(as_json: bool) -> None:
    """List the models that come with the package."""
    from ddim_edit import packaged_models

    rows = [_model_row(name, folder) for name, folder in packaged_models().items()]
    for row in rows:
        plain = f"{row['name']:<12} {row['size']}x{row['size']}  {row['prediction']}  {row['card']}"
        click.echo(json.dumps(row, sort_keys=True) if as_json else plain)


def _model_row(name: str, folder: Path) -> dict[str, Any]:
    unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    card = next(line for line in lines if line and line[0] != "#")
    return {"name": name, "size": unet["sample_size"], "prediction": scheduler["prediction_type"], "card": card}


@click.command()
@json_flag
def env(as_json: bool) -> None:
    """Print the versions and devices that results depend on."""
    import torch

    from ddim_edit import hardware, suited_dtype

    named = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    devices = [*named, "mps"] if torch.backends.mps.is_available() else named
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": ", ".join(devices),
        **{device: hardware(device) for device in named},
        "threads": str(torch.get_num_threads()),
        "dtype": suited_dtype("auto"),
        **{name: _version(name) for name in PACKAGES},
    }
    click.echo(json.dumps(facts, sort_keys=True) if as_json else _aligned(facts))


def _aligned(facts: Mapping[str, str]) -> str:
    return "\n".join(f"{name:<14} {value}" for name, value in facts.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
