"""Names that a shell completes besides commands, options and files; looks in folders alone and loads nothing."""

from importlib import resources
from pathlib import Path

import click
from click.shell_completion import CompletionItem

_DIRECTION = ".direction.safetensors"
_DEFAULT = "faces64"


class _Models(click.types.StringParamType):
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Packaged models, or else files."""
        return _names_or_files(_packaged("models"), incomplete)


class _Directions(click.types.StringParamType):
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Packaged directions of the model that was named, or else files."""
        files = _packaged("directions", str(ctx.params.get("model") or _DEFAULT))
        names = [name.removesuffix(_DIRECTION) for name in files if name.endswith(_DIRECTION)]
        return _names_or_files(names, incomplete)


_TYPES = {"model": _Models(), "to": _Models(), "settings": _Directions(), "keep": _Directions()}


def let_shells_complete(group: click.Group) -> None:
    """Give the options that take names of models or directions a type that knows them."""
    for command in group.commands.values():
        for option in command.params:
            if option.type is click.STRING and option.name in _TYPES:
                option.type = _TYPES[option.name]


def _packaged(*folder: str) -> list[str]:
    found = Path(str(resources.files("ddim_edit.assets"))).joinpath(*folder)
    return sorted(path.name for path in found.iterdir()) if found.is_dir() else []


def _names_or_files(names: list[str], incomplete: str) -> list[CompletionItem]:
    """Shells take the first that they know what to do with; files count where no name fits."""
    fitting = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return fitting or [CompletionItem(incomplete, type="file")]
