"""What a training may begin with, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from ddim_edit import ArgumentError, ModelError, packaged_models
from ddim_edit.training import NETWORKS, PREDICTIONS, SCHEDULES, FineTuning, FreshNetwork, Settings

from .. import tiny
from .conftest import generator_state

IGNORED = ("_class_name", "_diffusers_version", "_use_default_values", "dropout")


@pytest.mark.parametrize("network", list(NETWORKS))
def test_networks_run_at_their_size(network: str) -> None:
    initial = FreshNetwork(network).initialize(None, seed=0)
    size = initial.record["size"]
    with torch.no_grad():
        assert initial.network(torch.zeros(1, 3, size, size), 5).sample.shape == (1, 3, size, size)


def test_faces64_has_the_config_of_the_packaged_model() -> None:
    ours = dict(diffusers.UNet2DModel(**NETWORKS["faces64"]).config)
    packaged = json.loads((packaged_models()["faces64"] / "unet" / "config.json").read_text())
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in ours.items() if name not in IGNORED} == {
        name: v for name, v in packaged.items() if name not in IGNORED
    }


def test_documented_network_sizes_are_right() -> None:
    from ddim_edit.training import networks

    counts = [
        sum(weight.numel() for weight in diffusers.UNet2DModel(**NETWORKS[name]).parameters()) / 1e6
        for name in ("tiny", "small", "faces64")
    ]
    text = "{:.1f}, {:.1f} and {:.1f} million weights".format(*counts)
    assert text in Path(networks.__file__).read_text()


def test_seeds_determine_weights_and_leave_global_generators() -> None:
    before = generator_state()
    one, same, other = (FreshNetwork("minute").initialize(None, seed).network.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])
    assert generator_state() == before


@pytest.mark.parametrize(
    ("wrong", "known"),
    [({"network": "huge"}, NETWORKS), ({"prediction": "x"}, PREDICTIONS), ({"schedule": "x"}, SCHEDULES)],
)
def test_unknown_names_are_refused(wrong: dict[str, str], known: Any) -> None:
    with pytest.raises(ArgumentError, match=", ".join(known)):
        FreshNetwork(**wrong)


@pytest.mark.parametrize("size", [1, 17, 18])
def test_sizes_that_cannot_be_halved_are_refused(size: int) -> None:
    with pytest.raises(ArgumentError, match=f"multiples of 4 pixels, not {size}"):
        FreshNetwork("tiny").initialize(size, 0)


def test_fine_tuning_starts_from_trainable_copies_of_the_weights(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "tiny")
    initial = FineTuning(str(model)).initialize(None, 0)
    weights = dict(initial.network.named_parameters())
    assert weights.keys() == tiny.load_weights(model).keys()
    for name, weight in tiny.load_weights(model).items():
        assert torch.equal(weights[name], weight)
        assert weights[name].requires_grad


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"out_channels": 6}, {}, "3 channels in and out"),
    ({"num_class_embeds": 10}, {}, "has classes"),
    ({"_class_name": "UNet2DConditionModel"}, {}, "not a UNet2DModel"),
    ({}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "discrete levels"),
    ({}, {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}, "discrete levels"),
]


@pytest.mark.parametrize(("unet", "scheduler", "wanted"), REFUSED)
def test_other_kinds_of_networks_are_refused(
    tmp_path: Path, unet: dict[str, Any], scheduler: dict[str, Any], wanted: str
) -> None:
    model = tiny.save_model(tmp_path / "tiny")
    for file, changes in (("unet/config.json", unet), ("scheduler/scheduler_config.json", scheduler)):
        tiny.write_json(model / file, json.loads((model / file).read_text()) | changes)
    with pytest.raises(ModelError, match=wanted):
        FineTuning(str(model)).initialize(None, 0)


def test_missing_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file.pt").touch()
    for name in ("faces65", str(tmp_path / "file.pt")):
        with pytest.raises(ModelError, match="Name a diffusers folder or one of faces64"):
            FineTuning(name).initialize(None, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"lr": float("inf")},
        {"lr": 0.0},
        {"ema_decay": 1.0},
        {"held_out": 0.0},
        {"decay": "exponential"},
        {"precision": "int8"},
        {"warm_up": -1},
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ArgumentError, match=f"^{name} must be "):
        Settings(**wrong)


def test_learning_rate_warms_up_and_decays() -> None:
    cosine = Settings(steps=1000, lr=1e-3, warm_up=10)
    assert [cosine.learning_rate(step) for step in (1, 5)] == pytest.approx([1e-4, 5e-4], rel=1e-4)
    assert cosine.learning_rate(501) == pytest.approx(0.5e-3)
    assert cosine.learning_rate(1000) < 1e-8
    assert {Settings(lr=1e-3, warm_up=0, decay="constant").learning_rate(step) for step in (1, 10_000)} == {1e-3}
