"""A training is a function of its pictures and settings, however often it was stopped on the way."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from ddim_edit import ArgumentError, ModelError, load_model
from ddim_edit.training import NETWORKS, Checkpoint, FineTuning, FreshNetwork, LossRow, Settings, Trainer

from .. import tiny
from .conftest import MINUTE, Train, everything_in, generator_state, make_trainer, save_discs

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
LOSSES, CHECKPOINT = "training/losses.csv", "training/checkpoint.safetensors"


class KilledError(Exception):
    """Ends a process where it stands: nothing is saved any more."""


def at(trainer: Trainer, step: int, act: Callable[[], object]) -> Callable[[], None]:
    """Do something after a step."""

    def on_step() -> None:
        if trainer.step == step:
            act()

    return on_step


def die() -> None:
    raise KilledError


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a training that is never stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "minute", MINUTE)
        make_trainer(save_discs(folder / "discs", 12), folder / "model").run()
    return everything_in(folder / "model")


@pytest.mark.same_bits
def test_the_same_seed_makes_the_same_files(trainer: Train) -> None:
    one, other = (trainer(name, flip=True, samples=2) for name in ("one", "other"))
    assert one.run() == other.run()
    made, again = (everything_in(Path(each._folder.path)) for each in (one, other))
    assert made.pop("README.md").replace(b"# one\n", b"# other\n") == again.pop("README.md")
    assert made == again
    assert set(made) == {
        *("model_index.json", "unet/config.json", WEIGHTS, "scheduler/scheduler_config.json"),
        *(LOSSES, CHECKPOINT, "training/samples-000006.png"),
    }


def test_another_seed_makes_other_weights(trainer: Train) -> None:
    one, other = (trainer(f"seed {seed}", seed=seed) for seed in (0, 1))
    assert one.run() != other.run()


def test_global_generators_are_untouched(trainer: Train) -> None:
    before = generator_state()
    trainer(samples=2).run()
    assert generator_state() == before


@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.same_bits
def test_killed_runs_resume_to_the_same_files(
    trainer: Train, tmp_path: Path, undisturbed: dict[str, bytes], step: int
) -> None:
    killed = trainer("model")
    with pytest.raises(KilledError):
        killed.run(on_step=at(killed, step, die))
    assert everything_in(tmp_path / "model") != undisturbed
    again = trainer("model")
    assert again.step == 2 * ((step - 1) // 2)
    again.run()
    assert everything_in(tmp_path / "model") == undisturbed


@pytest.mark.parametrize(("step", "number"), [(1, signal.SIGINT), (4, signal.SIGTERM)])
@pytest.mark.same_bits
def test_interrupted_runs_lose_no_step(
    trainer: Train, tmp_path: Path, undisturbed: dict[str, bytes], step: int, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    stopped = trainer("model")
    with pytest.raises(KeyboardInterrupt):
        stopped.run(on_step=at(stopped, step, lambda: os.kill(os.getpid(), number)))
    assert signal.getsignal(number) is before
    assert Checkpoint.load(tmp_path / "model" / CHECKPOINT).step == step
    again = trainer("model")
    assert again.step == step
    again.run()
    assert everything_in(tmp_path / "model") == undisturbed


def test_a_second_interrupt_stops_at_once(trainer: Train) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was not heard")

    impatient = trainer()
    with pytest.raises(KeyboardInterrupt):
        impatient.run(on_step=twice)


def test_runs_killed_before_the_first_validation_resume(trainer: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_validate", lambda *_: die())
    with pytest.raises(KilledError):
        trainer().run()
    monkeypatch.undo()
    monkeypatch.setitem(NETWORKS, "minute", MINUTE)
    assert [row.step for row in trainer().run()] == [0, 2, 4, 6]


def test_temporary_files_of_killed_runs_are_removed(trainer: Train, tmp_path: Path) -> None:
    trainer().run()
    (tmp_path / "model" / ".ddim-edit-left").mkdir()
    (tmp_path / "model" / "training" / ".ddim-edit-left.png").touch()
    trainer().run()
    assert not [name for name in everything_in(tmp_path / "model") if ".ddim-edit" in name]
    assert not (tmp_path / "model" / ".ddim-edit-left").exists()


def test_finished_trainings_do_nothing(trainer: Train, tmp_path: Path) -> None:
    rows = trainer().run()
    before = everything_in(tmp_path / "model")
    steps: list[None] = []
    assert trainer().run(on_step=lambda: steps.append(None)) == rows
    assert not steps
    assert everything_in(tmp_path / "model") == before


def test_other_settings_are_refused(trainer: Train, discs: Path) -> None:
    trainer().run()
    for name, value in {"lr": 2e-3, "steps": 8, "seed": 1, "flip": True, "ema_decay": 0.5}.items():
        with pytest.raises(ModelError, match=f"begun with {name} "):
            trainer(**{name: value})
    (discs / "003.png").unlink()
    with pytest.raises(ModelError, match="begun with pictures "):
        trainer()


def test_save_every_may_change(trainer: Train) -> None:
    first = trainer(steps=6)
    with pytest.raises(KilledError):
        first.run(on_step=at(first, 3, die))
    assert [row.step for row in trainer(save_every=3).run()] == [0, 2, 3, 6]


def test_overwrite_begins_anew(trainer: Train, discs: Path, tmp_path: Path) -> None:
    trainer(samples=1, sample_every=4).run()
    settings = Settings(origin=FreshNetwork("minute"), steps=2, batch_size=2, samples=1)
    rows = Trainer(discs, tmp_path / "model", settings, "cpu", overwrite=True).run()
    assert [row.step for row in rows] == [0, 2]
    sheets = [name for name in everything_in(tmp_path / "model") if name.endswith(".png")]
    assert sheets == ["training/samples-000002.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_left_alone(discs: Path, tmp_path: Path, overwrite: bool) -> None:
    model = tiny.save_model(tmp_path / "tiny")
    before = everything_in(model)
    for target in (model, discs / "000.png"):
        with pytest.raises(ArgumentError, match="holds something else than a training"):
            Trainer(discs, target, Settings(), "cpu", overwrite)
    assert everything_in(model) == before


def test_accumulation_gives_the_same_gradient(trainer: Train) -> None:
    """Compared by the gradient, the tenth part of which is Adam's first mean."""
    means = []
    for parts in (1, 2, 4):
        training = trainer(str(parts), accumulate=parts, steps=1)
        training._state.network.eval()  # dropout is another one for every part
        (_, row) = training.run()
        tensors = training._state.state_dict()
        means.append(torch.cat([x.flatten() for name, x in tensors.items() if name.startswith("adam.exp_avg.")]))
        assert row.train == pytest.approx(1.0, abs=0.5)
    assert means[0].norm() == pytest.approx(0.1, rel=1e-5)  # clipped to 1
    for mean in means[1:]:
        torch.testing.assert_close(mean, means[0], atol=1e-7, rtol=0)


def test_indivisible_batches_are_refused(trainer: Train) -> None:
    with pytest.raises(ArgumentError, match="batch of 4 images cannot be shared by 1 processes in 3 parts"):
        trainer(accumulate=3)


def test_unsupported_precisions_are_refused(trainer: Train) -> None:
    with pytest.raises(ArgumentError, match="This device cannot train in fp16: "):
        trainer(precision="fp16")


def test_losses_are_reported_and_written(trainer: Train, tmp_path: Path) -> None:
    told: list[LossRow] = []
    rows = trainer().run(told.append)
    assert tuple(told) == rows == Checkpoint.load(tmp_path / "model" / CHECKPOINT).rows
    with (tmp_path / "model" / LOSSES).open() as file:
        read = [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]
    assert read == [row._asdict() for row in rows]
    card = (tmp_path / "model" / "README.md").read_text()
    assert all(f"{row.held_out:.5f}" in card for row in rows)
    assert "| network" not in card
    assert "network minute, prediction epsilon, schedule linear" in card


def test_the_model_has_the_averaged_weights(trainer: Train, tmp_path: Path) -> None:
    """Follows the weights beside the training, by the formula."""
    training, mean, seen = trainer(ema_decay=0.3), dict[str, torch.Tensor](), []
    network = training._state.network

    def follow() -> None:
        n = len(seen)
        seen.append(n)
        decay = min(0.3, (1 + n) / (10 + n))
        for name, weight in network.state_dict().items():
            mean[name] = decay * mean[name] + (1 - decay) * weight

    mean |= {name: weight.clone() for name, weight in network.state_dict().items()}
    training.run(on_step=follow)
    written = load_file(tmp_path / "model" / WEIGHTS)
    assert written.keys() == mean.keys()
    for name, weight in written.items():
        torch.testing.assert_close(weight, mean[name], rtol=1e-5, atol=1e-7)


def test_diffusers_reads_the_same_network(trainer: Train, tmp_path: Path) -> None:
    trainer(origin=FreshNetwork("minute", "v_prediction", "cosine")).run()
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    model = load_model(tmp_path / "model")
    assert (model.prediction, model.shape) == ("v_prediction", (3, 16, 16))
    assert model.schedule.description["kind"] == "cosine"
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    alpha, sigma = model.schedule.level(600).alpha, model.schedule.level(600).sigma
    with torch.no_grad():
        v = pipeline.unet(x, 599).sample
    found = model.denoiser(x.double(), model.schedule.level(600))
    torch.testing.assert_close(found.x0.float(), alpha * x - sigma * v, atol=1e-4, rtol=0)


def test_fine_tuning_continues_from_the_weights(trainer: Train, tmp_path: Path) -> None:
    source = tiny.save_model(tmp_path / "source", beta_schedule="squaredcos_cap_v2")
    tuned = trainer("tuned", origin=FineTuning(str(source)), steps=2, lr=1e-12, weight_decay=0)
    tuned.run()
    before, after = (load_file(folder / WEIGHTS) for folder in (source, tmp_path / "tuned"))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-9, rtol=0)
    scheduler = json.loads((tmp_path / "tuned" / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["prediction_type"], scheduler["beta_schedule"]) == ("v_prediction", "squaredcos_cap_v2")
    tiny.save_model(source, seed=1, beta_schedule="squaredcos_cap_v2")
    with pytest.raises(ModelError, match="begun with from "):
        trainer("tuned", origin=FineTuning(str(source)), steps=2, lr=1e-12, weight_decay=0)
