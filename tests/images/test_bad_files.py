import io
import os
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddim_edit.errors import ImageError
from ddim_edit.images import read, read_recipe

PHOTO = np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)
FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]


def encoded(name: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PHOTO)).save(buffer, name, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def refused(path: Path, *words: str) -> None:
    """Both readers refuse the file in one sentence that holds its name and `words`."""
    for reader in (lambda: read(path, 64), lambda: read_recipe(path)):
        with pytest.raises(ImageError) as caught:
            reader()
        text = str(caught.value)
        assert path.name in text
        assert "\n" not in text
        assert all(word in text for word in words), text


def file_of(content: bytes, folder: Path, name: str = "picture.png") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_a_missing_file(tmp_path) -> None:
    refused(tmp_path / "missing.png", "No such file", "check the path")


def test_a_folder(tmp_path) -> None:
    refused(tmp_path, "the folder", "name a file in it")


def test_an_empty_file(tmp_path) -> None:
    refused(file_of(b"", tmp_path), "which is empty")


def test_a_text(tmp_path) -> None:
    refused(file_of(b"not a picture", tmp_path), "none of these", "convert it to PNG or JPEG")


def test_a_vector_graphic_is_not_rendered(tmp_path) -> None:
    refused(file_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", tmp_path, "a.eps"), "none of these")


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic(tmp_path, brand) -> None:
    content = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + b"mif1heic" + bytes(64)
    refused(file_of(content, tmp_path, "phone.heic"), "a HEIC picture", "convert it to PNG or JPEG")


def test_an_unreadable_file(tmp_path, monkeypatch) -> None:
    # A refusal by the system itself cannot be had where the tests run as root.
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = file_of(encoded("PNG"), tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    refused(path, "Permission denied")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "not a regular file")


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file(tmp_path, name) -> None:
    whole = encoded(name)
    path = file_of(whole[: len(whole) // 2], tmp_path)
    with pytest.raises(ImageError, match=r"cut short or damaged: fetch or save it again"):
        read(path, 64)


def test_twenty_thousand_pixels_square(tmp_path) -> None:
    refused(file_of(png_of_size(20_000, 20_000), tmp_path), "at most 178,000,000 pixels", "shrink it first")


def test_the_limit_is_ours_even_if_pillow_has_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(file_of(png_of_size(20_000, 20_000), tmp_path), "at most 178,000,000 pixels")


def test_below_the_limit_pillow_warns_in_vain(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    wide = Image.fromarray(np.concatenate([PHOTO[:, 38:], PHOTO, PHOTO[:, :2]], axis=1))
    picture = read(file_of(encoded("PNG", wide), tmp_path), 40)
    assert np.array_equal(picture.pixels.permute(1, 2, 0), PHOTO)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(tmp_path, value) -> None:
    grey = np.full((8, 8), value, np.float32)
    with pytest.raises(ImageError, match="finite grey values"):
        read(file_of(encoded("TIFF", Image.fromarray(grey)), tmp_path), 8)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damage_of_any_kind_is_an_image_error_or_a_picture(name: str, data: st.DataObject) -> None:
    content = bytearray(encoded(name, Image.fromarray(PHOTO[:8, :8])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = file_of(bytes(content), Path(folder))
        with suppress(ImageError):
            assert read(path, 8).pixels.shape == (3, 8, 8)
