"""Where results go: names of their own for each command, files, folders, standard input and output."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load

from .. import tiny
from .conftest import Run, files_in, pixels_of

LATENT = ".latent.safetensors"
FEW = ("--steps", "2")
Piped = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def piped(run: Run, monkeypatch: pytest.MonkeyPatch) -> Piped:
    """Runs a command line with bytes on standard input, and returns status, standard output and standard error."""

    def run_it(content: bytes, *line: object) -> tuple[int, bytes, str]:
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        monkeypatch.setattr("ddim_edit.cli.streams.write_bytes", out.write)
        outcome = run(*line)
        assert not outcome.out or not out.getvalue()
        return outcome.status, out.getvalue() or outcome.out.encode(), outcome.err

    return run_it


def test_commands_write_distinct_output_names(done: Run, pictures: list[Path], fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit = ["edit", pictures[0], "--set", fitted / "old.direction.safetensors", "-o", out]
    done("reconstruct", pictures[0], "-o", out, *FEW)
    done("invert", pictures[0], "-o", out, *FEW)
    done("decode", out / f"a{LATENT}", "-o", out)
    done(*edit)
    done(*edit, "--strip", "-1:1:3")
    done(*edit, "--strip", "-1:1:3", "--animate", "webp")
    done("sample", "-n", "2", "--sheet", "-o", out, *FEW)
    assert files_in(out) == sorted(
        f"a{LATENT} a.png a-reconstructed.png a-edited.png a-strip.png a-animated.webp sheet.png samples.png"
        " seed-0000.png seed-0001.png".split()
    )


@pytest.mark.parametrize("command", ["reconstruct", "decode", "edit", "sample", "invert"])
def test_single_input_is_written_to_named_file(
    done: Run, pictures: list[Path], latents: list[Path], fitted: Path, tmp_path: Path, command: str
) -> None:
    direction = fitted / "old.direction.safetensors"
    inputs = {"decode": [latents[0]], "sample": [], "edit": [pictures[0], "--set", direction]}
    name = f"x{LATENT}" if command == "invert" else "x.jpg"
    steps = [] if command in ("decode", "edit") else FEW
    outcome = done(command, *inputs.get(command, [pictures[0]]), "-o", tmp_path / "out" / name, *steps)
    assert files_in(tmp_path / "out") == [name]
    if command != "reconstruct":
        assert outcome.out == f"{tmp_path / 'out' / name}\n"


@pytest.mark.parametrize(
    ("command", "output", "said"),
    [
        ("reconstruct", "x.png", "There are 4 results, and x.png has room for one. Name an output folder."),
        ("reconstruct", "-", "There are 4 results, and standard output has room for one."),
        ("invert", f"x{LATENT}", f"There are 4 results, and x{LATENT} has room for one."),
        ("invert", "x.png", "x.png: this command writes .latent.safetensors. Change the suffix, or name a folder."),
        ("reconstruct", "x.bmp", "x.bmp: this command writes .png, .webp, .jpg or .jpeg."),
        ("reconstruct", f"x{LATENT}", "this command writes .png"),
        ("reconstruct", "x.txt", "x.txt: this command writes .png"),
        ("reconstruct", ".png", ".png: there is no name before the suffix. Name a file, or a folder."),
        ("evaluate", "x.png", "x.png is not a folder, and this command writes several files."),
        ("evaluate", "-", "- is not a folder"),
        ("train", "-", "- is not a folder"),
    ],
)
def test_impossible_output_is_refused_before_loading(
    run: Run,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    output: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddim_edit.editor.load_model", lambda *_: pytest.fail("it was loaded"))
    inputs = [pictures[0].parent] if command == "train" else pictures
    outcome = run(command, *inputs, "-o", output)
    assert outcome.status == 2
    assert said in outcome.err
    assert files_in(tmp_path) == [f"in/{name}.png" for name in "abcd"]


def test_several_samples_into_one_file_are_refused(run: Run, tmp_path: Path) -> None:
    assert run("sample", "-n", "2", "-o", tmp_path / "x.png").status == 2
    assert run("sample", "--sheet", "-o", tmp_path / "x.png").status == 2
    assert run("sample", "-o", tmp_path / "x.png", "--format", "webp").status == 2
    assert run("sample", "-o", "-", "--json").status == 2
    assert not files_in(tmp_path)


def test_images_and_latents_through_standard_streams(
    piped: Piped, done: Run, pictures: list[Path], tmp_path: Path
) -> None:
    content = pictures[0].read_bytes()
    status, latent, said = piped(content, "invert", "-", "-o", "-", "--exact")
    assert status == 0, said
    assert set(load(latent)) == {"x", "detail"}
    status, image, said = piped(latent, "decode", "-", "-o", "-")
    assert status == 0, said
    (tmp_path / "back.png").write_bytes(image)
    assert torch.equal(pixels_of(tmp_path / "back.png"), pixels_of(pictures[0]))
    for line in (["reconstruct", "-", *FEW], ["interpolate", "-", pictures[1], *FEW], ["sample", *FEW]):
        status, image, said = piped(content, *line, "-o", "-", "--format", "webp")
        assert status == 0, said
        assert Image.open(io.BytesIO(image)).format == "WEBP"
    status, shown, _ = piped(latent, "show", "-")
    assert status == 0
    assert b'"recipe"' in shown
    status, named, _ = piped(content, "invert", "-", "-o", tmp_path / "out", *FEW)
    assert named.decode() == f"{tmp_path / 'out' / f'stdin{LATENT}'}\n"
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("content", "line", "status", "said"),
    [
        (b"", ["invert", "-"], 1, "error: -: Standard input is empty."),
        (b"no image", ["invert", "-"], 1, "error: -: this is not a PNG"),
        (b"no latent", ["decode", "-"], 1, "error: -: it is a text, not a latent file"),
        (b"x", ["invert", "-", "-"], 2, "Standard input, -, can be given once."),
    ],
    ids=str,
)
def test_bad_standard_input_is_named(
    piped: Piped, tmp_path: Path, content: bytes, line: list[str], status: int, said: str
) -> None:
    found, out, err = piped(content, *line, "-o", tmp_path / "out")
    assert (found, out) == (status, b"")
    assert said in err
    assert "stdin" not in err


def test_endless_standard_input_is_refused(piped: Piped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddim_edit.cli.streams.LARGEST_INPUT", 1000)
    status, _, err = piped(bytes(5000), "invert", "-", "-o", tmp_path / "out")
    assert status == 1
    assert "Standard input has more than 1,000 bytes" in err


def test_subfolders_are_read_only_with_recursive(done: Run, tmp_path: Path) -> None:
    for seed, name in enumerate(["a.png", "below/a.png", "below/b.png"]):
        tiny.save_picture(tmp_path / "in" / name, seed)
    (tmp_path / "in" / "notes.txt").write_text("x")
    flat = done("invert", tmp_path / "in", "-o", tmp_path / "flat", *FEW)
    told = f"{tmp_path / 'in'}: passed over 1 subfolder (--recursive looks into them), 1 .txt file"
    assert told in flat.err.splitlines()
    assert files_in(tmp_path / "flat") == [f"a{LATENT}"]
    done("invert", tmp_path / "in", "-r", "-o", tmp_path / "deep", *FEW)
    assert files_in(tmp_path / "deep") == [f"a{LATENT}", f"below/a{LATENT}", f"below/b{LATENT}"]
    assert "1 subfolder" in done("decode", tmp_path / "deep", "-o", tmp_path / "shallow").err


def test_bad_latent_fails_alone_and_is_named(run: Run, latents: list[Path], tmp_path: Path, monkeypatch) -> None:
    from ddim_edit import Editor, LatentError

    decode = Editor.decode

    def fail_at_third(editor, some, *rest):
        if any(latent.recipe.origin.source == third for latent in some):
            raise LatentError("The latent is of no use. Invert it again.")
        return decode(editor, some, *rest)

    from ddim_edit import Latent

    third = Latent.load(latents[2]).recipe.origin.source
    monkeypatch.setattr(Editor, "decode", fail_at_third)
    outcome = run("decode", *latents, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert outcome.errors == [f"error: {latents[2]}: The latent is of no use. Invert it again."]
    assert files_in(tmp_path / "out") == ["a.png", "b.png", "d.png"]
