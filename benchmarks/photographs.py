"""How well faces are found and aligned in photographs, and what edits leave of the rest of them.

`python benchmarks/photographs.py` builds 40 photographs from the sample images of scikit-image, scikit-learn and
matplotlib: portraits turned, mirrored, darkened, shrunk and enlarged, collages of several, small faces in scenes, and
images without any face. It prints a table of how many faces are found, and how far their landmarks are from those of
the upright original, in percent of the side of the square that faces64 sees.

With `--edits FOLDER` it also edits portraits with the packaged directions, writes the results there, and prints what
changed where: pixels outside of the mask, the largest step at the edge of the mask, and strength 0.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import matplotlib
import numpy as np
import skimage
import sklearn
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ddim_edit import Editor, hardware
from ddim_edit.images import FaceCrop, FaceTemplate, Photograph, Similarity, detect_faces, read
from ddim_edit.images.alignment import affine_coefficients

TEMPLATE = FaceTemplate.named("faces64")
SWAPPED = (1, 0, 2, 4, 3)
"""Landmarks of a mirrored face in the order of the plain one."""
Points = tuple[tuple[float, float], ...]
EDITS = (("old", 6.0), ("female", 7.0), ("old", -7.0), ("light", 1.5), ("warm", -1.5))


@dataclass(frozen=True)
class Case:
    """A photograph, the kind of the table's row, and the landmarks of its faces."""

    kind: str
    image: Image.Image
    faces: tuple[Points, ...]


def sample_image(name: str) -> Image.Image:
    folders = (
        Path(str(skimage.__file__)).parent / "data",
        Path(str(sklearn.__file__)).parent / "datasets" / "images",
        Path(matplotlib.get_data_path()) / "sample_data",
    )
    return Image.open(next(folder / name for folder in folders if (folder / name).exists())).convert("RGB")


def face_side(points: Points) -> float:
    return 64 / TEMPLATE.align(points, (64, 64)).scale


def moved(case: Case, kind: str, alignment: Similarity, size: tuple[int, int]) -> Case:
    """Return a photograph seen through a similarity, on grey."""
    back = alignment.inverse
    image = case.image
    if alignment.scale < 1:  # antialiased: reduced first, and turned then
        small = (max(1, round(image.width * alignment.scale)), max(1, round(image.height * alignment.scale)))
        back = back.enlarged(small[0] / image.width)
        image = image.resize(small, Image.Resampling.LANCZOS)
    coefficients = affine_coefficients(back)
    seen = image.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC, fillcolor=(128,) * 3)
    return Case(kind, seen, tuple(tuple(alignment(points)) for points in case.faces))


def turned(case: Case, degrees: float) -> Case:
    middle = complex(*case.image.size) / 2
    a = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    return moved(case, "turned by up to 30 degrees", Similarity(a, middle - a * middle), case.image.size)


def scaled(case: Case, kind: str, factor: float) -> Case:
    size = (round(case.image.width * factor), round(case.image.height * factor))
    return moved(case, kind, Similarity(factor, 0), size)


def mirrored(case: Case) -> Case:
    width = case.image.width
    faces = []
    for points in case.faces:
        flipped = [(width - x, y) for x, y in points]
        faces.append(tuple(flipped[index] for index in SWAPPED))
    return Case("mirrored", ImageOps.mirror(case.image), tuple(faces))


def pasted(scene: Image.Image, kind: str, parts: Sequence[tuple[Case, tuple[int, int]]]) -> Case:
    image = scene.copy()
    faces: list[Points] = []
    for part, (left, top) in parts:
        image.paste(part.image, (left, top))
        faces += [tuple((x + left, y + top) for x, y in points) for points in part.faces]
    return Case(kind, image, tuple(faces))


def portraits(folder: Path) -> dict[str, Case]:
    """Return the upright originals, with their landmarks as they are found there."""
    found = {}
    for name in ("astronaut.png", "grace_hopper.jpg"):
        image = sample_image(name)
        path = folder / "original.png"
        image.save(path)
        (face,) = detect_faces(path)
        found[name.split(".")[0]] = Case("upright", image, (face.landmarks,))
    return found


def photographs(folder: Path) -> Iterator[Case]:
    china, flower = sample_image("china.jpg"), sample_image("flower.jpg")
    originals = portraits(folder)
    astronaut, hopper = originals.values()
    for case in originals.values():
        yield case
        for degrees in (-30, -20, -10, 10, 20, 30):
            yield turned(case, degrees)
        yield mirrored(case)
        for factor in (0.5, 0.25):
            yield Case("darkened", ImageEnhance.Brightness(case.image).enhance(factor), case.faces)
        for factor in (0.6, 0.35):
            yield scaled(case, "shrunk", factor)
        yield scaled(case, "enlarged to 3000 pixels", 3000 / case.image.width)
        yield Case("blurred", case.image.filter(ImageFilter.GaussianBlur(2)), case.faces)
    small = [scaled(case, "", factor) for case in originals.values() for factor in (0.5, 0.4)]
    wide = flower.resize((1400, 900), Image.Resampling.LANCZOS)
    yield pasted(wide, "collages", [(astronaut, (40, 200)), (hopper, (700, 150))])
    yield pasted(wide, "collages", [(turned(astronaut, 20), (40, 200)), (mirrored(hopper), (800, 150))])
    yield pasted(wide, "collages", [(part, (40 + 330 * i, 120 + 90 * i)) for i, part in enumerate(small)])
    yield pasted(wide, "collages", [(turned(part, -15 + 10 * i), (330 * i, 300)) for i, part in enumerate(small)])
    scene = china.resize((2400, 1600), Image.Resampling.LANCZOS)
    yield pasted(scene, "small in a scene", [(scaled(astronaut, "", 0.6), (1500, 800))])
    yield pasted(scene, "small in a scene", [(scaled(hopper, "", 0.5), (300, 900))])
    for name in ("china.jpg", "flower.jpg", "coffee.png", "chelsea.png", "rocket.jpg", "text.png"):
        yield Case("without a face", sample_image(name), ())


def measure(case: Case, path: Path) -> tuple[int, int, list[float]]:
    """Return how many faces are found, how many others, and the largest error of each face in percent."""
    case.image.save(path)
    found = detect_faces(path)
    errors = []
    unmatched = list(found)
    for points in case.faces:
        middle = complex(*points[2])
        near = [face for face in unmatched if abs(complex(*face.landmarks[2]) - middle) < face_side(points) / 3]
        if near:
            unmatched.remove(near[0])
            distances = [math.dist(a, b) for a, b in zip(points, near[0].landmarks, strict=True)]
            errors.append(100 * max(distances) / face_side(points))
    return len(errors), len(unmatched), errors


def detection_table(folder: Path) -> None:
    rows: dict[str, list[tuple[int, int, int, list[float]]]] = {}
    for case in photographs(folder):
        hits, false, errors = measure(case, folder / "photograph.png")
        rows.setdefault(case.kind, []).append((len(case.faces), hits, false, errors))
    print(f"{sum(map(len, rows.values()))} photographs\n")
    print("| photographs | number | faces | found | false | mean error | largest error |")
    print("|---|---|---|---|---|---|---|")
    for kind, found in rows.items():
        faces, hits, false = sum(row[0] for row in found), sum(row[1] for row in found), sum(row[2] for row in found)
        errors = [error for row in found for error in row[3]]
        figures = f"{np.mean(errors):.1f} % | {max(errors):.1f} %" if errors else "- | -"
        print(f"| {kind} | {len(found)} | {faces} | {hits} | {false} | {figures} |")


def timing_table(folder: Path) -> None:
    """Print what finding and aligning a face takes beyond decoding, which every crop needs."""
    print("\n| image | CPU seconds with the face aligned | with the centre square |\n|---|---|---|")
    portrait = sample_image("astronaut.png")
    for side in (512, 1024, 2048, 4096):
        for suffix in (".png", ".jpg"):
            path = folder / f"timed{suffix}"
            portrait.resize((side, side), Image.Resampling.BICUBIC).save(path)
            least = []
            for crop in (FaceCrop(TEMPLATE), None):
                seconds = []
                for _ in range(5):
                    start = process_time()
                    read(path, 64, crop)
                    seconds.append(process_time() - start)
                least.append(min(seconds))
            print(f"| {suffix} of {side}x{side} | {least[0]:.3f} | {least[1]:.3f} |")


def edit_table(folder: Path, output: Path) -> None:
    editor = Editor.from_pretrained()
    output.mkdir(parents=True, exist_ok=True)
    cases = {}
    for name, case in portraits(folder).items():
        cases[name] = case
        cases[f"{name} turned by 20 degrees"] = turned(case, 20)
        cases[f"{name} at 1500 pixels"] = scaled(case, "", 1500 / case.image.width)
    print(f"\n{editor.model.name} in {editor.model.dtype} on {hardware(editor.model.device)}\n")
    print("| photograph | edit | changed outside | largest step at the edge | changed inside | largest change |")
    print("|---|---|---|---|---|---|")
    for name, case in cases.items():
        path = folder / "photograph.png"
        case.image.save(path)
        frame = read(path, 64, FaceCrop(TEMPLATE))
        photograph = Photograph.open(path)
        before = np.asarray(photograph.to_pil()).astype(int)
        w = frame_coordinates(frame.alignment, case.image.size)
        radius = np.hypot(w.real / 32 - 1, w.imag / 32 - 1)
        settings = [{direction: strength} for direction, strength in EDITS]
        for (direction, strength), edited in zip(EDITS, editor.edits([frame], settings)[0], strict=True):
            after = photograph.paste(frame, edited)
            after.to_pil().save(output / f"{name}-{direction}{strength:+g}.png")
            change = np.asarray(after.to_pil()).astype(int) - before
            size = abs(change).max(-1)
            outside = (size[radius > 1] > 0).mean()
            # A seam would be a step of the change from one pixel to the next around the edge of the mask.
            steps = np.maximum(abs(np.diff(change, axis=0)).max(-1)[:, :-1], abs(np.diff(change, axis=1)).max(-1)[:-1])
            at_edge = steps[(abs(radius - 0.97) < 0.06)[:-1, :-1]].max()
            inside = (size[radius <= 1] > 0).mean()
            print(f"| {name} | {direction} {strength:+g} | {outside:.2%} | {at_edge} | {inside:.0%} | {size.max()} |")
        (unchanged,) = editor.edit([frame], {"old": 0.0})
        same = np.array_equal(np.asarray(photograph.paste(frame, unchanged).to_pil()), before)
        print(f"| {name} | old 0 | {'identical' if same else 'NOT IDENTICAL'} | | | |")


def frame_coordinates(alignment: Similarity, size: tuple[int, int]) -> np.ndarray:
    z = (np.arange(size[0]) + 0.5)[None, :] + 1j * (np.arange(size[1]) + 0.5)[:, None]
    return alignment.a * z + alignment.b


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=Path, metavar="FOLDER", help="edit portraits too, and write them here")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        detection_table(Path(folder))
        timing_table(Path(folder))
        if arguments.edits is not None:
            edit_table(Path(folder), arguments.edits)


if __name__ == "__main__":
    main()
