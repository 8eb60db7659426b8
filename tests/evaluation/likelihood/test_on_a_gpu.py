"""Likelihoods with the network on a GPU: the CPU's figures, and no wait for any of the steps."""

import pytest
import torch
from torch import Tensor

from ddim_edit import Likelihood, LikelihoodConfig, Model, load_model, log_likelihood
from ddim_edit.evaluation.likelihood.traces import Hutchinson, exact_trace
from ddim_edit.images import to_float

from ... import tiny
from ...pretend_gpu import PretendGPU, model_on, pretend_gpu
from .closed_forms import SHAPE, randn


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny"), size=8)


def images(n: int) -> Tensor:
    return torch.stack([to_float(torch.from_numpy(tiny.pixels(seed, 8, 8)).movedim(-1, 0)) for seed in range(n)])


def on_gpu(model: Model, config: LikelihoodConfig, n: int) -> tuple[Likelihood, PretendGPU]:
    with pretend_gpu() as gpu:
        moved = model_on(gpu, model)
        gpu.reset()
        return log_likelihood(moved, images(n), config, batch_size=2), gpu


@pytest.mark.parametrize("probes", [2, 5])
def test_figures_are_those_of_the_cpu(model: Model, probes: int) -> None:
    found, _ = on_gpu(model, LikelihoodConfig(2, probes), 3)
    expected = log_likelihood(model, images(3), LikelihoodConfig(2, probes), batch_size=2)
    torch.testing.assert_close(found.bits, expected.bits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.error, expected.error, rtol=1e-2, atol=1e-4)
    assert not found.nats.is_cuda


@pytest.mark.parametrize("probes", [2, 7])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_gpu_is_waited_for_at_the_end_alone(model: Model, steps: int, probes: int) -> None:
    _, gpu = on_gpu(model, LikelihoodConfig(steps, probes), 3)
    # Three times to see that encoder and network return finite values, then for the nats of all images and their
    # variance.
    assert sum(gpu.waits.values()) == 5


def test_exact_trace_is_multiplied_without_a_wait() -> None:
    with pretend_gpu() as gpu:
        x = randn(2, *SHAPE).to("cuda")
        gpu.reset()
        found = exact_trace(x, lambda v: 3 * v)
        assert not gpu.waits
        assert found.value.tolist() == [3.0 * x[0].numel()] * 2


def test_signs_are_drawn_probe_by_probe_from_each_row_s_own_generator() -> None:
    """As numbers of 64 bits, whatever they are drawn as; likelihoods are told to be reproducible."""
    seen, seeds = [], (3, 4, 5)

    def product(v: Tensor) -> Tensor:
        seen.append(v)
        return v

    hutchinson = Hutchinson(3, seeds)
    for _ in range(2):
        hutchinson(randn(len(seeds), *SHAPE), product)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for v in seen:
        drawn = [torch.randint(2, SHAPE, generator=each, dtype=torch.float64) for each in generators]
        assert v.dtype == torch.float64
        assert torch.equal(v, 2 * torch.stack(drawn) - 1)
    assert len(seen) == 6
