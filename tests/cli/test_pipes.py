"""Named pipes in the place of every kind of file: each ends in one sentence, and nothing waits for them."""

import os
from pathlib import Path

import pytest

from .. import tiny
from .conftest import Run

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

LINES = [
    "decode PIPE.latent.safetensors -o OUT",
    "export PIPE.latent.safetensors --to npy -o OUT",
    "invert PIPE.png -o OUT",
    "edit IN.png --set PIPE.direction.safetensors -o OUT",
    "interpolate PIPE.latent.safetensors IN.png -o OUT/x.png",
    "import PIPE.npy -o OUT",
    "import PIPE.safetensors -o OUT",
    "import IN.npy --like PIPE.latent.safetensors -o OUT",
    "sample --model PIPE.safetensors -o OUT",
    "sample --model PIPE.pt -o OUT",
    "show PIPE.png",
    "show PIPE.pt",
    "show PIPE.latent.safetensors",
    "show PIPE.direction.safetensors",
    "fit x --images . --labels PIPE.csv --column a -o OUT.direction.safetensors",
    "likelihood PIPE.png",
    "--config PIPE.toml models",
]


@pytest.mark.parametrize("line", LINES)
def test_a_pipe_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save_picture(tmp_path / "IN.png")
    (tmp_path / "IN.npy").touch()
    for word in line.split():
        if word.startswith("PIPE"):
            os.mkfifo(tmp_path / word)
    outcome = run(*line.split())
    assert outcome.status in (1, 2)
    assert "not a regular file" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", ["store.json", "model.json", "pictures.jsonl", "shard-00000.safetensors"])
def test_pipes_in_a_store_are_refused(run: Run, tmp_path: Path, name: str) -> None:
    image = tiny.save_picture(tmp_path / "a.png")
    run("invert", image, "-o", tmp_path / "s.latents", "--steps", "2")
    (tmp_path / "s.latents" / name).unlink()
    os.mkfifo(tmp_path / "s.latents" / name)
    lines = [["invert", image, "-o", tmp_path / "s.latents", "--steps", "2"]]
    if name in ("pictures.jsonl", "shard-00000.safetensors"):
        lines.append(["decode", tmp_path / "s.latents", "-o", tmp_path / "out"])
    for line in lines:
        outcome = run(*line)
        assert outcome.status == 1
        assert "not a regular file" in outcome.err
