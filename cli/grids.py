"""The grid that `--grid auto` stands for: one that was found for the model before, or that is searched now."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddim_edit.errors import ArgumentError, ImageError

from .crops import CropOptions
from .files import InputFile
from .options import AUTO, make_config
from .session import Session

if TYPE_CHECKING:
    from ddim_edit import GridSearch, InversionConfig, NoiseSchedule, Workload
    from ddim_edit.images import InputImage


def settle_grid(
    session: Session, config: Mapping[str, Any], files: Sequence[InputFile], crop: CropOptions
) -> dict[str, Any]:
    """Return the options of an inversion, with the name of a grid in place of auto; a line says where it is from.

    Args:
        session: of the command.
        config: of the options of `config_groups`.
        files: images, some of which a grid is searched with if the model has none yet.
        crop: the options of crops.
    """
    if config["grid"] != AUTO:
        return dict(config)
    from ddim_edit.evaluation import grid_file, load_grid

    others = make_config({name: value for name, value in config.items() if name != "grid"})
    model = session.editor.model
    found = load_grid(model, others)
    if found is None:
        found = search_grid(session, files, crop, others)
    else:
        session.note(f"grid {found.grid} for {model.name}, found before on {_count(found)}: {grid_file(model, others)}")
    return {**config, "grid": found.grid}


def search_grid(
    session: Session, files: Sequence[InputFile], crop: CropOptions, config: "InversionConfig"
) -> "GridSearch":
    """Search for the grid of the session's model with some of these images, keep it, and say what was found.

    Raises:
        ArgumentError: none of the images can be read.
    """
    from ddim_edit import tune_grid
    from ddim_edit.evaluation import MOST_IMAGES, save_grid, search_workload

    model = session.editor.model
    images = _read_some(session, files, crop, MOST_IMAGES)
    if not images:
        raise ArgumentError(
            f"{model.name} has no grid yet, and there is no image to find one with. Run `ddim-edit tune` on four of "
            "its images."
        )

    def workload(schedule: "NoiseSchedule") -> "Workload":
        return len(images) * search_workload(config, schedule)

    with session.counting_evaluations(len(images), workload, 1):
        found = tune_grid(session.editor, images, config)
    file = save_grid(found, model, config)
    kept = "could not be kept" if file is None else f"kept in {file}"
    session.note(
        f"grid {found.grid} for {model.name}, found with {found.evaluations} evaluations on {_count(found)}, which it "
        f"returns with {found.chosen.psnr:.1f} dB; {kept}"
    )
    return found


def _count(found: "GridSearch") -> str:
    return f"{found.images} image" if found.images == 1 else f"{found.images} images"


def _read_some(session: Session, files: Sequence[InputFile], crop: CropOptions, most: int) -> "list[InputImage]":
    """Return up to `most` images from all over a list of files; those that cannot be read are left to the command."""
    from ddim_edit.images import read

    size = session.editor.model.size
    if crop.all_faces:
        crop = replace(crop, face=None)  # the largest will do
    every = max(len(files) // most, 1)
    # The rest stands behind, in case that some of the chosen ones cannot be read.
    chosen = [*files[::every], *(file for index, file in enumerate(files) if index % every)]
    images: list[InputImage] = []
    for file in chosen:
        if len(images) == most:
            break
        try:
            images.append(read(file.path, size, crop.make(session, file.crop)))
        except (ImageError, OSError):
            continue
    return images
