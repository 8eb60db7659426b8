"""Everything once on a device that has no float64: the CPU's tensors, marked, which refuse it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ddim_edit import Editor, InversionConfig, load_model
from ddim_edit.evaluation.likelihood.bits import LikelihoodConfig, log_likelihood
from ddim_edit.metrics import LPIPS
from ddim_edit.models import loading
from ddim_edit.models.autoencoders import load_autoencoder
from ddim_edit.models.codec.refinement import REFINERS
from ddim_edit.training import FreshNetwork, Settings, Trainer, trainer

from . import tiny
from .models.test_autoencoders import network, pictures, saved
from .no_float64 import DEVICE, Threads, WithoutFloat64
from .training.conftest import minute, save_discs

__all__ = ["minute"]


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    monkeypatch.setattr(loading, "find_device", lambda name: DEVICE)
    monkeypatch.setattr(sys.modules["ddim_edit.io.prefetch"], "ThreadPoolExecutor", Threads)
    with WithoutFloat64():
        yield DEVICE


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    return Editor(load_model(tiny.save_model(tmp_path / "tiny"), device="mps"))


def test_stand_in_refuses_float64_on_the_device_only() -> None:
    x = torch.ones(2).to(DEVICE)
    assert x.device == (x + 1).device == DEVICE
    for ask in (x.double, lambda: x * torch.ones(2, dtype=torch.float64), lambda: torch.zeros(1).double().to(DEVICE)):
        with pytest.raises(RuntimeError, match="float64"):
            ask()
    assert x.cpu().double().device == torch.zeros(1, dtype=torch.float64).device == torch.device("cpu")


def test_editor_works(editor: Editor, tmp_path: Path) -> None:
    files = [tiny.save_picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    assert editor._scorer._functions["lpips"]._device == DEVICE
    method = InversionConfig(steps=4)
    for each in (
        method,
        InversionConfig(steps=4, exact=True),
        InversionConfig(solver="midpoint", steps=3, dequantise=1),
    ):
        done = editor.reconstruct(files, each)
        assert torch.isfinite(done.decoded).all()
        assert all(score["lpips"] is not None for score in done.scores)
        assert editor.decode(done.latents).shape == done.decoded.shape
    for level in ("0.4T", "h"):
        direction = editor.attribute_from(files[:2], files[2:], level=level, config=method)
        assert torch.isfinite(editor.edit(files[:1], {direction: 1.0})).all()
    assert torch.isfinite(editor.sample(2, config=method, eta=0.5)).all()


def test_likelihood_works(editor: Editor) -> None:
    images = torch.zeros(1, 3, tiny.SIZE, tiny.SIZE)
    assert log_likelihood(editor.model, images, LikelihoodConfig(steps=2, probes=2)).bits.isfinite().all()


@pytest.mark.parametrize("name", REFINERS)
def test_autoencoder_encodes_and_is_refined(name: str, tmp_path: Path) -> None:
    codec = load_autoencoder(saved(network("stable diffusion"), tmp_path), DEVICE)
    x0 = codec.encode(pictures(1))
    refined = REFINERS[name](codec, pictures(1), x0)
    assert codec.decode(refined).dtype == x0.dtype == torch.float64


def test_lpips_falls_back_to_the_cpu() -> None:
    a = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    wanted = LPIPS()(a, a.roll(1, -1))
    for error in (torch.OutOfMemoryError("out of memory"), NotImplementedError("not implemented for MPS")):
        distance = LPIPS(DEVICE)
        network, tried = distance._network.forward, []

        def failing(*args: Any, network: Any = network, tried: Any = tried, error: Any = error) -> Any:
            tried.append(args[0].device)
            if args[0].device == DEVICE:
                raise error
            return network(*args)

        distance._network.forward = failing
        for _ in range(2):
            torch.testing.assert_close(distance(a, a.roll(1, -1)), wanted, rtol=1e-6, atol=1e-7)
        assert tried == [DEVICE, torch.device("cpu"), torch.device("cpu")]


def test_other_device_errors_are_raised() -> None:
    distance = LPIPS(DEVICE)
    distance._network.forward = lambda *args: [][0]
    with pytest.raises(IndexError):
        distance(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))


def test_training_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer._make_accelerator

    def there(settings: Settings, device: str) -> Any:
        accelerator = made(settings, "cpu")
        monkeypatch.setattr(type(accelerator), "device", DEVICE)
        return accelerator

    monkeypatch.setattr(trainer, "_make_accelerator", there)
    settings = Settings(FreshNetwork("minute"), steps=4, batch_size=4, save_every=2, samples=2, sample_every=4)
    training = Trainer(save_discs(tmp_path / "discs", 6), tmp_path / "model", settings)
    assert training.device == "mps"
    rows = training.run()
    assert [row.step for row in rows] == [0, 2, 4]
    assert rows == Trainer(tmp_path / "discs", tmp_path / "model", settings).rows
