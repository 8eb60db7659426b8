"""`ddim-edit calibrate`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..command import Option, OptionGroup, command
from ..crops import CropOptions, crop_group
from ..files import claim, find_images, read_files, resolve_all
from ..options import FILE, images_argument, overwrite_option, recursive_group, session_options
from ..session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_edit.images import InputImage


def option_groups() -> list[OptionGroup]:
    """Return the options of the command."""
    return [
        OptionGroup(
            "Output",
            [
                images_argument(),
                Option(
                    "-o",
                    "--output",
                    required=True,
                    metavar="FILE",
                    type=FILE,
                    help="The file: DIR/typicality.json of a model folder, or NAME.typicality.json beside NAME.pt.",
                ),
                Option(
                    "--advice",
                    default="",
                    metavar="TEXT",
                    help="What to do about other images, for the warning: 'Crop to a face.'",
                ),
                overwrite_option(),
            ],
        ),
        recursive_group(),
        crop_group(),
        session_options(),
    ]


@command(
    "Tools",
    2,
    option_groups,
    "ddim-edit calibrate held-out/ --model ./model -o ./model/typicality.json",
)
def calibrate(
    images: Sequence[Path], output: Path, advice: str, overwrite: bool, crop: CropOptions, session: Session
) -> None:
    """Measure which images are typical for a model, so that others are warned of.

    Name at least 50 images like those that it was trained on; held-out ones are best. Each takes two evaluations.
    """
    import torch

    from ddim_edit import Typicality, Workload

    session.prefer_dtype("fp32")
    files = find_images(session, images, crop)
    target = claim(output, resolve_all(file.path for file in files), overwrite)
    rows: list[Tensor] = []

    def denoise(batch: "Sequence[tuple[Path, InputImage]]") -> "Iterable[Tensor]":
        return session.editor.typicality_features([image for _, image in batch])

    workload = Workload.exactly(2)
    for batch in read_files(session, files, crop, lambda schedule: workload, 1):
        rows += [errors for _, errors in session.run_batch(batch, denoise)]
    if rows:
        found = Typicality.fit(torch.stack(rows), session.editor.model, advice=advice)
        found.save(target)
        session.emit({"output": str(target), "images": found.images}, target)
    session.finish()
