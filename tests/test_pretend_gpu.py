"""The pretend GPU keeps the rules of a real one: which devices go together, and what the host has to wait for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import numpy as np
import pytest
import torch
from torch import Tensor

from .pretend_gpu import DEVICE, PretendGPU, PretendTensor, pretend_gpu

X = torch.arange(12.0).view(4, 3)
MASK, ROWS = torch.tensor([True, False, False, True]), torch.tensor([2, 0])


def waits(gpu: PretendGPU) -> list[str]:
    """The reasons alone."""
    return [wait.split(" at ")[0] for wait in gpu.waits.elements()]


@pytest.mark.parametrize(
    "make",
    [
        lambda: X.to("cuda"),
        lambda: X.cuda(),
        lambda: torch.ones(2, device="cuda"),
        lambda: torch.tensor([1.0], device=DEVICE),
        lambda: torch.full((2,), 3.0, device="cuda:0"),
        lambda: X.to("cuda").double(),
        lambda: X.to("cuda")[1:, None] + 1,
        lambda: torch.zeros_like(X.to("cuda")),
        lambda: torch.arange(3, device=DEVICE),
    ],
)
def test_tensors_know_their_device(make: Callable[[], Tensor]) -> None:
    with pretend_gpu():
        made = make()
        assert isinstance(made, PretendTensor)
        assert made.device == DEVICE
        assert made.is_cuda
        assert type(made.cpu()) is Tensor


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: (2 * x - x**2).sin() / 3,
    "scalars": lambda x: torch.tensor(2.0) * x,
    "reductions": lambda x: x.std(0) + x.amax(1)[:3] + x.sum(),
    "products": lambda x: torch.einsum("ij,kj->ik", x, x) @ x,
    "solve": lambda x: torch.linalg.solve_ex(x.mT @ x + torch.eye(3, device=x.device), x.mT).result,
    "views": lambda x: x[1:, ::2].mT.flip(0).reshape(-1),
    "where": lambda x: torch.where(x > 3, x, 0),
    "index by a mask": lambda x: x[MASK.to(x.device)],
    "index by rows": lambda x: x[ROWS.to(x.device)],
    "index by rows of the CPU": lambda x: x[ROWS],
    "stack": lambda x: torch.stack([*x.unbind(0), x[0]]),
    "dtypes": lambda x: x.half().to(torch.int64),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("inference", [False, True])
def test_results_equal_those_of_the_cpu(name: str, inference: bool) -> None:
    operation = OPERATIONS[name]
    with pretend_gpu() as gpu, torch.inference_mode(inference):
        result = operation(X.to("cuda"))
        assert isinstance(result, PretendTensor)
        torch.testing.assert_close(result.cpu(), operation(X))
        assert gpu.launches


def test_writes_through_views_are_seen() -> None:
    with pretend_gpu():
        x = torch.zeros(4, 3, device="cuda")
        assert x.add_(1) is x
        x[1:, 0] *= 5
        x[ROWS.to("cuda")] = torch.full((2, 3), 7.0, device="cuda")
        x[MASK.to("cuda"), 1] = 9.0
        x.diagonal().add_(0.5)
        torch.maximum(x, torch.full_like(x, 2.0), out=x)
        expected = torch.tensor([[7.5, 9, 7], [5, 2, 2], [7, 7, 7.5], [5, 9, 2]])
        assert torch.equal(x.cpu(), expected)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + X,
        lambda x: X @ x.mT,
        lambda x: torch.stack([x, X]),
        lambda x: torch.stack([x[0, 0], torch.tensor(1.0)]),
        lambda x: torch.where(x > 0, x, X),
        lambda x: x.add_(X),
        lambda x: torch.maximum(X, x),
        lambda x: x.index_put_((ROWS.to("cuda"),), X[:2]),
        lambda x: x.index_select(0, ROWS),
    ],
)
def test_mixing_devices_is_refused(mix: Callable[[Tensor], Tensor]) -> None:
    with pretend_gpu():
        x = X.to("cuda")
        with pytest.raises(RuntimeError, match=r"Expected all tensors to be on the same device.* cuda:0 and cpu"):
            mix(x)


def test_gpu_index_of_cpu_tensor_is_refused() -> None:
    message = "indices should be either on cpu or on the same device as the indexed tensor"
    with pretend_gpu():
        mask, rows, x = MASK.to("cuda"), ROWS.to("cuda"), X.clone()
        for index in (mask, rows):
            with pytest.raises(RuntimeError, match=message):
                x[index]
            with pytest.raises(RuntimeError, match=message):
                x[index] = 0.0


def test_cpu_generator_is_refused() -> None:
    with pretend_gpu(), pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.randn(3, generator=torch.Generator().manual_seed(0), device="cuda")


def test_numpy_conversion_is_refused() -> None:
    with pretend_gpu():
        x = X.to("cuda")
        for read in (x.numpy, lambda: np.asarray(x)):
            with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
                read()
        assert x.cpu().numpy().shape == (4, 3)


@pytest.mark.parametrize(
    ("reason", "use"),
    [
        ("a copy to the CPU", lambda x: x.cpu()),
        ("a copy to the CPU", lambda x: x.tolist()),
        ("a copy to the CPU", lambda x: torch.empty(4, 3).copy_(x)),
        ("a blocking copy to the GPU", lambda x: X.to(x.device)),
        ("a blocking copy to the GPU", lambda x: X.to(x.device, non_blocking=True)),
        ("a blocking copy to the GPU", lambda x: X.pin_memory().to(x.device)),
        ("a blocking copy to the GPU", lambda x: x.copy_(X)),
        ("a blocking copy to the GPU", lambda x: torch.tensor([1.0], device=x.device)),
        ("a mask used as an index", lambda x: x[x[:, 0] > 3]),
        ("a mask used as an index", lambda x: x.index_put_((x[:, 0] > 3,), x[0].clone())),
        ("an index copied from the CPU", lambda x: x[ROWS]),
        ("aten._local_scalar_dense.default", lambda x: x.sum().item()),
        ("aten._local_scalar_dense.default", lambda x: bool((x > 0).any())),
        ("aten._local_scalar_dense.default", lambda x: float(x[0, 0])),
        ("aten._local_scalar_dense.default", lambda x: X[x[0, 0].long()]),
        ("aten.nonzero.default", lambda x: (x > 3).nonzero()),
        ("aten.masked_select.default", lambda x: x.masked_select(x > 3)),
        ("aten.equal.default", lambda x: torch.equal(x, x)),
        ("aten._linalg_check_errors.default", lambda x: torch.linalg.solve(x[:3], x[:3])),
        ("aten._linalg_check_errors.default", lambda x: torch.linalg.inv(x[:3])),
    ],
)
def test_synchronising_operations_are_counted(reason: str, use: Callable[[Tensor], object]) -> None:
    with pretend_gpu() as gpu:
        x = X.to("cuda") + torch.eye(4, 3, device="cuda")
        gpu.reset()
        use(x)
        assert waits(gpu) == [reason]
        ((place, count),) = gpu.waits.items()
        assert place.rsplit(" at ")[1].startswith("tests/test_pretend_gpu.py:")
        assert count == 1


@pytest.mark.parametrize(
    "use",
    [
        *(operation for name, operation in OPERATIONS.items() if not name.startswith("index")),
        lambda x: x[torch.arange(2, device=x.device)],
        lambda x: x.index_put_((torch.arange(1, device=x.device),), x[:1].clone()),
        lambda x: torch.ones(3, device=x.device),
        lambda x: X.pin_memory().to(x.device, non_blocking=True),
        lambda x: x.copy_(X.pin_memory(), non_blocking=True),
        lambda x: x.repeat_interleave(2, 0),
        lambda x: x.to(DEVICE),
        lambda x: X[torch.tensor(1)],
    ],
)
def test_asynchronous_operations_do_not_wait(use: Callable[[Tensor], object]) -> None:
    with pretend_gpu() as gpu:
        x = X.to("cuda")
        gpu.reset()
        use(x)
        assert not gpu.waits


def test_masked_fill_does_not_wait() -> None:
    """Torch does that by `masked_fill`."""
    with pretend_gpu() as gpu:
        x, mask = X.to("cuda"), MASK.to("cuda")
        gpu.reset()
        x[mask] = 0.0
        assert not gpu.waits
        assert torch.equal(x.cpu(), X * ~MASK[:, None])


def test_launches_are_counted() -> None:
    with pretend_gpu() as gpu:
        x = X.to("cuda")
        gpu.reset()
        y = x.view(3, 4).mT[1:].unsqueeze(0).expand(2, -1, -1)
        torch.empty_like(y)
        assert gpu.launches == 0
        (2 * y + 1).sum()
        assert gpu.launches == 3
        gpu.reset()
        assert (gpu.launches, gpu.waits) == (0, {})


def test_pinned_memory() -> None:
    with pretend_gpu() as gpu:
        pinned = X.pin_memory()
        assert pinned.is_pinned()
        assert pinned[1:].is_pinned()
        assert torch.equal(pinned, X)
        assert pinned.pin_memory() is pinned
        assert not X.is_pinned()
        assert not X.to("cuda").is_pinned()
        with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
            X.to("cuda").pin_memory()
        gpu.reset()
        pinned[1:].to("cuda", non_blocking=True)
        assert not gpu.waits


def test_threads_share_the_device() -> None:
    with pretend_gpu() as gpu, ThreadPoolExecutor(1) as pool:
        pinned = pool.submit(X.pin_memory).result()
        x = pinned.to("cuda", non_blocking=True)
        gpu.reset()
        doubled = pool.submit(lambda: 2 * x).result()
        assert isinstance(doubled, PretendTensor)
        assert (gpu.launches, gpu.waits) == (1, {})
        assert pool.submit(doubled.tolist).result() == (2 * X).tolist()
        assert sum(gpu.waits.values()) == 1


def test_modules_move_to_the_device() -> None:
    layer = torch.nn.Conv2d(3, 2, 3).requires_grad_(False)
    expected = layer(X.expand(1, 3, 4, 3))
    with pretend_gpu():
        moved = layer.to("cuda")
        assert {parameter.device for parameter in moved.parameters()} == {DEVICE}
        torch.testing.assert_close(moved(X.to("cuda").expand(1, 3, 4, 3)).cpu(), expected)


def test_cpu_function_is_one_launch() -> None:
    def network(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        assert type(x) is Tensor
        return (x.relu() * scale).sum(1), x.max()[None].nonzero()

    with pretend_gpu() as gpu:
        x = X.to("cuda")
        gpu.reset()
        total, _ = gpu.run(network, x, scale=torch.full((), 2.0, device="cuda"))
        assert isinstance(total, PretendTensor)
        assert (gpu.launches, sum(gpu.waits.values())) == (2, 0)
        torch.testing.assert_close(total.cpu(), 2 * X.sum(1))
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            gpu.run(network, x, scale=torch.tensor(2.0))


def test_cpu_work_is_unaffected() -> None:
    with pretend_gpu() as gpu:
        assert type(X[MASK] + X[ROWS].sum().item()) is Tensor
        assert (gpu.launches, gpu.waits) == (0, {})


def test_context_restores_torch() -> None:
    before = torch.cuda._lazy_init, Thread.run
    with pretend_gpu():
        x = X.to("cuda")
    assert (torch.cuda._lazy_init, Thread.run) == before
    with pytest.raises(RuntimeError, match=r"outside of `with pretend_gpu\(\)`"):
        x + 1
    assert type(torch.ones(2) + 1) is Tensor
