"""The packaged model on the packaged pictures: what a newcomer's first commands do."""

from importlib import resources
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from ddim_edit import Latent, suited_dtype
from ddim_edit.cli import main

from .conftest import Outcome, Run, files_in, pixels_of

IMAGES = Path(str(resources.files("ddim_edit.assets"))) / "images"
FACES = [IMAGES / "astronaut_face.png", IMAGES / "seed-0028.png"]
PACKAGED = ["--model", "faces64"]

pytestmark = pytest.mark.slow


def test_photograph_round_trip(done: Run, tmp_path: Path) -> None:
    outcome = done("reconstruct", FACES[0], "-o", tmp_path, "--json", *PACKAGED)
    (row,) = outcome.rows
    assert row["psnr"] > 45
    assert row["lpips"] < 0.001
    assert (row["nfe_in"], row["nfe_out"]) == (20, 20)
    assert abs(row["xt_std"] - 1) < 0.02
    assert abs(row["xt_corr"]) < 0.06
    assert row["xt_deviation"] < 4
    assert "astronaut_face.png: face aligned, turned by -" in outcome.err
    assert pixels_of(tmp_path / "astronaut_face-reconstructed.png").shape[1:] == (108, 108)
    assert files_in(tmp_path) == ["astronaut_face-reconstructed.png", "sheet.png"]


def test_latent_of_a_text_is_not_healthy(done: Run, tmp_path: Path) -> None:
    text = Image.new("RGB", (512, 512), "white")
    ImageDraw.Draw(text).text((16, 16), "The quick brown fox\njumps over the lazy dog\n" * 9, "black", font_size=28)
    text.save(tmp_path / "text.png")
    # From higher starts its plain parts get noise of that level, and x_T is healthier.
    line = ["invert", tmp_path / "text.png", "-o", tmp_path / "out", "--json", "--grid", "karras:14"]
    (row,) = done(*line, *PACKAGED).rows
    assert abs(row["xt_std"] - 1) < 0.05
    assert row["xt_deviation"] > 1


def test_exact_round_trip(done: Run, tmp_path: Path) -> None:
    (row,) = done("reconstruct", FACES[1], "-o", tmp_path, "--exact", "--json", *PACKAGED).rows
    assert row["converged"]
    assert row["identical_pixels"] == 1
    assert row["nfe_in"] + row["nfe_out"] <= 160
    assert torch.equal(pixels_of(tmp_path / "seed-0028-reconstructed.png"), pixels_of(FACES[1]))


def test_latent_does_not_depend_on_batch_or_order(done: Run, tmp_path: Path) -> None:
    options = [*PACKAGED, "--steps", "4"]
    done("invert", *FACES, "-o", tmp_path / "together", *options)
    done("invert", *FACES[::-1], "-o", tmp_path / "alone", "--batch-size", "1", *options)
    for name in files_in(tmp_path / "together"):
        one, many = (Latent.load(tmp_path / folder / name) for folder in ("together", "alone"))
        assert one.recipe == many.recipe
        torch.testing.assert_close(one.x, many.x, rtol=0, atol=1e-5)


def test_sample_is_determined_by_seed(done: Run, tmp_path: Path) -> None:
    """The card says that these files came of this command; other machines may round a level otherwise."""
    done("sample", "--seed", "28", "-o", tmp_path, *PACKAGED)
    apart = (pixels_of(tmp_path / "seed-0028.png").int() - pixels_of(IMAGES / "seed-0028.png").int()).abs()
    assert apart.max() <= 2


def test_portrait_is_cropped_as_in_model_card(done: Run, tmp_path: Path) -> None:
    from ddim_edit.images import Box, read

    face, box = read(FACES[0], 64), read(IMAGES / "astronaut.png", 64, Box(171, 72, 108))
    assert torch.equal(face.pixels, box.pixels)


def test_faces64_is_the_default_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["sample", "--steps", "1", "-o", str(tmp_path)])
    outcome = Outcome(int(str(left.value.code)), *capsys.readouterr())
    assert outcome.status == 0
    assert outcome.err.startswith(f"faces64 in {suited_dtype('auto')} on ")
