"""`combine`: the weighted sum of images as an image or a latent file."""

import json
from pathlib import Path

import pytest

from ddim_edit import Editor, Latent, Recipe
from ddim_edit.images import read_recipe, to_uint8
from ddim_edit.latents.latent import combine

from ..rounding import assert_shown_alike
from .conftest import Run, pixels_of


def test_a_combination_is_that_of_the_editor(done: Run, latents: list[Path], model: Path, tmp_path: Path) -> None:
    outcome = done("combine", *latents[:3], "--weights", "0.5,0.3,-0.2", "-o", tmp_path / "mix.png")
    assert outcome.out == f"{tmp_path / 'mix.png'}\n"
    made = combine([Latent.load(path) for path in latents[:3]], [0.5, 0.3, -0.2])
    assert_shown_alike(pixels_of(tmp_path / "mix.png"), to_uint8(Editor.from_pretrained(model).decode(made)))
    recipe = read_recipe(tmp_path / "mix.png")
    assert recipe is not None
    assert Recipe.from_json(recipe) == made.recipe
    assert json.loads(done("show", tmp_path / "mix.png").out) == {"recipe": recipe}


def test_images_are_inverted_and_weighed_alike(
    done: Run, pictures: list[Path], latents: list[Path], tmp_path: Path
) -> None:
    done("combine", *latents[:3], "-o", tmp_path / "of-latents.png")
    rows = done("combine", *pictures[:3], "-o", tmp_path / "of-images.png", "--json", "--dtype", "fp32").rows
    output = str(tmp_path / "of-images.png")
    assert rows == [{"inputs": [str(path) for path in pictures[:3]], "weights": [1.0, 1.0, 1.0], "output": output}]
    assert_shown_alike(pixels_of(tmp_path / "of-images.png"), pixels_of(tmp_path / "of-latents.png"))


def test_a_combined_latent_decodes_to_the_combined_image(done: Run, latents: list[Path], tmp_path: Path) -> None:
    for name in ("mix.latent.safetensors", "mix.png"):
        done("combine", *latents[:2], "--weights", "2,-1", "-o", tmp_path / name)
    done("decode", tmp_path / "mix.latent.safetensors", "-o", tmp_path / "decoded.png")
    assert (tmp_path / "decoded.png").read_bytes() == (tmp_path / "mix.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "1,2", "-o", "out.png"], "There are 3 inputs and 2 weights. Give a weight for each input."),
        (["--weights", "0,0,0", "-o", "out.png"], "All weights are 0."),
        (["--weights", "1,a,2", "-o", "out.png"], "'1,a,2' is not a list of numbers with commas between them"),
        (["-o", "out.mp4"], "The output must end in "),
        (["-o", "out"], "The output must end in "),
    ],
)
def test_what_cannot_be_combined_is_refused_before_computation(
    run: Run, latents: list[Path], evaluations: list[int], options: list[str], message: str
) -> None:
    outcome = run("combine", *latents[:3], *options)
    assert outcome.status == 2
    assert message in outcome.err
    assert not evaluations


def test_latents_that_cancel_are_refused(run: Run, latents: list[Path], tmp_path: Path) -> None:
    outcome = run("combine", latents[0], latents[0], "--weights", "1,-1", "-o", tmp_path / "mix.png")
    assert outcome.status == 1
    assert outcome.errors == [
        "error: These latents cancel with these weights, and nothing is left of their sum. Choose other weights."
    ]
    assert not (tmp_path / "mix.png").exists()
