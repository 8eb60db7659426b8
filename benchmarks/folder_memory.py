"""Peak memory of `ddim-edit invert FOLDER -o STORE` as the folder grows, on a network so small that files are the work.

    python benchmarks/folder_memory.py [--counts 1000 50000]

Prints one JSON object and a table. Pictures are 8 x 8 PNGs and the network has random weights, since neither decides
what is kept in memory for each further picture. The figure is what the system says of the whole process at its end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from ddim_edit import hardware
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet

SIDE = 8
UNET = {
    "_class_name": "UNet2DModel",
    "sample_size": SIDE,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "block_out_channels": [8],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "clip_sample": False,
}


def make_model(folder: Path) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps(UNET))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    torch.manual_seed(0)
    weights = {name: weight.contiguous() for name, weight in UNet(UNetConfig.from_dict(UNET)).state_dict().items()}
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


def make_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for index in range(count):
        pixels = numbers.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"picture-{index:07}.png", compress_level=1)
    return folder


def measure(model: Path, pictures: Path, store: Path) -> dict[str, float]:
    line = ["invert", str(pictures), "-o", str(store), "--model", str(model), "--device", "cpu"]
    line += ["--batch-size", "256", "--steps", "1", "-q"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "ddim_edit", *line], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"invert ended with {status}")
    wall = time.perf_counter() - start
    return {"peak_mb": usage.ru_maxrss / 1024, "wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 50_000])
    counts = parser.parse_args().counts
    rows = []
    with tempfile.TemporaryDirectory() as place:
        model = make_model(Path(place) / "model")
        for count in counts:
            pictures = make_pictures(Path(place) / str(count), count)
            rows.append({"pictures": count, **measure(model, pictures, Path(place) / f"{count}.latents")})
    print(json.dumps(rows))
    print(f"\n{hardware()}")
    print("\n| pictures | peak MB | to the first | wall s | CPU s |\n|---:|---:|---:|---:|---:|")
    for row in rows:
        ratio = row["peak_mb"] / rows[0]["peak_mb"]
        cells = f"{row['pictures']:,} | {row['peak_mb']:.0f} | {ratio:.3f} | {row['wall_s']:.0f} | {row['cpu_s']:.0f}"
        print(f"| {cells} |")


if __name__ == "__main__":
    main()
