"""`reconstruct`: scores, pictures and the sheet."""

from pathlib import Path

import pytest
import torch

from ddim_edit import Editor, Latent, metrics
from ddim_edit.cli.commands.reconstruct import score_columns, score_table
from ddim_edit.images import comparison, read_recipe, to_uint8

from ..rounding import VERGE, assert_shown_alike
from .conftest import Run, files_in, pixels_of

FIELDS = {
    *("input", "output", "nfe_in", "nfe_out", "mse", "psnr", "ssim", "lpips", "identical_pixels"),
    *("xt_mean", "xt_std", "xt_corr", "xt_kurtosis", "xt_deviation", "converged"),
    *("error", "residual", "rounds"),
}


def test_rows_contain_fields_and_editor_scores(done: Run, pictures: list[Path], model: Path, tmp_path: Path) -> None:
    outcome = done("reconstruct", *pictures, "-o", tmp_path / "out", "--json")
    trip = Editor.from_pretrained(model).reconstruct(pictures)
    for row, path, score in zip(outcome.rows, pictures, trip.scores, strict=True):
        assert row.keys() == FIELDS
        assert row.pop("input") == str(path)
        assert row.pop("output") == str(tmp_path / "out" / f"{path.stem}-reconstructed.png")
        assert row == pytest.approx({name: score[name] for name in row}, rel=1e-2, abs=1e-2)


def test_written_images_are_reconstructions_with_recipes(
    done: Run, pictures: list[Path], model: Path, tmp_path: Path
) -> None:
    done("reconstruct", *pictures, "-o", tmp_path / "out", "-q")
    trip = Editor.from_pretrained(model).reconstruct(pictures)
    for path, picture, latent in zip(pictures, trip.decoded, trip.latents, strict=True):
        written = tmp_path / "out" / f"{path.stem}-reconstructed.png"
        assert_shown_alike(pixels_of(written), to_uint8(picture))
        recipe = read_recipe(written)
        assert recipe is not None
        assert recipe["times"] == list(latent.recipe.times)
        assert recipe["origin"] == latent.recipe.origin.to_json()


def test_exact_reconstructions_are_identical(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    rows = done("reconstruct", *pictures, "-o", tmp_path / "out", "--exact", "--json").rows
    assert all(row["identical_pixels"] == 1 and row["converged"] for row in rows)
    assert all(row["nfe_out"] == 20 and row["nfe_in"] >= 20 for row in rows)
    for path in pictures:
        assert torch.equal(pixels_of(tmp_path / "out" / f"{path.stem}-reconstructed.png"), pixels_of(path))


def test_sheet_shows_originals_reconstructions_differences(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    done("reconstruct", *pictures, "-o", tmp_path / "out", "--steps", "3")
    originals, returned = (
        torch.stack([pixels_of(folder / f"{path.stem}{ending}.png") for path in pictures])
        for folder, ending in ((tmp_path / "in", ""), (tmp_path / "out", "-reconstructed"))
    )
    assert not torch.equal(originals, returned)
    done("invert", *pictures, "-o", tmp_path / "latents", "--steps", "3")
    latents = [Latent.load(tmp_path / "latents" / f"{path.stem}.latent.safetensors").x for path in pictures]
    wanted = comparison(originals, returned, gain=20, patch_stds=list(metrics.patch_std(torch.stack(latents))))
    assert torch.equal(pixels_of(tmp_path / "out" / "sheet.png"), wanted)


def test_sheet_size_is_bounded(
    done: Run, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddim_edit.cli.commands.reconstruct.ON_SHEET", 3)
    done("reconstruct", *pictures, "-o", tmp_path / "many", "--steps", "3", "--batch-size", "2")
    done("reconstruct", *pictures[:3], "-o", tmp_path / "few", "--steps", "3", "--batch-size", "2")
    many, few = (pixels_of(tmp_path / folder / "sheet.png") for folder in ("many", "few"))
    assert many.shape == few.shape
    assert (many != few).double().mean() <= VERGE  # a level apart is twenty in the differences
    assert len(files_in(tmp_path / "many")) == 5


def test_table_has_a_line_per_image_and_means(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("reconstruct", *pictures[:2], "-o", tmp_path / "out")
    rows = done("reconstruct", *pictures[:2], "-o", tmp_path / "again", "--json").rows
    head, *lines = outcome.out.splitlines()
    assert head.split() == ["in", "out", "PSNR", "SSIM", "LPIPS", "same", "mean", "std", "corr", "kurt", "dev"]
    assert [line.split()[0] for line in lines] == ["a", "b", "mean"]
    psnr = [row["psnr"] for row in rows]
    assert [float(line.split()[3]) for line in lines] == pytest.approx([*psnr, sum(psnr) / 2], abs=0.005)
    assert len({len(line) for line in (head, *lines)}) == 1


def test_single_image_has_no_mean_line(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("reconstruct", pictures[0], "-o", tmp_path / "out")
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["in", "a"]


def test_table_shows_missing_figure_as_dash() -> None:
    columns = list(score_columns())
    row = dict.fromkeys(columns, 1.0) | {"input": "a.png", "xt_corr": None}
    column = columns.index("xt_corr")
    lines = score_table([row, row]).splitlines()
    assert [line.split()[1 + column] for line in lines[1:]] == ["-", "-", "-"]


def test_lpips_of_small_image_equals_metric(done: Run, pictures: list[Path], model: Path, tmp_path: Path) -> None:
    row, *_ = done("reconstruct", pictures[0], "-o", tmp_path / "out", "--json").rows
    trip = Editor.from_pretrained(model).reconstruct(pictures[:1])
    assert row["lpips"] == pytest.approx(float(metrics.LPIPS()(trip.originals, trip.decoded)[0]), rel=1e-2)
