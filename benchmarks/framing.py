"""How much edits and inversions depend on the framing of a photograph: faces aligned, against centre squares.

    python benchmarks/judge.py --data FOLDER -o judge.pt
    python benchmarks/framing.py --data FOLDER --judge judge.pt

Each test face is put into a larger scene: scaled by a factor from 2 to 5, turned by up to 25 degrees, at a random
place. The photograph is read twice, with its face aligned and as its centre square. Both are inverted, which gives
the first table, and edited with the packaged directions, away from what the judge says of the face. Edits are pasted
into the photograph, and the judge sees the face of the edited photograph, cut out as it was put in: so it judges both
framings alike. A flip is a change of its verdict; LPIPS is between the faces cut out before and after.
"""

import argparse
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from judge import ATTRIBUTES, load_judge, read_faces, verdicts
from photographs import TEMPLATE, sample_image
from PIL import Image, ImageFilter
from torch import Tensor, nn

from ddim_edit import Editor, ImageError, InputWarning, hardware, images, metrics
from ddim_edit.images import CentreSquare, Crop, FaceCrop, InputImage, Photograph, Similarity
from ddim_edit.images.alignment import affine_coefficients, warp

CROPS: dict[str, Crop] = {"aligned": FaceCrop(TEMPLATE), "centre square": CentreSquare()}
SIZE = (720, 540)


class Scene(NamedTuple):
    """A photograph with one face, and the similarity from its pixels to those of the face, 64x64."""

    path: Path
    to_face: Similarity


def make_scene(face: Tensor, path: Path, background: Image.Image, random: np.random.Generator) -> Scene:
    """Put a face [3, 64, 64] into a scene, with a soft edge, and save it."""
    scale = random.uniform(2, 5)
    angle = math.radians(random.uniform(-25, 25))
    a = scale * complex(math.cos(angle), math.sin(angle))
    reach = 64 * scale * (abs(math.cos(angle)) + abs(math.sin(angle))) / 2
    middle = complex(*(random.uniform(min(reach, side / 2), max(side - reach, side / 2)) for side in SIZE))
    to_face = Similarity(a, middle - a * (32 + 32j)).inverse
    enlarged = Image.fromarray(images.to_uint8(face).permute(1, 2, 0).numpy()).resize(
        (512, 512), Image.Resampling.BICUBIC
    )
    edge = Image.new("L", (512, 512))
    edge.paste(255, (16, 16, 496, 496))
    edge = edge.filter(ImageFilter.GaussianBlur(8))
    scene = background.copy()
    coefficients = affine_coefficients(to_face.enlarged(8))
    scene.paste(
        enlarged.transform(SIZE, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC),
        mask=edge.transform(SIZE, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC),
    )
    scene.save(path)
    return Scene(path, to_face)


def cut_out(photograph: Image.Image, scene: Scene) -> Tensor:
    """Return the face [3, 64, 64] of a photograph, from where it was put."""
    return images.read(warp(photograph, scene.to_face, (64, 64)), (64, 64)).tensor


def read_frames(scenes: Sequence[Scene]) -> tuple[list[Scene], dict[str, list[InputImage]]]:
    """Return the photographs whose face is found, and their frames of each crop."""
    found: list[Scene] = []
    frames: dict[str, list[InputImage]] = {name: [] for name in CROPS}
    for scene in scenes:
        try:
            read = {name: images.read(scene.path, 64, crop) for name, crop in CROPS.items()}
        except ImageError:  # no face is found
            continue
        found.append(scene)
        for name, frame in read.items():
            frames[name].append(frame)
    return found, frames


def health_table(editor: Editor, frames: dict[str, list[InputImage]]) -> None:
    """Print how images come back, and how white x_T is."""
    print("\n| framing | PSNR, mean | worst | std of x_T | its correlation of neighbours | called atypical |")
    print("|---|---|---|---|---|---|")
    for name, some in frames.items():
        found = editor.reconstruct(some)
        psnr, std, correlation = (np.array([row[key] for row in found.scores]) for key in ("psnr", "xt_std", "xt_corr"))
        atypical = np.mean([row["atypicality"] > 1 for row in found.scores])
        print(
            f"| {name} | {psnr.mean():.2f} dB | {psnr.min():.2f} dB | {std.mean():.3f}, {std.min():.3f} to "
            f"{std.max():.3f} | {abs(correlation).mean():.4f} | {atypical:.0%} |",
            flush=True,
        )


def edit_table(
    editor: Editor,
    judge: nn.Module,
    scenes: Sequence[Scene],
    frames: dict[str, list[InputImage]],
    strengths: Sequence[float],
) -> None:
    """Print the share of verdicts that change, and LPIPS, by strength."""
    lpips = metrics.LPIPS()
    photographs = [Photograph.open(scene.path) for scene in scenes]
    before = torch.stack([cut_out(p.to_pil(), scene) for p, scene in zip(photographs, scenes, strict=True)])
    old = verdicts(judge, before)
    print(f"\n| direction | framing | {' | '.join(f'flips, LPIPS at {strength:g}' for strength in strengths)} |")
    print(f"|---|---|{'---|' * len(strengths)}")
    for column, attribute in enumerate(ATTRIBUTES):
        away = torch.where(old[:, column] > 0, -1, 1).tolist()
        for name, some in frames.items():
            after = torch.empty(len(strengths), *before.shape)
            for sign in (-1, 1):
                rows = [row for row, towards in enumerate(away) if towards == sign]
                if not rows:
                    continue
                settings = [{attribute: sign * strength} for strength in strengths]
                for row, edits in zip(rows, editor.edits([some[row] for row in rows], settings), strict=True):
                    for number, edited in enumerate(edits):
                        pasted = photographs[row].paste(some[row], edited).to_pil()
                        after[number, row] = cut_out(pasted, scenes[row])
            cells = []
            for edited in after:
                flips = ((verdicts(judge, edited)[:, column] > 0) != (old[:, column] > 0)).double().mean()
                cells.append(f"{flips:.0%}, {float(lpips(before, edited).mean()):.3f}")
            print(f"| `{attribute}` | {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="test/ and test.csv")
    parser.add_argument("--judge", type=Path, required=True, help="what judge.py wrote")
    parser.add_argument("--count", type=int, default=48, help="test faces")
    parser.add_argument("--strengths", nargs="+", type=float, default=[4.0, 6.0, 8.0, 10.0])
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", InputWarning)  # the tables count what is atypical
    editor = Editor.from_pretrained(dtype=arguments.dtype)
    random = np.random.default_rng(0)
    backgrounds = [sample_image(name).resize(SIZE) for name in ("china.jpg", "flower.jpg", "rocket.jpg")]
    with TemporaryDirectory() as folder:
        faces = read_faces(arguments.data, "test", arguments.count).pictures
        scenes = [
            make_scene(face, Path(folder) / f"{number}.png", backgrounds[number % len(backgrounds)], random)
            for number, face in enumerate(faces)
        ]
        found, frames = read_frames(scenes)
        print(f"{editor.model.name} in {editor.model.dtype} on {hardware(editor.model.device)}")
        print(f"{len(scenes)} photographs of {SIZE[0]}x{SIZE[1]}, in {len(found)} of which the face is found")
        health_table(editor, frames)
        edit_table(editor, load_judge(arguments.judge), found, frames, arguments.strengths)


if __name__ == "__main__":
    main()
