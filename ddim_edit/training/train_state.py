"""A network in training: its weights, their moving average and its optimizer."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ddim_edit.diffusion.noise import derive_seed
from ddim_edit.training.data import Batch
from ddim_edit.training.loss import DiffusionLoss
from ddim_edit.training.networks import InitialState
from ddim_edit.training.settings import Settings

_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class Ema:
    """The moving average of a network's weights, as a network of its own: m <- m + (1 - d_n) (w - m).

    d_n = min(decay, (1 + n) / (10 + n)) at the n-th update, from 0 on, so that the first weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    def update(self, network: nn.Module, n: int) -> None:
        """Include the weights after the n-th update."""
        # torch's function takes all weights in a launch or a few, where a loop would take one for each.
        average = get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        average(list(self.network.parameters()), list(network.parameters()), n)


class TrainState:
    """A network, its moving average and its optimizer, in one process or as one of several with equal weights.

    Args:
        initial: what to begin with.
        settings: how to train.
        accelerator: accelerate's, which knows devices, processes and precision.
    """

    def __init__(self, initial: InitialState, settings: Settings, accelerator: Any) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.loss = DiffusionLoss(initial.scheduler)
        self.network = initial.network.to(accelerator.device).to(memory_format=torch.channels_last).train()
        self.ema = Ema(self.network, settings.ema_decay)
        adam = torch.optim.AdamW(
            self.network.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        # What accelerate returns may wrap the network, for several processes or in another precision.
        self._wrapped, self._adam = accelerator.prepare(self.network, adam)
        self.step = 0
        self._loss_sum = torch.zeros(2, device=accelerator.device)

    def update(self, batches: Iterable[Callable[[], Batch]]) -> None:
        """Take one step on a batch that comes in as many parts as are accumulated."""
        accelerator = self.accelerator
        device = self.accelerator.device
        for group in self._adam.param_groups:
            group["lr"] = self.settings.learning_rate(self.step + 1)
        # Dropout uses the global generators, which are the caller's: seeded for the step, and restored afterwards.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.settings.seed, f"dropout {self.step} {accelerator.process_index}"))
            for batch in batches:
                with accelerator.accumulate(self._wrapped):
                    loss = self.loss(self._wrapped, batch().to(device)).mean()
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip)
                    self._adam.step()
                    self._adam.zero_grad()
                self._loss_sum += torch.stack([loss.detach().float(), torch.ones_like(loss)])
        self.ema.update(self.network, self.step)
        self.step += 1

    def pop_mean_loss(self) -> float | None:
        """Return the mean loss of the steps since the last call over all processes, or None if there were none.

        All processes must call it together.
        """
        total, count = self.accelerator.reduce(self._loss_sum, "sum").tolist()
        self._loss_sum.zero_()
        return total / count if count else None

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors that the next steps depend on, by name."""
        tensors = {f"network.{name}": weight for name, weight in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": weight for name, weight in self.ema.network.state_dict().items()}
        for name, weight in self.network.named_parameters():
            state = self._adam.state.get(weight, {})
            tensors |= {f"adam.{entry}.{name}": state[entry] for entry in _ADAM_STATE if entry in state}
        return tensors | {"running": self._loss_sum}

    def load_state_dict(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go back to a step by its `state_dict`; errors as `nn.Module.load_state_dict`, or KeyError."""
        self.step = step
        for prefix, network in (("network.", self.network), ("ema.", self.ema.network)):
            named = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
            network.load_state_dict(named)
        self._loss_sum.copy_(tensors["running"])
        if step == 0:  # Adam has no state before its first step
            return
        states = {}
        for index, (name, weight) in enumerate(self.network.named_parameters()):
            state = {}
            for entry in _ADAM_STATE:
                tensor = tensors[f"adam.{entry}.{name}"]
                # Means are laid out in memory as the weight is, because sums in another order differ in the last bit.
                state[entry] = tensor.clone() if entry == "step" else torch.empty_like(weight).copy_(tensor).detach()
            states[index] = state
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": states, "param_groups": groups})

    @property
    def scaler_state(self) -> dict[str, Any] | None:
        """State of the loss scale that float16 needs, as JSON types; None for other precisions."""
        scaler = self.accelerator.scaler
        return None if scaler is None else scaler.state_dict()

    def load_scaler_state(self, state: Mapping[str, Any] | None) -> None:
        """Go back to a `scaler_state`."""
        if state is not None:
            self.accelerator.scaler.load_state_dict(dict(state))
