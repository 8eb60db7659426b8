"""Products with dh / dx, beside the whole Jacobian and beside differences of a loaded network's own bottleneck."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ddim_edit import Model, NoiseSchedule, load_model
from ddim_edit.diffusion.denoisers import ClippedDenoiser, NetworkDenoiser
from ddim_edit.diffusion.parametrization import FlowParametrization
from ddim_edit.errors import ModelError
from ddim_edit.models.cpu_layers import PackedConv2d
from ddim_edit.models.devices import DeviceNetwork, Precision
from ddim_edit.models.differentiation import BottleneckJacobian
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet

from .. import tiny

LEVEL = NoiseSchedule.linear().level(400)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention": {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]},
    "scaled": {"resnet_time_scale_shift": "scale_shift", "act_fn": "silu", "downsample_type": "resnet"},
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def unet(request: pytest.FixtureRequest) -> UNet:
    config = tiny.UNET | {"sample_size": 8, "block_out_channels": [8, 8]} | request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(UNetConfig.from_dict(config)).double().eval().requires_grad_(False)


@pytest.fixture
def jacobian(unet: UNet) -> BottleneckJacobian:
    """Of a network of float64 that sees its input scaled."""
    network = DeviceNetwork(unet, torch.device("cpu"), Precision(torch.float64))
    return BottleneckJacobian(NetworkDenoiser(network, FlowParametrization(), torch.float64), LEVEL)


def whole(unet: UNet, x: Tensor) -> Tensor:
    """dh / dx [h, d] at one x."""
    parametrization = FlowParametrization()
    time = torch.full((1,), parametrization.time_condition(LEVEL))

    def h(x: Tensor) -> Tensor:
        found, _ = unet.split_at_bottleneck(parametrization.scale_input(x[None], LEVEL), time, None)
        return found.flatten()

    found: Tensor = torch.autograd.functional.jacobian(h, x)  # type: ignore[no-untyped-call]
    return found.flatten(1)


def test_products_are_those_of_the_whole_jacobian_of_each_row(unet: UNet, jacobian: BottleneckJacobian) -> None:
    x, v, u = randn(2, 3, 8, 8), randn(2, 3, 8, 8, seed=1), randn(2, 8, 4, 4, seed=2)
    forward, backward = jacobian.times(x, v), jacobian.transposed_times(x, u)
    for row in range(2):
        matrix = whole(unet, x[row])
        torch.testing.assert_close(forward[row].flatten(), matrix @ v[row].flatten(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(backward[row].flatten(), u[row].flatten() @ matrix, rtol=1e-9, atol=1e-12)


def test_products_work_in_inference_mode(jacobian: BottleneckJacobian) -> None:
    with torch.inference_mode():
        x, v = randn(1, 3, 8, 8), randn(1, 3, 8, 8, seed=1)
        inside = jacobian.transposed_times(x, jacobian.times(x, v))
    x, v = randn(1, 3, 8, 8), randn(1, 3, 8, 8, seed=1)
    assert torch.equal(inside, jacobian.transposed_times(x, jacobian.times(x, v)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny"))


def test_of_a_loaded_network_they_are_slopes_of_the_bottleneck_that_it_reads(model: Model) -> None:
    denoiser = model.denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    x, v = randn(2, *model.shape), randn(2, *model.shape, seed=1)
    index = torch.full((2,), denoiser.parametrization.time_condition(LEVEL))
    (_, ahead), (_, behind) = (denoiser.network.read(x + step * v, index) for step in (0.01, -0.01))
    slope = (ahead - behind) / 0.02
    found = BottleneckJacobian(denoiser, LEVEL).times(x, v)
    assert (found - slope).norm() < 1e-3 * slope.norm()


def test_the_loaded_network_keeps_its_packed_layers(model: Model) -> None:
    before = list(model.denoiser.network.network.modules())
    jacobian = BottleneckJacobian(model.denoiser, LEVEL)
    jacobian.times(randn(1, *model.shape), randn(1, *model.shape))
    after = list(model.denoiser.network.network.modules())
    assert len(before) == len(after)
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert any(isinstance(each, PackedConv2d) for each in after)


def test_a_denoiser_without_a_bottleneck_is_refused(model: Model) -> None:
    with pytest.raises(ModelError, match="Only a single network has a bottleneck h, not a ClippedDenoiser"):
        BottleneckJacobian(ClippedDenoiser(model.denoiser), LEVEL)
    own = Model.from_network(torch.nn.Conv2d(3, 3, 1), NoiseSchedule.linear(), shape=(3, 8, 8))
    with pytest.raises(ModelError, match=r"^The network \(OwnNetwork\) does not expose its bottleneck h\. [^\n]+$"):
        BottleneckJacobian(own.denoiser, LEVEL)
