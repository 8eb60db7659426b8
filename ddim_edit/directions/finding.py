"""Find direction files: packaged ones by name, those in a folder, and those on the hub."""

from importlib import resources
from pathlib import Path

from ddim_edit.directions.direction import SUFFIX, Direction
from ddim_edit.errors import DirectionError
from ddim_edit.models.hub_files import HubId, find_files


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


def find_direction(name_or_path: str | Path, model: str, offline: bool = False) -> Direction:
    """Return a packaged direction of a model by its name, or the one in a file or in a repository on the hub.

    Args:
        name_or_path: in this order a packaged name, a file, or a hub id: "owner/name" for a repository with one
            direction, "owner/name/direction" for one of several, both also with "@revision". It is downloaded if it is
            not in the hub's cache.
        model: whose packaged directions are meant.
        offline: whether a hub id may come from the cache only; HF_HUB_OFFLINE=1 has the same effect.

    Raises:
        DirectionError: no such name, file or repository, or a file that cannot be read.
        MissingExtraError: a hub id, and huggingface_hub is not installed.

    Examples:
        >>> find_direction("old", "faces64").level
        '372.667'
        >>> find_direction("someone/smile", "faces64")  # doctest: +SKIP
    """
    packaged = packaged_directions(model)
    path = Path(name_or_path)
    if str(name_or_path) in packaged:
        return Direction.load(packaged[str(name_or_path)])
    if path.name.endswith(SUFFIX) or path.exists():
        return Direction.load(path)
    if hub_id := HubId.parse(str(name_or_path)):
        return _load_from_hub(hub_id, offline)
    known = f"{model} comes with {', '.join(packaged)}" if packaged else f"none are packaged for {model}"
    raise DirectionError(
        f"There is no direction {str(name_or_path)!r}: {known}. See `ddim-edit directions`, or write one with "
        "`ddim-edit fit`."
    )


def _load_from_hub(hub_id: HubId, offline: bool) -> Direction:
    files = find_files(hub_id, SUFFIX, DirectionError, offline)
    if len(files) > 1:
        example = f"{hub_id.repo}/{next(iter(files))}"
        raise DirectionError(f"{hub_id} has the directions {', '.join(files)}. Name one of them, as in {example}.")
    return Direction.load(next(iter(files.values())))


def _find_files(folder: Path) -> dict[str, Path]:
    return {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
