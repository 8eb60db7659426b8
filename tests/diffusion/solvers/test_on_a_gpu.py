"""Solvers on a GPU: where they wait for it, what they launch, and that the statistics follow the state there."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ddim_edit.diffusion.denoisers import Denoiser, NetworkDenoiser
from ddim_edit.diffusion.integration import invert, sample
from ddim_edit.diffusion.noise import SeededNoise
from ddim_edit.diffusion.parametrization import DDPMParametrization
from ddim_edit.diffusion.solvers.ancestral import AncestralStep
from ddim_edit.diffusion.solvers.anderson import AndersonAccelerator, fixed_point
from ddim_edit.diffusion.solvers.exact import CheckedSolver, ExactSolver
from ddim_edit.diffusion.solvers.registry import SOLVERS
from ddim_edit.diffusion.solvers.solver import SamplingOnlySolver, Solver, State
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser

from ...pretend_gpu import PretendGPU, pretend_gpu
from .closed_forms import SHAPE, Counting, max_error, randn, spans

EXPLICIT = [name for name in SOLVERS if name != "midpoint"]
BATCH = 4
WEIGHT = torch.linspace(-0.5, 0.5, 6).view(SHAPE)


def network(x: Tensor, index: Tensor) -> Tensor:
    """Curved, and of another strength for each row, so that rows converge one after the other."""
    strength = 0.2 * x.flatten(1).std(1).view(-1, 1, 1, 1)
    return strength * torch.sin(3 * x + WEIGHT) * torch.cos(index / 300).view(-1, 1, 1, 1)


def denoiser_on(gpu: PretendGPU) -> Denoiser:
    return NetworkDenoiser(lambda x, index: gpu.run(network, x, index), DDPMParametrization("v_prediction"))


@pytest.fixture
def gpu() -> Iterator[PretendGPU]:
    with pretend_gpu() as gpu:
        yield gpu


def images() -> Tensor:
    return randn(BATCH, *SHAPE) * torch.tensor([0.1, 0.5, 1.0, 2.0]).view(-1, 1, 1, 1)


def waits(gpu: PretendGPU, work: Callable[[], object]) -> int:
    gpu.reset()
    work()
    return sum(gpu.waits.values())


@pytest.mark.parametrize("name", EXPLICIT)
def test_a_solver_without_a_tolerance_never_waits(gpu: PretendGPU, name: str) -> None:
    solver, walk, x = SOLVERS[name], spans(steps=8), images().to("cuda")
    account = TrackedDenoiser.start(denoiser_on(gpu), BATCH, x.device)
    gpu.reset()
    parts = solver.invert(account, x, walk).state
    solver.decode(account, parts, walk)
    assert not gpu.waits


def test_a_solver_with_a_tolerance_waits_once_for_each_iteration_to_learn_which_rows_go_on(gpu: PretendGPU) -> None:
    solver, walk, x = SOLVERS["midpoint"], spans(steps=8), images().to("cuda")
    denoiser = Counting(denoiser_on(gpu))
    account = TrackedDenoiser.start(denoiser, BATCH, x.device)
    gpu.reset()
    parts = solver.invert(account, x, walk).state
    assert 0 < sum(gpu.waits.values()) <= len(denoiser.levels)
    assert {wait.split(" at ")[0] for wait in gpu.waits} == {"aten.nonzero.default"}
    evaluations = len(denoiser.levels)
    assert waits(gpu, lambda: solver.decode(account, parts, walk)) <= len(denoiser.levels) - evaluations


@pytest.mark.parametrize("name", EXPLICIT)
def test_exact_inversion_waits_once_a_round(gpu: PretendGPU, name: str) -> None:
    walk, x = spans(steps=8), images().to("cuda")
    account = TrackedDenoiser.start(denoiser_on(gpu), BATCH, x.device)
    gpu.reset()
    check = ExactSolver(SOLVERS[name], 1e-6).invert(account, x, walk).check
    assert check is not None
    assert sum(gpu.waits.values()) <= int(check.rounds.max())


KINDS: dict[str, Callable[[Solver], Solver]] = {
    "plain": lambda solver: solver,
    "check": CheckedSolver,
    "exact": lambda solver: ExactSolver(solver, 1e-6),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_statistics_are_kept_where_the_state_is(gpu: PretendGPU, name: str, kind: str) -> None:
    solver, walk, x = KINDS[kind](SOLVERS[name]), spans(steps=6), images()
    found = invert(denoiser_on(gpu), x.to("cuda"), walk, solver)
    expected = invert(NetworkDenoiser(network, DDPMParametrization("v_prediction")), x, walk, solver)
    assert all(part.is_cuda for part in found.state)
    assert all(each.is_cuda for each in (found.nfe, found.residual, found.converged))
    for part, other in zip(found.state, expected.state, strict=True):
        assert max_error(part.cpu(), other) < 1e-5
    assert torch.equal(found.converged.cpu(), expected.converged)
    assert max_error(found.residual.cpu(), expected.residual) < 1e-5
    if kind == "plain" and name != "midpoint":
        assert torch.equal(found.nfe.cpu(), expected.nfe)
    assert (found.check is None) == (kind == "plain")
    if found.check is not None:
        assert all(each.is_cuda for each in found.check)
    sampled = sample(denoiser_on(gpu), found.state, walk, solver)
    assert sampled.x0.is_cuda
    assert not sampled.nfe.is_cuda
    assert (
        max_error(
            sampled.x0.cpu(),
            sample(NetworkDenoiser(network, DDPMParametrization("v_prediction")), expected.state, walk, solver).x0,
        )
        < 1e-4
    )


@pytest.mark.parametrize("name", ["dpm2m", "ddim"])
def test_an_inversion_never_waits_and_launches_little_for_each_step(gpu: PretendGPU, name: str) -> None:
    x, launches = images().to("cuda"), []
    for steps in (10, 20):
        assert not waits(gpu, lambda steps=steps: invert(denoiser_on(gpu), x, spans(steps=steps), SOLVERS[name]))
        launches.append(gpu.launches)
    assert launches[1] - launches[0] < 10 * 40


@pytest.mark.parametrize("name", ["midpoint", "ddim"])
def test_rows_that_converged_are_not_evaluated_any_more(gpu: PretendGPU, name: str) -> None:
    denoiser = Counting(denoiser_on(gpu))
    solver = ExactSolver(SOLVERS[name], 1e-6) if name == "ddim" else SOLVERS[name]
    found = invert(denoiser, images().to("cuda"), spans(steps=8), solver)
    assert denoiser.rows == int(found.nfe.cpu().sum())
    assert denoiser.rows < BATCH * len(denoiser.levels)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_noise_drawn_on_the_way_down_is_copied_without_waiting(gpu: PretendGPU, eta: float) -> None:
    walk, noise = spans(steps=6), SeededNoise(range(BATCH))
    x = images().to("cuda")
    account = TrackedDenoiser.start(denoiser_on(gpu), BATCH, x.device)
    gpu.reset()
    SamplingOnlySolver(AncestralStep(eta, noise)).decode(account, (x,), walk)
    assert not gpu.waits


def test_a_fixed_point_out_of_evaluations_does_not_ask_who_goes_on(gpu: PretendGPU) -> None:
    def halved(z: Tensor, rows: Tensor) -> tuple[Tensor, State]:
        return z / 2, (rows,)

    z = randn(3, 5).to("cuda")
    for limit in (1, 2, 5):
        found = waits(gpu, lambda limit=limit: fixed_point(halved, z, 0.0, AndersonAccelerator(), limit))
        assert found <= limit - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", EXPLICIT)
def test_cuda_is_not_waited_for_either(name: str) -> None:
    """Torch raises where it would wait, but for copies from the host."""
    solver, walk, x = SOLVERS[name], spans(steps=8), images().cuda()
    weight = WEIGHT.cuda()

    def curved(x: Tensor, index: Tensor) -> Tensor:
        return torch.sin(3 * x + weight) * torch.cos(index / 300).view(-1, 1, 1, 1)

    account = TrackedDenoiser.start(NetworkDenoiser(curved, DDPMParametrization("v_prediction")), BATCH, x.device)
    solver.decode(account, solver.invert(account, x, walk).state, walk)  # kernels are loaded at their first call
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        solver.decode(account, solver.invert(account, x, walk).state, walk)
    finally:
        torch.cuda.set_sync_debug_mode(before)
