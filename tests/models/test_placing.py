"""How a network lies in memory where it is placed."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.models.checkpoint import LoadOptions
from ddim_edit.models.cpu_layers import PackedConv2d, WinogradConv2d
from ddim_edit.models.devices import PRECISIONS, DeviceNetwork, suited_memory_format
from ddim_edit.models.loading import load_with_options, place_network

from .. import tiny
from .twins import LAYERS, TIMES, Config, images, twins

CPU = torch.device("cpu")
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


@pytest.fixture(params=FORMATS)
def memory_format(request: pytest.FixtureRequest) -> torch.memory_format:
    return FORMATS[request.param]


@pytest.mark.parametrize("config", LAYERS.values(), ids=LAYERS)
def test_convolution_inputs_keep_the_memory_format(config: Config, memory_format: torch.memory_format) -> None:
    """Otherwise they are copied to the other format on the way."""
    ours, _ = twins(config)
    placed = place_network(ours, PRECISIONS["float32"], LoadOptions(CPU, "float32", memory_format=memory_format))
    strays = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not inputs[0].is_contiguous(memory_format=memory_format):
            strays.append(module)

    convolutions = [each for each in ours.modules() if isinstance(each, nn.Conv2d | PackedConv2d | WinogradConv2d)]
    for each in convolutions:
        each.register_forward_pre_hook(note)
    placed(images(ours.config), TIMES)
    assert len(convolutions) > 5
    assert strays == []


@pytest.mark.parametrize("config", LAYERS.values(), ids=LAYERS)
def test_outputs_do_not_depend_on_the_memory_format(config: Config) -> None:
    ours, _ = twins(config)
    x = images(ours.config)
    nchw, nhwc = (
        place_network(deepcopy(ours), PRECISIONS["float32"], LoadOptions(CPU, "float32", memory_format=each))(x, TIMES)
        for each in FORMATS.values()
    )
    torch.testing.assert_close(nchw, nhwc, rtol=1e-3, atol=1e-4)


def test_a_bottleneck_is_read_and_shifted_in_either_format(memory_format: torch.memory_format) -> None:
    ours, _ = twins(LAYERS["small"])
    x = images(ours.config)
    wanted, h = ours.read(x, TIMES)
    placed = place_network(ours, PRECISIONS["float32"], LoadOptions(CPU, "float32", memory_format=memory_format))
    output, found = placed.read(x, TIMES)
    torch.testing.assert_close(output, wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found, h, rtol=1e-3, atol=1e-4)
    own, _ = placed.shifted(x, TIMES, torch.ones_like(h[0]))
    torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "mixed"])
def test_model_is_loaded_in_the_given_memory_format(
    dtype: str, memory_format: torch.memory_format, tmp_path: Path
) -> None:
    model = load_with_options(
        str(tiny.save_model(tmp_path / "tiny")), LoadOptions(CPU, dtype, memory_format=memory_format)
    )
    assert isinstance(model.denoiser, NetworkDenoiser)
    placed = [each for each in (model.denoiser.network, model.denoiser.low) if each is not None]
    assert len(placed) == (2 if dtype == "mixed" else 1)
    for each in placed:
        assert isinstance(each, DeviceNetwork)
        assert each.network.memory_format == memory_format


def test_default_memory_format() -> None:
    ours, _ = twins(LAYERS["small"])
    assert place_network(ours, PRECISIONS["float32"], LoadOptions(CPU, "float32")).network is ours
    assert ours.memory_format == suited_memory_format(CPU) == torch.channels_last
