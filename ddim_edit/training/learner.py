"""A network that learns: one step at a time, with all that its learning has to remember."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ddim_edit.diffusion.noise import derive_seed
from ddim_edit.training.batches import Batch, DiffusionLoss
from ddim_edit.training.origins import InitialState
from ddim_edit.training.settings import Settings

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Ema:
    """The moving average of a network's weights, as a network of its own: m <- m + (1 - d_n) (w - m).

    d_n = min(decay, (1 + n) / (10 + n)) at the n-th update, from 0 on, so that the first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    def update(self, network: nn.Module, n: int) -> None:
        """Take in the weights after the n-th update, all of them in a launch or a few."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        average(list(self.network.parameters()), list(network.parameters()), n)


class TrainState:
    """A network, its average and its optimizer, on one process or as one of several with equal weights.

    Args:
        beginning: what to begin with.
        settings: how it learns.
        accelerator: accelerate's, which knows devices, processes and precision.
    """

    def __init__(self, beginning: InitialState, settings: Settings, accelerator: Any) -> None:
        self.settings, self.accelerator, self.lesson = settings, accelerator, DiffusionLoss(beginning.scheduler)
        self.bare = beginning.network.to(accelerator.device).to(memory_format=torch.channels_last).train()
        self.ema = Ema(self.bare, settings.ema_decay)
        adam = torch.optim.AdamW(
            self.bare.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self._network, self._adam = accelerator.prepare(self.bare, adam)
        self.step = 0
        self._running = torch.zeros(2, device=accelerator.device)

    def update(self, batches: Iterable[Callable[[], Batch]]) -> None:
        """Take one step on a batch that comes in as many parts as are accumulated."""
        rate = self.settings.rate(self.step + 1)
        for group in self._adam.param_groups:
            group["lr"] = rate
        # Dropout draws from the generators of everybody.
        chance = derive_seed(self.settings.seed, f"dropout {self.step} {self.accelerator.process_index}")
        with _seeded(chance, self.accelerator.device):
            for batch in batches:
                self._study(batch())
        self.ema.update(self.bare, self.step)
        self.step += 1

    def _study(self, batch: Batch) -> None:
        accelerator = self.accelerator
        with accelerator.accumulate(self._network):
            loss = self.lesson(self._network, batch.to(accelerator.device)).mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.bare.parameters(), self.settings.clip)
            self._adam.step()
            self._adam.zero_grad()
        self._running += torch.stack([loss.detach().float(), torch.ones_like(loss)])

    def mean_loss(self) -> float | None:
        """Mean loss of the steps since it was last asked for, over all processes, which must all ask; None of none."""
        total, count = self.accelerator.reduce(self._running, "sum").tolist()
        self._running.zero_()
        return total / count if count else None

    def remembered(self) -> dict[str, Tensor]:
        """All tensors that the next steps depend on, by name; nothing that was drawn, for that can be drawn again."""
        tensors = {f"network.{name}": weight for name, weight in self.bare.state_dict().items()}
        tensors |= {f"ema.{name}": weight for name, weight in self.ema.network.state_dict().items()}
        for name, weight in self.bare.named_parameters():
            state = self._adam.state.get(weight, {})
            tensors |= {f"adam.{moment}.{name}": state[moment] for moment in _MOMENTS if moment in state}
        return tensors | {"running": self._running}

    def recall(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go back to a step that was remembered; errors as `load_state_dict`, or KeyError."""
        self.step = step
        self.bare.load_state_dict(_under("network.", tensors))
        self.ema.network.load_state_dict(_under("ema.", tensors))
        self._running.copy_(tensors["running"])
        if step:
            states = [self._moments(tensors, *named) for named in self.bare.named_parameters()]
            groups = self._adam.state_dict()["param_groups"]
            self._adam.load_state_dict({"state": dict(enumerate(states)), "param_groups": groups})

    def _moments(self, tensors: Mapping[str, Tensor], name: str, weight: Tensor) -> dict[str, Tensor]:
        """What Adam knows of a weight, laid out in memory as the weight is, for the sake of the last bit."""
        count, *means = (tensors[f"adam.{moment}.{name}"] for moment in _MOMENTS)
        laid_out = [torch.empty_like(weight).copy_(mean) for mean in means]
        return dict(zip(_MOMENTS, [count.clone(), *(mean.detach() for mean in laid_out)], strict=True))

    @property
    def scale(self) -> dict[str, Any] | None:
        """The state of the loss scale that float16 needs, as JSON can say it; None of other precisions."""
        scaler = self.accelerator.scaler
        return None if scaler is None else scaler.state_dict()

    def rescale(self, scale: Mapping[str, Any] | None) -> None:
        """Go back to such a state."""
        if scale is not None:
            self.accelerator.scaler.load_state_dict(dict(scale))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators seeded inside, and afterwards as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
