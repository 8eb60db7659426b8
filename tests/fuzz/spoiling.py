"""Ways to spoil files, by name: of bytes, of JSON, of safetensors; what readers make of them is for tests to say."""

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

Spoil = Callable[[bytes], bytes]
Damages = Mapping[str, Spoil]
DEEP = 100_000
"""Levels of nesting that no recursive reader follows."""


def parted(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    size = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + size]), blob[8 + size :]


def joined(header: object, data: bytes) -> bytes:
    """The safetensors file of a header, which need not be one, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_header(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Spoils the first tensor's entry in the header of a safetensors file."""

    def spoil(blob: bytes) -> bytes:
        header, data = parted(blob)
        change(header[next(name for name in header if name != "__metadata__")])
        return joined(header, data)

    return spoil


def with_metadata(key: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Spoils the JSON that stands under a key in the metadata of a safetensors file."""

    def spoil(blob: bytes) -> bytes:
        header, data = parted(blob)
        record = json.loads(header["__metadata__"][key])
        change(record)
        header["__metadata__"][key] = json.dumps(record)
        return joined(header, data)

    return spoil


def _with_text(text: str) -> Spoil:
    """Puts a text in place of all JSON in the metadata."""

    def spoil(blob: bytes) -> bytes:
        header, data = parted(blob)
        header["__metadata__"] = dict.fromkeys(header["__metadata__"], text)
        return joined(header, data)

    return spoil


def _zip(blob: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", b"a")
    return file.getvalue()


BYTES: Damages = {
    "empty": lambda blob: b"",
    "one byte": lambda blob: blob[:1],
    "cut in its first bytes": lambda blob: blob[:11],
    "cut after a quarter": lambda blob: blob[: len(blob) // 4],
    "zeros": lambda blob: bytes(len(blob)),
    "ones": lambda blob: b"\xff" * 64,
    "backwards": lambda blob: blob[::-1],
    "a text": lambda blob: b"no such thing\n",
    "a page": lambda blob: b"<!DOCTYPE html><html><body>404</body></html>",
    "a pickle": lambda blob: pickle.dumps({"x": 1}),
    "a zip": _zip,
    "its first bytes flipped": lambda blob: bytes(255 - byte for byte in blob[:16]) + blob[16:],
}
"""Damage that no format survives."""

_TENSORS: Damages = {
    "length alone": lambda blob: blob[:8],
    "length of 2^63": lambda blob: (1 << 63).to_bytes(8, "little") + blob[8:],
    "length of a terabyte": lambda blob: (1 << 40).to_bytes(8, "little") + blob[8:],
    "length of nothing": lambda blob: bytes(8) + blob[8:],
    "no data": lambda blob: joined(parted(blob)[0], b""),
    "data cut": lambda blob: blob[: len(blob) - len(parted(blob)[1]) // 2],
    "a byte short": lambda blob: blob[:-1],
    "a byte long": lambda blob: blob + b"\0",
    "header no JSON": lambda blob: joined(b"{x: 1}", parted(blob)[1]),
    "header no UTF-8": lambda blob: joined(b'{"\xff": 1}', parted(blob)[1]),
    "header a list": lambda blob: joined([1, 2], parted(blob)[1]),
    "header a number": lambda blob: joined(7, parted(blob)[1]),
    "header deep": lambda blob: joined(b'{"a":' * DEEP + b"1" + b"}" * DEEP, parted(blob)[1]),
    "no tensor": lambda blob: joined({"__metadata__": parted(blob)[0].get("__metadata__", {})}, b""),
    "metadata of numbers": lambda blob: joined({**parted(blob)[0], "__metadata__": {"a": 1}}, parted(blob)[1]),
    "offsets backwards": with_header(lambda entry: entry["data_offsets"].reverse()),
    "offsets beyond the end": with_header(lambda entry: entry.update(data_offsets=[0, 1 << 50])),
    "negative offsets": with_header(lambda entry: entry.update(data_offsets=[-8, 8])),
    "three offsets": with_header(lambda entry: entry["data_offsets"].append(1)),
    "a shape of a terabyte": with_header(lambda entry: entry.update(shape=[1 << 40])),
    "a shape beyond 64 bits": with_header(lambda entry: entry.update(shape=[1 << 40, 1 << 40])),
    "a negative shape": with_header(lambda entry: entry.update(shape=[-1])),
    "a shape of words": with_header(lambda entry: entry.update(shape=["a"])),
    "no shape": with_header(lambda entry: entry.pop("shape")),
    "an unknown dtype": with_header(lambda entry: entry.update(dtype="F128")),
    "another dtype of that size": with_header(
        lambda entry: entry.update(dtype={"F64": "I64", "F32": "I32"}[entry["dtype"]])
    ),
}
TENSORS: Damages = {**BYTES, **_TENSORS}
"""Damage to a safetensors file."""

METADATA: Damages = {
    "no metadata": lambda blob: joined(
        {name: entry for name, entry in parted(blob)[0].items() if name != "__metadata__"}, parted(blob)[1]
    ),
    "metadata of another program": lambda blob: joined(
        {**parted(blob)[0], "__metadata__": {"format": "pt"}}, parted(blob)[1]
    ),
    "metadata no JSON": _with_text("{x: 1}"),
    "metadata a list": _with_text("[1]"),
    "metadata a list of pairs": _with_text('[["recipe", {}]]'),
    "metadata a number": _with_text("1"),
    "metadata null": _with_text("null"),
    "metadata deep": _with_text('{"a":' * DEEP + "1" + "}" * DEEP),
    "metadata an empty object": _with_text("{}"),
    "metadata with a very long number": _with_text('{"t": 1' + "0" * 10_000 + "}"),
}
"""Damage to the JSON in the metadata of a safetensors file."""

TEXTS: Damages = {
    "empty": lambda text: b"",
    "cut": lambda text: text[:-3],
    "no JSON": lambda text: b"{x: 1}",
    "a list": lambda text: b"[1, 2]",
    "a number": lambda text: b"7",
    "null": lambda text: b"null",
    "a word": lambda text: b'"word"',
    "deep": lambda text: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep list": lambda text: b"[" * DEEP + b"]" * DEEP,
    "no UTF-8": lambda text: b'{"\xff": 1}',
    "UTF-16": lambda text: text.decode().encode("utf-16-be"),
    "a very long number": lambda text: b'{"a": 1' + b"0" * 10_000 + b"}",
    "zeros": lambda text: bytes(64),
    "two objects": lambda text: text + text,
}
"""Damage to a file that is one JSON object."""


def share(damages: Damages, index: int, count: int) -> Damages:
    """Every `count`-th damage from one on: kinds of files share the damage that all of them can suffer."""
    return dict(list(damages.items())[index::count])
