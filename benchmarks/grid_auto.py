"""Measure `--grid auto` on faces64, and on models of other processes.

    python benchmarks/grid_auto.py --data FOLDER --held-out FOLDER --save DIR [--latent DIR]

Trains networks of 32x32 pixels for a cosine schedule (v), a rectified flow and EDM's preconditioning on the pictures of
--data first, and keeps them in --save. --latent is a model that `latent.py --save` trained. Benchmarks, not models to
use. The first four pictures of --held-out by name are searched with, the others are measured.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from latent import with_null_class
from torch import Tensor, nn

from ddim_edit import (
    Editor,
    EDMParametrization,
    FlowParametrization,
    InversionConfig,
    Model,
    NoiseSchedule,
    Parametrization,
    hardware,
    images,
    load_model,
    tune_grid,
)
from ddim_edit.evaluation.grid_search import encode, psnr, round_trip, start_of

SIZE = 32
UNET: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": SIZE,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": 32,
    "norm_num_groups": 16,
}
SIGMA_DATA = 0.5

Example = tuple[Tensor, Tensor, Tensor]
"""What a network sees, its time conditions, and what it is to return."""


def cosine_example(x0: Tensor, eps: Tensor) -> Example:
    t = torch.randint(1000, (len(x0),))
    alpha_bar = torch.from_numpy(NoiseSchedule.cosine().alpha_bar).float()[t][:, None, None, None]
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return alpha * x0 + sigma * eps, t.float(), alpha * eps - sigma * x0


def flow_example(x0: Tensor, eps: Tensor) -> Example:
    tau = torch.rand(len(x0))
    share = tau[:, None, None, None]
    return (1 - share) * x0 + share * eps, 1000 * tau, eps - x0


def edm_example(x0: Tensor, eps: Tensor) -> Example:
    log_s = 1.2 * torch.randn(len(x0)) - 1.2
    s = log_s.exp()[:, None, None, None]
    total = (s**2 + SIGMA_DATA**2).sqrt()
    y = x0 + s * eps
    return y / total, log_s / 4, (x0 - y * (SIGMA_DATA / total) ** 2) * total / (s * SIGMA_DATA)


@dataclass(frozen=True)
class Process:
    """A noise schedule, and how a network is trained and called."""

    schedule: NoiseSchedule
    prediction: str | Parametrization
    example: Callable[[Tensor, Tensor], Example]
    time_scale: float = 1.0
    """What conditions are multiplied by, for the sines that the network makes of them."""


PROCESSES: Mapping[str, Process] = {
    "cosine": Process(NoiseSchedule.cosine(), "v_prediction", cosine_example),
    "flow": Process(NoiseSchedule.flow(), FlowParametrization(), flow_example),
    "edm": Process(NoiseSchedule.continuous(0.002, 80), EDMParametrization(SIGMA_DATA), edm_example, 250.0),
}


class Network(nn.Module):
    """A `UNet2DModel` whose time condition is scaled."""

    def __init__(self, time_scale: float) -> None:
        super().__init__()
        import diffusers

        kind: Any = diffusers.UNet2DModel
        self.unet = kind(**UNET)
        self.time_scale = time_scale

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the output of the network."""
        out: Tensor = self.unet(x, t * self.time_scale).sample
        return out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures to train on")
    parser.add_argument(
        "--held-out", type=Path, required=True, help="a folder of pictures that no model was trained on"
    )
    parser.add_argument("--save", type=Path, required=True, help="where the trained models are kept")
    parser.add_argument("--latent", type=Path, help="a model that latent.py trained")
    parser.add_argument("--models", default="faces64,cosine,flow,edm,latent", help="which to measure")
    parser.add_argument("--steps", type=int, default=20, help="of the round trips")
    parser.add_argument("--training-steps", type=int, default=400)
    parser.add_argument("--count", type=int, default=16, help="how many pictures to measure")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{hardware()}\n{arguments.count} pictures, {arguments.steps} + {arguments.steps} evaluations\n\n{HEADER}")
    for name in arguments.models.split(","):
        if name == "latent" and arguments.latent is None:
            continue
        measure(name, load(name, arguments), arguments)


def load(name: str, arguments: argparse.Namespace) -> Model:
    """Return the model of a name."""
    if name == "faces64":
        return load_model(name)
    return with_null_class(load_model(arguments.latent)) if name == "latent" else load_trained(name, arguments)


def read(folder: Path, size: tuple[int, int], count: int | None = None) -> Tensor:
    """Return the first pictures of a folder [N, 3, H, W]."""
    return torch.stack([images.read(file, size).tensor for file in images.find([folder])[:count]])


HEADER = "model    grid                    PSNR  worst   x_T std    corr  from the ODE's"


def measure(name: str, model: Model, arguments: argparse.Namespace) -> None:
    """Print a line for each grid of a model."""
    editor = Editor(model)
    pictures = read(arguments.held_out, model.size, 4 + arguments.count)
    config = InversionConfig(steps=arguments.steps)
    began = time.monotonic()
    found = tune_grid(editor, pictures[:4], config)
    seconds = time.monotonic() - began
    start = start_of(model.schedule)
    grids = {
        "karras:14": "karras:14",
        "karras:14@0.16T": "karras:14@0.16T",
        "the start": f"karras:14@{start}",
        "auto": found.grid,
    }
    for grid in dict.fromkeys(grids.values()):
        print(f"{name:<9}{_line(editor, pictures[4:], grid, config)}", flush=True)
    tried = ", ".join(f"{trial.grid.partition('@')[0]} {trial.psnr:.1f}" for trial in found.trials)
    print(f"         found {found.grid} with {found.evaluations} evaluations in {seconds:.0f} s: {tried}", flush=True)


def _line(editor: Editor, pictures: Tensor, grid: str, config: InversionConfig) -> str:
    """Return the mean and the worst PSNR of x_0, the health of x_T, and its distance from that of more steps."""
    own = replace(config, grid=grid)
    x0, noise = encode(editor, pictures, own, None)
    errors, _ = round_trip(editor, x0, noise, own)
    decibels = [psnr(error) for error in errors]
    latents = editor.invert(pictures[:4], own)
    start = grid.partition("@")[2]
    fine = replace(config, grid=f"karras:-3@{start}" if start else "logsnr", steps=4 * config.steps)
    distance = float((latents[:2].x - editor.invert(pictures[:2], fine).x).square().mean().sqrt())
    std, corr = (sum(latent.report[f"xt_{each}"] for latent in latents) / len(latents) for each in ("std", "corr"))
    mean = sum(decibels) / len(decibels)
    return f"{grid:<20}{mean:>8.2f}{min(decibels):>7.2f}{std:>10.4f}{corr:>+8.4f}{distance:>16.4f}"


def load_trained(name: str, arguments: argparse.Namespace) -> Model:
    """Return the model of a process, trained unless it is kept."""
    process = PROCESSES[name]
    network = Network(process.time_scale)
    file = arguments.save / f"{name}.pt"
    if not file.is_file():
        pictures = read(arguments.data, (SIZE, SIZE)).float()
        torch.save(train(process, pictures, arguments.training_steps).state_dict(), file)
    network.load_state_dict(torch.load(file, weights_only=True))
    return Model.from_network(
        network.eval(), process.schedule, process.prediction, (3, SIZE, SIZE), name=f"{name}-{SIZE}"
    )


def train(process: Process, pictures: Tensor, steps: int, batch: int = 16) -> nn.Module:
    """Train with AdamW and return the mean of the last half of the steps."""
    torch.manual_seed(0)
    network = Network(process.time_scale).to(memory_format=torch.channels_last)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for step in range(steps):
        x0 = pictures[torch.randint(len(pictures), (batch,))]
        x0 = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, x0.flip(-1), x0)
        x, condition, target = process.example(x0, torch.randn_like(x0))
        loss = (network(x, condition) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step >= steps // 2:
            averaged.update_parameters(network)
        if step % 50 == 0:
            print(f"step {step}: {float(loss.detach()):.4f}", flush=True)
    trained: nn.Module = averaged.module
    return trained


if __name__ == "__main__":
    main()
