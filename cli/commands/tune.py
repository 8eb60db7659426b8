"""`ddim-edit tune`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..command import OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import find_images
from ..grids import search_grid
from ..options import config_groups, images_argument, make_config, recursive_group, session_options
from ..session import Session


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [
        OptionGroup("Output", [images_argument()]),
        recursive_group(),
        *config_groups("solver", "steps"),
        crop_group(),
        session_options(),
    ]


@command(
    "Tools",
    3,
    option_groups,
    "ddim-edit tune a.jpg b.jpg c.jpg d.jpg --model ./model",
)
def tune(images: Sequence[Path], config: Mapping[str, Any], crop: CropOptions, session: Session) -> None:
    """Find the grid on which a model loses least, for --grid auto of other commands.

    Name four images like those that it was trained on; of more, four are taken. The search makes five round trips,
    200 evaluations of each image. What it finds is kept for the content of the model, the solver and the steps, in
    ddim-edit/grids of the user's cache.
    """
    from ddim_edit.tables import plain_table

    files = find_images(session, images, crop)
    found = search_grid(session, files, crop, make_config(config))
    rows = [[trial.grid, f"{trial.psnr:.2f}", f"{trial.worst:.2f}"] for trial in found.trials]
    if session.as_json:
        session.emit(found.to_json())
    else:
        session.print_table(plain_table(["", "PSNR", "worst"], rows))
    session.finish()
