"""Small models, one for each thing that a network may predict, and what belongs to them."""

import pytest
import torch
from torch import Tensor

from ddim_edit import Model, load_model
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.parametrization import PREDICTION_TYPES
from ddim_edit.models.unet.network import UNet

from ... import tiny

H_SHAPE = (16, 8, 8)


@pytest.fixture(scope="package", params=sorted(PREDICTION_TYPES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / request.param
    return load_model(tiny.save_model(folder, prediction_type=request.param))


@pytest.fixture(scope="package")
def denoiser(model: Model) -> NetworkDenoiser:
    assert isinstance(model.denoiser, NetworkDenoiser)
    return model.denoiser


@pytest.fixture(scope="package")
def unet(denoiser: NetworkDenoiser) -> UNet:
    return denoiser.network.network


@pytest.fixture(scope="package")
def x(model: Model) -> Tensor:
    return randn(3, *model.shape)


@pytest.fixture(scope="package")
def shift() -> Tensor:
    return randn(*H_SHAPE, seed=1)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
