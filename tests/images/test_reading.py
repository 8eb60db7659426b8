import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddim_edit.images import Box, read, to_float

GENERATOR = np.random.default_rng(7)
PHOTO = GENERATOR.integers(0, 256, (16, 16, 3), dtype=np.uint8)
TALL = GENERATOR.integers(0, 256, (24, 16, 3), dtype=np.uint8)
ORIENTATION = 274
STORED = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: np.rot90(u),
    7: lambda u: np.rot90(u)[:, ::-1],
    8: lambda u: np.rot90(u, -1),
}
"""What a camera stores for an upright image under each EXIF orientation, after the tag's definition."""


def array(image) -> np.ndarray:
    return image.pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.bmp", {}), ("a.webp", {"lossless": True})])
def test_image_that_fits_keeps_every_bit(save, name, options) -> None:
    path = save(PHOTO, name, **options)
    image = read(path, 16)
    assert np.array_equal(array(image), PHOTO)
    assert image.notes == ()
    assert image.name == "a"
    assert image.source == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(image.tensor, to_float(image.pixels))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_every_exif_orientation_comes_out_upright(save, orientation, name) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = read(save(np.ascontiguousarray(STORED[orientation](TALL)), name, exif=exif), (24, 16))
    assert np.array_equal(array(image), TALL)
    assert image.notes == (("rotated by its EXIF tag",) if orientation > 1 else ())
    assert image.preprocessing["original_height"] == 24


@pytest.mark.parametrize("orientation", [2, 6, 7])
def test_jpeg_is_turned_after_decoding(save, orientation) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](TALL))
    decoded = array(read(save(stored, "plain.jpg"), stored.shape[:2]))
    turned = array(read(save(stored, "tagged.jpg", exif=exif), (24, 16)))
    assert np.array_equal(STORED[orientation](turned), decoded)


def test_box_counts_in_the_upright_image(save) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(np.ascontiguousarray(STORED[6](TALL)), exif=exif)
    assert np.array_equal(array(read(path, 8, Box(2, 16, 8))), TALL[16:24, 2:10])


def test_damaged_exif_block_is_ignored(save) -> None:
    image = read(save(PHOTO, exif=b"Exif\0\0II*\0\xff\xff\xff\xffrubbish"), 16)
    assert np.array_equal(array(image), PHOTO)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.gif", "a.jpg"])
def test_grey_becomes_three_equal_colours(save, name) -> None:
    grey = np.full((16, 16), 77, np.uint8)
    assert np.array_equal(array(read(save(grey, name), 16)), np.full((16, 16, 3), 77))


def test_one_bit_becomes_black_and_white(save) -> None:
    bits = np.indices((16, 16)).sum(0) % 2 == 0
    image = read(save(bits), 16)
    assert np.array_equal(array(image)[..., 1], bits * 255)
    assert image.notes == ()


def test_palette(save) -> None:
    indexed = Image.fromarray(PHOTO).quantize(16)
    assert np.array_equal(array(read(save(indexed), 16)), np.asarray(indexed.convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled(save, name) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = read(save(levels * 257, name), 16)
    assert np.array_equal(array(image)[..., 0], levels)
    assert image.notes == ("16-bit grey reduced to 8 bit",)


@pytest.mark.parametrize(
    ("scale", "dtype", "white"),
    [(1, np.int32, 255), (257, np.int32, 65535), (1 / 255, np.float32, 1), (1, np.float32, 255)],
)
def test_32_bit_grey_has_the_smallest_usual_white(save, scale, dtype, white) -> None:
    levels = np.arange(256).reshape(16, 16)
    image = read(save((levels * scale).astype(dtype), "a.tif"), 16)
    assert np.array_equal(array(image)[..., 0], levels)
    assert image.notes == (f"32-bit grey reduced to 8 bit, 0 as black and {white} as white",)


def test_other_32_bit_grey_is_stretched(save) -> None:
    levels = np.arange(256).reshape(16, 16)
    image = read(save((levels * 2.0 - 300).astype(np.float32), "a.tif"), 16)
    assert np.array_equal(array(image)[..., 0], levels)
    assert image.notes == ("32-bit grey reduced to 8 bit, -300 as black and 210 as white",)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colour * (alpha / 255) + 255 * (1 - alpha / 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(save, mode) -> None:
    channels = len(mode)
    pixels = GENERATOR.integers(0, 256, (16, 16, channels), dtype=np.uint8)
    image = read(save(pixels), 16)
    expected = over_white(pixels[..., : channels - 1].astype(float), pixels[..., -1:])
    assert np.abs(array(image) - expected).max() <= 0.51
    assert image.notes == ("transparency laid over white",)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_changes_nothing(save, mode) -> None:
    opaque = Image.fromarray(PHOTO).convert(mode)
    image = read(save(opaque), 16)
    assert np.array_equal(array(image), np.asarray(opaque.convert("RGB")))
    assert image.notes == ()


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 255, 0])])
def test_transparent_palette_entry_is_white(save, transparency) -> None:
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16) % 5
    image = Image.fromarray(indices).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3, 130, 140, 150])
    image = read(save(image, transparency=transparency), 16)
    palette = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [255, 255, 255], [130, 140, 150]])
    assert np.array_equal(array(image), palette[indices])
    assert image.notes == ("transparency laid over white",)


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (9, 8, 7)), ("L", 9), ("1", 0)])
def test_transparent_colour_is_white(save, mode, colour) -> None:
    image = Image.new(mode, (16, 16), colour)
    assert np.array_equal(array(read(save(image, transparency=colour), 16)), np.full((16, 16, 3), 255))


def test_cmyk_without_a_profile(save) -> None:
    image = read(save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "a.tif"), 16)
    assert np.array_equal(array(image), np.tile([255, 0, 0], (16, 16, 1)))
    assert image.notes == ("converted from CMYK",)


def test_lab(save) -> None:
    grey = read(save(Image.new("LAB", (16, 16), (137, 128, 128)), "a.tif"), 16)
    assert np.abs(array(grey) - 128.0).max() <= 1
    assert grey.notes == ("converted from LAB",)


def test_cmyk_jpeg(save) -> None:
    red = read(save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "a.jpg", quality=100), 16)
    assert np.abs(array(red) - np.array([255.0, 0, 0])).max() <= 3


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_animation_gives_its_first_frame(save, name) -> None:
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    image = read(save(frames[0], name, save_all=True, append_images=frames[1:]), 16)
    assert not image.pixels.any()
    assert image.notes[0] == "first of 4 frames"


def test_one_pixel_becomes_a_constant_image(save) -> None:
    image = read(save(Image.new("RGB", (1, 1), (9, 99, 199))), 64)
    assert np.array_equal(array(image), np.tile([9, 99, 199], (64, 64, 1)))
    assert image.notes == ("enlarged from 1x1 to 64x64",)


def test_shrinking_is_antialiased(save) -> None:
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    image = read(save(board), 32)
    assert abs(array(image)[4:-4, 4:-4].astype(float) - 127.5).max() <= 2
    assert image.notes == ("resized from 128x128 to 32x32",)


def test_notes_come_in_the_order_of_the_work(save) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    image = read(save(Image.new("RGBA", (20, 16), (0, 0, 0, 9)), exif=exif), 8)
    assert image.notes == (
        "rotated by its EXIF tag",
        "transparency laid over white",
        "centre square 16x16 of 20x16",
        "resized from 16x16 to 8x8",
    )


def test_astronaut_face_is_the_documented_crop() -> None:
    folder = Path(str(resources.files("ddim_edit.assets") / "images"))
    crop = read(folder / "astronaut.png", 108, Box(171, 72, 108))
    assert torch.equal(crop.pixels, read(folder / "astronaut_face.png", 108).pixels)
