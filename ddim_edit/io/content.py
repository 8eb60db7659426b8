"""Tell what a file is by its first bytes, for messages about files of another kind than expected."""

from pathlib import Path

HEAD = 512
"""Bytes that are looked at."""

# Kinds of files that callers treat in their own way.
EMPTY = "an empty file"
GGUF = "a GGUF file, weights for llama.cpp or stable-diffusion.cpp"
GIT_LFS = "a pointer of git-lfs, not the file that it stands for; run: git lfs pull"
HEIC = "a HEIC image"
JPEG_XL = "a JPEG XL image"
NUMPY = "an array of numpy"
PICKLE = "a Python pickle"
SAFETENSORS = "a safetensors file"
TEXT = "a text"
ZIP = "a zip archive or a checkpoint of torch"

LATENT = "a latent of ddim-edit"
DIRECTION = "a direction of ddim-edit"
OWN = {
    "ddim-edit": LATENT,
    "ddim-edit direction": DIRECTION,
    "ddim-edit store": "a shard of a store of latents, which is the folder around it",
    "ddim-edit code": "a latent of a cache of ddim-edit",
}
"""Kinds of safetensors files that ddim-edit writes, by the entry of their metadata."""

_MAGIC = (
    (b"GGUF", GGUF),
    (b"version https://git-lfs", GIT_LFS),
    (b"\x93NUMPY", NUMPY),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image or a raw photograph"),
    (b"MM\0*", "a TIFF image or a raw photograph"),
    (b"\xff\x0a", JPEG_XL),
    (b"\0\0\0\x0cJXL ", JPEG_XL),
    (b"8BPS", "a Photoshop file"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"FUJIFILM", "a raw photograph"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"\x1a\x45\xdf\xa3", "a WebM or Matroska video"),
    (b"PAR1", "a Parquet table"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"(\xb5/\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program for Windows"),
    (b"PK\x03\x04", ZIP),
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"\x80\x05", PICKLE),
    (b"\x0a\x05", "perhaps an ONNX model"),
    (b"\x08", "perhaps an ONNX model"),
)
_FTYP = {
    b"hei": HEIC,
    b"hev": HEIC,
    b"mif": HEIC,
    b"msf": HEIC,
    b"avi": "an AVIF image",
    b"crx": "a raw photograph",
}


def describe_content(head: bytes) -> str | None:
    """Return what a file with these first bytes is, as in "an HTML page", or None where they do not tell.

    Examples:
        >>> describe_content(b"<!DOCTYPE html><html>")
        'an HTML page, perhaps an error message that was saved in place of the file'
        >>> describe_content(b"GGUF...")
        'a GGUF file, weights for llama.cpp or stable-diffusion.cpp'
    """
    if not head:
        return EMPTY
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP image"
    if head[4:8] == b"ftyp":
        return _FTYP.get(head[8:11], "a video")
    # A safetensors file begins with the length of its header, a JSON object.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 40:
        return SAFETENSORS
    for magic, name in _MAGIC:
        if head.startswith(magic) and (magic != b"\x08" or b"pytorch" in head[:40] or b"onnx" in head[:80]):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps an error message that was saved in place of the file"
    if b"<svg" in text:
        return "an SVG drawing"
    if text.startswith(b"<?xml"):
        return "an XML file"
    if text.startswith((b"{", b"[")):
        return "a JSON text"
    try:
        head[:-3].decode()  # without the last bytes, between which a letter may be cut
    except UnicodeDecodeError:
        return None
    return None if b"\0" in head else TEXT


def describe_file(path: Path) -> str | None:
    """Return what a regular file is by its content, as `describe_content`, or None where it cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            kind = describe_content(file.read(HEAD))
    except OSError:
        return None
    return describe_safetensors(path) if kind == SAFETENSORS else kind


def describe_safetensors(path: Path) -> str:
    """Return which of our own files a safetensors file is, or `SAFETENSORS`."""
    from safetensors import SafetensorError, safe_open  # which the list of formats does without

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return SAFETENSORS
    return next((kind for key, kind in OWN.items() if key in metadata), SAFETENSORS)
