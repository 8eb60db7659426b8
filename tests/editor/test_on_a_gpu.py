"""The editor with its network on a GPU: all of it obeys torch's device rules, and its results are the CPU's."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit import Condition, Editor, InversionConfig, Model, load_model
from ddim_edit.diffusion.solvers.registry import SOLVERS
from ddim_edit.models.checkpoint import Classes
from ddim_edit.models.codec.autoencoder import Autoencoder, AutoencoderCodec
from ddim_edit.models.conditioning import ClassLabels, Conditioner
from ddim_edit.models.executors import eager

from .. import tiny
from ..models.codec.closed_forms import Linear, randn
from ..pretend_gpu import PretendGPU, model_on, pretend_gpu
from .attributes import made
from .measures import QUICK, as_tensor, max_error

KINDS = {"plain": {}, "check": {"check": True}, "level": {"level": 400.0, "grid": "karras:14"}}
CASES = [*((solver, {"exact": True}) for solver in SOLVERS), *zip(SOLVERS, cycle(KINDS.values()))]
IMAGES = 3
BATCHES = 2
FIRST_LOOK = 1
"""The host waits once to see whether the first evaluation is finite."""
"""Of two images and of one."""


def on_both(model: Model, work: Callable[[Editor], Tensor]) -> tuple[Tensor, Tensor, PretendGPU]:
    """Return what work gives on the pretend GPU and on the CPU, and the GPU."""
    with pretend_gpu() as gpu:
        editor = Editor(model_on(gpu, model), batch_size=2)
        gpu.reset()
        found = work(editor)
    return found, work(Editor(model, batch_size=2)), gpu


@pytest.fixture(scope="module")
def images(files: list[Path]) -> Tensor:
    return as_tensor(files)[:IMAGES]


@pytest.mark.parametrize(("solver", "options"), CASES)
def test_images_are_inverted_and_decoded(model: Model, images: Tensor, solver: str, options: dict[str, Any]) -> None:
    method = InversionConfig(solver, steps=6, **options)

    def there_and_back(editor: Editor) -> Tensor:
        latents = editor.invert(images, method)
        reports = torch.tensor([[latent.report["converged"], latent.report["residual"]] for latent in latents])
        parts = [part.flatten(1) for part in (*latents.state, editor.decode(latents), reports)]
        return torch.cat(parts, 1)

    found, expected, _ = on_both(model, there_and_back)
    assert max_error(found, expected) < 1e-4


def test_moved_latents_are_decoded(model: Model, images: Tensor) -> None:
    config = InversionConfig(steps=6)
    found, expected, _ = on_both(model, lambda editor: editor.decode(editor.interpolate(images[:2], 3, config=config)))
    assert max_error(found, expected) < 1e-4


def test_a_batch_is_handed_out_when_the_next_one_is_queued(model: Model, images: Tensor) -> None:
    done: list[int] = []
    with pretend_gpu() as gpu:
        editor = Editor(model_on(gpu, model), batch_size=1, on_evaluation=done.append)
        gpu.reset()
        counts = [(len(done), sum(gpu.waits.values())) for _ in editor.invert_batches(images[:, None], QUICK)]
    steps = QUICK.steps
    # An event is waited for when a batch is handed out, and nothing else but the first evaluation.
    assert counts == [(2 * steps, 1 + FIRST_LOOK), (3 * steps, 2 + FIRST_LOOK), (3 * steps, 3 + FIRST_LOOK)]


def test_an_editor_is_moved_there_and_back(model: Model, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    editor, other = Editor(model), Editor(model)
    network = model.denoiser.network.network
    wanted = other.decode(other.invert(images, QUICK))
    monkeypatch.setattr("ddim_edit.models.model.find_device", torch.device)
    with pretend_gpu() as gpu:
        # The pretend GPU runs no network of its own.
        run = {"cuda": lambda moved: partial(gpu.run, network), "cpu": eager}
        monkeypatch.setattr("ddim_edit.models.placing.executor_for", lambda device, compiled: run[device.type])
        assert editor.to("cuda:0") is editor
        assert editor.model.device == editor.model.state_device == torch.device("cuda:0")
        assert editor.batch_size == 64
        assert {each.device.type for each in editor.model.denoiser.network.network.parameters()} == {"cuda"}
        assert max_error(editor.decode(editor.invert(images, QUICK)), wanted) < 1e-4
        editor.to("cpu")
    assert editor.model.device == torch.device("cpu")
    assert max_error(editor.decode(editor.invert(images, QUICK)), wanted) < 1e-4
    assert torch.equal(other.decode(other.invert(images, QUICK)), wanted)


def test_images_are_reconstructed_and_measured(model: Model, images: Tensor) -> None:
    found, expected, _ = on_both(model, lambda editor: editor.reconstruct(images, QUICK).decoded)
    assert max_error(found, expected) < 1e-5


@pytest.mark.parametrize("level", ["0.4T", "xT", "h", "h:0.2T"])
def test_latents_are_read_at_levels(model: Model, images: Tensor, level: str) -> None:
    found, expected, gpu = on_both(
        model, lambda editor: editor.latents_at(images, [level], InversionConfig(steps=8))[0].values
    )
    assert max_error(found, expected) < 1e-4
    assert sum(gpu.waits.values()) == BATCHES + FIRST_LOOK  # the latents


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_images_are_sampled(model: Model, eta: float) -> None:
    found, expected, gpu = on_both(model, lambda editor: editor.sample(3, 1, InversionConfig(steps=6), eta))
    assert max_error(found, expected) < 1e-5
    assert sum(gpu.waits.values()) == 2 * BATCHES + FIRST_LOOK  # evaluations, and the images


def test_posterior_mean_is_sampled(model: Model) -> None:
    found, expected, _ = on_both(
        model, lambda editor: editor.sample(2, 1, InversionConfig(steps=6), 1.0, posterior_mean=True)
    )
    assert max_error(found, expected) < 1e-5


@pytest.mark.parametrize("level", ["0.4T", "xT", "h"])
def test_edits_do_not_synchronise_per_step(model: Model, images: Tensor, level: str) -> None:
    direction = made(Editor(model), "a", 1, level, InversionConfig(steps=8))
    found, expected, gpu = on_both(model, lambda editor: editor.edit(images, {direction: 2.0}))
    assert max_error(found, expected) < 1e-4
    results = [count for wait, count in gpu.waits.items() if wait.startswith(("a copy to the CPU", "an event"))]
    assert sum(results) == 3 * BATCHES  # of the inversion, and the images with the evaluations that they took
    assert sum(gpu.waits.values()) == sum(results) + FIRST_LOOK


@pytest.mark.parametrize("condition", [Condition(label=1), Condition(label=1, guidance_scale=3.0)], ids=str)
def test_conditions_reach_the_network(tmp_path: Path, images: Tensor, condition: Condition) -> None:
    model = load_model(tiny.save_model(tmp_path / "classes", unet={"num_class_embeds": 3}))
    conditioner = model.conditioner
    assert isinstance(conditioner, Conditioner)
    model = replace(model, conditioner=replace(conditioner, encoder=ClassLabels(model.name, Classes(3, none=2))))
    method = replace(QUICK, condition=condition)
    found, expected, _ = on_both(model, lambda editor: editor.decode(editor.invert(images, method)))
    assert max_error(found, expected) < 1e-4


def test_grey_images_are_inverted(tmp_path: Path, images: Tensor) -> None:
    model = load_model(tiny.save_model(tmp_path / "grey", unet={"in_channels": 1, "out_channels": 1}))
    method = replace(QUICK, check=True)
    found, expected, _ = on_both(model, lambda editor: editor.decode(editor.invert(images, method)))
    assert max_error(found, expected) < 1e-5


@dataclass(frozen=True)
class AutoencoderOnGPU:
    """A closed form of the CPU, called with tensors of the pretend GPU."""

    gpu: PretendGPU
    closed: Linear

    def encode(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.gpu.run(self.closed.encode, pictures)
        return latents

    def decode(self, z: Tensor) -> Tensor:
        pictures: Tensor = self.gpu.run(self.closed.decode, z)
        return pictures


@pytest.mark.parametrize("options", [{}, {"check": True}, {"exact": True}, {"refine": "fixed-point"}], ids=str)
def test_images_are_encoded_by_autoencoder(model: Model, options: dict[str, object]) -> None:
    encoder = randn(3, 12, seed=1).float()
    closed, method = Linear(encoder, torch.linalg.pinv(encoder)), replace(QUICK, **options)
    large = torch.stack([torch.from_numpy(tiny.pixels(seed, 32, 32)).movedim(-1, 0) / 127.5 - 1 for seed in range(3)])

    def there_and_back(model: Model, autoencoder: Autoencoder) -> Tensor:
        codec = AutoencoderCodec(autoencoder, (0.5, 1.0, 2.0), 0.1, factor=2)
        editor = Editor(replace(model, codec=codec), batch_size=2)
        return editor.decode(editor.invert(large, method))

    with pretend_gpu() as gpu:
        found = there_and_back(model_on(gpu, model), AutoencoderOnGPU(gpu, closed))
    assert max_error(found, there_and_back(model, closed)) < 1e-4
    assert not any("a blocking copy to the GPU" in wait for wait in gpu.waits)
