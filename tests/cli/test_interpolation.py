"""`interpolate`: strips, sheets, animations and single frames."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddim_edit import Editor, InversionConfig, Latent, NoiseSchedule, Recipe
from ddim_edit.diffusion.grids import grid_below
from ddim_edit.images import labelled, read_recipe, sheet, to_uint8, upscale

from .. import tiny
from ..rounding import assert_shown_alike
from .conftest import Run, files_in, moving, pixels_of

SIDE = 16 * tiny.SIZE
"""Of a frame, pixels being repeated twice by default."""


@pytest.fixture
def decoded(model: Path, latents: list[Path]) -> Tensor:
    """What plain decoding makes of the four latents, enlarged: uint8 [4, 3, H, W]."""
    return upscale(to_uint8(Editor.from_pretrained(model).decode([Latent.load(path) for path in latents])), 16)


def cut(strip_of_frames: Tensor, count: int) -> list[Tensor]:
    """The single frames of a strip or of a row of a sheet."""
    gap = (strip_of_frames.shape[-1] - count * SIDE) // (count - 1)
    return [strip_of_frames[..., i * (SIDE + gap) :][..., :SIDE] for i in range(count)]


def test_strip_ends_are_plain_decodings(done: Run, latents: list[Path], decoded: Tensor, tmp_path: Path) -> None:
    outcome = done("interpolate", *latents[:2], "-o", tmp_path / "out.png", "--frames", "5")
    assert outcome.out == f"{tmp_path / 'out.png'}\n"
    # Labels are above.
    frames = cut(pixels_of(tmp_path / "out.png")[:, -SIDE:], 5)
    assert_shown_alike(frames[0], decoded[0])
    assert_shown_alike(frames[-1], decoded[1])
    assert not torch.equal(frames[2], frames[1])


@pytest.mark.parametrize("blend", ["slerp", "lerp", "norm"])
def test_frames_equal_editor_interpolation(
    done: Run, latents: list[Path], model: Path, tmp_path: Path, blend: str
) -> None:
    done(
        "interpolate",
        *latents[:3],
        "-o",
        tmp_path / "out.png",
        "--frames",
        "3",
        "--interpolation",
        blend,
        "--upscale",
        "1",
    )
    editor = Editor.from_pretrained(model)
    walk = editor.interpolate([Latent.load(path) for path in latents[:3]], 3, blend)
    assert len(walk) == 5
    labels = ["a", "0.50", "b", "0.50", "c"]
    assert_shown_alike(pixels_of(tmp_path / "out.png"), labelled([to_uint8(editor.decode(walk))], labels))


def test_images_are_inverted_first(done: Run, pictures: list[Path], latents: list[Path], tmp_path: Path) -> None:
    inputs = {"latents": latents[:2], "pictures": pictures[:2], "both": [latents[0], pictures[1]]}
    for name, files in inputs.items():
        done("interpolate", *files, "-o", tmp_path / f"{name}.png", "--frames", "3", "--dtype", "fp32")
    of_latents, of_pictures, of_both = (pixels_of(tmp_path / f"{name}.png") for name in inputs)
    assert_shown_alike(of_pictures, of_latents)
    assert_shown_alike(of_both, of_latents)


def test_loop_decodes_no_frame_twice(done: Run, latents: list[Path], tmp_path: Path, evaluations: list[int]) -> None:
    done("interpolate", *latents[:2], "-o", tmp_path / "loop", "--frames", "5", "--loop")
    assert files_in(tmp_path / "loop") == [f"frame-{i:04}.png" for i in range(8)]
    frames = [(tmp_path / "loop" / name).read_bytes() for name in files_in(tmp_path / "loop")]
    assert frames[5:] == frames[3:0:-1]
    schedule = NoiseSchedule.linear()
    below = grid_below(InversionConfig().make_grid(schedule).times[0], schedule).steps
    assert sum(evaluations) == 5 * 20 + 3 * below


def test_loop_over_three_returns_to_first(done: Run, latents: list[Path], tmp_path: Path) -> None:
    done("interpolate", *latents[:3], "-o", tmp_path / "loop", "--frames", "3", "--loop")
    done("interpolate", *latents[:3], latents[0], "-o", tmp_path / "round", "--frames", "3")
    loop, there = files_in(tmp_path / "loop"), files_in(tmp_path / "round")
    assert len(loop) == 6
    assert there == [*loop, "frame-0006.png"]
    for name in loop:
        assert_shown_alike(pixels_of(tmp_path / "loop" / name), pixels_of(tmp_path / "round" / name))


def test_animation_equals_folder_of_frames(done: Run, latents: list[Path], tmp_path: Path) -> None:
    line = ["interpolate", *latents[:2], "--frames", "4", "--fps", "5", "--upscale", "1"]
    for name in ("out.webp", "out.gif", "out"):
        done(*line, "-o", tmp_path / name)
    single = [pixels_of(tmp_path / "out" / name).permute(1, 2, 0) for name in files_in(tmp_path / "out")]
    lossless, palette = moving(tmp_path / "out.webp"), moving(tmp_path / "out.gif")
    for a, b, frame in zip(lossless, palette, single, strict=True):
        assert_shown_alike(a, frame)
        assert (b.int() - frame.int()).abs().max() <= 2
    for name in ("out.webp", "out.gif"):
        with Image.open(tmp_path / name) as animation:
            animation.load()
            assert animation.info["duration"] == 200


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_video_equals_folder_of_frames(done: Run, pictures: list[Path], tmp_path: Path, suffix: str) -> None:
    for name in (f"out{suffix}", "out"):
        # The small model's own detail, which midpoints have from other grids, is noise.
        inputs = [*pictures[:2], "--grid", "karras:14", "--frames", "4"]
        done("interpolate", *inputs, "-o", tmp_path / name, "--fps", "5", "--upscale", 4)
    single = [pixels_of(tmp_path / "out" / name).permute(1, 2, 0) for name in files_in(tmp_path / "out")]
    for shown, frame in zip(moving(tmp_path / f"out{suffix}"), single, strict=True):
        assert (shown.double() - frame.double()).square().mean() < 255**2 / 10**3.6
    assert json.loads(done("show", tmp_path / f"out{suffix}").out)["recipe"]["frames"] == 4


def test_video_with_odd_size_is_padded_with_note(done: Run, tmp_path: Path) -> None:
    model = tiny.save_model(
        tmp_path / "tiny",
        unet={
            "down_block_types": ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"],
            "block_out_channels": [16],
            "sample_size": 15,
        },
    )
    pictures = [tiny.save_picture(tmp_path / f"{seed}.png", seed, 15, 15) for seed in (0, 1)]
    line = [
        "interpolate",
        *pictures,
        "--frames",
        "3",
        "--upscale",
        "1",
        "--model",
        model,
        "--dtype",
        "fp32",
        "--steps",
        "2",
    ]
    outcome = done(*line, "-o", tmp_path / "out.mp4")
    assert "out.mp4: padded from 15x15 to 16x16 with edge pixels, for the video" in outcome.err.splitlines()
    assert [frame.shape for frame in moving(tmp_path / "out.mp4")] == [(16, 16, 3)] * 3


def test_sheet_has_inputs_in_corners(
    done: Run, latents: list[Path], decoded: Tensor, model: Path, tmp_path: Path
) -> None:
    done("interpolate", *latents, "-o", tmp_path / "sheet.png", "--sheet", "3x2")
    whole = pixels_of(tmp_path / "sheet.png")
    rows = [torch.stack(cut(whole[:, top : top + SIDE], 3)) for top in (0, whole.shape[1] - SIDE)]
    corners = [rows[0][0], rows[0][2], rows[1][0], rows[1][2]]
    for corner, picture in zip(corners, decoded, strict=True):
        assert_shown_alike(corner, picture)
    editor = Editor.from_pretrained(model)
    wanted = editor.sheet([Latent.load(path) for path in latents], rows=2, columns=3)
    tensors = [upscale(to_uint8(editor.decode(row)), 16) for row in wanted]
    assert_shown_alike(whole, sheet(tensors, gap=8))


def test_a_sheet_lies_between_rows_of_inputs(done: Run, latents: list[Path], model: Path, tmp_path: Path) -> None:
    inputs = [*latents, *latents[:2]]
    done("interpolate", *inputs, "-o", tmp_path / "sheet.png", "--sheet", "5x2", "--across", "3", "--upscale", "1")
    editor = Editor.from_pretrained(model)
    wanted = editor.sheet([Latent.load(path) for path in inputs], rows=2, columns=5, across=3)
    assert_shown_alike(
        pixels_of(tmp_path / "sheet.png"), sheet([to_uint8(editor.decode(row)) for row in wanted], gap=0)
    )
    recipe = read_recipe(tmp_path / "sheet.png")
    assert recipe is not None
    assert (recipe["sheet"], recipe["across"]) == ([5, 2], 3)


def test_the_width_of_a_grid_needs_a_sheet(run: Run, latents: list[Path], tmp_path: Path) -> None:
    outcome = run("interpolate", *latents[:2], "-o", tmp_path / "a.png", "--across", "3")
    assert outcome.status == 2
    assert "Give --sheet COLUMNSxROWS too." in outcome.err


@pytest.mark.parametrize(("count", "across"), [(3, 2), (4, 3)])
def test_inputs_that_do_not_make_full_rows_are_wrong_use(
    run: Run, latents: list[Path], tmp_path: Path, count: int, across: int
) -> None:
    outcome = run("interpolate", *latents[:count], "-o", tmp_path / "a.png", "--sheet", "3x3", "--across", across)
    assert outcome.status == 2
    assert f"not {count} in rows of {across}. --across says how many inputs are in a row." in outcome.err


def test_one_input_may_be_given_twice(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    done("interpolate", pictures[0], pictures[0], "-o", tmp_path / "out", "--frames", "3")
    first, *others = (pixels_of(tmp_path / "out" / name) for name in files_in(tmp_path / "out"))
    for other in others:
        assert_shown_alike(other, first)


@pytest.mark.same_bits
def test_the_same_command_writes_the_same_bytes(done: Run, latents: list[Path], tmp_path: Path) -> None:
    """On one machine: one model loaded in one way, and batches of one size (see `rounding`)."""
    for name in ("a.png", "b.png", "a.webp", "b.webp", "a.gif", "b.gif"):
        done("interpolate", *latents[:2], "-o", tmp_path / name, "--frames", "3")
    for suffix in (".png", ".webp", ".gif"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_recipe_contains_interpolation_and_ends(done: Run, latents: list[Path], tmp_path: Path) -> None:
    done("interpolate", *latents[:2], "-o", tmp_path / "out.webp", "--frames", "3", "--interpolation", "lerp", "--loop")
    recipe = read_recipe(tmp_path / "out.webp")
    assert recipe is not None
    assert (recipe["kind"], recipe["frames"], recipe["loop"]) == ("lerp", 3, True)
    assert list(map(Recipe.from_json, recipe["ends"])) == [Latent.load(path).recipe for path in latents[:2]]


def test_json_row_names_inputs_and_output(done: Run, latents: list[Path], tmp_path: Path) -> None:
    rows = done("interpolate", *latents[:2], "-o", tmp_path / "out.gif", "--frames", "2", "--json").rows
    assert rows == [{"inputs": [str(path) for path in latents[:2]], "output": str(tmp_path / "out.gif")}]


def test_latents_of_different_solvers_are_refused(
    run: Run, done: Run, pictures: list[Path], latents: list[Path], tmp_path: Path
) -> None:
    outcome = run("interpolate", latents[0], pictures[1], "-o", tmp_path / "out.png", "--steps", "5")
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert "These latents differ in times" in outcome.errors[0]
    assert not (tmp_path / "out.png").exists()


def test_all_bad_inputs_are_named_before_computation(
    run: Run, pictures: list[Path], tmp_path: Path, evaluations: list[int]
) -> None:
    bad = [tmp_path / "missing.png", tmp_path / "missing.latent.safetensors"]
    outcome = run("interpolate", pictures[0], *bad, "-o", tmp_path / "out.png", "--crop", "8,8,16")
    assert outcome.status == 1
    assert sorted(line.split(": ")[1] for line in outcome.errors) == sorted(map(str, [pictures[0], *bad]))
    assert not evaluations
    assert not (tmp_path / "out.png").exists()


def test_latents_are_decoded_in_their_dtype(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    done("invert", *pictures[:2], "-o", tmp_path / "latents", "--dtype", "bf16", "--steps", "3")
    outcome = done("interpolate", *sorted((tmp_path / "latents").iterdir()), "-o", tmp_path / "out.png")
    assert "in bfloat16 on" in outcome.err
