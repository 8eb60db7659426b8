"""What the page of `ddim-edit ui` makes its user wait for, without the browser.

`python benchmarks/page.py` prints a row for each thing to do: evaluations of the network, and seconds.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from ddim_edit import Editor, hardware, suited_dtype
from ddim_edit.ui.desk import Given, PageController
from ddim_edit.ui.studio import Change, Session, Ticks, levels_of

IMAGES = Path("assets/images")


class Counting(Ticks):
    """Counts evaluations for the table too."""

    total = 0

    def __call__(self, pictures: int) -> None:
        """Add to the number of images."""
        self.total += pictures
        super().__call__(pictures)


def main() -> None:
    ticks = Counting()
    editor = Editor.from_pretrained(dtype=suited_dtype("auto"), on_evaluation=ticks)
    studio = Session(editor, levels_of(editor.model.name), ticks)
    desk = PageController(studio, Path(tempfile.mkdtemp()))
    face, other = (Given(IMAGES / name, name) for name in ("astronaut_face.png", "seed-0028.png"))
    (level,) = studio.levels
    opened = desk.open(face)  # what the first one has to load is not the second one's

    def timed(name: str, work: Callable[[], object]) -> None:
        before, start = ticks.total, perf_counter()
        work()
        print(f"| {name} | {ticks.total - before} | {perf_counter() - start:.1f} |")

    print(f"{editor.model.name}, {editor.model.dtype}, {hardware(editor.model.device)}")
    print("\n| | evaluations | seconds |\n|---|---|---|")
    timed("open a photo", lambda: desk.open(other))
    timed("its first edit", lambda: desk.edit(opened, Change(level, {"old": 3.0})))
    timed("every further edit", lambda: desk.edit(opened, Change(level, {"old": 3.0, "female": 1.0})))
    timed("draw six faces", lambda: desk.draw(6, 0))
    timed("walk between two pictures, five frames", lambda: desk.walk([face, other], 5, False, ".webp"))


if __name__ == "__main__":
    main()
