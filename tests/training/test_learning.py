"""A few seconds of training on one processor: the loss falls, and the model inverts images exactly."""

import json
from pathlib import Path

import pytest
import torch

from ddim_edit import Editor, InversionConfig
from ddim_edit.images import to_uint8
from ddim_edit.training import FineTuning, FreshNetwork, Settings, Trainer

from .conftest import SIZE, save_discs

SHORT = Settings(
    origin=FreshNetwork("tiny", "v_prediction"),
    steps=90,
    batch_size=16,
    lr=4e-3,
    ema_decay=0.97,
    flip=True,
    save_every=30,
    samples=0,
)


@pytest.mark.slow
def test_training_lowers_loss_and_model_inverts_exactly(tmp_path: Path) -> None:
    pictures, unseen = save_discs(tmp_path / "discs", 128), save_discs(tmp_path / "unseen", 2, first=1000)
    rows = Trainer(pictures, tmp_path / "model", SHORT, "cpu").run()
    losses = [row.held_out for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.65 * losses[0]  # 0.45 where this was written

    editor = Editor.from_pretrained(tmp_path / "model", "cpu", "float32")
    found = editor.reconstruct(unseen, InversionConfig(exact=True))
    assert [score["converged"] for score in found.scores] == [True, True]
    assert torch.equal(to_uint8(found.decoded), to_uint8(found.originals))


@pytest.mark.slow
def test_faces64_is_fine_tuned_on_other_images(tmp_path: Path) -> None:
    """Discs at half its size, which it has never seen: some steps are enough to be surprised less."""
    pictures = save_discs(tmp_path / "discs", 24)
    settings = Settings(
        origin=FineTuning("faces64"),
        size=SIZE,
        steps=10,
        batch_size=16,
        lr=2e-4,
        warm_up=2,
        ema_decay=0.3,
        save_every=10,
        samples=0,
    )
    rows = Trainer(pictures, tmp_path / "model", settings, "cpu").run()
    assert rows[-1].held_out < 0.9 * rows[0].held_out  # 0.81 where this was written
    config = json.loads((tmp_path / "model" / "unet" / "config.json").read_text())
    assert (config["sample_size"], config["block_out_channels"]) == (SIZE, [64, 128, 128, 256])
    assert Editor.from_pretrained(tmp_path / "model", "cpu", "float32").model.size == (SIZE, SIZE)
