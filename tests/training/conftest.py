"""Pictures in closed form to learn from, and trainings of them so short that tests may run many."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddim_edit.training import NETWORKS, FreshNetwork, Settings, Trainer

SIZE = 16
# Eight weights wide: what is tested here are bits and bookkeeping, not how well it learns.
MINUTE = {
    "sample_size": SIZE,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
    "dropout": 0.1,
}


def disc(seed: int) -> np.ndarray:
    """A disc of one colour on another, uint8 [SIZE, SIZE, 3]; place, radius and colours are the seed's."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    centre, radius = random.uniform(0.35, 0.65, 2) * (SIZE - 1), random.uniform(0.15, 0.3) * SIZE
    colours = random.uniform(20, 235, (2, 3))
    cover = np.clip(radius - np.hypot(x - centre[0], y - centre[1]) + 0.5, 0, 1)[..., None]
    return (colours[0] * (1 - cover) + colours[1] * cover).astype(np.uint8)


def save_discs(folder: Path, count: int, first: int = 0) -> Path:
    """Write that many of them, 000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(disc(first + number)).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(autouse=True)
def minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network beside the others that learns in milliseconds."""
    monkeypatch.setitem(NETWORKS, "minute", MINUTE)  # type: ignore[arg-type]


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """A folder of twelve pictures."""
    return save_discs(tmp_path / "discs", 12)


Train = Callable[..., Trainer]


def make_trainer(images: Path, folder: Path, **settings: Any) -> Trainer:
    """Make a short training of the minute network, with some of its settings replaced."""
    usual = {
        "origin": FreshNetwork("minute"),
        "steps": 6,
        "batch_size": 4,
        "lr": 1e-3,
        "save_every": 2,
        "samples": 0,
    }
    return Trainer(images, folder, Settings(**{**usual, **settings}), "cpu")


@pytest.fixture
def trainer(discs: Path, tmp_path: Path) -> Train:
    """Such a training on those pictures, in a folder of this name."""
    return lambda name="model", **settings: make_trainer(discs, tmp_path / name, **settings)


def everything_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def generator_state() -> bytes:
    return bytes(torch.random.get_rng_state().numpy())
