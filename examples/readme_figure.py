"""Redraw the images of the README and the gallery: `python examples/readme_figure.py [FOLDER]`.

FOLDER defaults to docs/images. The command line makes the images, so that each contains its recipe.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from figures import packaged

from ddim_edit import Editor, images

PORTRAIT, OTHER = packaged("astronaut_face"), packaged("seed-0028")


def ddim_edit(*words: str | Path) -> None:
    """Run a command; float32, so that the images are the same on every processor."""
    command = [sys.executable, "-m", "ddim_edit", *map(str, words), "--dtype", "fp32", "--overwrite", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def photograph(folder: Path, scratch: Path) -> None:
    """Draw a whole photograph before and after an edit of its face."""
    ddim_edit("edit", packaged("astronaut"), "--set", "old=+6", "-o", scratch / "photograph")
    edited = scratch / "photograph" / "astronaut-edited.png"
    pair = torch.stack([images.read(file, 512).pixels for file in (packaged("astronaut"), edited)])
    images.write(folder / "photograph.jpg", images.labelled([pair], ["before", "old +6"]), images.read_recipe(edited))


def strips(folder: Path, scratch: Path) -> None:
    """Draw the interpolation between two faces, and the portrait along two directions."""
    ddim_edit("interpolate", PORTRAIT, OTHER, "-o", folder / "strip.png", "--frames", "9", "--upscale", "2")
    for name in ("old", "female"):
        ddim_edit("edit", PORTRAIT, "--set", name, "--strip", "-9:9:7", "--upscale", "2", "-o", scratch / name)
        (drawn,) = (scratch / name).glob("*.png")
        shutil.copy(drawn, folder / f"{name}.png")


def sheet(folder: Path, scratch: Path) -> None:
    """Draw the sheet of two reconstructions."""
    ddim_edit("reconstruct", PORTRAIT, OTHER, "-o", scratch / "there")
    shutil.copy(scratch / "there" / "sheet.png", folder / "sheet.png")


def directions(folder: Path) -> None:
    """Draw four faces along the packaged directions."""
    files = [PORTRAIT, OTHER, packaged("seed-0014"), packaged("seed-0026")]
    moves = [("old", 7), ("old", -7), ("female", 7), ("female", -7), ("baby", 7), ("light", 1), ("warm", 1.5)]
    rows = images.to_uint8(Editor.from_pretrained().edits(files, [{"old": 0}, *({name: s} for name, s in moves)]))
    labels = ["source", *(f"{name} {s:+g}" for name, s in moves)]
    images.write(folder / "directions.png", images.labelled([images.upscale(row, 2) for row in rows], labels))


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        photograph(target, Path(scratch))
        strips(target, Path(scratch))
        sheet(target, Path(scratch))
    directions(target)
