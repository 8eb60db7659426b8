"""Where directions are found: in the package, in a folder, in a file."""

from importlib import resources
from pathlib import Path

from ddim_edit.directions.direction import SUFFIX, Direction
from ddim_edit.errors import DirectionError


def packaged_directions(model: str) -> dict[str, Path]:
    """The direction files that come with the package for a model, by name; none for most models."""
    return _files_in(Path(str(resources.files("ddim_edit.assets"))) / "directions" / model)


def find_direction(name_or_path: str | Path, model: str) -> Direction:
    """A packaged direction of a model by its name, or the one in a file.

    Raises:
        DirectionError: no such name or file, or a file that cannot be read.
    """
    packaged, path = packaged_directions(model), Path(name_or_path)
    if str(name_or_path) in packaged:
        return Direction.load(packaged[str(name_or_path)])
    if path.name.endswith(SUFFIX) or path.exists():
        return Direction.load(path)
    known = f"one out of {', '.join(packaged)}" if packaged else f"none are packaged for {model}"
    remedy = "see `ddim-edit directions`, or fit one with `ddim-edit fit`"
    raise DirectionError(f"a direction file or name ({known})", str(name_or_path), remedy)


def directions_in(folder: str | Path) -> dict[str, Path]:
    """The direction files in a folder, by name.

    Raises:
        DirectionError: no such folder, or none in it.
    """
    files = _files_in(Path(folder))
    if not files:
        given = f"{folder}, which holds none" if Path(folder).is_dir() else f"{folder}, where no folder is"
        raise DirectionError(f"a folder with *{SUFFIX} files", given, "fit some with `ddim-edit fit`")
    return files


def _files_in(folder: Path) -> dict[str, Path]:
    return {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
