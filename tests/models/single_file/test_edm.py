"""EDM's checkpoints against NVlabs/edm itself.

How fixtures/edm_*.safetensors were made: its networks (training/networks.py) of 16x16 pictures, with the arguments in
`MADE_WITH` and the weights that `weight` makes, were run in float32 on noisy ~ N(0, 0.5^2 + sigma^2) [3, 3, 16, 16] at
three levels sigma, with a label each where there are classes; the last label is the all-zero vector. The header keeps
the names and shapes of the state dict of EDMPrecond; the file keeps what the network is shown by it, index, output and,
for every preconditioning tried, the denoised pictures.
"""

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler
from safetensors import safe_open
from torch import Tensor, nn

from ddim_edit.diffusion.bottleneck import Bottleneck
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.grids import Karras
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import euler_step
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.checkpoint import Checkpoint, Classes
from ddim_edit.models.families.edm import FAMILY
from ddim_edit.models.unet.edm_unet import DhariwalUNet, EDMConfig, EDMUNet, SongUNet

from ...rounding import assert_alike

FIXTURES = Path(__file__).parent / "fixtures"
State = dict[str, Tensor]

MADE_WITH = {
    # cifar10-32x32-cond-vp at a sixteenth of its width, with half its blocks
    "ddpmpp": "SongUNet, label_dim=10, augment_dim=9, model_channels=8, channel_mult=[2, 2, 2], num_blocks=2, "
    "attn_resolutions=[8]",
    # cifar10-32x32-uncond-ve, likewise
    "ncsnpp": "as ddpmpp without label_dim, and embedding_type='fourier', channel_mult_noise=2, "
    "encoder_type='residual', resample_filter=[1, 3, 3, 1]",
    # what neither of them uses
    "skips": "SongUNet, model_channels=8, channel_mult=[1, 2, 3], num_blocks=2, attn_resolutions=[8], "
    "encoder_type='skip', decoder_type='skip', resample_filter=[1, 3, 3, 1]",
    # imagenet-64x64-cond-adm at a sixth of its width, with a third of its blocks
    "adm": "DhariwalUNet, label_dim=6, model_channels=32, channel_mult=[1, 2, 3, 4], num_blocks=1, "
    "attn_resolutions=[8, 4, 2]",
}
SONG_ATTENDS = frozenset({"enc.8x8_block0", "enc.8x8_block1", "dec.4x4_in0", "dec.8x8_block2"})
ADM_ATTENDS = frozenset(
    {"dec.2x2_in0"} | {f"{place}{i}" for i in (0, 1) for place in ("dec.8x8_block", "dec.4x4_block", "dec.2x2_block")}
) | {"enc.8x8_block0", "enc.4x4_block0", "enc.2x2_block0"}
CONFIGS: dict[str, EDMConfig] = {
    "ddpmpp": EDMConfig(3, 3, (16, 8, 4), 8, (16, 16, 16), 2, SONG_ATTENDS, 8, 32, 2, 10, 9, False, "standard", False),
    "ncsnpp": EDMConfig(3, 3, (16, 8, 4), 8, (16, 16, 16), 2, SONG_ATTENDS, 16, 32, 4, 0, 9, True, "residual", False),
    "skips": EDMConfig(3, 3, (16, 8, 4), 8, (8, 16, 24), 2, SONG_ATTENDS, 8, 32, 4, 0, 0, False, "skip", True),
    "adm": EDMConfig(
        3, 3, (16, 8, 4, 2), 32, (32, 64, 96, 128), 1, ADM_ATTENDS, 32, 128, 2, 6, 0, False, "standard", False
    ),
}


def weight(name: str, shape: list[int]) -> Tensor:
    """Noise that only the name and shape decide, but for the two filters that EDM uses."""
    if name.endswith("resample_filter"):
        taps = np.array({2: [1, 1], 4: [1, 3, 3, 1]}[shape[-1]], dtype=float)
        return torch.from_numpy(np.outer(taps, taps)[None, None] / taps.sum() ** 2).float()
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("freqs"):
        return torch.from_numpy(16 * drawn).float()
    if len(shape) > 1:
        return torch.from_numpy(drawn / np.sqrt(np.prod(shape[1:]))).float()
    return torch.from_numpy(0.1 * drawn + name.endswith("weight")).float()


class Case(NamedTuple):
    name: str
    state: State
    told: State

    def build(self, **settings: object) -> Checkpoint:
        return FAMILY.load(self.state, settings)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(self.told[key] for key in ("shown", "index", "label") if key in self.told)


def read_case(name: str) -> Case:
    with safe_open(FIXTURES / f"edm_{name}.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        told = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return Case(name, {key: weight(key, shape) for key, shape in shapes.items()}, told)


@pytest.fixture(params=MADE_WITH, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return read_case(request.param)


@pytest.fixture(scope="module")
def ddpmpp() -> Case:
    return read_case("ddpmpp")


@pytest.fixture(scope="module")
def skips() -> Case:
    return read_case("skips")


def answers_of(case: Case, checkpoint: Checkpoint, levels: list[Level]) -> tuple[Tensor, Tensor]:
    """x0 and eps of the fixture's noisy pictures, each asked for at its own level, in float64."""
    rows = []
    for i, level in enumerate(levels):
        label = (case.told["label"][i : i + 1],) if "label" in case.told else ()

        def network(x: Tensor, index: Tensor, label: tuple[Tensor, ...] = label) -> Tensor:
            answer: Tensor = checkpoint.network(x, index, *label)
            return answer

        denoiser = NetworkDenoiser(network, checkpoint.parametrization)
        rows.append(denoiser(level.alpha * case.told["noisy"][i : i + 1].double(), level))
    x0, eps = (torch.cat(each) for each in zip(*rows, strict=True))
    return x0, eps


def levels_of(case: Case, schedule: NoiseSchedule) -> list[Level]:
    return [schedule.level(schedule.time(float(sigma))) for sigma in case.told["sigma"]]


def test_outputs_equal_the_original(case: Case) -> None:
    torch.testing.assert_close(case.build().network(*case.inputs), case.told["output"], rtol=1e-5, atol=1e-5)


def test_float64_outputs_equal_the_original(case: Case) -> None:
    x, *rest = case.inputs
    output = case.build().network.double()(x.double(), *rest)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output, case.told["output"].double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "precond"), [(name, "edm") for name in MADE_WITH] + [("ddpmpp", "vp"), ("ncsnpp", "ve")]
)
def test_denoised_images_equal_the_original(name: str, precond: str) -> None:
    case = read_case(name)
    checkpoint = case.build(precond=precond, sigma_min=0.002, sigma_max=80)
    x0, eps = answers_of(case, checkpoint, levels_of(case, checkpoint.schedule))
    wanted, sigma = case.told[f"denoised_{precond}"].double(), case.told["sigma"].double()[:, None, None, None]
    # Under "vp" and "ve" an x0 is a difference of pictures as large as sigma.
    torch.testing.assert_close(x0 / sigma.clamp(min=1), wanted / sigma.clamp(min=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x0 + sigma * eps, case.told["noisy"].double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma_data", [0.5, 0.8])
def test_the_denoiser_is_c_skip_x_and_c_out_of_the_network(case: Case, sigma_data: float) -> None:
    checkpoint = case.build(sigma_data=sigma_data)
    x0, _ = answers_of(case, checkpoint, levels_of(case, checkpoint.schedule))
    sigma, noisy = case.told["sigma"].double()[:, None, None, None], case.told["noisy"].double()
    total = sigma**2 + sigma_data**2
    F = checkpoint.network((noisy / total.sqrt()).float(), (sigma.flatten().log() / 4).float(), *case.inputs[2:])
    wanted = sigma_data**2 / total * noisy + sigma * sigma_data / total.sqrt() * F
    torch.testing.assert_close(x0, wanted, rtol=1e-5, atol=1e-5)


def test_euler_steps_on_the_karras_grid_are_those_of_diffusers(skips: Case) -> None:
    """Its state is ours in other units, y = x / alpha; its last step, to the clean image, has no level here."""
    theirs: Any = EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5)
    theirs.set_timesteps(12)
    checkpoint = skips.build()
    spans = checkpoint.schedule.spans(Karras()(checkpoint.schedule, 11))[::-1]
    denoiser = NetworkDenoiser(checkpoint.network, checkpoint.parametrization)
    y = skips.told["noisy"][2:] / skips.told["sigma"][2] * 80
    for time, span in zip(theirs.timesteps, [span.flipped() for span in spans], strict=False):
        x, _ = euler_step(TrackedDenoiser.start(denoiser, 1), span.here.alpha * y.double(), span, ())
        output = checkpoint.network(theirs.scale_model_input(y, time), time.view(1))
        y = theirs.step(output, time, y).prev_sample
        torch.testing.assert_close(x / span.there.alpha, y.double(), rtol=1e-5, atol=1e-5 * max(span.there.s, 1))


def test_names_and_shapes_tell_the_architecture(case: Case) -> None:
    checkpoint = case.build()
    assert checkpoint.network.config == CONFIGS[case.name]
    assert isinstance(checkpoint.network, DhariwalUNet if case.name == "adm" else SongUNet)
    assert (checkpoint.channels, checkpoint.size, checkpoint.parametrization.name) == (3, (16, 16), "edm")
    count = CONFIGS[case.name].classes
    assert checkpoint.classes == (Classes(count, none=count) if count else None)


def test_the_prefix_and_the_order_of_names_do_not_matter(case: Case) -> None:
    bare = {name.removeprefix("model."): case.state[name] for name in sorted(case.state)}
    assert FAMILY.matches(case.state)
    assert FAMILY.matches(bare)
    assert_alike(FAMILY.load(bare, {}).network(*case.inputs), case.build().network(*case.inputs))


SIXTEEN = {f"enc.16x16_block{i}" for i in range(4)} | {"dec.16x16_block4"}
EVERY_LOW = {f"enc.{n}x{n}_block{i}" for n in (32, 16, 8) for i in range(3)}
EVERY_LOW |= {f"dec.{n}x{n}_block{i}" for n in (32, 16, 8) for i in range(4)}
CIFAR10 = EDMConfig(
    3, 3, (32, 16, 8), 128, (256,) * 3, 4, frozenset(SIXTEEN | {"dec.8x8_in0"}), 128, 512, 2, 10, 9, False,
    "standard", False,
)  # fmt: skip
RELEASED: dict[str, tuple[type[EDMUNet], EDMConfig, int]] = {
    "cifar10-32x32-cond-vp": (SongUNet, CIFAR10, 55_735_299),
    "cifar10-32x32-uncond-ve": (
        SongUNet, replace(CIFAR10, noise=256, taps=4, classes=0, fourier=True, encoder_type="residual"), 56_397_827,
    ),
    "imagenet-64x64-cond-adm": (
        DhariwalUNet,
        EDMConfig(
            3, 3, (64, 32, 16, 8), 192, (192, 384, 576, 768), 3, frozenset(EVERY_LOW | {"dec.8x8_in0"}), 192, 768, 2,
            1000, 0, False, "standard", False,
        ),
        295_899_267,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_architectures_have_as_many_parameters_as_in_the_original(name: str) -> None:
    kind, config, count = RELEASED[name]
    with torch.device("meta"):
        network = kind(config)
    assert sum(each.numel() for each in network.parameters()) == count


@pytest.mark.parametrize("name", ["unet", "other", "none"])
def test_other_families_do_not_match(name: str) -> None:
    states: dict[str, State] = {
        "unet": {"conv_in.weight": torch.zeros(1), "map_layer0.weight": torch.zeros(1)},
        "other": {"enc.16x16_conv.weight": torch.zeros(1), "emb_noise.weight": torch.zeros(1)},
        "none": {},
    }
    assert not FAMILY.matches(states[name])


def test_no_label_is_the_vector_of_zeros(ddpmpp: Case) -> None:
    network, (x, index, _) = ddpmpp.build().network, ddpmpp.inputs
    torch.testing.assert_close(network(x, index)[2], ddpmpp.told["output"][2], rtol=1e-5, atol=1e-5)
    assert_alike(network(x, index), network(x, index, torch.full((3,), 10)))


def test_labels_go_to_networks_with_classes_only(skips: Case) -> None:
    with pytest.raises(ArgumentError, match="no classes"):
        skips.build().network(*skips.inputs, torch.zeros(3, dtype=torch.int64))


def test_augmentation_takes_zeros_whatever_its_weights(ddpmpp: Case) -> None:
    changed = ddpmpp.state | {"model.map_augment.weight": torch.full((8, 9), 1e3)}
    output = FAMILY.load(changed, {}).network(*ddpmpp.inputs)
    assert_alike(output, ddpmpp.build().network(*ddpmpp.inputs))


def test_the_bottleneck_is_what_in1_puts_out(case: Case) -> None:
    network: Any = case.build().network
    assert isinstance(network, Bottleneck)
    lowest = CONFIGS[case.name].names[-1]
    seen: list[Tensor] = []
    network.dec[f"{lowest}_in1"].register_forward_hook(lambda module, given, h: seen.append(h))
    x, index, *label = case.inputs
    output, h = network.read(x, index, *label)
    assert torch.equal(h, seen[0])
    assert torch.equal(output, network(x, index, *label))
    assert h.shape == (3, CONFIGS[case.name].widths[-1], *2 * [CONFIGS[case.name].sizes[-1]])


def test_a_shift_of_the_bottleneck_is_a_shift_of_the_last_bias_before_it(case: Case) -> None:
    x, index, *label = case.inputs
    network: Any = case.build().network
    by_channel = torch.linspace(-1, 1, network.config.widths[-1])
    shift = by_channel[:, None, None].expand(network.read(x, index, *label)[1].shape[1:])
    own, shifted = network.shifted(x, index, shift, *label)
    lowest = f"model.dec.{network.config.names[-1]}_in1.conv1.bias"
    moved = case.state | {lowest: case.state[lowest] + by_channel / network.style.skip_scale}
    torch.testing.assert_close(own, case.told["output"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shifted, FAMILY.load(moved, {}).network(x, index, *label), rtol=1e-5, atol=1e-5)


class _Counted(nn.Module):
    """A layer, and how often it was called."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, *inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(*inputs)


def test_replaced_norms_are_not_run(case: Case) -> None:
    network: Any = case.build().network
    counted = []
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                counted.append(_Counted(child))
                setattr(module, name, counted[-1])
    torch.testing.assert_close(network(*case.inputs), case.told["output"], rtol=1e-5, atol=1e-5)
    assert [layer.calls for layer in counted] == len(counted) * [1]


def test_a_shift_of_another_shape_is_refused(skips: Case) -> None:
    network: Any = skips.build().network
    with pytest.raises(ArgumentError, match=r"must have the shape \[24, 4, 4\]"):
        network.shifted(*skips.inputs, torch.zeros(24, 2, 2))


@pytest.mark.parametrize("shape", [(1, 3, 8, 6), (1, 1, 8, 8), (3, 8, 8)])
def test_sizes_that_do_not_halve_are_refused(skips: Case, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"\[B, 3, H, W\] with H and W multiples of 4"):
        skips.build().network(torch.zeros(shape), torch.zeros(1))


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp", "adm"])
def test_time_features_stay_float32(name: str) -> None:
    case = read_case(name)
    network: Any = case.build().network
    index = torch.tensor([998.5, 999.0, 1000.0])  # all the same to bfloat16
    before = network.map_noise(index)
    assert torch.equal(network.bfloat16().map_noise(index), before)
    x, index, *label = case.inputs
    rough = network(x.bfloat16(), index, *label)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - case.told["output"]).norm() < 5e-2 * case.told["output"].norm()


def test_the_schedule_is_even_in_log_s_between_its_ends(skips: Case) -> None:
    usual = skips.build().schedule
    assert (usual.T, usual.s(1), usual.s(1000)) == pytest.approx((1000, 0.002, 80))
    assert np.diff(usual.log_s) == pytest.approx(math.log(40_000) / 999)
    other = skips.build(sigma_min=0.01, sigma_max=20).schedule
    assert (other.s(1), other.s(1000)) == pytest.approx((0.01, 20))


def test_the_ends_of_the_other_processes_are_edm_s(skips: Case) -> None:
    vp, ve = skips.build(precond="vp"), skips.build(precond="ve")
    assert [vp.parametrization.name, ve.parametrization.name] == ["vp", "ve"]
    assert (ve.schedule.s(1), ve.schedule.s(1000)) == pytest.approx((0.02, 100))
    # s^2 = 1 / alpha_bar - 1, where alpha_bar = exp(-integral of beta from 0 to tau), at tau = 1e-5 and at 1
    integrals = [19.9 / 2 * tau**2 + 0.1 * tau for tau in (1e-5, 1.0)]
    wanted = [math.sqrt(math.exp(each) - 1) for each in integrals]
    assert [vp.schedule.s(1), vp.schedule.s(1000)] == pytest.approx(wanted, rel=1e-6)
    for tau, t in ((1e-5, 1), (1.0, 1000)):
        assert vp.parametrization.time_condition(vp.schedule.level(t)) == pytest.approx(999 * tau, rel=1e-9)


@pytest.mark.parametrize("precond", ["edm", "ve"])
def test_the_clean_image_cannot_be_asked_about_by_its_logarithm(skips: Case, precond: str) -> None:
    checkpoint = skips.build(precond=precond)
    with pytest.raises(ArgumentError, match="infinite at the clean image"):
        checkpoint.parametrization.time_condition(checkpoint.schedule.level(0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precond": []}, 'settings: precond must be "edm" or "vp" or "ve", not a list of 0 entries. The settings of '),
        ({"sigma_data": 0}, "settings: sigma_data must be a positive number, not 0. The settings of edm are precond, "),
        (
            {"sigma_min": 3, "sigma_max": 2},
            "sigma_min must be below sigma_max, but they are 3 and 2. 0.002 and 80 are ",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(skips: Case, settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        skips.build(**settings)
    assert str(caught.value).startswith(sentence)


IDDPM = (
    "This EDM checkpoint is an iDDPMPrecond ({}), not a network of continuous noise levels. "
    "Load the guided-diffusion checkpoint that it was made of."
)
MISFIT = "This EDM checkpoint: the weights do not fit the network: {}. Take config and weights from one checkpoint."


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"u": torch.zeros(1001)}, IDDPM.format("a tensor u")),
        ({"model.dec.16x16_aux_conv.weight": torch.zeros(6, 8, 3, 3)}, IDDPM.format("6 channels out for 3 in")),
        (
            {"model.map_layer1.weight": None},
            "This EDM checkpoint has no tensor map_layer1.weight. Save its whole net.state_dict().",
        ),
        (
            {"model.enc.16x16_conv.weight": torch.zeros(3)},
            "This EDM checkpoint has a tensor of shape [3] as enc.16x16_conv.weight. Save its whole net.state_dict().",
        ),
        ({"model.dec.4x4_in1.norm0.bias": None}, MISFIT.format("dec.4x4_in1.norm0.bias is missing")),
        (
            {"model.enc.8x8_block0.affine.weight": torch.zeros(32, 32)},
            MISFIT.format("enc.8x8_block0.affine.weight has the shape [32, 32], not [16, 32]"),
        ),
    ],
)
def test_networks_that_are_not_edm_s_are_refused(skips: Case, changed: dict[str, Tensor | None], sentence: str) -> None:
    state = {name: tensor for name, tensor in (skips.state | changed).items() if tensor is not None}
    with pytest.raises(ModelError) as caught:
        FAMILY.load(state, {})
    assert str(caught.value) == sentence
