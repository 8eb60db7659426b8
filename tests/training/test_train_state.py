"""What a step costs besides the network: launches, and the thread that it waits for."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ddim_edit.training import Batch, Ema

from .conftest import Train


class Launches(TorchDispatchMode):
    """Counts operations on tensors."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += operation not in (torch.ops.aten.detach.default, torch.ops.aten.view.default)
        return operation(*args, **(kwargs or {}))


def layers(count: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(count)))


def test_ema_matches_its_formula() -> None:
    """m <- m + (1 - d_n) (w - m), d_n = min(decay, (1 + n) / (10 + n))."""
    torch.manual_seed(0)
    network, decay = layers(2), 0.6
    ema = Ema(network, decay)
    means = [weight.detach().double().clone() for weight in network.parameters()]
    for n in range(30):
        for weight in network.parameters():
            weight.data = torch.randn_like(weight)
        ema.update(network, n)
        share = 1 - min(decay, (1 + n) / (10 + n))
        means = [
            mean + share * (weight.double() - mean) for mean, weight in zip(means, network.parameters(), strict=True)
        ]
    for mean, kept in zip(means, ema.network.parameters(), strict=True):
        torch.testing.assert_close(kept.double(), mean, rtol=1e-5, atol=1e-6)
        assert not kept.requires_grad


def test_ema_updates_all_weights_in_one_launch() -> None:
    counts = []
    for count in (1, 50):
        network = layers(count)
        ema = Ema(network, 0.9)
        with Launches() as launches:
            ema.update(network, 3)
        counts.append(launches.count)
    assert counts[0] == counts[1] <= 2


def test_batches_are_made_and_pinned_in_other_threads(trainer: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    training, threads = trainer(accumulate=2), []

    def pin(tensor: Tensor) -> Tensor:
        threads.append(threading.current_thread())
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(training, "_accelerator", SimpleNamespace(device=torch.device("cuda")))
    found = [[part() for part in parts] for parts in training._prefetch()]
    assert threading.current_thread() not in threads
    assert len(threads) == 3 * 2 * 6
    for step, parts in enumerate(found, 1):
        whole = Batch(*map(torch.cat, zip(*parts, strict=True)))
        for made, wanted in zip(whole, training._batches(step, range(4)), strict=True):
            assert torch.equal(made, wanted)
