"""Checkpoints of guided-diffusion and improved-diffusion against the original code.

How fixtures/guided_*.safetensors were made: the original `UNetModel`, with the arguments that `CASES` states in our
words and the weights that `weight` makes, was run in float32 on x ~ N(0, 1) [2, 3, 16, 8], at an index and, with
classes, a label each. The header keeps the names and shapes of its state dict, the file x, index, label and output.
"""

import hashlib
import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from ddim_edit.diffusion.bottleneck import Bottleneck
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.checkpoint import Checkpoint, Classes
from ddim_edit.models.families.guided_diffusion import FAMILY, complete_settings, read_config
from ddim_edit.models.unet.guided_unet import AttentionHeads, GuidedUNet, GuidedUNetConfig

from ...rounding import assert_alike

FIXTURES = Path(__file__).parent / "fixtures"
State = dict[str, Tensor]

CASES: dict[str, tuple[GuidedUNetConfig, dict[str, object]]] = {
    "guided": (
        GuidedUNetConfig(3, 6, 32, (32, 64), 2, frozenset({1}), 5, True, "resblock"),
        {"num_head_channels": 16, "use_new_attention_order": True},
    ),
    "improved": (
        GuidedUNetConfig(3, 3, 32, (32, 64, 64, 64), 2, frozenset({1, 2}), None, False, "conv"),
        {"num_heads": 4},
    ),
    "half": (
        GuidedUNetConfig(3, 6, 64, (32, 64, 64, 128), 1, frozenset({1, 2, 3}), None, True, "resblock"),
        {"num_head_channels": 32},
    ),
    "pooled": (
        GuidedUNetConfig(3, 6, 32, (32, 64, 96), 1, frozenset({0, 1}), 3, True, "pool"),
        {"num_heads": 2},
    ),
}


def weight(name: str, shape: list[int]) -> Tensor:
    """Noise that only the name and shape decide; the size of what it multiplies stays about as it is."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return torch.from_numpy(drawn / np.sqrt(np.prod(shape[1:]))).float()
    return torch.from_numpy(0.1 * drawn + name.endswith("weight")).float()


class Case(NamedTuple):
    state: State
    settings: dict[str, object]
    inputs: tuple[Tensor, ...]
    output: Tensor

    def build(self, **changed: object) -> Checkpoint:
        return FAMILY.load(self.state, self.settings | changed)


def read_case(name: str) -> Case:
    with safe_open(FIXTURES / f"guided_{name}.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {key: weight(key, shape) for key, shape in shapes.items()}
    inputs = tuple(tensors[key] for key in ("x", "index", "label") if key in tensors)
    return Case(state, CASES[name][1], inputs, tensors["output"])


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return read_case(request.param)


@pytest.fixture(scope="module")
def guided() -> Case:
    return read_case("guided")


def test_outputs_equal_the_original(case: Case) -> None:
    network = case.build().network
    torch.testing.assert_close(network(*case.inputs), case.output, rtol=1e-5, atol=1e-5)


def test_float64_outputs_equal_the_original(case: Case) -> None:
    x, *rest = case.inputs
    output = case.build().network.double()(x.double(), *rest)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output, case.output.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_config_is_read_from_the_state_dict(name: str) -> None:
    state = read_case(name).state
    assert FAMILY.matches(state)
    assert read_config(state) == CASES[name][0]


@pytest.mark.parametrize(
    "changed",
    [{"use_new_attention_order": False}, {"num_head_channels": 32}, {"num_heads": 1, "num_head_channels": -1}],
    ids=str,
)
def test_heads_and_their_order_are_not_in_the_weights(guided: Case, changed: dict[str, object]) -> None:
    """Another choice loads as well and answers otherwise, so that a wrong guess shows only in the pictures."""
    output = guided.build(**changed).network(*guided.inputs)
    assert (output - guided.output).abs().max() > 1e-3


def test_half_precision_is_widened(guided: Case) -> None:
    halves = guided._replace(state={name: tensor.half() for name, tensor in guided.state.items()})
    rounded = guided._replace(state={name: tensor.float() for name, tensor in halves.state.items()})
    output = halves.build().network(*guided.inputs)
    assert output.dtype == torch.float32
    assert_alike(output, rounded.build().network(*guided.inputs))


def test_gradients_are_the_slopes_of_the_answer(case: Case) -> None:
    """The network works in place, which autograd must survive."""
    x, *rest = case.inputs
    network, x = case.build().network.double(), x.double()
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = x.clone().requires_grad_()
    network(point, *rest).square().sum().backward()
    assert point.grad is not None
    prefetch_map, behind = (network(x + step * along, *rest).square().sum() for step in (1e-5, -1e-5))
    torch.testing.assert_close((point.grad * along).sum(), (prefetch_map - behind) / 2e-5, rtol=1e-6, atol=1e-6)


def test_time_features_stay_float32(guided: Case) -> None:
    network: Any = guided.build().network
    indices = torch.tensor([998.5, 999.0, 1000.0])  # all the same to bfloat16
    before = network.features(indices)
    x, index, label = guided.inputs
    assert torch.equal(network.to(torch.bfloat16).features(indices), before)
    assert network(x.bfloat16(), index, label).dtype == torch.bfloat16


# What the repositories' READMEs give for each release; by name, the layers, the flags, the number of weights and a hash
# of the names and shapes of the original network, made at full width by the original code.
def chosen(**settings: object) -> dict[str, object]:
    """guided-diffusion's own defaults, with these settings instead."""
    return {
        "image_size": None,
        "num_heads": 4,
        "num_head_channels": -1,
        "use_new_attention_order": False,
        "noise_schedule": "linear",
        "diffusion_steps": 1000,
        "rescale_timesteps": False,
        "predict_xstart": False,
    } | settings


GUIDED = chosen(num_head_channels=64)
IMPROVED = chosen(noise_schedule="cosine", diffusion_steps=4000, rescale_timesteps=True)


def adm(
    width: int, blocks: int, *multiples: float, attention: set[int], classes: int | None = 1000
) -> GuidedUNetConfig:
    widths = tuple(int(width * multiple) for multiple in multiples)
    return GuidedUNetConfig(3, 6, width, widths, blocks, frozenset(attention), classes, True, "resblock")


def iddpm(
    width: int, blocks: int, *multiples: int, attention: set[int], classes: int | None = None
) -> GuidedUNetConfig:
    return replace(adm(width, blocks, *multiples, attention=attention, classes=classes), resampling="conv")


class Release(NamedTuple):
    layers: GuidedUNetConfig
    settings: dict[str, object]
    weights: int
    layout: str


LSUN_256 = iddpm(128, 2, 1, 1, 2, 2, 4, 4, attention={4})
RELEASES = {
    "64x64_diffusion": Release(
        adm(192, 3, 1, 2, 3, 4, attention={1, 2, 3}),
        GUIDED | {"image_size": 64, "noise_schedule": "cosine", "use_new_attention_order": True},
        295_904_454,
        "cdbf32c1675c84fb",
    ),
    "128x128_diffusion": Release(
        adm(256, 2, 1, 1, 2, 3, 4, attention={2, 3, 4}),
        chosen(image_size=128),
        421_529_606,
        "c56d52445fdb2112",
    ),
    "256x256_diffusion": Release(
        adm(256, 2, 1, 1, 2, 2, 4, 4, attention={3, 4, 5}),
        GUIDED | {"image_size": 256},
        553_838_086,
        "e357403fc997eb00",
    ),
    "256x256_diffusion_uncond and lsun_*": Release(
        adm(256, 2, 1, 1, 2, 2, 4, 4, attention={3, 4, 5}, classes=None),
        GUIDED | {"image_size": 256},
        552_814_086,
        "77e18ded5689d791",
    ),
    "512x512_diffusion": Release(
        adm(256, 2, 0.5, 1, 1, 2, 2, 4, 4, attention={4, 5, 6}),
        GUIDED | {"image_size": 512},
        558_997_638,
        "ab03f15f765591ce",
    ),
    "cifar10_uncond_50M": Release(
        iddpm(128, 3, 1, 2, 2, 2, attention={1, 2}),
        IMPROVED | {"image_size": 32},
        52_546_438,
        "80b29d6f201a8c8e",
    ),
    "imagenet64_uncond_100M": Release(
        iddpm(128, 3, 1, 2, 3, 4, attention={2, 3}),
        IMPROVED | {"image_size": 64},
        121_063_942,
        "0463057b42c021ed",
    ),
    "imagenet64_cond_270M": Release(
        iddpm(192, 3, 1, 2, 3, 4, attention={2, 3}, classes=1000),
        IMPROVED | {"image_size": 64, "rescale_timesteps": False},
        273_049_350,
        "5282b4d8ae2109d4",
    ),
    "lsun_uncond_100M": Release(
        replace(LSUN_256, use_scale_shift_norm=False),
        chosen(image_size=256, num_heads=1),
        113_676_678,
        "30881e4a8591a400",
    ),
}


def drafted(layers: GuidedUNetConfig) -> State:
    """A state dict of names and shapes alone."""
    with torch.device("meta"):
        return GuidedUNet(layers, AttentionHeads(1, -1, False)).state_dict()


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    return RELEASES[request.param]


def test_released_layouts_equal_the_original(release: Release) -> None:
    state = drafted(release.layers)
    lines = "\n".join(sorted(f"{name} {list(tensor.shape)}" for name, tensor in state.items()))
    assert sum(tensor.numel() for tensor in state.values()) == release.weights
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == release.layout


def test_releases_get_their_settings(release: Release) -> None:
    state = drafted(release.layers)
    assert FAMILY.matches(state)
    assert read_config(state) == release.layers
    assert complete_settings(release.layers, {}) == release.settings


def test_unknown_layers_get_the_defaults() -> None:
    unusual = iddpm(64, 1, 1, 3, attention={1})
    assert complete_settings(unusual, {}) == chosen()
    assert complete_settings(LSUN_256, {}) == chosen(image_size=256)
    assert complete_settings(replace(unusual, resampling="resblock"), {}) == GUIDED


@st.composite
def any_layers(draw: st.DrawFn) -> GuidedUNetConfig:
    levels = draw(st.integers(2, 4))
    return GuidedUNetConfig(
        in_channels=(channels := draw(st.sampled_from([1, 3, 4]))),
        out_channels=draw(st.sampled_from([channels, 2 * channels])),
        model_channels=draw(st.sampled_from([32, 64])),
        widths=draw(st.tuples(*levels * (st.sampled_from([32, 64, 96]),))),
        num_res_blocks=draw(st.integers(1, 3)),
        attention=draw(st.frozensets(st.integers(0, levels - 1))),
        num_classes=draw(st.sampled_from([None, 2, 7])),
        use_scale_shift_norm=draw(st.booleans()),
        resampling=draw(st.sampled_from(["resblock", "conv", "pool"])),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(any_layers())
def test_any_config_is_read_back(layers: GuidedUNetConfig) -> None:
    state = drafted(layers)
    assert FAMILY.matches(state)
    assert read_config(dict(sorted(state.items()))) == layers


def test_a_network_of_one_level_never_resamples() -> None:
    layers = GuidedUNetConfig(3, 3, 32, (32,), 2, frozenset({0}), None, False, "pool")
    assert read_config(drafted(layers)) == layers


def test_settings_win_over_what_is_assumed() -> None:
    layers = RELEASES["64x64_diffusion"].layers
    given = chosen(image_size=32, num_heads=2, num_head_channels=16, diffusion_steps=500, predict_xstart=True)
    assert complete_settings(layers, given) == given


def test_a_number_of_heads_unsets_the_assumed_channels_of_a_head() -> None:
    layers = RELEASES["256x256_diffusion"].layers
    assert complete_settings(layers, {"num_heads": 8})["num_head_channels"] == -1
    assert complete_settings(layers, {"num_heads": 8, "num_head_channels": 32})["num_head_channels"] == 32


def test_settings_reach_the_checkpoint(guided: Case) -> None:
    checkpoint = guided.build(image_size=16, noise_schedule="cosine", diffusion_steps=40, rescale_timesteps=True)
    assert (checkpoint.channels, checkpoint.size, checkpoint.classes) == (3, (16, 16), Classes(5))
    x = guided.inputs[0]
    shown, index = (
        checkpoint.parametrization.scale_input(x, checkpoint.schedule.level(31)),
        checkpoint.parametrization.time_condition(checkpoint.schedule.level(31)),
    )
    assert shown is x
    assert index == pytest.approx((31 - 1) * 1000 / 40)
    index = guided.build(diffusion_steps=40).parametrization.time_condition(checkpoint.schedule.level(31))
    assert index == 30


def test_unknown_size_and_classes_are_none() -> None:
    state = {
        name: weight(name, list(made.shape)) for name, made in drafted(iddpm(32, 1, 1, 3, attention=set())).items()
    }
    checkpoint = FAMILY.load(state, {})
    assert (checkpoint.size, checkpoint.classes) == (None, None)


@pytest.mark.parametrize(("predict_xstart", "prediction"), [(False, "epsilon"), (True, "sample")])
def test_the_prediction_is_read_as_it_was_trained(guided: Case, predict_xstart: bool, prediction: str) -> None:
    checkpoint = guided.build(predict_xstart=predict_xstart)
    level, (x, _, _) = checkpoint.schedule.level(400), guided.inputs
    output = torch.full_like(x, 0.25)
    believed = checkpoint.parametrization.to_prediction(output, x, level)
    assert checkpoint.parametrization.name == prediction
    assert torch.equal(getattr(believed, {"epsilon": "eps", "sample": "x0"}[prediction]), output)
    torch.testing.assert_close(level.alpha * believed.x0 + level.sigma * believed.eps, x)


@pytest.mark.parametrize("T", [1000, 4000])
def test_linear_betas_are_those_of_ho_et_al_spread_over_all_steps(guided: Case, T: int) -> None:
    schedule = guided.build(noise_schedule="linear", diffusion_steps=T).schedule
    betas = [1000 / T * (0.0001 + (0.02 - 0.0001) * i / (T - 1)) for i in range(T)]
    np.testing.assert_allclose(schedule.alpha_bar, np.cumprod(1 - np.array(betas)), rtol=1e-9)


@pytest.mark.parametrize("T", [1000, 4000])
def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal(guided: Case, T: int) -> None:
    schedule = guided.build(noise_schedule="cosine", diffusion_steps=T).schedule

    def alpha_bar(t: float) -> float:
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    wanted = [alpha_bar(t) / alpha_bar(0) for t in range(1, T)]
    np.testing.assert_allclose(schedule.alpha_bar, [*wanted, wanted[-1] * (1 - 0.999)], rtol=1e-9)


def test_zero_shift_changes_nothing(case: Case) -> None:
    network: Any = case.build().network
    x, index, *label = case.inputs
    output, h = network.read(*case.inputs)
    own, shifted = network.shifted(x, index, torch.zeros_like(h[0]), *label)
    assert isinstance(network, Bottleneck)
    assert torch.equal(output, network(*case.inputs))
    assert torch.equal(own, output)
    assert torch.equal(shifted, output)


def test_h_is_the_output_of_the_middle_block(case: Case) -> None:
    network: Any = case.build().network
    x, index, *label = case.inputs
    _, h = network.read(*case.inputs)
    shift = torch.linspace(-1, 1, h.numel()).view(h.shape)
    seen: list[Tensor] = []
    last = network.middle_block[-1]
    watch = last.register_forward_hook(lambda module, args, answer: seen.append(answer))
    _, shifted = network.shifted(x, index, shift, *label)
    watch.remove()
    last.register_forward_hook(lambda module, args, answer: answer + shift)
    torch.testing.assert_close(seen, [h])
    torch.testing.assert_close(shifted, network(*case.inputs))
    assert (shifted - case.output).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(64,), (64, 8, 8), (3, 64, 8, 4), (1, 2, 64, 8, 4)])
def test_a_shift_of_another_shape_is_refused(guided: Case, shape: tuple[int, ...]) -> None:
    network: Any = guided.build().network
    x, index, label = guided.inputs
    with pytest.raises(ArgumentError, match=r"must have the shape \[64, 8, 4\], for all images"):
        network.shifted(x, index, torch.zeros(shape), label)


@pytest.mark.parametrize("shape", [(1, 3, 9, 8), (1, 1, 8, 8), (3, 8, 8)])
def test_sizes_that_do_not_halve_are_refused(guided: Case, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"\[B, 3, H, W\] with H and W multiples of 2"):
        guided.build().network(torch.zeros(shape), torch.zeros(1), torch.zeros(1, dtype=torch.int64))


def test_labels_are_required_iff_there_are_classes(guided: Case) -> None:
    with pytest.raises(ArgumentError, match="Give a label for each image"):
        guided.build().network(*guided.inputs[:2])
    with pytest.raises(ArgumentError, match="no classes"):
        read_case("improved").build().network(*guided.inputs)


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [
        ("num_heads", 0, "settings: num_heads must be an integer from 1 to 1000000, not 0"),
        ("num_head_channels", 48, "num_head_channels must divide 64 channels, which 48 does not"),
        ("num_heads", 3, "num_heads must divide 64 channels, which 3 does not"),
        ("image_size", 33, "image_size must be a multiple of 2 for this network, not 33"),
        (
            "num_channels",
            32,
            "settings: num_channels is not a known entry. The settings of guided-diffusion are ",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(flag: str, value: object, wanted: str) -> None:
    case = read_case("guided")._replace(settings={})
    with pytest.raises(ModelError, match=f"^{wanted}"):
        case.build(**{flag: value})


def test_only_networks_of_this_layout_match(guided: Case) -> None:
    assert set(FAMILY.settings) == set(chosen())
    assert not FAMILY.matches({})
    assert not FAMILY.matches({f"model.diffusion_model.{name}": made for name, made in guided.state.items()})
    assert not FAMILY.matches({"time_embed.0.weight": torch.zeros(1)})


def refused(state: State, reason: str) -> None:
    assert FAMILY.matches(state)
    with pytest.raises(ModelError, match=reason):
        FAMILY.load(state, {})


def test_classifiers_and_upsamplers_are_refused(guided: Case) -> None:
    upsampler = guided.state | {"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}
    refused(upsampler, "is an upsampler")
    refused({name: made for name, made in guided.state.items() if not name.startswith("out")}, "is a classifier")
    texts = guided.state | {"input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight": torch.zeros(1)}
    refused(texts, "attends to a text")
    refused(guided.state | {"out.2.weight": torch.zeros(4, 32, 3, 3)}, "has 3 channels in and 4 out")


@pytest.mark.parametrize("name", ["out.2.weight", "input_blocks.4.0.out_layers.3.weight"])
def test_missing_tensors_are_named(guided: Case, name: str) -> None:
    refused({key: made for key, made in guided.state.items() if key != name}, f"has no tensor {name}")


def test_misfits_are_named(guided: Case) -> None:
    state = dict(guided.state) | {"alien": torch.zeros(1), "out.2.bias": torch.zeros(4)}
    del state["middle_block.1.qkv.bias"]
    with pytest.raises(
        ModelError, match=r"middle_block\.1\.qkv\.bias is missing, alien is unknown, out\.2\.bias has the shape \[4\]"
    ):
        guided._replace(state=state).build()
