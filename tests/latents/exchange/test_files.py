"""Round trips bit for bit, as other programs read and write the files; and what is refused."""

import hashlib
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from ddim_edit import Editor, InversionConfig, Latent, LatentError, LatentMismatchError, Latents
from ddim_edit.errors import ArgumentError
from ddim_edit.latents.exchange import FORMATS, export_latents, import_latents
from ddim_edit.latents.provenance import ImportOrigin

from ... import tiny

SHAPE = (3, tiny.SIZE, tiny.SIZE)


def exact(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("name", ["npy", "safetensors"])
@pytest.mark.parametrize("count", [1, 3])
def test_every_bit_comes_back(latents: Latents, tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / f"a{FORMATS[name].suffix}"
    export_latents(path, latents[:count], name)
    back = import_latents(path, latents[0])
    assert exact(back.x, latents[:count].x)
    assert [latent.t for latent in back] == [latents[0].t] * count


@pytest.mark.parametrize("name", ["npy", "safetensors", "diffusers"])
def test_float32_comes_back_as_float32_has_it(latents: Latents, editor: Editor, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a{FORMATS[name].suffix}"
    export_latents(path, latents[0], name, editor.model, torch.float32)
    assert exact(import_latents(path, latents[0], name, editor.model).x, latents[:1].x.float().double())


def test_numpy_reads_what_is_written(latents: Latents, file: Path) -> None:
    export_latents(file, latents, "npy")
    assert np.array_equal(np.load(file, allow_pickle=False), latents.x.numpy())


def test_safetensors_reads_what_is_written(latents: Latents, editor: Editor, tmp_path: Path) -> None:
    export_latents(tmp_path / "a.safetensors", latents, "safetensors")
    export_latents(tmp_path / "b.safetensors", latents, "diffusers", editor.model)
    assert exact(load_file(tmp_path / "a.safetensors")["x"], latents.x)
    assert exact(load_file(tmp_path / "b.safetensors")["latents"], latents.x.float())


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", ">f4", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE), (4, *SHAPE)])
def test_what_numpy_writes_is_read(
    latents: Latents, file: Path, dtype: str, order: str, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    np.save(file, np.asarray(values, order=order))  # type: ignore[call-overload]
    assert exact(import_latents(file, latents[0]).x, torch.from_numpy(values.astype(np.float64)).reshape(-1, *SHAPE))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_torch_writes_is_read(latents: Latents, tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"anything": x}, tmp_path / "a.safetensors")
    assert exact(import_latents(tmp_path / "a.safetensors", latents[0]).x, x.double())


def test_the_recipe_is_that_of_the_pattern_and_the_origin_that_of_the_file(latents: Latents, file: Path) -> None:
    export_latents(file, latents[1:], "npy")
    for row, latent in enumerate(import_latents(file, latents[0])):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert latent.recipe.origin == ImportOrigin("npy", digest, row)
        assert latent.recipe.compatibility_key == latents[0].recipe.compatibility_key


def test_it_decodes_as_before(editor: Editor, latents: Latents, file: Path) -> None:
    export_latents(file, latents, "npy")
    assert exact(editor.decode(import_latents(file, latents[0])), editor.decode(latents))


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def header(shape: str, descr: str = "'<f8'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def safetensors(entry: object, body: bytes = b"") -> bytes:
    text = json.dumps(entry).encode()
    return struct.pack("<Q", len(text)) + text + body


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


BODY = bytes(8 * int(np.prod(SHAPE)))
BROKEN: dict[str, tuple[str, bytes]] = {
    "empty": ("a.npy", b""),
    "text": ("a.npy", b"not an array"),
    "half a header": ("a.npy", npy(header(str(SHAPE)))[:60]),
    "no dictionary": ("a.npy", npy("[1, 2, 3]", BODY)),
    "code": ("a.npy", npy("__import__('os').system('touch stolen')", BODY)),
    "deep": ("a.npy", npy("(" * 100, BODY)),
    "another version": ("a.npy", npy(header(str(SHAPE)), BODY, b"\x07\x00")),
    "objects": ("a.npy", pickled()),
    "object type": ("a.npy", npy(header(str(SHAPE), "'|O'"), BODY)),
    "whole numbers": ("a.npy", npy(header(str(SHAPE), "'<i8'"), BODY)),
    "complex": ("a.npy", npy(header(str(SHAPE), "'<c16'"), BODY * 2)),
    "fields": ("a.npy", npy(header(str(SHAPE), "[('a', '<f8')]"), BODY)),
    "another shape": ("a.npy", npy(header("(3, 8, 8)"), BODY)),
    "no rows": ("a.npy", npy(header(str((0, *SHAPE))))),
    "negative": ("a.npy", npy(header(str((-1, *SHAPE))), BODY)),
    "five dimensions": ("a.npy", npy(header(str((1, 1, *SHAPE))), BODY)),
    "one value short": ("a.npy", npy(header(str(SHAPE)), BODY[:-8])),
    "a petabyte": ("a.npy", npy(header(str((10**12, *SHAPE))), BODY)),
    "NaN": ("a.npy", npy(header(str(SHAPE)), BODY[:-8] + struct.pack("<d", float("nan")))),
    "infinity": ("a.npy", npy(header(str(SHAPE)), BODY[:-8] + struct.pack("<d", float("inf")))),
    "empty safetensors": ("a.safetensors", b""),
    "no safetensors": ("a.safetensors", b"not tensors at all"),
    "header longer than the file": ("a.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "tensor longer than the file": (
        "a.safetensors",
        safetensors({"x": {"dtype": "F64", "shape": [10**9, *SHAPE], "data_offsets": [0, 10**9 * len(BODY)]}}, BODY),
    ),
    "no tensor": ("a.safetensors", safetensors({})),
    "two tensors": ("a.safetensors", save({"a": torch.zeros(SHAPE), "b": torch.zeros(SHAPE)})),
    "whole tensor": ("a.safetensors", save({"a": torch.zeros(SHAPE, dtype=torch.int64)})),
    "a scalar": ("a.safetensors", save({"a": torch.tensor(1.0)})),
    "a torch pickle": ("a.safetensors", b"PK\x03\x04" + bytes(100)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_end_in_one_sentence(latents: Latents, tmp_path: Path, case: str) -> None:
    name, content = BROKEN[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LatentError) as caught:
        import_latents(path, latents[0])
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["missing.npy", "missing.safetensors", "missing.latent", "folder.npy"])
def test_what_is_not_there_is_named(latents: Latents, editor: Editor, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    form = "safetensors" if name.endswith(".latent") else None
    with pytest.raises(LatentError, match=name):
        import_latents(tmp_path / name, latents[0], form, editor.model)


def test_what_cannot_be_exported(latents: Latents, editor: Editor, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    two = Latent(latents[0].x, latents[0].t, latents[0].recipe, latents[0].x)
    other = editor.noise([0], InversionConfig(solver="ddim", grid="leading", steps=6))[0]
    with pytest.raises(ArgumentError, match="There are no latents to export"):
        export_latents(path, [], "npy")
    with pytest.raises(ArgumentError, match="There is no format 'pt'"):
        export_latents(path, latents, "pt")
    with pytest.raises(LatentError, match="have two states"):
        export_latents(path, two, "npy")
    with pytest.raises(LatentError, match="have two states"):
        import_latents(path, two)
    with pytest.raises(LatentMismatchError, match="These latents differ in times"):
        export_latents(path, [latents[0], other], "npy")
    for name in ("diffusers", "comfy"):
        with pytest.raises(ArgumentError, match="has the units of a model"):
            export_latents(path, latents, name)
    with pytest.raises(ArgumentError, match="ComfyUI takes models with an autoencoder"):
        export_latents(path, latents, "comfy", editor.model)
    with pytest.raises(ArgumentError, match=r"a\.pt: its suffix is none of \.npy, \.safetensors, \.latent\."):
        import_latents(tmp_path / "a.pt", latents[0])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(LatentError, match="cannot write"):
        export_latents(tmp_path / "file" / "a.npy", latents, "npy")
