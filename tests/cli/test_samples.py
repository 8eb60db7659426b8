"""`sample`: pictures from seeds."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import Editor, InversionConfig
from ddim_edit.images import read_recipe, to_uint8

from ..rounding import assert_shown_alike
from .conftest import Run, files_in, pixels_of


def drawn(done: Run, folder: Path, *options: object) -> dict[str, Tensor]:
    done("sample", "-o", folder, *options)
    return {name: pixels_of(folder / name) for name in files_in(folder)}


def assert_drawn_alike(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, picture in found.items():
        assert_shown_alike(picture, wanted[name])


def assert_all_differ(pictures: list[Tensor]) -> None:
    for number, picture in enumerate(pictures):
        for other in pictures[:number]:
            assert (picture.int() - other.int()).abs().max() > 10


@pytest.mark.parametrize("options", [[], ["--eta", "1"], ["--posterior-mean"], ["--solver", "bdia"]], ids=str)
def test_image_depends_on_seed_only(done: Run, tmp_path: Path, options: list[str]) -> None:
    together = drawn(done, tmp_path / "together", "-n", 4, "--seed", 5, *options)
    assert list(together) == ["seed-0005.png", "seed-0006.png", "seed-0007.png", "seed-0008.png"]
    assert_all_differ(list(together.values()))
    assert_drawn_alike(drawn(done, tmp_path / "again", "-n", 4, "--seed", 5, *options), together)
    assert_drawn_alike(drawn(done, tmp_path / "pairs", "-n", 4, "--seed", 5, "--batch-size", 2, *options), together)
    name = "seed-0007.png"
    assert_drawn_alike(drawn(done, tmp_path / "alone", "--seed", 7, *options), {name: together[name]})


def test_images_equal_editor_samples(done: Run, model: Path, tmp_path: Path) -> None:
    done("sample", "-n", 3, "--seed", 1, "--steps", 7, "--solver", "heun", "--grid", "quad", "-o", tmp_path)
    wanted = to_uint8(Editor.from_pretrained(model).sample(3, 1, InversionConfig("heun", "quad", 7)))
    assert_shown_alike(torch.stack([pixels_of(tmp_path / name) for name in files_in(tmp_path)]), wanted)


def test_default_config_is_that_of_the_editor(done: Run, model: Path, tmp_path: Path) -> None:
    done("sample", "-o", tmp_path)
    assert_shown_alike(pixels_of(tmp_path / "seed-0000.png"), to_uint8(Editor.from_pretrained(model).sample(1)[0]))


def test_seed_options(done: Run, tmp_path: Path) -> None:
    """DDIM, half-way, DDPM and its posterior mean differ; each is the same when it is drawn again."""
    family = {
        "ddim": ["--solver", "ddim"],
        "half": ["--eta", "0.5"],
        "ddpm": ["--eta", "1"],
        "mean": ["--posterior-mean"],
    }
    first = {name: drawn(done, tmp_path / name, *options) for name, options in family.items()}
    assert_all_differ([next(iter(pictures.values())) for pictures in first.values()])
    for name, options in family.items():
        assert_drawn_alike(drawn(done, tmp_path / f"{name} again", *options), first[name])


def test_eta_0_equals_no_eta(done: Run, tmp_path: Path) -> None:
    plain = drawn(done, tmp_path / "plain", "--solver", "heun")
    assert_drawn_alike(drawn(done, tmp_path / "zero", "--solver", "heun", "--eta", "0"), plain)


def test_the_posterior_mean_loses_the_variance_of_the_data(done: Run, tmp_path: Path) -> None:
    """The small model is nearly that of unit Gaussians; without its noise DDPM shrinks them towards their mean."""
    options = ["-n", 4, "--steps", 50]
    deviation = {}
    for name, flags in {"ddim": ["--solver", "ddim"], "ddpm": ["--eta", 1], "mean": ["--posterior-mean"]}.items():
        drawn(done, tmp_path / name, *options, *flags)
        pictures = torch.stack([pixels_of(tmp_path / name / file) for file in files_in(tmp_path / name)])
        deviation[name] = float(pictures.double().std())
    assert deviation["ddpm"] == pytest.approx(deviation["ddim"], rel=0.1)
    assert deviation["mean"] < 0.5 * deviation["ddim"]


def test_rows_and_recipes_contain_sampling_settings(done: Run, tmp_path: Path) -> None:
    outcome = done("sample", "-n", 2, "--seed", 3, "--eta", "0.5", "--steps", 4, "-o", tmp_path / "out", "--json")
    assert outcome.rows == [{"output": str(tmp_path / "out" / f"seed-000{seed}.png"), "seed": seed} for seed in (3, 4)]
    recipe = read_recipe(tmp_path / "out" / "seed-0004.png")
    assert recipe is not None
    told = {"kind": "sample", "model": "tiny", "solver": "ddim", "seed": 4, "eta": 0.5, "steps": 4}
    assert recipe.items() >= (told | {"posterior_mean": False, "grid": InversionConfig().grid}).items()


def test_the_largest_seed_can_be_drawn(done: Run, tmp_path: Path) -> None:
    assert list(drawn(done, tmp_path, "-n", 2, "--seed", 2**32 - 1)) == ["seed-4294967295.png", "seed-4294967296.png"]
