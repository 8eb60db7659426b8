"""`invert` and `decode`: latent files and the pictures that come back of them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ddim_edit import Editor, InversionConfig, Latent
from ddim_edit.images import to_uint8

from .. import tiny
from ..rounding import ROUNDING, assert_alike, assert_shown_alike
from .conftest import Run, files_in, pixels_of

LATENT = ".latent.safetensors"


def test_every_image_gets_a_latent_file_of_its_name(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("invert", *pictures, "-o", tmp_path / "out")
    assert outcome.out.splitlines() == [str(tmp_path / "out" / f"{path.stem}{LATENT}") for path in pictures]
    assert files_in(tmp_path / "out") == [f"{path.stem}{LATENT}" for path in pictures]


def test_folder_input_equals_its_images(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    done("invert", tmp_path / "in", "-o", tmp_path / "out")
    assert files_in(tmp_path / "out") == [f"{path.stem}{LATENT}" for path in pictures]


def test_latent_file_equals_editor_latent(
    latents: list[Path], pictures: list[Path], model: Path, tmp_path: Path
) -> None:
    for path, latent in zip(latents, Editor.from_pretrained(model).invert(pictures), strict=True):
        loaded = Latent.load(path)
        assert loaded.recipe == latent.recipe
        assert loaded.report == pytest.approx(latent.report, rel=1e-3, abs=1e-3)
        assert loaded.t == latent.t == 1000
        assert_alike(loaded.x, latent.x)


def test_latent_file_contains_no_path_or_host_name(latents: list[Path], inverted: Path) -> None:
    for path in latents:
        assert str(inverted.parent).encode() not in path.read_bytes()
        assert b"a.png" not in path.read_bytes()


@pytest.mark.same_bits
def test_the_same_command_writes_the_same_bytes(
    done: Run, latents: list[Path], pictures: list[Path], tmp_path: Path
) -> None:
    """On one machine: one model loaded in one way, and batches of one size (see `rounding`)."""
    done("invert", *pictures, "-o", tmp_path / "again")
    for path in latents:
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_decoding_equals_editor_decode(
    done: Run, latents: list[Path], pictures: list[Path], model: Path, tmp_path: Path
) -> None:
    outcome = done("decode", *latents, "-o", tmp_path / "out")
    written = [Path(line) for line in outcome.out.splitlines()]
    assert written == [tmp_path / "out" / path.name for path in pictures]
    editor = Editor.from_pretrained(model)
    wanted = to_uint8(editor.decode(editor.invert(pictures)))
    assert_shown_alike(torch.stack([pixels_of(path) for path in written]), wanted)


def test_decoding_is_deterministic(done: Run, latents: list[Path], tmp_path: Path) -> None:
    done("decode", tmp_path / "latents", "-o", tmp_path / "once")
    done("decode", *latents, "-o", tmp_path / "twice")
    assert files_in(tmp_path / "once") == files_in(tmp_path / "twice") == ["a.png", "b.png", "c.png", "d.png"]
    for name in files_in(tmp_path / "once"):
        assert_shown_alike(pixels_of(tmp_path / "once" / name), pixels_of(tmp_path / "twice" / name))


@pytest.mark.parametrize("options", [[], ["--solver", "ddim"], ["--grid", "karras:7", "--no-dequantise"]], ids=str)
def test_exact_latents_decode_to_identical_pixels(
    done: Run, pictures: list[Path], tmp_path: Path, options: list[str]
) -> None:
    plain = done("invert", *pictures, "-o", tmp_path / "plain", "--check", "--json", *options)
    exact = done("invert", *pictures, "-o", tmp_path / "exact", "--exact", "--json", *options)
    assert all(row["error"] > 1 / 255 for row in plain.rows)
    assert all(row["error"] < 1 / 255 and row["converged"] for row in exact.rows)
    done("decode", tmp_path / "exact", "-o", tmp_path / "out")
    for path in pictures:
        assert torch.equal(pixels_of(tmp_path / "out" / path.name), pixels_of(path))


def test_tighter_tolerance_is_met(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("invert", *pictures, "-o", tmp_path / "out", "--exact", "--tol", "1e-5", "--json")
    assert all(row["error"] <= 1.01e-5 and row["converged"] for row in outcome.rows)
    assert not outcome.warnings


def test_nonconverged_latent_is_kept_with_warning(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("invert", *pictures[:2], "-o", tmp_path / "out", "--exact", "--tol", "1e-30", "--json", "-q")
    assert [row["converged"] for row in outcome.rows] == [False, False]
    assert len(outcome.warnings) == 2
    for line, path in zip(outcome.err.splitlines(), pictures, strict=False):
        assert line.startswith(f"warning: {path}: did not converge")
    assert files_in(tmp_path / "out") == [f"a{LATENT}", f"b{LATENT}"]


@pytest.mark.parametrize("flags", [["--lossless"], ["--solver", "belm"]], ids=str)
def test_two_state_latents_are_lossless_through_files(
    done: Run, pictures: list[Path], model: Path, tmp_path: Path, flags: list[str]
) -> None:
    done("invert", *pictures, "-o", tmp_path / "latents", *flags)
    editor = Editor.from_pretrained(model)
    loaded = [Latent.load(tmp_path / "latents" / f"{path.stem}{LATENT}") for path in pictures]
    wanted = torch.stack([pixels_of(path) for path in pictures]).double() / 127.5 - 1
    assert float((editor.decode(loaded) - wanted).abs().max()) < 1e-6  # pictures are read in float32
    trip = editor.reconstruct(pictures, InversionConfig(loaded[0].recipe.solver))
    assert float((trip.decoded - trip.originals).abs().max()) <= 1e-12


def test_check_reports_round_trip_error(done: Run, pictures: list[Path], model: Path, tmp_path: Path) -> None:
    rows = done("invert", *pictures, "-o", tmp_path / "out", "--check", "--json").rows
    trip = Editor.from_pretrained(model).reconstruct(pictures)
    errors = (trip.decoded - trip.originals).flatten(1).abs().amax(1)
    assert [row["error"] for row in rows] == pytest.approx(errors.tolist(), abs=ROUNDING)
    assert all(row["nfe"] == 40 for row in rows)


def test_json_rows_contain_files_and_reports(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    row, *_ = done("invert", *pictures, "-o", tmp_path / "out", "--json").rows
    assert row.items() >= {"input": str(pictures[0]), "output": str(tmp_path / "out" / f"a{LATENT}"), "nfe": 20}.items()
    assert row.keys() >= {"t", "residual", "converged", "xt_mean", "xt_std", "xt_corr", "xt_kurtosis"}


def test_grid_ending_before_x_T_warns(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("invert", pictures[0], "-o", tmp_path / "out", "--solver", "ddim", "--grid", "leading", "--json")
    assert outcome.rows[0]["t"] == 951
    assert Latent.load(outcome.rows[0]["output"]).t == 951


def test_batch_size_changes_no_visible_bit(
    done: Run, latents: list[Path], pictures: list[Path], tmp_path: Path
) -> None:
    done("invert", *reversed(pictures), "-o", tmp_path / "one", "--batch-size", "1")
    for path in latents:
        one, many = Latent.load(tmp_path / "one" / path.name), Latent.load(path)
        assert one.recipe == many.recipe
        torch.testing.assert_close(one.x, many.x, rtol=0, atol=1e-5)


def test_dequantisation_is_seeded_and_optional(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    options = {
        "default": [],
        "zero": ["--dequantise-seed", 0],
        "one": ["--dequantise-seed", 1],
        "none": ["--no-dequantise"],
    }
    codes = {}
    for name, flags in options.items():
        done("invert", pictures[0], "-o", tmp_path / name, *flags)
        codes[name] = Latent.load(tmp_path / name / f"a{LATENT}")
    assert_alike(codes["default"].x, codes["zero"].x)
    for other in ("one", "none"):
        assert float((codes["zero"].x - codes[other].x).abs().max()) > 1e-3
    assert codes["zero"].recipe.dequantise
    assert codes["none"].recipe.dequantise == ()


def test_latents_of_several_solvers_are_decoded_together(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    for solver in ("dpm2m", "ddim", "bdia", "heun"):
        done("invert", pictures[0], "-o", tmp_path / "latents", "--solver", solver, "--exact", "--overwrite")
        source = tmp_path / "latents" / f"a{LATENT}"
        source.rename(tmp_path / "latents" / f"{solver}{LATENT}")
    done("decode", tmp_path / "latents", "-o", tmp_path / "out")
    assert len(files_in(tmp_path / "out")) == 4
    for name in files_in(tmp_path / "out"):
        assert torch.equal(pixels_of(tmp_path / "out" / name), pixels_of(pictures[0]))


def test_latent_is_decoded_in_its_dtype(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    """Only the very bits of a bfloat16 network, which one machine makes anew, take a pair back."""
    options = ["--dtype", "bf16", "--lossless"]
    done("invert", pictures[0], "-o", tmp_path / "latents", *options)
    assert Latent.load(tmp_path / "latents" / f"a{LATENT}").recipe.dtype == "bfloat16"
    outcome = done("decode", tmp_path / "latents", "-o", tmp_path / "out")
    assert "in bfloat16 on" in outcome.err
    assert torch.equal(pixels_of(tmp_path / "out" / "a.png"), pixels_of(pictures[0]))


def test_grey_model_writes_grey_images(done: Run, tmp_path: Path) -> None:
    grey = tiny.save_model(tmp_path / "grey", unet={"in_channels": 1, "out_channels": 1})
    Image.fromarray(tiny.pixels(0)).convert("L").save(tmp_path / "grey.png")
    done("invert", tmp_path / "grey.png", "-o", tmp_path / "out", "--exact", "--model", grey)
    assert Latent.load(tmp_path / "out" / f"grey{LATENT}").x.shape == (1, tiny.SIZE, tiny.SIZE)
    done("decode", tmp_path / "out", "-o", tmp_path / "out", "--model", grey)
    assert torch.equal(pixels_of(tmp_path / "out" / "grey.png"), pixels_of(tmp_path / "grey.png"))


def test_times_are_visited_as_they_are(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    done("invert", pictures[0], "--times", "601, 1,201,401.5", "-o", tmp_path / "out")
    recipe = Latent.load(tmp_path / "out" / f"a{LATENT}").recipe
    assert (recipe.grid, recipe.times) == ("times", (1.0, 201.0, 401.5, 601.0))
    done("decode", tmp_path / "out", "-o", tmp_path / "again")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--times", "1,x"], "Times must be two or more numbers"),
        (["--times", "1"], "Times must be two or more numbers"),
        (["--times", "1,500", "--steps", "3"], "--times takes the place of --steps"),
        (["--times", "1,500", "--grid", "uniform"], "--times takes the place of --grid"),
    ],
    ids=str,
)
def test_other_times_are_wrong_use(
    run: Run, pictures: list[Path], tmp_path: Path, options: list[str], words: str
) -> None:
    outcome = run("invert", pictures[0], *options, "-o", tmp_path / "out")
    assert outcome.status == 2
    assert words in outcome.err


def test_times_that_the_model_does_not_have_are_refused(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = run("invert", pictures[0], "--times", "1,2000", "-o", tmp_path / "out")
    assert outcome.status == 1
    assert "There is no time 2000" in outcome.err


def test_typed_steps_come_before_times_that_were_set_elsewhere(
    done: Run, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDIM_EDIT_TIMES", "1,500")
    for name, options in {"set": [], "typed": ["--steps", "3"]}.items():
        done("invert", pictures[0], *options, "-o", tmp_path / name)
    recipes = [Latent.load(tmp_path / name / f"a{LATENT}").recipe for name in ("set", "typed")]
    assert [recipe.grid for recipe in recipes] == ["times", "karras:14@0.16T"]
