"""What the page of `ddim-edit ui` makes its user wait for, without the browser.

`python benchmarks/page.py` prints a row for each thing to do: evaluations of the network, and seconds.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from ddim_edit import Editor, hardware, suited_dtype
from ddim_edit.ui.controller import PageController
from ddim_edit.ui.crop_choice import CropChoice
from ddim_edit.ui.model_queue import ModelQueue
from ddim_edit.ui.records import UploadedImage
from ddim_edit.ui.session import EditSettings, Session, directions_by_level

IMAGES = Path("assets/images")


class Counting(ModelQueue):
    """Counts evaluations for the table too."""

    total = 0

    def __call__(self, images: int) -> None:
        """Count evaluations on this many images."""
        self.total += images
        super().__call__(images)


def main() -> None:
    progress = Counting()
    editor = Editor.from_pretrained(dtype=suited_dtype("auto"), on_evaluation=progress)
    session = Session(editor, directions_by_level(editor.model.name), progress)
    controller = PageController(session, Path(tempfile.mkdtemp()))
    names = ("astronaut_face.png", "seed-0028.png", "astronaut.png")
    face, other, photograph = (controller.load(UploadedImage(IMAGES / name, name)) for name in names)
    (level,) = session.directions
    opened = controller.open(face)  # what the first one has to load is not the second one's

    def timed(name: str, work: Callable[[], object]) -> None:
        before, start = progress.total, perf_counter()
        work()
        print(f"| {name} | {progress.total - before} | {perf_counter() - start:.1f} |")

    print(f"{editor.model.name}, {editor.model.dtype}, {hardware(editor.model.device)}")
    print("\n| | evaluations | seconds |\n|---|---|---|")
    timed("open a photo", lambda: controller.open(other))
    timed("open a photograph of 512 pixels", lambda: controller.open(photograph))
    timed("its first edit", lambda: controller.edit(opened, EditSettings(level, {"old": 3.0})))
    timed("every further edit", lambda: controller.edit(opened, EditSettings(level, {"old": 3.0, "female": 1.0})))
    timed("draw six faces", lambda: controller.sample(6, 0))
    ends = [(face, CropChoice()), (other, CropChoice())]
    timed("interpolate between two images, five frames", lambda: controller.interpolate(ends, 5, False, ".webp"))


if __name__ == "__main__":
    main()
