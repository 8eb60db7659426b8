"""Conditions on the command line, on tiny folders shaped as Stable Diffusion, DiT and LDM, with nothing downloaded."""

import json
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddim_edit import Latent

from .. import pipelines, tiny
from ..rounding import assert_shown_alike
from .conftest import Run, files_in, pixels_of

PROMPT = ["--prompt", "a photo of the old man"]
FEW = ["--steps", "4"]


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 2 folder: v-prediction, its own tokenizer and text encoder."""
    folder = tmp_path_factory.mktemp("painter")
    make = partial(pipelines.stable_diffusion, folder / "words", "v_prediction")
    return pipelines.save(make, folder / "stable-diffusion", share=0.1)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    return pipelines.save(partial(pipelines.dit, folder / "words"), folder / "dit")


@pytest.fixture
def portraits(tmp_path: Path) -> list[Path]:
    return [tiny.save_picture(tmp_path / "in" / f"{name}.png", seed, 40, 40) for seed, name in enumerate("ab")]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_interpolation_with_prompt(done: Run, painter: Path, portraits: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "strip.png"
    line = ["interpolate", *portraits, "--model", painter, *PROMPT, *FEW, "--frames", "3", "--upscale", "1", "-o", out]
    done(*line)
    # A line of labels is above.
    assert pixels_of(out).shape == (3, 32 + 6, 3 * 32 + 4)


def test_latents_decode_with_recorded_prompt(done: Run, painter: Path, portraits: list[Path], tmp_path: Path) -> None:
    guided = [*PROMPT, "--negative-prompt", "young", "--guidance-scale", "2"]
    done("invert", *portraits, "--model", painter, *guided, *FEW, "-o", tmp_path / "codes")
    files = sorted((tmp_path / "codes").iterdir())
    condition = Latent.load(files[0]).recipe.condition
    assert condition.as_dict() == {
        "prompt": "a photo of the old man",
        "negative_prompt": "young",
        "guidance_scale": 2.0,
    }
    for name, other in {
        "own": [],
        "same": guided,
        "dog": ["--prompt", "young woman"],
        "plain": ["--guidance-scale", "1"],
    }.items():
        done("decode", *files, "--model", painter, *other, "-o", tmp_path / name)
    own, same, dog, plain = (pixels_of(tmp_path / name / "a.png") for name in ("own", "same", "dog", "plain"))
    assert_shown_alike(own, same)
    assert not torch.equal(own, dog)
    assert not torch.equal(own, plain)
    shown = done("show", tmp_path / "dog" / "a.png")
    assert '"prompt": "young woman"' in shown.out


def test_codec_error_is_reported_separately(done: Run, painter: Path, portraits: list[Path], tmp_path: Path) -> None:
    line = ["reconstruct", *portraits, "--model", painter, *PROMPT, "--steps", "10", "--exact", "-q"]
    plain = done(*line, "--json", "-o", tmp_path / "plain").rows
    refined = done(*line, "--json", "--refine-codec", "gradient", "-o", tmp_path / "refined").rows
    table = done(*line, "-o", tmp_path / "table").out
    assert "codec" in table.splitlines()[0]
    for before, after in zip(plain, refined, strict=True):
        # A random autoencoder loses nearly all; an exact walk loses nothing on top of it.
        assert before["converged"]
        assert before["psnr"] == pytest.approx(before["codec_psnr"], abs=0.05)
        assert before["codec_error"] > before["error"]
        assert after["codec_psnr"] > before["codec_psnr"] + 1


def test_classes_are_selected_by_number(done: Run, run: Run, classifier: Path, tmp_path: Path) -> None:
    for name, options in {"three": ["--class", "3"], "five": ["--class", "5"], "none": []}.items():
        done("sample", "--model", classifier, *options, *FEW, "-o", tmp_path / name)
    pictures = [pixels_of(tmp_path / name / "seed-0000.png") for name in ("three", "five", "none")]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
    refused = run("sample", "--model", classifier, "--class", "1000", *FEW, "-o", tmp_path / "ten")
    assert refused.status == 1
    (error,) = refused.errors
    assert error.endswith("The class 1000 does not exist. dit follows classes from 0 to 999: choose one.")
    assert not (tmp_path / "ten").exists()


def test_unsupported_conditioning_is_refused(
    run: Run, model: Path, painter: Path, portraits: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for line, told in [
        (["--model", model, *PROMPT], "tiny is unconditional: it follows no prompt, class or guidance"),
        (["--model", painter, "--class", "3"], "stable-diffusion follows prompts, not classes"),
        (["--model", painter, "--size", "33"], "The size must be in multiples of 2 pixels"),
        (["--model", model, "--refine-codec", "gradient"], "tiny has no autoencoder to refine"),
    ]:
        refused = run("invert", *portraits, *line, *FEW, "-o", out)
        assert refused.status == 1
        assert len(refused.errors) == 1
        assert told in refused.errors[0]
        assert files_in(out) == []


def test_other_image_sizes_are_accepted_where_supported(
    done: Run, painter: Path, portraits: list[Path], tmp_path: Path
) -> None:
    done("invert", portraits[0], "--model", painter, *PROMPT, *FEW, "--size", "48x32", "-o", tmp_path)
    latent = Latent.load(tmp_path / "a.latent.safetensors")
    assert latent.x.shape == (4, 16, 24)
    done("decode", tmp_path / "a.latent.safetensors", "--model", painter, "--size", "48x32", "-o", tmp_path)
    assert pixels_of(tmp_path / "a.png").shape == (3, 32, 48)


def test_uncached_id_is_refused_offline(
    run: Run, portraits: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    refused = run("invert", portraits[0], "--model", "nobody/nothing", "--offline", "-o", tmp_path / "out")
    assert refused.status == 1
    assert len(refused.errors) == 1
    assert "nobody/nothing" in refused.errors[0]
    assert files_in(tmp_path) == ["in/a.png", "in/b.png"]


def test_show_describes_checkpoints(done: Run, painter: Path, classifier: Path) -> None:
    shown = json.loads(done("show", painter).out)
    assert (shown["follows"], shown["notes"]) == ("prompts", [])
    assert (shown["latent_shape"], shown["image_size"], shown["codec"]) == ([4, 16, 16], [32, 32], "AutoencoderCodec")
    assert (shown["prediction"], shown["schedule"]["kind"]) == ("v_prediction", "scaled_linear")
    assert json.loads(done("show", classifier).out)["follows"] == "classes from 0 to 999"


def test_a_lora_is_given_again_to_decode(
    run: Run, done: Run, painter: Path, portraits: list[Path], tmp_path: Path
) -> None:
    lora = tmp_path / "ink.safetensors"
    matrices = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(8, 2, 1, 1),
    }
    save_file(matrices, lora)
    options = ["--model", painter, "--lora", f"{lora}:0.1", "--scheduler", "linear", "--vae", painter]
    done("invert", portraits[0], *options, *PROMPT, *FEW, "-o", tmp_path / "codes")
    done("decode", tmp_path / "codes", *options, "-o", tmp_path / "out")
    outcome = run("decode", tmp_path / "codes", *options, "--lora", lora, "-o", tmp_path / "other")
    assert outcome.status == 1
    assert "another network (other weights)" in outcome.err


def test_a_lora_that_does_not_exist_is_named(run: Run, painter: Path, portraits: list[Path], tmp_path: Path) -> None:
    outcome = run("invert", portraits[0], "--model", painter, "--lora", "ink.pt", "-o", tmp_path / "codes")
    assert (outcome.status, outcome.errors) == (
        1,
        ["error: There is no LoRA 'ink.pt'. Name a file of one, or its folder."],
    )


def test_the_dtype_of_text_encoders_is_given_again_to_decode(
    run: Run, done: Run, painter: Path, portraits: list[Path], tmp_path: Path
) -> None:
    options = ["--model", painter, "--encoder-dtype", "bf16"]
    done("invert", portraits[0], *options, *PROMPT, *FEW, "-o", tmp_path / "codes")
    done("decode", tmp_path / "codes", *options, "-o", tmp_path / "out")
    outcome = run("decode", tmp_path / "codes", "--model", painter, "-o", tmp_path / "other")
    assert outcome.status == 1
    assert "another text encoder (other settings)" in outcome.err


def test_offloading_to_no_gpu_is_refused(run: Run, painter: Path, portraits: list[Path], tmp_path: Path) -> None:
    outcome = run("invert", portraits[0], "--model", painter, "--offload", "model", "-o", tmp_path / "codes")
    assert (outcome.status, outcome.errors) == (
        1,
        ["error: offload frees the memory of a GPU that has its own, and cpu has that of the processor. Leave it out."],
    )
