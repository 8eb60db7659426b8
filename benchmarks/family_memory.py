"""Measure peak memory of loading and one evaluation of models of several families, over the bytes of their weights.

    python benchmarks/family_memory.py [--dtypes float16 float32] [--families pixart stable-diffusion-3 unet2d]

Writes each with random weights (float16, of pixels float32; up to 2.1 GB) into a temporary folder: PixArt,
google/ddpm-celebahq-256 and Stable Diffusion 1.5 as one file at full size, Stable Diffusion 3 with 10 of its 24 layers.
Autoencoders and text encoders of the others are those of the tests, which take nothing. Each row is one fresh process,
whose figure is what the system says of it at its end (ru_maxrss); the weights are those of the network as it is held,
in --dtype. `benchmarks/memory.py` has the folder of Stable Diffusion 1.5 beside diffusers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ddim_edit import hardware  # noqa: E402

GIB = 1024**3
FILE = "model.safetensors"
SIZES = {"pixart": 256, "stable-diffusion-3": 128, "unet2d": 256, "stable-diffusion-file": 512}
"""Pixels a side; autoencoders of the tests have a factor of 2, so that two are the latents of 1024 and 512 pixels."""


def make_pixart(folder: Path) -> None:
    from tests import recent_pipelines

    options = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "cross_attention_dim": 1152}
    pipe = recent_pipelines.pixart()
    network = recent_pipelines.Diffusers.PixArtTransformer2DModel(caption_channels=32, sample_size=128, **options)
    pipe.register_modules(transformer=network.half())
    pipe.save_pretrained(folder)


def make_stable_diffusion_3(folder: Path) -> None:
    from tests import pipelines

    pipe = pipelines.stable_diffusion_3(folder / "tokens")
    network = pipelines.Diffusers.SD3Transformer2DModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        num_layers=10,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=32,
        caption_projection_dim=1536,
        pooled_projection_dim=32,
        pos_embed_max_size=192,
    )
    pipe.register_modules(transformer=network.half())
    pipe.save_pretrained(folder)


def make_unet2d(folder: Path) -> None:
    from tests import pipelines
    from tests.models.twins import CELEBAHQ

    widths = {"block_out_channels": (128, 128, 256, 256, 512, 512), "norm_num_groups": 32, "layers_per_block": 2}

    pipelines.Diffusers.DDPMPipeline(
        pipelines.Diffusers.UNet2DModel(**{**CELEBAHQ, **widths, "sample_size": 256}),
        pipelines.Diffusers.DDPMScheduler(),
    ).save_pretrained(folder)


def make_stable_diffusion_file(folder: Path) -> None:
    """Write Stable Diffusion 1.5 as one file, in the layout of its own code."""
    import memory
    import transformers
    from safetensors.torch import save_file

    from tests.models.single_file.original_names import original_1
    from tests.pipelines import Diffusers

    text: Any = transformers.CLIPTextModel(transformers.CLIPTextConfig(**memory.TEXT))
    networks = {
        "unet": Diffusers.UNet2DConditionModel(**memory.UNET).half(),
        "vae": Diffusers.AutoencoderKL(**memory.VAE).half(),
        "text_encoder": text.half(),
    }
    folder.mkdir(parents=True)
    state = original_1(SimpleNamespace(**networks))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / FILE)


MAKERS: Mapping[str, Callable[[Path], None]] = {
    "pixart": make_pixart,
    "stable-diffusion-3": make_stable_diffusion_3,
    "unet2d": make_unet2d,
    "stable-diffusion-file": make_stable_diffusion_file,
}


def measure(folder: Path, dtype: str, size: int) -> None:
    """Print the peak of this process, and the bytes of the network as it is held."""
    from ddim_edit import Condition, load_model
    from ddim_edit.models.tensor_files import StoredTensors

    model = load_model(folder / FILE if (folder / FILE).is_file() else folder, dtype=dtype, size=size)
    follows = model.follows == "a prompt"
    denoiser: Any = model.conditioned_on(Condition(prompt="a photo")) if follows else model.denoiser
    # Of the files, as networks may have packed their weights.
    prefix = "model.diffusion_model." if (folder / FILE).is_file() else ""
    files = (
        [folder / FILE] if prefix else [*folder.glob("unet/*.safetensors"), *folder.glob("transformer/*.safetensors")]
    )
    records = StoredTensors(files).records
    count = sum(prod(record.shape) for name, record in records.items() if name.startswith(prefix))
    held = count * (2 if dtype == "float16" else 4)
    with torch.inference_mode():
        denoiser(torch.randn(1, *model.shape, dtype=torch.float64), model.schedule.level(0.9 * model.schedule.T))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "held": held}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["float16", "float32"])
    parser.add_argument("--families", nargs="+", default=list(MAKERS), choices=MAKERS)
    parser.add_argument("--scratch", type=Path, help="where the temporary folders are made")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    family = arguments.families[0]
    if arguments.make:
        MAKERS[family](arguments.make)
        return
    if arguments.measure:
        measure(arguments.measure, arguments.dtypes[0], SIZES[family])
        return
    print(f"{hardware()}, {torch.get_num_threads()} threads\n")
    print("| family | dtype | network GiB | peak GiB | ratio |\n|---|---|---:|---:|---:|", flush=True)
    for family in arguments.families:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            line = [sys.executable, __file__, "--families", family]
            environment = os.environ | {"XDG_CACHE_HOME": f"{scratch}/cache"}
            folder = str(Path(scratch) / "model")
            subprocess.run([*line, "--make", folder], check=True, capture_output=True)
            for dtype in arguments.dtypes:
                options = ["--measure", folder, "--dtypes", dtype]
                run = subprocess.run([*line, *options], check=False, capture_output=True, text=True, env=environment)
                if run.returncode:
                    raise SystemExit(run.stderr)
                found = json.loads(run.stdout.splitlines()[-1])
                peak, held = found["peak"] / GIB, found["held"] / GIB
                print(f"| {family} | {dtype} | {held:.2f} | {peak:.2f} | {peak / held:.2f} |", flush=True)


if __name__ == "__main__":
    main()
