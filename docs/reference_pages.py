"""Write the pages of the Python reference: one for each module that public names come from."""

import ast
import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import ddim_edit

TITLES = {
    "editor": "The editor",
    "config": "Options of an inversion",
    "models": "Models, codecs and conditions",
    "diffusion": "Schedules, grids, denoisers and solvers",
    "latents": "Latents and stores",
    "images": "Images",
    "metrics": "Metrics and reconstructions",
    "directions": "Directions",
    "evaluation": "Evaluation, likelihood and probes",
    "encoder": "In scikit-learn pipelines",
    "hub": "On the hub",
    "distributed": "Filling stores",
    "training": "Training",
    "ui": "The page",
    "machine": "Hardware",
    "errors": "Errors",
}
"""Titles of the pages in their order; other modules come last, under their own names."""


def homes() -> dict[str, list[str]]:
    """Return the public names of each top-level module, a public module being in its own list by its own name."""
    found: dict[str, list[str]] = {home: [] for home in TITLES}
    for home, names in _declared().items():
        found.setdefault(home, []).extend(names)
    return {home: names for home, names in found.items() if names}


def _declared() -> dict[str, list[str]]:
    """Return the names that `__init__.pyi` declares, by the top-level module that they come from."""
    stub = ast.parse((Path(ddim_edit.__file__).parent / "__init__.pyi").read_text())
    names: dict[str, list[str]] = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                home = alias.name if node.module is None else node.module.partition(".")[0]
                names.setdefault(home, []).append(alias.name)
    return {home: sorted(declared) for home, declared in names.items()}


def write(folder: Path) -> None:
    """Write the pages and their index."""
    pages = {home: page(home, names) for home, names in homes().items()}
    listed = "\n".join(f"   {home}" for home in pages)
    pages["index"] = f"Python reference\n================\n\n{INTRODUCTION}\n\n.. toctree::\n\n{listed}\n"
    write_pages(folder, pages)


def write_pages(folder: Path, pages: Mapping[str, str]) -> None:
    """Write pages by their names; what has not changed is left alone, so that it is not built again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


INTRODUCTION = "All public names of ``ddim_edit``, by module."


def page(home: str, names: list[str]) -> str:
    """Return the page of one module."""
    title = TITLES.get(home, home.replace("_", " ").capitalize())
    module = import_module(f"ddim_edit.{home}")
    first = escaped((module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " "))
    own = [name for name in names if name != home]
    entries = [entry(name) for name in own]
    if home in names:
        apart = [f"   :exclude-members: {', '.join(own)}"] if own else []
        entries.append("\n".join([f".. automodule:: ddim_edit.{home}", *apart]))
    return f"{title}\n{'=' * len(title)}\n\n{first}\n\n" + "\n\n".join(entries) + "\n"


def entry(name: str) -> str:
    """Return the directive that documents one name."""
    thing = getattr(ddim_edit, name)
    if isinstance(thing, Mapping):
        # Registries: their entries carry a line of help.
        names = [
            f"   - ``{key}``" + (f": {escaped(value.help)}" if hasattr(value, "help") else "")
            for key, value in thing.items()
        ]
        return f".. py:data:: ddim_edit.{name}\n\n   By name:\n\n" + "\n".join(names)
    if inspect.isclass(thing):
        return f".. auto{'exception' if issubclass(thing, Exception) else 'class'}:: ddim_edit.{name}"
    return f".. autofunction:: ddim_edit.{name}"


def escaped(line: str) -> str:
    """Escape a docstring line for reStructuredText: stars and bars are not markup, and x_ is not a link."""
    parts = re.split(r"(`+[^`]*`+)", line)
    plain = [re.sub(r"[|*]|(?<=\w)_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
    # What is joined to `code`, a plural for example, would keep it from ending.
    parts[::2] = [r"\ " + part if i and re.match(r"\w", part) else part for i, part in enumerate(plain)]
    return "".join(parts)
