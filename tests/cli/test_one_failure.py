"""One failure ends nothing but itself: of several inputs a bad one is named, and the rest is done."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ddim_edit import Latent, LatentStore
from ddim_edit.latents.store.shard import Shard, write_shard

from .. import tiny
from .conftest import Run, files_in

FEW = ("--steps", "3", "--batch-size", "4")
GOOD = "acd"
"""Of a, b, c and d, all but b."""

IMAGES: dict[str, Callable[[Path], object]] = {
    "no image": lambda file: file.write_bytes(b"<html>404</html>"),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:200]),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}
COMMANDS = {
    "invert": ([], "{}.latent.safetensors"),
    "reconstruct": ([], "{}-reconstructed.png"),
    "edit": (["--set", "DIRECTION=1"], "{}-edited.png"),
    "translate": (["--to", "MODEL", *FEW[:2]], "{}-translated.png"),
    "likelihood": (["--probes", "2", "--steps", "2"], ""),
    "evaluate": (["--solvers", "dpm2m", "--steps", "2"], ""),
}


@pytest.mark.parametrize("spoil", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_image(
    run: Run,
    model: Path,
    fitted: Path,
    pictures: list[Path],
    tmp_path: Path,
    command: str,
    spoil: Callable[[Path], object],
) -> None:
    spoil(pictures[1])
    options, name = COMMANDS[command]
    names = {"MODEL": str(model), "DIRECTION=1": f"{fitted}/old.direction.safetensors=1"}
    line = [command, *pictures, "--model", model, *[names.get(each, each) for each in options]]
    if command != "likelihood":
        line += ["-o", tmp_path / "out"]
    if command in ("invert", "reconstruct"):
        line += FEW
    outcome = run(*line, "--json")
    assert outcome.status == 1
    (error,) = outcome.errors
    assert error.startswith(f"error: {pictures[1]}: ")
    inputs = {Path(str(row.get("input", row.get("picture")))).stem for row in outcome.rows}
    assert inputs == set(GOOD)
    if name:
        written = [name.format(each) for each in GOOD] + ["sheet.png"] * (command == "reconstruct")
        assert files_in(tmp_path / "out") == written


def with_nan(latent: Path) -> None:
    spoil_x(latent, lambda x: x[..., 0].fill_(torch.nan))


def too_large(latent: Path) -> None:
    spoil_x(latent, lambda x: x.fill_(1e300))


def spoil_x(latent: Path, spoil: Callable[[torch.Tensor], object]) -> None:
    with safe_open(latent, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(latent)
    spoil(tensors["x"])
    save_file(tensors, latent, metadata)


LATENTS: dict[str, Callable[[Path], object]] = {**IMAGES, "NaN": with_nan, "too large": too_large}


@pytest.mark.parametrize("spoil", LATENTS.values(), ids=LATENTS)
@pytest.mark.parametrize("command", ["decode", "export"])
def test_a_bad_latent(
    run: Run, latents: list[Path], tmp_path: Path, command: str, spoil: Callable[[Path], object]
) -> None:
    spoil(latents[1])
    options = [] if command == "decode" else ["--to", "npy", "--float32"]
    outcome = run(command, *latents, *options, "-o", tmp_path / "out")
    assert outcome.status == 1
    (error,) = outcome.errors
    assert error.startswith(f"error: {latents[1]}: ")
    suffix = "png" if command == "decode" else "npy"
    assert files_in(tmp_path / "out") == [f"{name}.{suffix}" for name in GOOD]


def store_with(change: Callable[[dict[str, Latent]], object], store: Path) -> None:
    """Write the shard of a store anew, as a program that is wrong would, with right checksums."""
    file = store / "shard-00000.safetensors"
    shard = Shard(file)
    rows = {shard.record(row)["name"]: shard[row] for row in range(len(shard))}
    change(rows)
    write_shard(file, rows, {}, shard.shape)


def flip_bit(store: Path, row: int) -> None:
    file = store / "shard-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[content.index(np.ascontiguousarray(Shard(file).array("x")[row]).tobytes()) + 100] ^= 4
    file.write_bytes(content)


def nan_row(store: Path, row: int) -> None:
    def change(rows: dict[str, Latent]) -> None:
        list(rows.values())[row].x[0, 0, 0] = torch.nan

    store_with(change, store)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("spoil", [flip_bit, nan_row])
@pytest.mark.parametrize("command", ["decode", "export", "fit"])
def test_a_bad_row_of_a_store(
    run: Run,
    done: Run,
    pictures: list[Path],
    tmp_path: Path,
    command: str,
    spoil: Callable[[Path, int], object],
    row: int,
) -> None:
    extra = [tiny.save_picture(tmp_path / "in" / f"{name}.png", seed) for seed, name in enumerate("efgh", 4)]
    store = tmp_path / "s.latents"
    done("invert", *pictures, *extra, "-o", store, *FEW)
    spoil(store, row)
    bad = "ab"[row]
    if command == "fit":
        table = tmp_path / "labels.csv"
        table.write_text("file,old\n" + "".join(f"{name}.png,{index % 2}\n" for index, name in enumerate("abcdefgh")))
        file = tmp_path / "out" / "x.direction.safetensors"
        outcome = run("fit", "x", "--latents", store, "--labels", table, "--column", "old", "-o", file)
    else:
        options = [] if command == "decode" else ["--to", "npy"]
        outcome = run(command, store, *options, "-o", tmp_path / "out")
    assert outcome.status == 1
    (error,) = outcome.errors
    assert f"{bad}.png: " in error
    if command == "fit":
        assert files_in(tmp_path / "out") == ["x.direction.safetensors"]
    else:
        suffix = "png" if command == "decode" else "npy"
        assert files_in(tmp_path / "out") == [f"{name}.{suffix}" for name in "abcdefgh" if name != bad]


def test_a_frame_that_cannot_be_decoded(
    run: Run, latents: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_decoding_that_fails_in_the_middle(monkeypatch)
    line = ["interpolate", *latents[:2], "--frames", "3"]
    outcome = run(*line, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert outcome.errors[0].startswith("error: frame 1: the network of tiny returned NaN")
    assert files_in(tmp_path / "out") == ["frame-0000.png", "frame-0002.png"]
    outcome = run(*line, "-o", tmp_path / "a.webp")
    assert outcome.status == 1
    assert not (tmp_path / "a.webp").exists()


def with_decoding_that_fails_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddim_edit import Editor, NonFiniteError

    decode = Editor.decode

    def fail(editor: Editor, latents: list[Latent], *args: object) -> torch.Tensor:
        if any(getattr(latent.recipe.origin, "w", 0.0) == 0.5 for latent in latents):
            raise NonFiniteError("the network of tiny returned NaN or infinite values in float32.")
        return decode(editor, latents, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Editor, "decode", fail)


def test_a_sample_that_cannot_be_made(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddim_edit import Editor, NonFiniteError

    sample = Editor.sample

    def fail(editor: Editor, n: int, seed: int, *args: object) -> torch.Tensor:
        if seed <= 1 < seed + n:
            raise NonFiniteError("the network of tiny returned NaN or infinite values in float32.")
        return sample(editor, n, seed, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Editor, "sample", fail)
    outcome = run("sample", "-n", "3", *FEW[:2], "-o", tmp_path / "out")
    assert outcome.status == 1
    (error,) = outcome.errors
    assert "seed-0001.png: the network" in error
    assert files_in(tmp_path / "out") == ["seed-0000.png", "seed-0002.png"]


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.same_bits
def test_a_damaged_shard_of_a_store_that_is_filled_again(
    run: Run, done: Run, pictures: list[Path], tmp_path: Path, verify: bool
) -> None:
    line = ["invert", *pictures, "-o", tmp_path / "s.latents", *FEW[:2], "--batch-size", "1", "--shard-size", "2"]
    done(*line)
    whole = {file.name: file.read_bytes() for file in (tmp_path / "s.latents").glob("shard-*")}
    (tmp_path / "s.latents" / "shard-00000.safetensors").write_bytes(b"x" * 1000)
    tiny.save_picture(tmp_path / "in" / "e.png", 9)
    line.insert(1, tmp_path / "in" / "e.png")
    outcome = run(*line, *(["--verify"] if verify else []))
    assert outcome.status == (0 if verify else 1)
    if verify:
        assert (
            "s.latents: inverted again: 2 that had a damaged latent, or that of another image (a.png, b.png)"
            in outcome.err
        )
        assert all((tmp_path / "s.latents" / name).read_bytes() == content for name, content in whole.items())
        assert len(LatentStore(tmp_path / "s.latents")) == 5
    else:
        (error,) = outcome.errors
        assert error.startswith("error: s.latents/shard-00000.safetensors: not a shard of a store")
        assert (tmp_path / "s.latents" / "shard-00002.safetensors").exists()


@pytest.mark.same_bits
def test_damaged_latents_are_made_again_where_contents_are_compared(
    run: Run, done: Run, pictures: list[Path], tmp_path: Path, evaluations: list[int]
) -> None:
    line = ["invert", *pictures, "-o", tmp_path / "s.latents", *FEW[:2], "--batch-size", "1"]
    done(*line)
    (shard,) = (tmp_path / "s.latents").glob("shard-*")
    whole = shard.read_bytes()
    flip_bit(tmp_path / "s.latents", 2)
    assert run("decode", tmp_path / "s.latents", "-o", tmp_path / "out").status == 1
    done(*line)
    assert shard.read_bytes() != whole
    evaluations.clear()
    again = done(*line, "--verify")
    assert "s.latents: inverted again: 1 that had a damaged latent, or that of another image (c.png)" in again.err
    assert evaluations == [1] * 3
    assert shard.read_bytes() == whole


def test_a_damaged_list_of_images_is_noticed_where_contents_are_compared(
    run: Run, done: Run, pictures: list[Path], tmp_path: Path
) -> None:
    line = ["invert", tmp_path / "in", "-o", tmp_path / "s.latents", *FEW[:2]]
    done(*line)
    file = tmp_path / "s.latents" / "pictures.jsonl"
    file.write_text(file.read_text().replace("b.png", "b.qng"))
    outcome = run(*line, "--verify")
    assert outcome.status == 1
    (error,) = outcome.errors
    assert error.startswith("error: b.qng: cannot read: No such file or directory")
    assert run("decode", tmp_path / "s.latents", "-o", tmp_path / "out").status == 0
    assert files_in(tmp_path / "out") == ["a.png", "b.png", "c.png", "d.png"]
