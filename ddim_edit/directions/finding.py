"""Find direction files: packaged ones by name, and those in a folder."""

from importlib import resources
from pathlib import Path

from ddim_edit.directions.direction import SUFFIX, Direction
from ddim_edit.errors import DirectionError


def packaged_directions(model: str) -> dict[str, Path]:
    """Return the direction files that come with the package for a model, by name; most models have none.

    Examples:
        >>> list(packaged_directions("nosuch"))
        []
    """
    return _find_files(Path(str(resources.files("ddim_edit.assets"))) / "directions" / model)


def directions_in(folder: str | Path) -> dict[str, Path]:
    """Return the direction files in a folder, by name.

    Raises:
        DirectionError: no such folder, or none in it.
    """
    files = _find_files(Path(folder))
    if not files:
        problem = f"the folder has no *{SUFFIX} file" if Path(folder).is_dir() else "no such folder"
        raise DirectionError(f"{folder}: {problem}. Write some with `ddim-edit fit`.")
    return files


def find_direction(name_or_path: str | Path, model: str) -> Direction:
    """Return a packaged direction of a model by its name, or the one in a file.

    Raises:
        DirectionError: no such name or file, or a file that cannot be read.
    """
    packaged = packaged_directions(model)
    path = Path(name_or_path)
    if str(name_or_path) in packaged:
        return Direction.load(packaged[str(name_or_path)])
    if path.name.endswith(SUFFIX) or path.exists():
        return Direction.load(path)
    known = f"{model} comes with {', '.join(packaged)}" if packaged else f"none are packaged for {model}"
    raise DirectionError(
        f"There is no direction {str(name_or_path)!r}: {known}. See `ddim-edit directions`, or write one with "
        "`ddim-edit fit`."
    )


def _find_files(folder: Path) -> dict[str, Path]:
    return {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
