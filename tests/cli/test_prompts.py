"""Conditions on the command line, on tiny folders shaped as Stable Diffusion, DiT and LDM, with nothing downloaded."""

import json
import shlex
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddim_edit import Condition, Editor, InversionConfig, Latent, WordDirection, load_model
from ddim_edit.images import to_uint8
from ddim_edit.latents.image_recipes import command_line, recipe_from_json

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


WORDS = ["--prompt", "a photo of the man", *FEW]


def test_words_are_directions_of_models_that_follow_prompts(
    done: Run, painter: Path, portraits: list[Path], tmp_path: Path
) -> None:
    editor = Editor(load_model(painter, dtype="float32"))
    config = InversionConfig(steps=4, condition=Condition("a photo of the man"))
    smiling = WordDirection("smiling", mask_quantile=0.5)
    old = WordDirection("the old man", "the man", "embedding")
    lines = {
        "set": (["--set", "smiling=+2", "--mask-quantile", "0.5"], {smiling: 2.0}),
        "pair": (["--from", "the man", "--to", "the old man=+3", "--words", "embedding"], {old: 3.0}),
        "keep": (["--set", "smiling", "--keep", "old", "--warm-up", "0.2"], None),
        "zero": (["--set", "smiling=0"], {smiling: 0.0}),
    }
    for name, (options, strengths) in lines.items():
        done("edit", *portraits, "--model", painter, *WORDS, *options, "--output-size", "model", "-o", tmp_path / name)
        if strengths is not None:
            written = torch.stack([pixels_of(tmp_path / name / f"{letter}-edited.png") for letter in "ab"])
            assert_shown_alike(written, to_uint8(editor.edit(portraits, strengths, config=config)))


def test_words_are_in_the_recipe_which_makes_the_image_again(
    done: Run, painter: Path, portraits: list[Path], tmp_path: Path
) -> None:
    options = ["--from", "a man / woman", "--to", "old=+2", "--keep", "smiling", "--mask-quantile", "0.5"]
    line = ["edit", portraits[0], "--model", painter, *WORDS, *options, "--output-size", "model"]
    (row,) = done(*line, "-o", tmp_path / "out", "--json").rows
    record = json.loads(done("show", tmp_path / "out" / "a-edited.png").out)["recipe"]
    assert (record["set"], record["keep"]) == ({"a man / woman -> old": 2.0}, ["smiling"])
    assert record["words"] == {
        "a man / woman -> old": {"to": "old", "from": "a man / woman", "mask_quantile": 0.5},
        "smiling": {"to": "smiling", "mask_quantile": 0.5},
    }
    assert record["config"]["condition"] == {"prompt": "a photo of the man"}
    assert row["words"] == record["words"]
    recipe = recipe_from_json(record)
    assert recipe.to_json() == record
    again = shlex.split(command_line(recipe, [str(portraits[0])], str(tmp_path / "again")))
    done(*again[1:], "--model", painter, "--output-size", "model")
    assert_shown_alike(pixels_of(tmp_path / "again" / "a-edited.png"), pixels_of(tmp_path / "out" / "a-edited.png"))


def test_a_strip_of_words_has_the_photograph_in_its_middle(
    done: Run, painter: Path, portraits: list[Path], tmp_path: Path
) -> None:
    small = tiny.save_picture(tmp_path / "small.png", 1, 32, 32)
    line = ["edit", small, "--model", painter, *WORDS, "--set", "smiling=2", "--strip", "-1:1:3", "--upscale", "1"]
    done(*line, "-o", tmp_path)
    strip = pixels_of(tmp_path / "small-strip.png")
    assert torch.equal(strip[:, -32:, -66:-34], pixels_of(small))


def test_words_are_refused_in_one_sentence(
    run: Run, model: Path, painter: Path, classifier: Path, portraits: list[Path], tmp_path: Path
) -> None:
    for line, status, told in [
        (["--model", model, "--set", "smiling=2"], 1, "Words are for models that follow prompts, and tiny does not."),
        (["--model", model, "--from", "a", "--to", "b"], 1, "tiny is unconditional: it follows no words."),
        (["--model", "faces64", "--set", "grinning=2"], 2, "Words are for a --model that follows prompts."),
        (["--model", "faces64", "--from", "a", "--to", "b"], 2, "faces64 follows no words."),
        (["--model", "faces64", "--set", "old=2", "--words", "guidance"], 2, "old is a fitted direction."),
        (["--model", "faces64", "--set", "old=2", "--steps", "9"], 2, "as old was fitted. Leave --steps out."),
        (["--model", painter, "--to", "b"], 2, "--from and --to go in pairs."),
        (["--model", painter, "--from", "b", "--to", "b"], 2, "not from 'b' to 'b'."),
        (["--set", "b", "--words", "embedding", "--warm-up", "0.1"], 2, "warm_up is for the form 'guidance'."),
        (["--model", painter], 2, "Missing option '--set'."),
        (["--model", painter, "--set", "smiling", "--mask-quantile", "1"], 2, "0<=x<1"),
        (["--model", painter, "--set", "smiling", "--keep", "smiling"], 1, "'smiling' is to change and to stay."),
        (["--model", classifier, "--set", "smiling"], 1, "dit follows classes from 0 to 999, not words."),
        (["--model", classifier, "--set", "5", "--words", "embedding"], 1, "which have no embeddings."),
    ]:
        refused = run("edit", portraits[0], *line, "-o", tmp_path / "out")
        assert refused.status == status, refused.err
        assert told in refused.err
        assert "Traceback" not in refused.err
        assert files_in(tmp_path / "out") == []


def test_classes_are_words_by_their_numbers(done: Run, classifier: Path, portraits: list[Path], tmp_path: Path) -> None:
    line = ["edit", portraits[0], "--model", classifier, "--class", "3", *FEW, "--from", "3", "--to", "5=2"]
    (row,) = done(*line, "-o", tmp_path / "out", "--json").rows
    assert row["words"] == {"3 -> 5": {"from": "3", "to": "5"}}
