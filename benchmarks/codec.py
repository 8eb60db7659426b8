"""Measure how much of a picture an autoencoder returns, plain and after refining x_0, and what tiles change.

    python benchmarks/codec.py --data FOLDER                        trains a small AutoencoderKL on the pictures first
    python benchmarks/codec.py --data FOLDER --autoencoder VAE      takes a diffusers folder

PSNR on [0, 1]; "moved" is the root mean square of the change of x_0, whose standard deviation is "std". The last
pictures of the folder by name are kept from training and measured.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_edit import hardware, images, metrics
from ddim_edit.models.autoencoders import load_autoencoder
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.refinement import FixedPointRefiner, GradientRefiner, Refiner

CONFIG: Mapping[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 16,
}
"""Twelve pixel values a latent, about 1 M weights."""
REFINERS: tuple[Refiner, ...] = (
    *(FixedPointRefiner(steps) for steps in (1, 3, 10)),
    *(GradientRefiner(steps) for steps in (5, 10, 20, 60)),
    *(GradientRefiner(60, pull=pull) for pull in (1.0, 0.01, 0.0)),
)
HEADER = f"{'x_0':<52}{'PSNR':>7}{'worst':>7}{'SSIM':>8}{'LPIPS':>8}{'moved':>8}{'std':>7}"


def main() -> None:
    """Print the tables."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    pictures = _pictures(arguments.data, arguments.size)
    held_out = pictures[-arguments.count :]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.autoencoder or arguments.save or Path(scratch)
        if not arguments.autoencoder:
            _train(pictures[: -arguments.count], arguments.steps, folder)
        _print_refining(load_autoencoder(folder, torch.device("cpu")), held_out)
        _print_tiling(folder, held_out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--count", type=int, default=16, help="how many to measure")
    parser.add_argument("--autoencoder", type=Path, help="a diffusers vae folder, instead of training one")
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--save", type=Path, help="where to keep the trained autoencoder")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _pictures(folder: Path, size: int) -> Tensor:
    return torch.stack([images.read(file, (size, size)).tensor for file in images.find([folder])]).float()


def _train(pictures: Tensor, steps: int, folder: Path, batch: int = 16) -> None:
    """Train an AutoencoderKL on mean squared error + 1e-6 KL divergence, with horizontal flips."""
    import diffusers

    kind: Any = diffusers.AutoencoderKL
    torch.manual_seed(0)
    network = kind(**CONFIG, sample_size=pictures.shape[-1]).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        some = pictures[torch.randint(len(pictures), (batch,))]
        some = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, some.flip(-1), some)
        posterior = network.encode(some).latent_dist
        error = (network.decode(posterior.sample()).sample - some).square().mean()
        optimiser.zero_grad()
        (error + 1e-6 * posterior.kl().mean()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.inference_mode():
        std = network.encode(pictures[:256]).latent_dist.mean.std()
    network.register_to_config(scaling_factor=1 / float(std))
    network.save_pretrained(folder)


def _print_refining(codec: AutoencoderCodec, pictures: Tensor) -> None:
    print(f"{hardware()}\n{len(pictures)} pictures, refining\n\n{HEADER}")
    x0 = codec.encode(pictures)
    print(_line("as encoded", codec, pictures, x0, x0), flush=True)
    for refiner in REFINERS:
        print(_line(str(refiner), codec, pictures, x0, refiner(codec, pictures, x0)), flush=True)


def _line(name: str, codec: AutoencoderCodec, pictures: Tensor, start: Tensor, x0: Tensor) -> str:
    decoded = codec.decode(x0)
    psnr = metrics.psnr(pictures, decoded)
    perceived = float(metrics.LPIPS()(pictures, decoded).mean())
    return (
        f"{name:<52}{float(psnr.mean()):>7.2f}{float(psnr.min()):>7.2f}"
        f"{float(metrics.ssim(pictures, decoded).mean()):>8.4f}{perceived:>8.4f}"
        f"{float((x0 - start).square().mean().sqrt()):>8.3f}{float(x0.std()):>7.3f}"
    )


def _print_tiling(folder: Path, pictures: Tensor) -> None:
    """Print the PSNR of all pictures side by side as one, whole and in tiles of the size of the training."""
    columns = max(1, int(len(pictures) ** 0.5))
    rows = len(pictures) // columns
    strips = [torch.cat(list(strip), -1) for strip in torch.split(pictures[: rows * columns], columns)]
    mosaic = torch.cat(strips, -2)[None]
    print(f"\na mosaic of {mosaic.shape[-1]}x{mosaic.shape[-2]} pixels: PSNR")
    for name, whole in {"whole": mosaic[0, 0].numel(), "in tiles": 0}.items():
        codec = load_autoencoder(folder, torch.device("cpu"), whole)
        print(f"{name:<10}{float(metrics.psnr(mosaic, codec.decode(codec.encode(mosaic)))):>7.2f}")


if __name__ == "__main__":
    main()
