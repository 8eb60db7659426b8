"""Latent files that are not what they should be: of another model, of other weights, broken or foreign."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddim_edit import Latent

from .. import tiny
from .conftest import Outcome, Run, files_in


def refusal(outcome: Outcome, latent: Path) -> str:
    """The one sentence in which this latent, and nothing else, is refused."""
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    (error,) = outcome.errors
    assert error.startswith(f"error: {latent}: ")
    return error


def test_other_model_is_refused_naming_both(run: Run, latents: list[Path], other_model: Path, tmp_path: Path) -> None:
    error = refusal(run("decode", latents[0], "-o", tmp_path / "out", "--model", other_model), latents[0])
    assert "of tiny and was made with another network (other weights" in error
    assert "than other has" in error
    assert "--force" in error
    assert not (tmp_path / "out").exists()


def test_other_weights_of_same_name_are_refused(run: Run, latents: list[Path], tmp_path: Path) -> None:
    twin = tiny.save_model(tmp_path / "tiny", seed=2)
    error = refusal(run("decode", latents[0], "-o", tmp_path / "out", "--model", twin), latents[0])
    assert "of tiny and was made with another network (other weights) than tiny has" in error


@pytest.mark.parametrize("change", [{"beta_end": 0.03}, {"prediction_type": "epsilon"}], ids=str)
def test_other_scheduler_with_same_weights_is_refused(
    run: Run, latents: list[Path], model: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    twin = tmp_path / "tiny"
    shutil.copytree(model, twin)
    tiny.write_json(twin / "scheduler" / "scheduler_config.json", tiny.SCHEDULER | change)
    error = refusal(run("decode", latents[0], "-o", tmp_path / "out", "--model", twin), latents[0])
    assert str(next(iter(change.values()))) in error


def test_another_dtype_is_refused(run: Run, latents: list[Path], tmp_path: Path) -> None:
    error = refusal(run("decode", latents[0], "-o", tmp_path / "out", "--dtype", "bf16"), latents[0])
    assert "bfloat16" in error
    assert "float32" in error


def test_force_decodes_with_another_model(done: Run, latents: list[Path], other_model: Path, tmp_path: Path) -> None:
    done("decode", *latents, "-o", tmp_path / "own")
    done("decode", *latents, "-o", tmp_path / "forced", "--model", other_model, "--force")
    assert files_in(tmp_path / "own") == files_in(tmp_path / "forced")
    for name in files_in(tmp_path / "own"):
        assert (tmp_path / "own" / name).read_bytes() != (tmp_path / "forced" / name).read_bytes()


def test_force_cannot_change_the_shape(run: Run, latents: list[Path], tmp_path: Path) -> None:
    large = tiny.save_model(tmp_path / "large", unet={"sample_size": 32})
    outcome = run("decode", latents[0], "-o", tmp_path / "out", "--model", large, "--force")
    error = refusal(outcome, latents[0])
    assert "[3, 32, 32]" in error
    assert "[3, 16, 16]" in error


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def with_header(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        latent = Latent.load(path)
        recipe = latent.recipe.to_json() | changes
        header = {"recipe": recipe, "report": {}, "t": latent.t}
        save_file({"x": latent.x}, path, {"ddim-edit": json.dumps(header)})

    return change


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (cut_short, "not a latent file"),
    "empty": (lambda path: path.write_bytes(b""), "not a latent file"),
    "text": (lambda path: path.write_text("a letter"), "not a latent file"),
    "missing": (lambda path: path.unlink(), "no such file"),
    "foreign": (lambda path: save_file({"x": torch.zeros(3, 16, 16)}, path), "it has no 'ddim-edit' header"),
    "of the future": (with_header(format=4), "use the version that wrote it"),
    "with an unknown field": (with_header(colour="red"), "colour is not a known entry"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_latent_does_not_end_batch(run: Run, latents: list[Path], tmp_path: Path, name: str) -> None:
    break_it, words = BROKEN[name]
    break_it(latents[0])
    outcome = run("decode", *latents[:2], "-o", tmp_path / "out")
    assert words in refusal(outcome, latents[0])
    assert outcome.out == f"{tmp_path / 'out' / 'b.png'}\n"
    assert files_in(tmp_path / "out") == ["b.png"]


@pytest.mark.parametrize("command", ["decode", "interpolate"])
def test_non_finite_latent_is_refused(run: Run, latents: list[Path], tmp_path: Path, command: str) -> None:
    latent = Latent.load(latents[0])
    latent.x[0, 0, 0] = float("nan")
    header = {"recipe": latent.recipe.to_json(), "report": {}, "t": latent.t}
    save_file({"x": latent.x}, latents[0], {"ddim-edit": json.dumps(header)})
    outcome = run(command, *latents[:2], "-o", tmp_path / "out", "--force" if command == "decode" else "-q")
    assert outcome.status == 1
    assert "The latent contains NaN or infinite values" in outcome.errors[0]


def test_folder_without_latents_is_refused(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = run("decode", tmp_path / "in", "-o", tmp_path / "out")
    assert "there are no *.latent.safetensors files here" in refusal(outcome, tmp_path / "in")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nosuchmodel"], "one of faces64"),
        (["--device", "tpu"], "This machine has no device tpu"),
        (["--device", "cpu:x"], "This machine has no device cpu:x"),
    ],
    ids=str,
)
def test_fatal_error_is_printed_once(
    run: Run, pictures: list[Path], latents: list[Path], tmp_path: Path, options: list[str], words: str
) -> None:
    for command, inputs in {"invert": pictures, "decode": latents, "interpolate": pictures, "sample": []}.items():
        target = tmp_path / "strip.png" if command == "interpolate" else tmp_path / "out"
        outcome = run(command, *inputs, "-o", target, *options)
        assert outcome.status == 1
        assert len(outcome.err.splitlines()) == len(outcome.errors) == 1
        assert words in outcome.errors[0]
