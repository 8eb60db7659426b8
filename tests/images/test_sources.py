"""Bytes, open files, Pillow images and arrays are read as the files that hold them."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ddim_edit import ArgumentError, ImageError
from ddim_edit.images import Box, Photograph, opening, read, sources
from ddim_edit.images.inputs import is_single

from .. import tiny
from .profiles import linear_rgb

PHOTO = tiny.pixels(3, 24, 16)
ORIENTATION = 274


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


IN_MEMORY: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "file": lambda path: path.open("rb"),
    "rest of a file": lambda path: read_partly(path.open("rb")),
    "pipe": lambda path: Pipe(path.read_bytes()),
}


class Pipe:
    """A stream that cannot be rewound, and returns less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1) -> bytes:
        part, self._data = self._data[: min(size, 100)], self._data[min(size, 100) :]
        return part


def read_partly(file: Any) -> Any:
    file.read(10)
    return file


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_content_of_a_file_is_read_as_the_file(save, kind: str) -> None:
    path = save(PHOTO, "a.jpg", quality=80)
    given = IN_MEMORY[kind](path)
    found, wanted = read(given, 12, Box(1, 2, 10)), read(path, 12, Box(1, 2, 10))
    if "file" in kind:
        given.close()
    assert torch.equal(found.pixels, wanted.pixels)
    assert (found.source, found.preprocessing, found.notes) == (wanted.source, wanted.preprocessing, wanted.notes)
    assert found.name == ("a" if "file" in kind else None)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_opened_pillow_images_are_read_as_their_files(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(Image.fromarray(PHOTO), form, exif=exif, icc_profile=linear_rgb())
    found, wanted = read(Image.open(io.BytesIO(data)), 16), read(data, 16)
    assert torch.equal(found.pixels, wanted.pixels)
    # A TIFF is turned by Pillow itself, which leaves no trace.
    assert found.preprocessing == wanted.preprocessing
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    assert torch.equal(read(loaded, 16).pixels, wanted.pixels)
    assert torch.equal(read(loaded.copy(), 16).pixels, wanted.pixels)


def test_an_orientation_that_was_set_in_memory_counts() -> None:
    image = Image.fromarray(PHOTO)
    image.getexif()[ORIENTATION] = 3
    assert np.array_equal(read(image, (24, 16)).pixels.permute(1, 2, 0).numpy(), PHOTO[::-1, ::-1])


MODES = {
    **{mode: lambda image, mode=mode: image.convert(mode) for mode in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")},
    "RGBa": lambda image: image.convert("RGBA").convert("RGBa"),
    "LAB": lambda image: ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    ),
    **{mode: lambda image, mode=mode: image.convert("L").convert(mode) for mode in ("L", "LA", "I", "F")},
    "PA": lambda image: image.convert("L").convert("PA"),
    "P": lambda image: image.convert("L").convert("P"),
    "La": lambda image: image.convert("LA").convert("La"),
    "I;16": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
}
GREY_MODES = ("L", "LA", "La", "I", "F", "P", "PA", "I;16")


@pytest.mark.parametrize("mode", MODES)
def test_pillow_images_of_any_mode(mode: str) -> None:
    image = Image.fromarray(PHOTO)
    given = MODES[mode](image)
    assert given.mode == mode
    wanted = np.asarray(image.convert("L").convert("RGB") if mode in GREY_MODES else image)
    found = read(given, (24, 16)).pixels.permute(1, 2, 0).numpy()
    # Conversions to other colour spaces and back round; those between grey ones do not.
    assert np.abs(found.astype(int) - wanted).mean() <= (1.5 if mode in ("YCbCr", "HSV", "LAB") else 0)


def test_one_bit_pillow_images() -> None:
    image = Image.fromarray(PHOTO).convert("1")
    assert np.array_equal(read(image, (24, 16)).pixels[0], np.asarray(image) * 255)


def test_a_pillow_image_stays_as_it_was(save) -> None:
    with Image.open(save(PHOTO, "a.gif")) as image:
        before = image.size, image.tell()
        with ThreadPoolExecutor(4) as pool:  # which load one image at once
            found = list(pool.map(lambda _: read(image, 16).pixels, range(16)))
        assert all(torch.equal(each, found[0]) for each in found)
        assert (image.size, image.tell()) == before


def test_the_current_frame_of_an_animation_is_read(save) -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (10, 200)]
    with Image.open(save(frames[0], "a.png", save_all=True, append_images=frames[1:])) as image:
        image.seek(1)
        assert read(image, 16).pixels.unique().tolist() == [200]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (PHOTO, PHOTO),
        (PHOTO[:, ::-1], PHOTO[:, ::-1]),
        (PHOTO[..., 0], np.stack([PHOTO[..., 0]] * 3, -1)),
        (PHOTO[..., :1], np.stack([PHOTO[..., 0]] * 3, -1)),
        (np.dstack([PHOTO, np.full((24, 16), 255, np.uint8)]), PHOTO),
        (np.dstack([PHOTO, np.zeros((24, 16), np.uint8)]), np.full_like(PHOTO, 255)),
        (PHOTO / 255, PHOTO),
        ((PHOTO / 255).astype(np.float32), PHOTO),
        ((PHOTO / 255).astype(np.float16), PHOTO),
    ],
)
def test_arrays_hold_images_channels_last(given: np.ndarray, wanted: np.ndarray) -> None:
    image = read(given, (24, 16), name="photo.png")
    assert np.array_equal(image.pixels.permute(1, 2, 0).numpy(), wanted)
    assert image.name == "photo"


def test_equal_pixels_have_one_digest_in_any_form() -> None:
    digests = {read(given, 8).source for given in (PHOTO, PHOTO / 255, Image.fromarray(PHOTO), PHOTO.copy())}
    assert len(digests) == 1
    assert read(PHOTO.reshape(16, 24, 3), 8).source not in digests


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PHOTO.astype(np.int64), "must be of uint8, or of floats in .0, 1., not of int64"),
        (np.array([PHOTO, None], dtype=object), "not of object"),
        (PHOTO > 100, "not of bool"),
        (PHOTO.transpose(2, 0, 1), r"not \[3, 24, 16\]\. If its channels come first, move them with"),
        (PHOTO[None].transpose(0, 3, 1, 2), r"not \[1, 3, 24, 16\]\. If its channels come first"),
        (PHOTO[..., :2], r"with 1, 3 or 4 channels C, not \[24, 16, 2\]\. Convert it"),
        (PHOTO[0, 0], r"not \[3\]"),
        (PHOTO[:0], r"must have pixels, but this array has the shape \[0, 16, 3\]"),
        (PHOTO[None], r"one image, not a batch of shape \[1, 24, 16, 3\]"),
        (PHOTO / 127.5 - 1, r"not in \[-0\.89.*If they are in \[-1, 1\], use \(x \+ 1\) / 2"),
        ((PHOTO | 128) / 127.5 - 1, r"the levels of 8-bit images in \[-1, 1\]: use \(x \+ 1\) / 2"),
        (PHOTO.astype(float), r"If they are in 0\.\.255, use x / 255"),
        (np.where(PHOTO[0, 0, 0] == PHOTO, np.nan, PHOTO / 255), "NaN"),
        (np.full((8, 8), np.inf, np.float32), "infinite"),
    ],
)
def test_arrays_that_cannot_be_images_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        read(array, 16)


def test_arrays_of_any_brightness_pass() -> None:
    for level in (0.0, 0.25, 127 / 255, 1.0):
        read(np.full((16, 16, 3), level), 16)
    read((PHOTO | 128) / 255, 16)


class Text(Pipe):
    """A stream of text that is none of Python's own."""

    def read(self, size: int = -1) -> str:
        return super().read(size).decode()


def closed_image() -> Image.Image:
    image = Image.open(io.BytesIO(encode(Image.fromarray(PHOTO))))
    image.close()
    return image


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"something")
    file.close()
    return file


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "^the image: the file is empty"),
        (b"photo.png", "^the image: this is not a PNG.*, but a text"),
        (io.StringIO("text"), "^the image: the file is open as text. Open it in binary mode"),
        (closed_file(), "^the image: the file is closed"),
        (Text(b"text"), "^the image: cannot read: .*Open it again, in binary mode"),
        (closed_image(), "^the image: the image is closed"),
        (encode(Image.fromarray(PHOTO))[:300], "^the image: the file is truncated or damaged"),
        (Image.open(io.BytesIO(encode(Image.fromarray(PHOTO))[:300])), "^the image: the file is truncated or damaged"),
        (Image.new("RGB", (0, 4)), "^the image: it has no pixels"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "^the image: its grey values are not all finite"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(given: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read(given, 16)


def test_files_that_are_open_as_text_are_named(save) -> None:
    with save(PHOTO).open() as file, pytest.raises(ImageError, match=r"image\.png: the file is open as text"):
        read(file, 16)


def test_limits_hold_in_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PIXEL_LIMIT", 100)
    data = encode(Image.fromarray(PHOTO))
    for given in (data, io.BytesIO(data), Image.open(io.BytesIO(data)), Image.fromarray(PHOTO), PHOTO):
        with pytest.raises(ImageError, match="more than 100 pixels"):
            read(given, 16)


@pytest.mark.parametrize(("kind", "limit"), [("WEBP", 400), ("AVIF", 571), ("JPEG2000", 333)])
def test_formats_whose_decoders_take_more_memory_have_lower_limits(
    monkeypatch: pytest.MonkeyPatch, kind: str, limit: int
) -> None:
    monkeypatch.setattr(opening, "PIXEL_LIMIT", 1000)
    data = io.BytesIO()
    Image.new("RGB", (30, 20)).save(data, kind)
    with pytest.raises(ImageError, match=f"more than {limit} pixels, too many for {kind}. Shrink it first"):
        read(data.getvalue(), 16)
    assert read(encode(Image.new("RGB", (30, 20))), 16)  # a PNG


def test_a_stream_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Pipe):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    monkeypatch.setattr(sources, "LARGEST_FILE", 1 << 16)
    with pytest.raises(ImageError, match="has more than 65,536 bytes"):
        read(Endless(b""), 16)


def test_photographs_are_opened_in_any_form(save) -> None:
    path = save(PHOTO)
    for given in (path, path.read_bytes(), io.BytesIO(path.read_bytes()), Image.fromarray(PHOTO), PHOTO, PHOTO / 255):
        assert np.array_equal(np.asarray(Photograph.open(given).to_pil()), PHOTO)
    for broken in (b"junk", Image.new("RGB", (0, 4)), closed_image()):
        with pytest.raises(ImageError, match=r"^the image: "):
            Photograph.open(broken)


def test_one_image_is_told_from_a_batch(save) -> None:
    path = save(PHOTO)
    singles = (path, str(path), b"", io.BytesIO(), PHOTO, PHOTO[..., 0], torch.zeros(3, 2, 2), read(path, 16))
    batches = ([path], (path,), iter([path]), path.parent, PHOTO[None], torch.zeros(1, 3, 2, 2), [])
    assert all(map(is_single, (*singles, Image.fromarray(PHOTO))))
    assert not any(map(is_single, batches))
