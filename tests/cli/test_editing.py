"""`edit`: pictures with attributes moved, from files to files."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import Direction, Editor, load_model
from ddim_edit.images import to_uint8, upscale

from .. import tiny
from ..rounding import assert_shown_alike
from .conftest import Run, files_in, moving, pixels_of

SUFFIX = ".direction.safetensors"


def own(path: Path) -> Tensor:
    return pixels_of(path)


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(255**2 / max((a.double() - b.double()).square().mean().item(), 1e-9))


def columns(sheet: Tensor, count: int, size: int) -> list[Tensor]:
    """The pictures of a strip with a heading above and a name before it."""
    step = size + max(2, size // 32)
    left = sheet.shape[2] - count * step + step - size
    return [sheet[:, -size:, left + k * step :][..., :size] for k in range(count)]


@pytest.mark.parametrize("name", ["old", "high", "deep"])
def test_strength_0_writes_identical_image(
    done: Run, fitted: Path, pictures: list[Path], tmp_path: Path, name: str
) -> None:
    outcome = done("edit", *pictures, "--set", f"{fitted / name}{SUFFIX}=0", "-o", tmp_path / "out")
    assert outcome.out.splitlines() == [str(tmp_path / "out" / f"{path.stem}-edited.png") for path in pictures]
    for path in pictures:
        assert torch.equal(own(tmp_path / "out" / f"{path.stem}-edited.png"), own(path))


@pytest.mark.parametrize("name", ["old", "deep"])
@pytest.mark.parametrize("scale", [None, 1, 3])
def test_middle_of_strip_is_identical_image(
    done: Run, fitted: Path, model: Path, pictures: list[Path], tmp_path: Path, name: str, scale: int | None
) -> None:
    """And in its other columns what the library makes."""
    file = f"{fitted / name}{SUFFIX}"
    flags = [] if scale is None else ["--upscale", scale]
    done("edit", *pictures[:2], "--set", f"{file}=+1.5", "--strip", "-2:2:3", "-o", tmp_path / "out", *flags)
    made = Editor(load_model(model)).edits(pictures[:2], [{file: s} for s in (-3.0, 0.0, 3.0)])
    for path, row in zip(pictures[:2], made, strict=True):
        shown = columns(own(tmp_path / "out" / f"{path.stem}-strip.png"), 3, 16 * (scale or 16))
        assert torch.equal(shown[1], upscale(own(path), scale or 16))
        for column, picture in zip(shown, row, strict=True):
            assert_shown_alike(column, upscale(to_uint8(picture), scale or 16))
        assert not torch.equal(shown[0], shown[2])


def test_strip_contains_strength_0(done: Run, fitted: Path, pictures: list[Path], tmp_path: Path) -> None:
    """-0.1 + (0.2 + 0.1) / 3 is 1.4e-17 in floats."""
    line = ["--set", f"{fitted / 'old'}{SUFFIX}", "--strip", "-0.1:0.2:4", "-o", tmp_path / "out", "--json"]
    (row,) = done("edit", pictures[0], *line).rows
    assert row["factors"] == [-0.1, 0, 0.1, 0.2]
    assert torch.equal(columns(own(tmp_path / "out" / "a-strip.png"), 4, 256)[1], upscale(own(pictures[0]), 16))


def test_edit_equals_editor_edit(done: Run, fitted: Path, model: Path, pictures: list[Path], tmp_path: Path) -> None:
    old, wide = (f"{fitted / name}{SUFFIX}" for name in ("old", "wide"))
    editor = Editor(load_model(model))
    lines = {
        "set": (["--set", f"{old}=+2"], editor.edit(pictures, {old: 2.0})),
        "bare": (["--set", old], editor.edit(pictures, {old: 1.0})),
        "two": (["--set", f"{old}=2", "--set", f"{wide}=-.5"], editor.edit(pictures, {old: 2.0, wide: -0.5})),
        "keep": (["--set", f"{old}=2", "--keep", wide], editor.edit(pictures, {old: 2.0}, keep=[wide])),
        "conditional": (
            ["--set", f"{old}=2", "--set", f"{wide}=-1", "--conditional"],
            editor.edit(pictures, {old: 2.0, wide: -1.0}, conditional=True),
        ),
        "level": (["--set", f"{old}=2", "--level", "0.4T"], editor.edit(pictures, {old: 2.0})),
    }
    seen = []
    for name, (flags, made) in lines.items():
        done("edit", *pictures, *flags, "-o", tmp_path / name)
        written = torch.stack([own(tmp_path / name / f"{path.stem}-edited.png") for path in pictures])
        assert_shown_alike(written, to_uint8(made))
        seen.append(written)
    assert not any(torch.equal(seen[0], other) for other in seen[1:-1])
    assert_shown_alike(seen[0], seen[-1])


def test_images_are_upscaled(done: Run, fitted: Path, pictures: list[Path], tmp_path: Path) -> None:
    line = ["edit", pictures[0], "--set", f"{fitted / 'old'}{SUFFIX}=2"]
    done(*line, "-o", tmp_path / "small")
    done(*line, "-o", tmp_path / "large", "--upscale", 4)
    assert_shown_alike(own(tmp_path / "large" / "a-edited.png"), upscale(own(tmp_path / "small" / "a-edited.png"), 4))


@pytest.mark.parametrize("form", ["webp", "gif", "mp4", "webm"])
def test_animation_runs_through_strip_and_back(
    done: Run, fitted: Path, pictures: list[Path], tmp_path: Path, form: str
) -> None:
    # A GIF has 256 colours, as many as an image of 16x16 pixels; videos halve the resolution of colours.
    size = {"webp": 4, "gif": 1, "mp4": 16, "webm": 16}[form]
    line = ["edit", pictures[0], "--set", f"{fitted / 'old'}{SUFFIX}=3", "--strip", "-2:2:4", "--upscale", size]
    done(*line, "-o", tmp_path / "strip")
    outcome = done(*line, "-o", tmp_path / "out", "--animate", form, "--fps", 10, "--json")
    assert outcome.rows[0]["output"] == str(tmp_path / "out" / f"a-animated.{form}")
    strip = [column.permute(1, 2, 0) for column in columns(own(tmp_path / "strip" / "a-strip.png"), 4, 16 * size)]
    frames = moving(tmp_path / "out" / f"a-animated.{form}")
    assert len(frames) == 6
    for frame, wanted in zip(frames, [*strip, strip[2], strip[1]], strict=True):
        assert psnr(frame, wanted) > {"webp": 99, "gif": 40, "mp4": 36, "webm": 36}[form]
    shown = json.loads(done("show", tmp_path / "out" / f"a-animated.{form}").out)["recipe"]
    assert (shown["kind"], shown["factors"]) == ("edit", outcome.rows[0]["factors"])


def test_crop_refers_to_pixels_of_file(done: Run, fitted: Path, tmp_path: Path) -> None:
    wide = tiny.save_picture(tmp_path / "wide.png", 3, 20, 30)
    line = ["--set", f"{fitted / 'old'}{SUFFIX}=0", "--crop", "7,2,16", "--output-size", "model"]
    done("edit", wide, *line, "-o", tmp_path / "out")
    assert torch.equal(own(tmp_path / "out" / "wide-edited.png"), own(wide)[:, 2:18, 7:23])


def test_written_image_contains_recipe(done: Run, fitted: Path, pictures: list[Path], tmp_path: Path) -> None:
    old, wide = (f"{fitted / name}{SUFFIX}" for name in ("old", "wide"))
    line = ["--set", f"{old}=2", "--keep", wide, "--conditional", "--strip", "0:1:2", "-o", tmp_path / "out", "--json"]
    (row,) = done("edit", pictures[0], *line).rows
    recipe = json.loads(done("show", tmp_path / "out" / "a-strip.png").out)["recipe"]
    assert (recipe["kind"], recipe["model"], recipe["conditional"]) == ("edit", "tiny", True)
    assert (recipe["set"], recipe["keep"], recipe["factors"]) == ({"old": 2.0}, ["wide"], [0.0, 1.0])
    assert len(recipe["source"]) == 64
    assert row.pop("input") == str(pictures[0])
    assert row.pop("output") == str(tmp_path / "out" / "a-strip.png")
    assert row == {name: value for name, value in recipe.items() if name != "source"}


def test_bad_image_does_not_end_batch(run: Run, fitted: Path, pictures: list[Path], tmp_path: Path) -> None:
    pictures[1].write_text("no picture")
    missing = tmp_path / "in" / "missing.png"
    line = ["--set", f"{fitted / 'old'}{SUFFIX}=1", "-o", tmp_path / "out", "--batch-size", 2]
    outcome = run("edit", *pictures, missing, *line)
    assert outcome.status == 1
    assert sorted(str(path) in "".join(outcome.errors) for path in (pictures[1], missing)) == [True, True]
    assert len(outcome.errors) == 2
    assert files_in(tmp_path / "out") == ["a-edited.png", "c-edited.png", "d-edited.png"]
    assert outcome.out.splitlines() == [str(tmp_path / "out" / name) for name in files_in(tmp_path / "out")]


def test_results_do_not_replace_inputs_or_files_unless_asked(
    run: Run, done: Run, fitted: Path, pictures: list[Path], tmp_path: Path
) -> None:
    line = ["--set", f"{fitted / 'old'}{SUFFIX}=1"]
    before = pictures[0].read_bytes()
    outcome = run("edit", pictures[0], *line, "-o", pictures[0], "--overwrite")
    assert (outcome.status, pictures[0].read_bytes()) == (1, before)
    done("edit", pictures[0], *line, "-o", tmp_path / "out")
    again = run("edit", *pictures[:2], *line, "-o", tmp_path / "out")
    assert again.status == 1
    assert again.out.splitlines() == [str(tmp_path / "out" / "b-edited.png")]
    done("edit", *pictures[:2], *line, "-o", tmp_path / "out", "--overwrite")


def refused(run: Run, tmp_path: Path, *line: object) -> str:
    """The one sentence in which an edit is refused; nothing is written for it."""
    outcome = run("edit", *line, "-o", tmp_path / "refused")
    assert (outcome.status, outcome.out) == (1, "")
    assert "Traceback" not in outcome.err
    (error,) = outcome.errors
    assert error.startswith("error: ")
    assert not (tmp_path / "refused").exists()
    return error


def test_direction_of_another_level_is_refused(
    run: Run, fitted: Path, pictures: list[Path], tmp_path: Path, evaluations: list[int]
) -> None:
    for name, level in {"old": "xT", "high": "0.4T", "deep": "0.4T", "wide": "h"}.items():
        line = [pictures[0], "--set", f"{fitted / name}{SUFFIX}=1", "--level", level]
        error = refused(run, tmp_path, *line)
        assert f", not {level}. " in error
    assert not evaluations


def test_a_direction_of_another_model_is_refused_before_the_network_runs(
    run: Run, fitted: Path, other_model: Path, pictures: list[Path], tmp_path: Path, evaluations: list[int]
) -> None:
    line = [*pictures, "--set", f"{fitted / 'old'}{SUFFIX}=1", "--model", other_model]
    error = refused(run, tmp_path, *line)
    assert "fitted to latents of tiny, which has another network (other weights" in error
    twin = tiny.save_model(tmp_path / "tiny", seed=9)
    error = refused(run, tmp_path, *line[:-1], twin)
    assert "which has another network (other weights) than tiny. " in error
    assert not evaluations


def test_incompatible_directions_are_refused(run: Run, fitted: Path, pictures: list[Path], tmp_path: Path) -> None:
    old, high, deep = (f"{fitted / name}{SUFFIX}" for name in ("old", "high", "deep"))
    assert "Directions of several kinds cannot be combined" in refused(
        run, tmp_path, pictures[0], "--set", old, "--set", deep
    )
    assert "level " in refused(run, tmp_path, pictures[0], "--set", old, "--set", high)
    assert "lies in the span" in refused(run, tmp_path, pictures[0], "--set", old, "--keep", old)
    assert "combinations of the others" in refused(
        run, tmp_path, pictures[0], "--set", f"{fitted / 'wide'}{SUFFIX}", *["--keep", old] * 2
    )


def test_a_direction_is_set_once(run: Run, fitted: Path, pictures: list[Path], tmp_path: Path) -> None:
    outcome = run("edit", pictures[0], "--set", f"{fitted}=1", "--set", f"{fitted}=2", "-o", tmp_path / "out")
    assert outcome.status == 2
    assert "--set names a direction twice" in outcome.err
    assert not (tmp_path / "out").exists()


def test_unknown_direction_lists_known_ones(run: Run, fitted: Path, pictures: list[Path], tmp_path: Path) -> None:
    for flags in (["--set", "nosuch=+2"], ["--set", f"{fitted / 'old'}{SUFFIX}", "--keep", "nosuch"]):
        error = refused(run, tmp_path, pictures[0], *flags)
        assert "none are packaged for tiny" in error
        assert "nosuch" in error
        assert "ddim-edit directions" in error
    assert "no such file" in refused(run, tmp_path, pictures[0], "--set", f"nosuch{SUFFIX}=1")
    (tmp_path / f"bad{SUFFIX}").write_text("a letter")
    assert f"bad{SUFFIX}" in refused(run, tmp_path, pictures[0], "--set", f"{tmp_path / 'bad'}{SUFFIX}=1")


def test_unmeasured_strengths_and_tiny_images_warn_once(
    done: Run, fitted: Path, pictures: list[Path], tmp_path: Path
) -> None:
    direction = fitted / "old.direction.safetensors"
    limit = f"{Direction.load(direction).strongest:.3g}"
    small = tiny.save_picture(tmp_path / "small.png", 1, 1, 1)
    line = ["edit", *pictures, small, "--set", f"{direction}=+200", "-o", tmp_path / "out", "--batch-size", 2]
    outcome = done(*line)
    assert sorted(outcome.warnings) == [
        f"warning: Edits along old are measured for strengths from -{limit} to {limit}, not of +200, which may change "
        "everything else too.",
        f"warning: small.png: an image of 1x1 pixels was enlarged {tiny.SIZE} times for a model of "
        f"{tiny.SIZE}x{tiny.SIZE}, so that most of it is made up. Use a larger one.",
    ]
