"""A minute of learning on one processor: the loss falls, pictures appear, and they come back exactly."""

import json
from pathlib import Path

import pytest
import torch

from ddim_edit import Editor, InversionConfig
from ddim_edit.images import to_uint8
from ddim_edit.training import FineTuning, FreshNetwork, Settings, Trainer

from .conftest import SIZE, save_discs

MINUTE = Settings(
    origin=FreshNetwork("tiny", "v_prediction"),
    steps=360,
    batch_size=16,
    lr=2e-3,
    ema_decay=0.99,
    flip=True,
    save_every=120,
    sample_every=360,
)


@pytest.mark.slow
def test_training_lowers_the_validation_loss_and_the_model_inverts_exactly(tmp_path: Path) -> None:
    pictures, unseen = save_discs(tmp_path / "discs", 256), save_discs(tmp_path / "unseen", 4, first=1000)
    rows = Trainer(pictures, tmp_path / "model", MINUTE, "cpu").run()
    losses = [row.held_out for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.48 * losses[0]

    editor = Editor.from_pretrained(tmp_path / "model", "cpu", "float32")
    latents = editor.invert(unseen, InversionConfig(exact=True))
    assert all(latent.report["converged"] for latent in latents)
    originals = editor.reconstruct(unseen, InversionConfig(exact=True))
    assert [score["identical_pixels"] for score in originals.scores] == [1.0] * 4
    assert torch.equal(to_uint8(editor.decode(latents)), to_uint8(originals.originals))


@pytest.mark.slow
def test_faces64_is_fine_tuned_on_other_images(tmp_path: Path) -> None:
    """Discs at half its size, which it has never seen: some steps are enough to be surprised less."""
    pictures = save_discs(tmp_path / "discs", 24)
    settings = Settings(
        origin=FineTuning("faces64"),
        size=SIZE,
        steps=16,
        batch_size=8,
        lr=1e-4,
        warm_up=2,
        ema_decay=0.5,
        save_every=16,
        samples=0,
    )
    rows = Trainer(pictures, tmp_path / "model", settings, "cpu").run()
    assert rows[-1].held_out < 0.9 * rows[0].held_out
    config = json.loads((tmp_path / "model" / "unet" / "config.json").read_text())
    assert (config["sample_size"], config["block_out_channels"]) == (SIZE, [64, 128, 128, 256])
    assert Editor.from_pretrained(tmp_path / "model", "cpu", "float32").model.size == (SIZE, SIZE)
