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

UNSUNG = ("_class_name", "_diffusers_version", "_use_default_values", "dropout")


@pytest.mark.parametrize("network", list(NETWORKS))
def test_every_network_answers_pictures_of_its_size(network: str) -> None:
    began = FreshNetwork(network).begin(None, seed=0)
    size = began.facts["size"]
    with torch.no_grad():
        assert began.network(torch.zeros(1, 3, size, size), 5).sample.shape == (1, 3, size, size)


def test_faces64_is_the_network_of_the_packaged_model() -> None:
    ours = dict(diffusers.UNet2DModel(**NETWORKS["faces64"]).config)
    packaged = json.loads((packaged_models()["faces64"] / "unet" / "config.json").read_text())
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in ours.items() if name not in UNSUNG} == {
        name: v for name, v in packaged.items() if name not in UNSUNG
    }


def test_the_sizes_of_the_networks_are_as_told() -> None:
    from ddim_edit.training import networks

    counts = [
        sum(weight.numel() for weight in diffusers.UNet2DModel(**NETWORKS[name]).parameters()) / 1e6
        for name in ("tiny", "small", "faces64")
    ]
    text = "{:.1f}, {:.1f} and {:.1f} million weights".format(*counts)
    assert text in Path(networks.__file__).read_text()


def test_a_seed_makes_the_weights_and_moves_no_generator() -> None:
    before = generator_state()
    one, same, other = (FreshNetwork("minute").begin(None, seed).network.state_dict() for seed in (0, 0, 1))
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
def test_a_size_that_cannot_be_halved_is_refused(size: int) -> None:
    with pytest.raises(ArgumentError, match=f"multiples of 4, which this network needs, was given {size}"):
        FreshNetwork("tiny").begin(size, 0)


def test_fine_tuning_keeps_the_weights_and_learns_all_of_them(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "tiny")
    began = FineTuning(str(model)).begin(None, 0)
    weights = dict(began.network.named_parameters())
    assert weights.keys() == tiny.load_weights(model).keys()
    for name, weight in tiny.load_weights(model).items():
        assert torch.equal(weights[name], weight)
        assert weights[name].requires_grad


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"out_channels": 6}, {}, "3 channels in and out"),
    ({"num_class_embeds": 10}, {}, "without classes"),
    ({"_class_name": "UNet2DConditionModel"}, {}, "a UNet2DModel"),
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
        FineTuning(str(model)).begin(None, 0)


def test_models_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file.pt").touch()
    for name in ("faces65", str(tmp_path / "file.pt")):
        with pytest.raises(ModelError, match="wanted a diffusers folder or one of faces64"):
            FineTuning(name).begin(None, 0)


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
    with pytest.raises(ArgumentError, match=f"wanted {name} to be "):
        Settings(**wrong)


def test_the_rate_warms_up_and_goes_down_as_told() -> None:
    cosine = Settings(steps=1000, lr=1e-3, warm_up=10)
    assert [cosine.rate(step) for step in (1, 5)] == pytest.approx([1e-4, 5e-4], rel=1e-4)
    assert cosine.rate(501) == pytest.approx(0.5e-3)
    assert cosine.rate(1000) < 1e-8
    assert {Settings(lr=1e-3, warm_up=0, decay="constant").rate(step) for step in (1, 10_000)} == {1e-3}
