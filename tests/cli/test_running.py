"""How a network is run, by options: compiled, in which dtype, in batches of which size."""

from pathlib import Path

import pytest
import torch

from ddim_edit import Latent
from ddim_edit.cli.session import LONG_JOB, Session

from .conftest import Run, pixels_of

LATENT = ".latent.safetensors"


@pytest.mark.slow
def test_compiled_network_gives_same_latent_and_announces_compilation(
    done: Run, pictures: list[Path], tmp_path: Path
) -> None:
    outcome = done("invert", pictures[0], "-o", tmp_path / "compiled", "--compile", "on", "--steps", 4)
    assert "compiling the network first" in outcome.err
    done("invert", pictures[0], "-o", tmp_path / "plain", "--compile", "off", "--steps", 4)
    one, other = (Latent.load(tmp_path / name / f"a{LATENT}") for name in ("compiled", "plain"))
    torch.testing.assert_close(one.x, other.x, rtol=0, atol=1e-4)


def session(device: str, evaluations: int) -> Session:
    return Session(device=device, quiet=True, expected=evaluations)


@pytest.mark.parametrize(
    ("device", "evaluations", "pays"),
    [
        ("cuda", LONG_JOB, True),
        ("cuda:1", LONG_JOB, True),
        ("cuda", LONG_JOB - 1, False),
        ("cpu", 10 * LONG_JOB, False),
        ("auto", 10 * LONG_JOB, torch.cuda.is_available()),
    ],
)
def test_compilation_default_for_long_gpu_jobs(device: str, evaluations: int, pays: bool) -> None:
    assert session(device, evaluations).compiled is pays


def test_emulated_dtype_warns(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    outcome = done("invert", pictures[0], "-o", tmp_path, "--dtype", "fp16", "--steps", 2, "--device", "cpu")
    assert outcome.warnings == ["warning: float16 is emulated on this cpu, slower than --dtype fp32"]
    assert not done("invert", pictures[0], "-o", tmp_path, "--dtype", "fp32", "--steps", 2, "--overwrite").warnings


def test_exact_inversion_uses_float32(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    for options, dtypes in ((["--exact"], {"float32"}), ([], {"float32", "mixed"})):
        folder = tmp_path / f"out{len(options)}"
        outcome = run("invert", pictures[0], "-o", folder, "--steps", 4, "--dtype", "auto", *options)
        assert outcome.status == 0
        assert Latent.load(folder / f"a{LATENT}").recipe.dtype in dtypes


def test_mixed_precision_latents_decode_in_mixed_precision(done: Run, pictures: list[Path], tmp_path: Path) -> None:
    """Only the very bits of a bfloat16 network, which one machine makes anew, take a pair back."""
    done("invert", pictures[0], "-o", tmp_path / "latents", "--lossless", "--dtype", "mixed")
    assert "in mixed on cpu" in done("decode", tmp_path / "latents", "-o", tmp_path / "out").err
    assert torch.equal(pixels_of(tmp_path / "out" / "a.png"), pixels_of(pictures[0]))
