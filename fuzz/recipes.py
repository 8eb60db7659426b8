"""The recipe of a latent, every entry of any JSON type."""

import sys

import atheris
import torch  # noqa: F401 - before anything is instrumented, which would take minutes for torch

with atheris.instrument_imports(include=["ddim_edit"]):
    from ddim_edit.diffusion.grids import Grid
    from ddim_edit.errors import DDIMEditError
    from ddim_edit.latents.provenance import Recipe

NAMES = (
    *("model", "components", "schedule", "prediction", "dtype", "solver", "grid", "times", "condition", "dequantise"),
    *("origin", "format", "T", "prompt", "label", "guidance_scale", "kind"),
)


def value(source: atheris.FuzzedDataProvider, depth: int) -> object:
    """Draw a JSON value."""
    kind = source.ConsumeIntInRange(0, 8 if depth else 6)
    if kind >= 7:
        items = range(source.ConsumeIntInRange(0, 4))
        if kind == 7:
            return [value(source, depth - 1) for _ in items]
        return {source.PickValueInList(list(NAMES)): value(source, depth - 1) for _ in items}
    simple = {
        0: lambda: None,
        1: source.ConsumeBool,
        2: lambda: source.ConsumeInt(9),
        3: source.ConsumeFloat,
        4: lambda: source.ConsumeUnicodeNoSurrogates(8),
        5: lambda: 10**400,
        6: lambda: source.ConsumeIntInRange(0, 2),
    }
    return simple[kind]()


def one(data: bytes) -> None:
    """Read one recipe, and use what it says."""
    source = atheris.FuzzedDataProvider(data)
    record = {name: value(source, 3) for name in NAMES[:12]}
    record["format"] = source.PickValueInList([1, 2, record["format"]])
    try:
        recipe = Recipe.from_json(record)
        Grid(recipe.grid, recipe.times)
        Recipe.from_json(recipe.to_json())
        hash(recipe.condition)
    except DDIMEditError as error:
        str(error)


atheris.Setup(sys.argv, one)
atheris.Fuzz()
