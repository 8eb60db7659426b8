"""Command lines that make what the page shows; they are typed in the folder where the pictures lie."""

import shlex
from collections.abc import Iterable, Mapping, Sequence

from ddim_edit.images import Box, Crop

FPS, SCALE = 12, 4
"""Frames a second and size of a pixel in what the page makes of a walk."""
DRAWN = "faces"
"""Folder that sampled pictures are written to."""


def edit_line(
    picture: str, strengths: Mapping[str, float], keep: Iterable[str], crop: Crop, flags: Sequence[str]
) -> str:
    """`ddim-edit edit` with these strengths."""
    settings = [word for name, strength in strengths.items() for word in ("--set", f"{name}={signed(strength)}")]
    kept = [word for name in keep for word in ("--keep", name)]
    return _line("edit", _operand(picture), *settings, *kept, *_cropped(crop), *flags, "-o", "edited")


def walk_line(pictures: Sequence[str], target: str, frames: int, loop: bool, flags: Sequence[str]) -> str:
    """`ddim-edit interpolate` to a strip or an animation, by the target's suffix."""
    moving = [] if target.endswith(".png") else ["--fps", str(FPS), *(["--loop"] if loop else [])]
    shape = ["--frames", str(frames), "--scale", str(SCALE), *moving]
    return _line("interpolate", *map(_operand, pictures), *shape, *flags, "-o", target)


def sample_line(count: int, seed: int, flags: Sequence[str]) -> str:
    """`ddim-edit sample` of so many pictures from this seed on."""
    return _line("sample", "-n", str(count), "--seed", str(seed), *flags, "-o", DRAWN)


def signed(strength: float) -> str:
    """A strength as it is typed; it reads back as the very number if that has at most three decimals."""
    return f"{strength:+.3f}".rstrip("0").rstrip(".") if strength else "0"


def _cropped(crop: Crop) -> list[str]:
    return ["--crop", f"{crop.x},{crop.y},{crop.size}"] if isinstance(crop, Box) else []


def _operand(name: str) -> str:
    """A file's name that cannot be taken for an option."""
    return f"./{name}" if name.startswith("-") else name


def _line(*words: str) -> str:
    return shlex.join(["ddim-edit", *words])
