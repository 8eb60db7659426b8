"""Checkpoints of denoising-diffusion-pytorch against the package itself and its formulas.

How fixtures/denoising_*.safetensors were made: the package's own `Unet` (2.3.4; 1.11.0 for "groups"), built with the
header's `arguments` and filled with `weight` by name, was run in float64 on x [2, C, 8, 12] at an index each. Its time
features alone were left in float32, as the package computes them. The file keeps x, index, output and h, the output
of mid_block2; the header the names and shapes of its state dict.
"""

import json
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from ddim_edit.diffusion.bottleneck import Bottleneck
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.errors import ArgumentError, DDIMEditError
from ddim_edit.models.checkpoint import Checkpoint
from ddim_edit.models.families.denoising_diffusion import FAMILY
from ddim_edit.models.unet.denoising_unet import DenoisingUNet

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ["default", "full", "mixed", "learned_sinusoidal", "learned_variance", "grey", "groups"]
SETTINGS: dict[str, dict[str, object]] = {
    "grey": {"sinusoidal_pos_emb_theta": 500},
    "groups": {"resnet_block_groups": 4},
}
State = dict[str, Tensor]
build = FAMILY.load


class Case(NamedTuple):
    """A fixture: a bare network's state dict, and what the package answered."""

    state: State
    x: Tensor
    index: Tensor
    output: Tensor
    h: Tensor


def weight(name: str, shape: list[int]) -> Tensor:
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(draw / math.sqrt(math.prod(shape[1:])))


def case(name: str) -> Case:
    with safe_open(FIXTURES / f"denoising_{name}.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["fixture"])["shapes"]
        tensors = [file.get_tensor(key) for key in ("x", "index", "output", "h")]
    return Case({key: weight(key, shape) for key, shape in shapes.items()}, *tensors)


def network(checkpoint: Checkpoint) -> DenoisingUNet:
    assert isinstance(checkpoint.network, DenoisingUNet)
    return checkpoint.network


def exact(name: str) -> tuple[DenoisingUNet, Case]:
    """The network in float64, whose weights came through float32."""
    known = case(name)
    ours = network(build(known.state, SETTINGS.get(name, {}))).double()
    ours.load_state_dict(known.state)
    return ours, known


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_the_package(name: str) -> None:
    ours, known = exact(name)
    assert_close(ours(known.x.double(), known.index), known.output, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_float32_outputs_equal_the_package(name: str) -> None:
    known = case(name)
    ours = network(build(known.state, SETTINGS.get(name, {})))
    assert_close(ours(known.x, known.index), known.output.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_h_is_the_output_of_mid_block2(name: str) -> None:
    ours, known = exact(name)
    output, h = ours.read(known.x.double(), known.index)
    assert isinstance(ours, Bottleneck)
    assert_close(h, known.h, rtol=1e-9, atol=1e-9)
    assert torch.equal(output, ours(known.x.double(), known.index))


def test_shift_changes_the_second_output_only() -> None:
    ours, known = exact("default")
    shift = torch.randn(known.h.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own, moved = ours.shifted(known.x.double(), known.index, shift)
    _, still = ours.shifted(known.x.double(), known.index, torch.zeros_like(known.h))
    assert_close(own, known.output, rtol=1e-9, atol=1e-9)
    assert torch.equal(still, own)
    assert (moved - own).norm() > 0.05 * own.norm()
    with pytest.raises(ArgumentError, match=r"must have the shape \[16, 4, 6\]"):
        ours.shifted(known.x.double(), known.index, shift[:, :1])


def test_batch_rows_do_not_interact() -> None:
    ours, known = exact("default")
    x = known.x.double()
    alone = torch.cat([ours(x[i : i + 1], known.index[i : i + 1]) for i in range(2)])
    assert_close(alone, known.output, rtol=1e-9, atol=1e-9)
    assert_close(ours(x, known.index[:1])[0], known.output[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["default", "learned_sinusoidal"])
def test_time_features_stay_float32(name: str) -> None:
    known = case(name)
    times = torch.tensor([998.5, 999.0, 1000.0])  # all the same to bfloat16
    ours = network(build(known.state, {}))
    before = ours.time_mlp[0](times)
    assert torch.equal(ours.to(torch.bfloat16).time_mlp[0](times), before)
    rough = ours(known.x.bfloat16(), known.index)
    assert rough.dtype == torch.bfloat16
    assert (rough.double() - known.output).norm() < 5e-2 * known.output.norm()


# What GaussianDiffusion does, by its formulas in float64, and what it keeps of it, in float32.

T = 50


def sigmoid_betas(T: int) -> np.ndarray:
    low, high = (float(torch.tensor(end).sigmoid()) for end in (-3.0, 3.0))
    t = torch.linspace(0, T, T + 1, dtype=torch.float64) / T
    alpha_bar = (high - (6 * t - 3).sigmoid()) / (torch.tensor(high) - torch.tensor(low)).double()
    alpha_bar = alpha_bar / alpha_bar[0]
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clip(0, 0.999).numpy()


def cosine_betas(T: int) -> np.ndarray:
    alpha_bar = np.cos((np.linspace(0, T, T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clip(0, 0.999)


def linear_betas(T: int) -> np.ndarray:
    return np.linspace(0.1 / T, 20 / T, T)


BETAS = {"sigmoid": sigmoid_betas, "cosine": cosine_betas, "linear": linear_betas}
OBJECTIVES = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}


def buffers(betas: np.ndarray, objective: str, gamma: float = math.inf) -> State:
    """The levels and the weight of the loss, and one more of what else there is."""
    alpha_bar = np.cumprod(1 - betas)
    snr = alpha_bar / (1 - alpha_bar)
    part = {"pred_noise": snr, "pred_x0": np.ones_like(snr), "pred_v": snr + 1}[objective]
    kept = {
        "betas": betas,
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alpha_bar - 1),
        "loss_weight": np.minimum(snr, gamma) / part,
    }
    return {name: torch.from_numpy(values).float() for name, values in kept.items()}


def diffusion(state: State, kind: str = "sigmoid", objective: str = "pred_v", T: int = T, **more: Any) -> State:
    """A `GaussianDiffusion` around a network."""
    return buffers(BETAS[kind](T), objective, **more) | {f"model.{name}": tensor for name, tensor in state.items()}


def predictions(output: Tensor, x: Tensor, alpha_bar: float, objective: str) -> Prediction:
    """The package's `model_predictions`."""
    recip, recipm1 = math.sqrt(1 / alpha_bar), math.sqrt(1 / alpha_bar - 1)
    if objective == "pred_noise":
        return Prediction(recip * x - recipm1 * output, output)
    x0 = output if objective == "pred_x0" else math.sqrt(alpha_bar) * x - math.sqrt(1 - alpha_bar) * output
    return Prediction(x0, (recip * x - x0) / recipm1)


@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize("levels", [50, 1000])
def test_the_levels_in_the_file_are_those_of_training(kind: str, levels: int) -> None:
    """To the one rounding to float32 that they went through, at every level up to the capped last."""
    schedule = build(diffusion(case("default").state, kind, T=levels), {}).schedule
    wanted = NoiseSchedule.from_betas(BETAS[kind](levels))
    assert levels == schedule.T
    np.testing.assert_allclose(schedule.log_s, wanted.log_s, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize("levels", [50, 1000])
def test_a_bare_network_has_the_schedule_that_is_named(kind: str, levels: int) -> None:
    checkpoint = build(case("default").state, {"beta_schedule": kind, "timesteps": levels})
    wanted = NoiseSchedule.from_betas(BETAS[kind](levels))
    np.testing.assert_allclose(checkpoint.schedule.log_s, wanted.log_s, rtol=0, atol=1e-9)


def test_bare_network_gets_the_defaults() -> None:
    checkpoint = build(case("default").state, {})
    assert checkpoint.schedule.description == {"kind": "sigmoid", "start": -3, "end": 3, "T": 1000}
    assert checkpoint.parametrization.name == "v_prediction"
    assert (checkpoint.channels, checkpoint.size, checkpoint.classes) == (3, None, None)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("index", [0, 17, 49])
def test_predictions_are_those_of_the_package(objective: str, index: int) -> None:
    known, betas = case("default"), sigmoid_betas(T)
    checkpoint = build(diffusion(known.state, objective=objective), {})
    denoiser = NetworkDenoiser(checkpoint.network, checkpoint.parametrization)
    x = known.x.double()
    ours = denoiser(x, checkpoint.schedule.level(index + 1))
    output = checkpoint.network(known.x, torch.tensor([index, index])).double()
    wanted = predictions(output, x, float(np.cumprod(1 - betas)[index]), objective)
    assert checkpoint.parametrization.name == OBJECTIVES[objective]
    assert_close(ours.x0, wanted.x0, rtol=1e-5, atol=1e-5)
    assert_close(ours.eps, wanted.eps, rtol=1e-5, atol=1e-5)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(BETAS)),
    objective=st.sampled_from(sorted(OBJECTIVES)),
    levels=st.integers(21, 400),
    gamma=st.one_of(st.just(math.inf), st.floats(0.5, 100)),
)
def test_objective_is_inferred_from_loss_weight(kind: str, objective: str, levels: int, gamma: float) -> None:
    state = diffusion(NETWORK, kind, objective, levels, gamma=gamma)
    assert build(state, {}).parametrization.name == OBJECTIVES[objective]


NETWORK = case("default").state


def test_learned_variances_mean_epsilon() -> None:
    """`LearnedGaussianDiffusion` compares its first channels with the noise, though pred_v is its default."""
    known = case("learned_variance")
    checkpoint = build(diffusion(known.state, objective="pred_v"), {})
    assert checkpoint.parametrization.name == "epsilon"
    assert (checkpoint.channels, known.output.shape[1]) == (3, 6)
    assert build(known.state, {}).parametrization.name == "epsilon"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_bare_network_predicts_what_is_named(objective: str) -> None:
    assert build(NETWORK, {"objective": objective}).parametrization.name == OBJECTIVES[objective]


def averaged(state: State) -> State:
    """What ema-pytorch keeps: both copies, of which the second one counts."""
    live = {f"online_model.{name}": torch.zeros_like(tensor) for name, tensor in state.items()}
    ema = {f"ema_model.{name}": tensor for name, tensor in state.items()}
    return {"initted": torch.tensor([True]), "step": torch.tensor([8])} | live | ema


@pytest.mark.parametrize("wrap", [dict, averaged, diffusion, lambda state: averaged(diffusion(state))])
def test_every_wrapping_holds_the_same_network(wrap: Any) -> None:
    known = case("default")
    state = wrap(known.state)
    assert FAMILY.matches(state)
    ours = build(state, {}).network
    assert_close(ours(known.x, known.index), known.output.float(), rtol=1e-5, atol=1e-5)


def test_half_precision_checkpoints_load_as_float32() -> None:
    known = case("default")
    state = {name: tensor.half() for name, tensor in diffusion(known.state, T=1000).items()}
    checkpoint = build(state, {})
    assert {tensor.dtype for tensor in network(checkpoint).state_dict().values()} == {torch.float32}
    assert checkpoint.parametrization.name == "v_prediction"
    output = checkpoint.network(known.x, known.index).double()
    assert (output - known.output).norm() < 1e-2 * known.output.norm()


@pytest.mark.parametrize(("size", "wanted"), [(64, (64, 64)), ([32, 64], (32, 64))])
def test_the_size_is_the_one_named(size: object, wanted: tuple[int, int]) -> None:
    assert build(NETWORK, {"image_size": size}).size == wanted


def test_consistent_settings_are_accepted() -> None:
    state = diffusion(NETWORK)
    known = {"objective": "pred_v", "beta_schedule": "sigmoid", "timesteps": T, "auto_normalize": True}
    assert np.array_equal(build(state, known).schedule.log_s, build(state, {}).schedule.log_s)


def test_a_file_with_levels_of_its_own_agrees_with_their_number() -> None:
    betas = np.linspace(0.01, 0.3, T)
    state = {f"model.{name}": tensor for name, tensor in NETWORK.items()} | buffers(betas, "pred_x0")
    schedule = build(state, {"timesteps": T}).schedule
    np.testing.assert_allclose(schedule.log_s, NoiseSchedule.from_betas(betas).log_s, rtol=0, atol=1e-7)


# Diffusions of continuous time, whose networks have learned frequencies.

LEARNED = case("learned_sinusoidal")


@settings(max_examples=30)
@given(s=st.floats(0.02, 100), sigma_data=st.floats(0.1, 2))
def test_an_elucidated_diffusion_is_edm_s(s: float, sigma_data: float) -> None:
    """D(y; s) = c_skip y + c_out F(c_in y; ln(s) / 4) with y = x / alpha."""
    state = {f"net.{name}": tensor for name, tensor in LEARNED.state.items()}
    checkpoint = build(state, {"sigma_data": sigma_data})
    level = Level(500.0, 1 / math.hypot(1, s), s / math.hypot(1, s))
    denoiser = NetworkDenoiser(checkpoint.network, checkpoint.parametrization)
    ours = denoiser(level.alpha * LEARNED.x, level)
    total = s**2 + sigma_data**2
    answer = checkpoint.network(LEARNED.x / math.sqrt(total), torch.full((2,), math.log(s) / 4))
    wanted = LEARNED.x * sigma_data**2 / total + answer * s * sigma_data / math.sqrt(total)
    assert checkpoint.parametrization.name == "edm"
    assert_close(ours.x0, wanted, rtol=1e-4, atol=1e-4)


def test_an_elucidated_diffusion_covers_the_levels_that_are_named() -> None:
    state = {f"net.{name}": tensor for name, tensor in LEARNED.state.items()}
    schedule = build(state, {"sigma_min": 0.01, "sigma_max": 20}).schedule
    assert_close([schedule.s(1), schedule.s(schedule.T)], [0.01, 20.0], rtol=1e-12, atol=0)


LOG_SNR = {
    "linear": lambda time: -math.log(math.expm1(1e-4 + 10 * time**2)),
    "cosine": lambda time: -math.log(math.cos((time + 0.008) / 1.008 * math.pi / 2) ** -2 - 1),
}


@pytest.mark.parametrize("kind", LOG_SNR)
@pytest.mark.parametrize("t", [1, 250, 999])
def test_continuous_time_networks_get_log_snr(kind: str, t: int) -> None:
    checkpoint = build(LEARNED.state, {"noise_schedule": kind})
    level = checkpoint.schedule.level(t)
    shown, index = (
        checkpoint.parametrization.scale_input(LEARNED.x, level),
        checkpoint.parametrization.time_condition(level),
    )
    assert shown is LEARNED.x
    assert index == pytest.approx(LOG_SNR[kind](t / 1000), abs=1e-6)
    assert level.alpha**2 == pytest.approx(1 / (1 + math.exp(-index)))


@pytest.mark.parametrize("kind", LOG_SNR)
def test_log_snr_is_clamped_at_the_clean_image(kind: str) -> None:
    checkpoint = build(LEARNED.state, {"noise_schedule": kind})
    _, index = (
        checkpoint.parametrization.scale_input(LEARNED.x, checkpoint.schedule.level(0)),
        checkpoint.parametrization.time_condition(checkpoint.schedule.level(0)),
    )
    assert index == pytest.approx(LOG_SNR[kind](0), abs=1e-6)


def test_v_prediction_defaults_to_cosine() -> None:
    state = {f"model.{name}": tensor for name, tensor in LEARNED.state.items()}
    by_eps, by_v = build(state, {}), build(state, {"objective": "pred_v"})
    assert (by_eps.parametrization.name, by_eps.schedule.description["kind"]) == ("epsilon", "continuous linear")
    assert (by_v.parametrization.name, by_v.schedule.description["kind"]) == ("v_prediction", "continuous cosine")


def test_frequencies_in_a_file_with_levels_are_those_of_indices() -> None:
    checkpoint = build(diffusion(LEARNED.state), {})
    assert checkpoint.parametrization.time_condition(checkpoint.schedule.level(18)) == 17


# Refusals.


def changed(**shapes: list[int]) -> State:
    renamed = {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}
    return NETWORK | renamed


def without(*endings: str) -> State:
    return {name: tensor for name, tensor in NETWORK.items() if not name.endswith(endings)}


LEARNED_LEVELS = {f"model.{name}": tensor for name, tensor in LEARNED.state.items()} | {"log_snr.net.1": torch.ones(1)}
REFUSED: dict[str, tuple[State, dict[str, object], str]] = {
    "self-conditioned": (changed(init_conv__weight=[8, 6, 7, 7]), {}, "trained without self_condition"),
    "weighted objective": (
        changed(final_conv__weight=[8, 8, 1, 1], final_conv__bias=[8]),
        {},
        "8 channels out for 3 in",
    ),
    "1-D": (changed(init_conv__weight=[8, 3, 7]), {}, "must have 4 axes"),
    "classes": (changed(classes_emb__weight=[10, 8]), {}, "classifier_free_guidance"),
    "before 1.9": (without(".mem_kv"), {}, "has no downs.0.2.mem_kv. Take one that release 1.9"),
    "before 1.8": (without(".2.norm.g"), {}, "earlier ones do not tell"),
    "a missing tensor": (without("ups.1.0.mlp.1.bias"), {}, "ups.1.0.mlp.1.bias is missing"),
    "an unknown tensor": (changed(extra=[1]), {}, "extra is unknown"),
    "a learned schedule": (LEARNED_LEVELS, {}, "A learned noise schedule"),
    "pictures in [0, 1]": (
        NETWORK,
        {"auto_normalize": False},
        "auto_normalize False",
    ),
    "another objective": (
        diffusion(NETWORK),
        {"objective": "pred_x0"},
        "objective is 'pred_x0', but the file tells that it is 'pred_v'",
    ),
    "another schedule": (
        diffusion(NETWORK),
        {"beta_schedule": "linear"},
        "The settings linear contradict the 50 levels",
    ),
    "another length": (diffusion(NETWORK), {"timesteps": 1000}, "The settings 1000 contradict the 50 levels"),
    "a list of objectives": (NETWORK, {"objective": ["pred_v"]}, 'objective must be "pred_noise" or "pred_x0"'),
    "groups that do not fit": (
        case("groups").state,
        {"resnet_block_groups": 7},
        r"divide the widths \(8, 8, 16\), which 7 does not",
    ),
    "half a size": (NETWORK, {"image_size": [64]}, "image_size must be an integer from 1 to 1000000 or a list of 2"),
    "x0 in continuous time": (LEARNED.state, {"objective": "pred_x0"}, "must be pred_noise or pred_v"),
}


@pytest.mark.parametrize(("state", "given", "words"), REFUSED.values(), ids=REFUSED)
def test_unsupported_checkpoints_are_refused(state: State, given: dict[str, object], words: str) -> None:
    assert FAMILY.matches(state)
    with pytest.raises(DDIMEditError, match=words) as caught:
        build(state, given)
    assert "\n" not in str(caught.value)


def test_files_of_other_families_do_not_match() -> None:
    other = {"conv_in.weight": torch.zeros(1), "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    assert not FAMILY.matches(other)
    assert not FAMILY.matches({})


@pytest.mark.parametrize("shape", [(1, 3, 8, 7), (1, 1, 8, 8), (3, 8, 8)])
def test_sizes_that_do_not_halve_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"\[B, 3, H, W\] with H and W multiples of 2"):
        build(NETWORK, {}).network(torch.zeros(shape), torch.zeros(1))


def test_labels_are_refused() -> None:
    with pytest.raises(ArgumentError, match="no classes"):
        build(NETWORK, {}).network(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
