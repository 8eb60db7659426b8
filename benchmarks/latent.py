"""Measure exact inversion, guidance and a refined x_0 on a latent-diffusion model that is trained here first.

    python benchmarks/latent.py --data FOLDER --labels CSV --column female --autoencoder VAE

Trains a small class-conditional UNet on the latents of a diffusers `vae` folder (`benchmarks/codec.py --save` makes
one), with a tenth of the labels left out, writes it as a diffusers folder, loads that, and measures on pictures that
it has not seen. A benchmark, not a model to use.
"""

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_edit import Condition, Editor, InversionConfig, Model, hardware, images, load_model
from ddim_edit.metrics.reconstruction import Reconstruction
from ddim_edit.models.autoencoders import load_autoencoder
from ddim_edit.models.checkpoint import Classes
from ddim_edit.models.conditioning import ClassLabels, Conditioner

UNET: Mapping[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": 32,
    "num_class_embeds": 3,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
}
NONE = 2
METHODS: Mapping[str, InversionConfig] = {
    "20 steps": InversionConfig(),
    "20 steps, exact": InversionConfig(exact=True),
    "50 steps, exact": InversionConfig(steps=50, exact=True),
    "20 steps, lossless": InversionConfig("bdia"),
    "20 steps, exact, fixed-point": InversionConfig(exact=True, refine="fixed-point"),
    "20 steps, exact, gradient": InversionConfig(exact=True, refine="gradient"),
}
GUIDANCE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5)


def main() -> None:
    """Print the tables."""
    arguments = parse_arguments(__doc__)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        editor, held_out, classes = load_trained(arguments, arguments.save or Path(scratch))
        _print_round_trips(editor, held_out, Condition(label=0))
        _print_guidance(editor, held_out, classes)


def parse_arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the pictures that the CSV names")
    parser.add_argument("--labels", type=Path, required=True, help="a CSV with file,<columns>")
    parser.add_argument("--column", required=True, help="the column with labels 0 and 1")
    parser.add_argument("--autoencoder", type=Path, required=True, help="a diffusers vae folder")
    parser.add_argument("--save", type=Path, help="where to keep the trained model, or where it is kept")
    parser.add_argument("--count", type=int, default=16, help="how many pictures to measure")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help="where words.py draws its edits")
    return parser.parse_args()


def load_trained(arguments: argparse.Namespace, folder: Path) -> tuple[Editor, Tensor, Tensor]:
    """Return the trained model, and the pictures that it has not seen with their classes."""
    pictures, labels = labelled(arguments)
    seen = len(pictures) - arguments.count
    if not (folder / "unet").is_dir():
        train(arguments, folder, pictures[:seen], labels[:seen])
    return Editor(with_null_class(load_model(folder))), pictures[seen:].double(), labels[seen:]


def labelled(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    with arguments.labels.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    read = [images.read(arguments.data / row["file"], (64, 64)).tensor for row in rows]
    return torch.stack(read).float(), torch.tensor([int(row[arguments.column]) for row in rows])


def train(arguments: argparse.Namespace, folder: Path, pictures: Tensor, labels: Tensor) -> None:
    """Train a v-prediction UNet with AdamW and save the mean of its last half of steps as a checkpoint."""
    import diffusers

    kind: Any = diffusers.UNet2DModel
    shutil.copytree(arguments.autoencoder, folder / "vae")
    x0 = load_autoencoder(folder / "vae", torch.device("cpu")).encode(pictures).float()
    torch.manual_seed(0)
    network = kind(**UNET, sample_size=x0.shape[-1]).to(memory_format=torch.channels_last)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=arguments.steps)
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    for step in range(arguments.steps):
        loss: Any = _loss(network, x0, labels, alpha_bar, arguments.batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step >= arguments.steps // 2:
            averaged.update_parameters(network)
        if step % 200 == 0:
            print(f"step {step}: {float(loss.detach()):.4f}", flush=True)
    kept: Any = averaged.module
    kept.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))


def _loss(network: Any, x0: Tensor, labels: Tensor, alpha_bar: Tensor, batch: int) -> Tensor:
    """Return the squared error of v = alpha eps - sigma x0, with a tenth of the labels dropped."""
    chosen, t = torch.randint(len(x0), (batch,)), torch.randint(1000, (batch,))
    clean, label = x0[chosen], torch.where(torch.rand(batch) < 0.1, NONE, labels[chosen])
    clean = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, clean.flip(-1), clean)
    alpha, sigma = (each[t].sqrt()[:, None, None, None] for each in (alpha_bar, 1 - alpha_bar))
    eps = torch.randn_like(clean)
    v = network(alpha * clean + sigma * eps, t, class_labels=label).sample
    loss: Tensor = (v - (alpha * eps - sigma * clean)).square().mean()
    return loss


def with_null_class(model: Model) -> Model:
    """Load the model with its last class as the null class, which a UNet2DModel's config cannot express."""
    assert isinstance(model.conditioner, Conditioner)
    conditioner = replace(model.conditioner, encoder=ClassLabels(model.name, Classes(NONE, none=NONE)))
    return replace(model, conditioner=conditioner, denoiser=conditioner.unconditional())


def _print_round_trips(editor: Editor, pictures: Tensor, condition: Condition) -> None:
    print(f"\n{hardware(editor.model.device)}\n{len(pictures)} pictures, a class, no guidance\n{'':<32}{HEADER}")
    for name, method in METHODS.items():
        reconstruction = editor.reconstruct(pictures, replace(method, condition=condition))
        print(f"{name:<32}{_line(reconstruction)}", flush=True)


def _print_guidance(editor: Editor, pictures: Tensor, labels: Tensor) -> None:
    print(f"\nguidance towards the picture's own class, 50 steps\n{'':<32}{HEADER}")
    for scale in GUIDANCE:
        for name, method in {
            "exact": InversionConfig(steps=50, exact=True),
            "lossless": InversionConfig("bdia", steps=50),
        }.items():
            reconstructions = []
            for label in (0, 1):
                guided = replace(method, condition=Condition(label=label, guidance_scale=scale))
                reconstructions.append(editor.reconstruct(pictures[labels == label], guided))
            print(f"{f'w = {scale:g}, {name}':<32}{_line(*reconstructions)}", flush=True)


HEADER = "  in   done   error of x_0   codec   PSNR   LPIPS   x_T std   corr"


def _line(*reconstructions: Reconstruction) -> str:
    scores = list(chain.from_iterable(each.scores for each in reconstructions))

    def mean(name: str) -> float:
        return float(sum(score[name] for score in scores) / len(scores))

    done = sum(bool(score["converged"]) for score in scores)
    worst = max(score["error"] for score in scores)
    return (
        f"{mean('nfe_in'):>4.0f}{done:>4}/{len(scores):<3}{worst:>12.1e}{mean('codec_psnr'):>10.2f}{mean('psnr'):>7.2f}"
        f"{mean('lpips'):>8.4f}{mean('xt_std'):>10.3f}{mean('xt_corr'):>+7.3f}"
    )


if __name__ == "__main__":
    main()
