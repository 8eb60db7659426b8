"""Picture files of every kind on the command line: what cannot be read ends nothing, what can be is converted."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ddim_edit import Editor, Latent
from ddim_edit.images import Box, Fit

from .. import tiny
from ..rounding import assert_alike
from .conftest import Outcome, Run, files_in, pixels_of

PHOTO = tiny.pixels(3)
GREY = np.asarray(Image.fromarray(PHOTO).convert("L"))


def bomb(path: Path) -> None:
    """A PNG that claims 20,000 x 20,000 pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0"))]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*parts, (b"IEND", b""))
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def truncated(path: Path) -> None:
    Image.fromarray(PHOTO).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:-200])


BAD: dict[str, Callable[[Path], object]] = {
    "truncated.png": truncated,
    "empty.png": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("a letter, not a picture"),
    "missing.png": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "bomb.png": bomb,
}


def assert_only_the_good_one(outcome: Outcome, bad: Path, folder: Path, written: list[str]) -> None:
    assert outcome.status == 1
    (error,) = outcome.errors
    assert error.startswith(f"error: {bad}: ")
    assert "Traceback" not in outcome.err
    assert files_in(folder) == written


@pytest.mark.parametrize("name", BAD)
def test_bad_file_does_not_end_batch(run: Run, pictures: list[Path], tmp_path: Path, name: str) -> None:
    BAD[name](tmp_path / name)
    good = pictures[0]
    outcome = run("invert", tmp_path / name, good, "-o", tmp_path / "out")
    assert_only_the_good_one(outcome, tmp_path / name, tmp_path / "out", ["a.latent.safetensors"])
    assert outcome.out == f"{tmp_path / 'out' / 'a.latent.safetensors'}\n"


def test_good_file_among_bad_ones_is_processed(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    for name, make in BAD.items():
        make(tmp_path / "in" / name)
    inputs = [tmp_path / "in" / name for name in [*list(BAD)[:3], "b.png", *list(BAD)[3:]]]
    outcome = run("reconstruct", *inputs, "-o", tmp_path / "out", "--json", "-q", "--batch-size", "2")
    assert outcome.status == 1
    assert len(outcome.err.splitlines()) == len(outcome.errors) == len(BAD)
    assert sorted(line.split(": ")[1] for line in outcome.errors) == sorted(str(tmp_path / "in" / name) for name in BAD)
    assert [row["input"] for row in outcome.rows] == [str(tmp_path / "in" / "b.png")]
    assert files_in(tmp_path / "out") == ["b-reconstructed.png", "sheet.png"]


def test_only_bad_files_write_nothing(run: Run, tmp_path: Path) -> None:
    BAD["empty.png"](tmp_path / "empty.png")
    outcome = run("invert", tmp_path / "empty.png", tmp_path / "missing.png", "-o", tmp_path / "out")
    assert outcome.status == 1
    assert len(outcome.errors) == 2
    assert not outcome.out
    assert not (tmp_path / "out").exists()


def with_alpha() -> Image.Image:
    image = Image.fromarray(PHOTO).convert("RGBA")
    image.putalpha(Image.fromarray(np.full_like(GREY, 128)))
    return image


def rotated() -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return Image.fromarray(np.rot90(PHOTO).copy()), exif


def save_16_bit(path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)


def save_rotated(path: Path) -> None:
    image, exif = rotated()
    image.save(path, exif=exif)


def save_animation(path: Path) -> None:
    frames = [Image.fromarray(tiny.pixels(seed)) for seed in (3, 4)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def grey_rgb() -> np.ndarray:
    return np.stack([GREY] * 3, axis=-1)


def over_white() -> np.ndarray:
    return PHOTO * (128 / 255) + 255 * (127 / 255)


# Name: how to save it, what the network must see of it, in how many levels it may differ, and what is said.
KINDS: dict[str, tuple[Callable[[Path], object], Callable[[], np.ndarray], float, str]] = {
    "16-bit.png": (save_16_bit, grey_rgb, 0, "16-bit grey reduced to 8 bit"),
    "cmyk.tif": (lambda path: Image.fromarray(PHOTO).convert("CMYK").save(path), lambda: PHOTO, 1, "from CMYK"),
    "palette.png": (
        lambda path: Image.fromarray(PHOTO).quantize(256).save(path),
        lambda: np.asarray(Image.fromarray(PHOTO).quantize(256).convert("RGB")),
        0,
        "",
    ),
    "animated.png": (save_animation, lambda: PHOTO, 0, "first of 2 frames"),
    "alpha.png": (lambda path: with_alpha().save(path), over_white, 1, "transparency laid over white"),
    "grey.png": (lambda path: Image.fromarray(GREY).save(path), grey_rgb, 0, ""),
    "one.png": (
        lambda path: Image.new("RGB", (1, 1), (9, 99, 199)).save(path),
        lambda: np.broadcast_to(np.array([9, 99, 199]), PHOTO.shape),
        0,
        "enlarged from 1x1 to 16x16",
    ),
    "rotated.png": (save_rotated, lambda: PHOTO, 0, "rotated by its EXIF tag"),
    "wide.png": (
        lambda path: Image.fromarray(np.pad(PHOTO, ((0, 0), (7, 7), (0, 0)))).save(path),
        lambda: PHOTO,
        0,
        "centre square 16x16 of 30x16",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_image_format_is_converted(done: Run, tmp_path: Path, name: str) -> None:
    save, seen, levels, note = KINDS[name]
    save(tmp_path / name)
    outcome = done("invert", tmp_path / name, "-o", tmp_path / "latents", "--exact")
    notes = outcome.err.splitlines()[1:]
    assert notes == [] if not note else note in notes[0] and notes[0].startswith(f"{name}: ")
    done("decode", tmp_path / "latents", "-o", tmp_path / "out")
    (decoded,) = (tmp_path / "out").iterdir()
    apart = np.abs(pixels_of(decoded).permute(1, 2, 0).numpy() - np.asarray(seen(), dtype=float))
    assert apart.max() <= levels


@pytest.mark.parametrize(
    ("options", "crop"), [(["--crop", "3,2,20"], Box(3, 2, 20)), (["--crop", "fit"], Fit()), ([], None)], ids=str
)
def test_crops_equal_editor_crops(
    done: Run, model: Path, tmp_path: Path, options: list[str], crop: Box | Fit | None
) -> None:
    path = tiny.save_picture(tmp_path / "wide.png", height=24, width=40)
    outcome = done("invert", path, "-o", tmp_path, *options)
    latent = Latent.load(tmp_path / "wide.latent.safetensors")
    wanted = Editor.from_pretrained(model).invert(path, **({"crop": crop} if crop else {}))
    assert_alike(latent.x, wanted.x)
    assert latent.recipe.origin == wanted.recipe.origin
    assert outcome.err.splitlines()[1].startswith("wide.png: ")


def test_box_outside_one_image_fails_that_image(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    big = tiny.save_picture(tmp_path / "big.png", height=64, width=64)
    outcome = run("invert", pictures[0], big, "-o", tmp_path / "out", "--crop", "30,30,20")
    assert_only_the_good_one(outcome, pictures[0], tmp_path / "out", ["big.latent.safetensors"])
