"""Bad files end in an ImageError that begins with the file's name."""

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


def assert_refused(path: Path, words: str) -> None:
    """Both readers refuse the file, by its name and with these words."""
    for reader in (lambda: read(path, 64), lambda: read_recipe(path)):
        with pytest.raises(ImageError) as caught:
            reader()
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        assert words in text


def file_of(content: bytes, folder: Path, name: str = "image.png") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty. Download or save it again."),
        (b"not an image", "this is not a PNG, JPEG, WebP, GIF, BMP or TIFF image, but a text. Name an image."),
        (b"GGUF\3\0\0\0", "but a GGUF file, weights for llama.cpp"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "but a pointer of git-lfs"),
        (b"<!DOCTYPE html><html>", "but an HTML page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "this is not a PNG"),
        (png_of_size(20_000, 20_000), "more than 178,000,000 pixels. Shrink it first."),
    ],
    ids=["empty", "text", "gguf", "lfs", "html", "postscript", "bomb"],
)
def test_content_that_is_no_image(tmp_path: Path, content: bytes, words: str) -> None:
    assert_refused(file_of(content, tmp_path), words)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert_refused(tmp_path / "missing.png", "cannot read: No such file or directory. Check the path.")
    assert_refused(tmp_path, "this is a folder, not a file.")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the tests run as root, the system itself refuses nothing.
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = file_of(encoded("PNG"), tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(path, "cannot read: Permission denied.")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(tmp_path / "pipe.png", "this is not a regular file.")


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_file(tmp_path: Path, name: str) -> None:
    whole = encoded(name)
    path = file_of(whole[: len(whole) // 2], tmp_path)
    with pytest.raises(ImageError, match=r"image\.png: the file is truncated or damaged\. Download or save it again\."):
        read(path, 64)


def test_pixel_limit_does_not_depend_on_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert_refused(file_of(png_of_size(20_000, 20_000), tmp_path), "more than 178,000,000 pixels")


def test_pillow_warnings_are_ignored_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    wide = Image.fromarray(np.concatenate([PHOTO[:, 38:], PHOTO, PHOTO[:, :2]], axis=1))
    image = read(file_of(encoded("PNG", wide), tmp_path), 40)
    assert np.array_equal(image.pixels.permute(1, 2, 0), PHOTO)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values(tmp_path: Path, value: float) -> None:
    grey = np.full((8, 8), value, np.float32)
    with pytest.raises(ImageError, match=r"image\.png: its grey values are not all finite"):
        read(file_of(encoded("TIFF", Image.fromarray(grey)), tmp_path), 8)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_file_is_an_error_or_an_image(name: str, data: st.DataObject) -> None:
    content = bytearray(encoded(name, Image.fromarray(PHOTO[:8, :8])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = file_of(bytes(content), Path(folder))
        with suppress(ImageError):
            assert read(path, 8).pixels.shape == (3, 8, 8)
