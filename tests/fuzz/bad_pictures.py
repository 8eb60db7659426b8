"""Pictures that no command takes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import tiny
from . import pictures
from .kit import Kit, Line, Make


def picture(name: str, content: Callable[[], bytes], *words: object) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        (folder / name).write_bytes(content())
        return ["invert", folder / name, "-o", folder / "out", "--steps", "2"]

    return make


def odd_picture(prepare: Callable[[Path], object]) -> Make:
    def make(kit: Kit, folder: Path) -> Line:
        prepare(folder / "a.png")
        return ["reconstruct", folder / "a.png", "-o", folder / "out", "--steps", "2"]

    return make


def picture_cases() -> Iterator[tuple[str, Make]]:
    for name, content in pictures.malformed():
        yield f"picture {name}", picture(name.partition(" ")[0], content)
    yield "picture a folder without any", odd_picture(Path.mkdir)
    yield "picture absent", odd_picture(lambda path: None)
    yield "picture a link to itself", odd_picture(lambda path: path.symlink_to(path))
    yield "picture a link to nothing", odd_picture(lambda path: path.symlink_to("nothing.png"))
    yield "picture a pipe", odd_picture(os.mkfifo)
    yield "picture of a very long name", lambda kit, folder: ["invert", folder / ("a" * 300), "-o", folder / "out"]
    yield "picture without a recipe", lambda kit, folder: ["show", tiny.save_picture(folder / "a.png")]
