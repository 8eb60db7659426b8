"""The recipe in every picture that a command writes, and its absence under --no-metadata."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddim_edit.images import read_recipe, write

from ..rounding import assert_shown_alike
from .conftest import Run, files_in, moving, pixels_of

Line = list[object]
STEPS = ["--steps", "2"]


def edited(folder: Path, *more: object) -> Line:
    direction = folder / "old.direction.safetensors"
    return ["--set", f"{direction}=1", *more]


COMMANDS: dict[str, Callable[[list[Path], list[Path], Path, Path], Line]] = {
    "decode": lambda pictures, latents, fitted, other: ["decode", *latents[:2]],
    "reconstruct": lambda pictures, latents, fitted, other: ["reconstruct", *pictures[:2], *STEPS],
    "edit": lambda pictures, latents, fitted, other: ["edit", pictures[0], *edited(fitted)],
    "edit --strip": lambda pictures, latents, fitted, other: [
        "edit",
        pictures[0],
        *edited(fitted, "--strip", "-1:1:3"),
    ],
    "translate": lambda pictures, latents, fitted, other: ["translate", pictures[0], "--to", other, *STEPS],
    "sample": lambda pictures, latents, fitted, other: ["sample", "-n", "2", "--sheet", *STEPS],
    "frames": lambda pictures, latents, fitted, other: ["interpolate", *latents[:2], "--frames", "2"],
}


@pytest.fixture(params=COMMANDS)
def line(
    request: pytest.FixtureRequest, pictures: list[Path], latents: list[Path], fitted: Path, other_model: Path
) -> Line:
    return COMMANDS[request.param](pictures, latents, fitted, other_model)


def test_images_of_every_command_contain_recipe(done: Run, line: Line, tmp_path: Path) -> None:
    done(*line, "-o", tmp_path / "out", "-q")
    written = files_in(tmp_path / "out")
    assert written
    for name in written:
        recipe = read_recipe(tmp_path / "out" / name)
        assert recipe
        assert json.loads(done("show", tmp_path / "out" / name).out) == {"recipe": recipe}
        text = json.dumps(recipe)
        assert "tiny" in text
        assert str(tmp_path) not in text


def test_no_metadata_writes_no_recipe(done: Run, line: Line, tmp_path: Path) -> None:
    """Each file is the one that is written of its pixels alone."""
    done(*line, "-o", tmp_path / "told", "-q")
    done(*line, "-o", tmp_path / "bare", "-q", "--no-metadata")
    assert files_in(tmp_path / "bare") == files_in(tmp_path / "told")
    for name in files_in(tmp_path / "bare"):
        assert_shown_alike(pixels_of(tmp_path / "bare" / name), pixels_of(tmp_path / "told" / name))
        write(tmp_path / "alone.png", pixels_of(tmp_path / "bare" / name))
        assert (tmp_path / "bare" / name).read_bytes() == (tmp_path / "alone.png").read_bytes()
        assert b"ddim" not in (tmp_path / "bare" / name).read_bytes()


@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.gif", "out.mp4", "out.webm"])
def test_no_metadata_holds_for_every_interpolation_format(
    done: Run, run: Run, latents: list[Path], tmp_path: Path, name: str
) -> None:
    line = ["interpolate", *latents[:2], "--frames", "3", "--upscale", "1"]
    done(*line, "-o", tmp_path / name)
    done(*line, "-o", tmp_path / "bare" / name, "--no-metadata")
    told, bare = moving(tmp_path / name), moving(tmp_path / "bare" / name)
    for a, b in zip(told, bare, strict=True):
        if name in ("out.png", "out.webp"):
            assert_shown_alike(a, b)
        else:
            # An encoder may answer one value on the verge of two levels with other errors everywhere. That a recipe
            # changes no pixel of lossy formats is asserted in tests/images, where both are written of the same pixels.
            assert (a.double() - b.double()).square().mean() < 255**2 / 10**3.6
    content = (tmp_path / "bare" / name).read_bytes()
    assert not any(trace in content for trace in (b"ddim", b"Software", b"slerp"))
    outcome = run("show", tmp_path / "bare" / name)
    assert outcome.status == 1
    assert "there is no recipe in this image" in outcome.errors[0]


def test_sheet_of_samples_is_labelled_with_seeds(done: Run, tmp_path: Path) -> None:
    from ddim_edit.images import captioned, upscale

    rows = done("sample", "-n", "9", "--seed", "5", "--sheet", *STEPS, "-o", tmp_path / "out", "--json").rows
    assert rows[-1] == {"output": str(tmp_path / "out" / "samples.png"), "seeds": list(range(5, 14))}
    samples = torch.stack([pixels_of(tmp_path / "out" / f"seed-{seed:04}.png") for seed in range(5, 14)])
    wanted = captioned(upscale(samples, 8), [f"seed {seed}" for seed in range(5, 14)])
    assert torch.equal(pixels_of(tmp_path / "out" / "samples.png"), wanted)
    recipe = read_recipe(tmp_path / "out" / "samples.png")
    assert recipe is not None
    assert (recipe["kind"], recipe["seed"]) == ("samples", list(range(5, 14)))


def test_sheet_of_reconstructions_contains_recipe(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    done("reconstruct", *pictures, "-o", tmp_path / "out", "--steps", "3", "--grid", "quad")
    recipe = read_recipe(tmp_path / "out" / "sheet.png")
    assert recipe is not None
    own = [read_recipe(tmp_path / "out" / f"{path.stem}-reconstructed.png") for path in pictures]
    assert recipe["sources"] == [each["origin"]["source"] for each in own if each]
    assert (recipe["kind"], recipe["model"], recipe["grid"], recipe["steps"]) == ("reconstruction", "tiny", "quad", 3)


def test_sheet_that_would_replace_a_file_is_refused_first(run: Run, tmp_path: Path, evaluations: list[int]) -> None:
    (tmp_path / "samples.png").touch()
    outcome = run("sample", "--sheet", "-o", tmp_path)
    assert outcome.status == 1
    assert not evaluations
    assert files_in(tmp_path) == ["samples.png"]
