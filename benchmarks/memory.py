"""Measure peak memory and loading time of Stable Diffusion 1.5 at full size, here and in diffusers' own pipeline.

    python benchmarks/memory.py [--rounds 3] [--dtypes float16 bfloat16 float32 mixed] [--size 512] [--decode]

Writes a folder of the layout of Stable Diffusion 1.5 with random float16 weights (2.1 GB) into a temporary folder,
and removes it at the end. Each row is the median of fresh processes, ours and diffusers' in turn: loading everything
and encoding a prompt, and one evaluation of the network without guidance (of a mixed model one of either network). The
figure is what the system says of the whole process at its end (ru_maxrss). "first load" is that of a folder that was
never loaded before: its weights are hashed and the prompt is encoded, which later loads find in the cache.
"""

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddim_edit import hardware

UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TEXT: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
}
THEIRS = {"mixed": "float32"}
"""What a dtype of ours that diffusers does not have is compared with."""
PROMPT = "a photo of a face"
GIB = 1024**3


def main() -> None:
    """Print the table, or, in a child process, one measurement."""
    arguments = _arguments()
    if arguments.measure:
        measure = {"ours": _run_ours, "diffusers": _run_theirs}[arguments.measure]
        print(json.dumps(measure(arguments.folder, arguments.dtypes[0], arguments.size, arguments.decode)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = arguments.folder or Path(scratch) / "model"
        if not (folder / "model_index.json").is_file():
            make_folder(folder)
        # Digests of this benchmark's weights are of no use to anybody later.
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        print(f"{hardware()}, {torch.get_num_threads()} threads, {arguments.size} pixels\n", flush=True)
        first = _measure("ours", "float32", folder, arguments)
        print(f"first load, with hashing and encoding: {first['load']:.1f} s, {first['peak'] / GIB:.2f} GiB\n")
        print("| dtype | peak GiB | diffusers | ratio | load s | diffusers | ratio | step s | diffusers | ratio |")
        print("|---" + "|---:" * 9 + "|", flush=True)
        for dtype in arguments.dtypes:
            _print_row(dtype, folder, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16", "float32", "mixed"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--decode", action="store_true", help="decode the result to an image too")
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    parser.add_argument("--folder", type=Path, help="where the model is, or is made and kept")
    parser.add_argument("--measure", choices=["ours", "diffusers"], help=argparse.SUPPRESS)
    return parser.parse_args()


def make_folder(folder: Path) -> None:
    """Write a folder with the networks of Stable Diffusion 1.5 and random float16 weights."""
    import diffusers
    import transformers

    Diffusers: Any = diffusers  # its types are hidden from mypy
    with torch.device("meta"):
        networks = {
            "unet": (Diffusers.UNet2DConditionModel(**UNET), "diffusion_pytorch_model"),
            "vae": (Diffusers.AutoencoderKL(**VAE), "diffusion_pytorch_model"),
            "text_encoder": (transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)), "model"),
        }
    for name, (network, stem) in networks.items():
        (folder / name).mkdir(parents=True)
        network.config.save_pretrained(folder / name) if name == "text_encoder" else network.save_config(folder / name)
        _write_random(network, folder / name / f"{stem}.safetensors")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    _write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(INDEX))


def _write_random(network: nn.Module, file: Path) -> None:
    """Write random float16 weights tensor by tensor, so that this process stays smaller than those it measures."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    tensors = network.state_dict()
    for name, tensor in tensors.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    torch.manual_seed(0)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, tensor in tensors.items():
            opened.write(_random_like(name, tensor).half().numpy().data)


def _random_like(name: str, like: Tensor) -> Tensor:
    """Return weights that keep the size of what goes through, so that nothing overflows in float16."""
    if like.dim() < 2:
        return torch.ones(like.shape) if "norm" in name and name.endswith("weight") else torch.zeros(like.shape)
    weights: Tensor = torch.randn(like.shape) / like[0].numel() ** 0.5
    return weights


def _write_tokenizer(folder: Path) -> None:
    """Write CLIP's tokenizer without any merges: each character is a token."""
    folder.mkdir()
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"unused{number}" for number in range(TEXT["vocab_size"] - len(tokens) - 2)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _print_row(dtype: str, folder: Path, arguments: argparse.Namespace) -> None:
    rows: dict[str, list[Mapping[str, float]]] = {"ours": [], "diffusers": []}
    for _ in range(arguments.rounds):
        for who, found in rows.items():
            found.append(_measure(who, dtype if who == "ours" else THEIRS.get(dtype, dtype), folder, arguments))
    cells = [dtype if dtype not in THEIRS else f"{dtype}, against {THEIRS[dtype]}"]
    for key, scale in (("peak", GIB), ("load", 1), ("step", 1)):
        ours, theirs = (statistics.median(row[key] for row in found) / scale for found in rows.values())
        # Of interleaved runs, as the machine may do other work meanwhile.
        ratios = [mine[key] / other[key] for mine, other in zip(*rows.values(), strict=True)]
        cells += [f"{ours:.2f}", f"{theirs:.2f}", f"{statistics.median(ratios):.2f}"]
    print(f"| {' | '.join(cells)} |", flush=True)


def _measure(who: str, dtype: str, folder: Path, arguments: argparse.Namespace) -> Mapping[str, float]:
    """Return peak bytes, and seconds of loading and of a step, of a fresh process."""
    line = [sys.executable, __file__, "--measure", who, "--dtypes", dtype, "--folder", str(folder)]
    line += ["--size", str(arguments.size), *(["--decode"] if arguments.decode else [])]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run_ours(folder: Path, dtype: str, size: int, decode: bool) -> Mapping[str, float]:
    from ddim_edit import Condition, load_model

    start = time.perf_counter()
    model = load_model(folder, dtype=dtype, size=size, offline=True)
    denoiser = model.conditioned_on(Condition(prompt=PROMPT))
    loaded = time.perf_counter()
    x = torch.randn(1, *model.shape, dtype=torch.float64)
    # Both networks of a mixed model: s is above 1 at the first level and below at the second.
    times = [999, 100] if dtype == "mixed" else [999]
    with torch.inference_mode():
        for t in times:
            x0 = denoiser(x, model.schedule.level(t)).x0
        stepped = time.perf_counter()
        if decode:
            model.codec.decode(x0)
    return _figures(start, loaded, stepped)


def _run_theirs(folder: Path, dtype: str, size: int, decode: bool) -> Mapping[str, float]:
    start = time.perf_counter()
    import diffusers

    Diffusers: Any = diffusers
    Diffusers.utils.logging.disable_progress_bar()
    kind = getattr(torch, dtype)
    pipe = Diffusers.StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=kind, low_cpu_mem_usage=True, local_files_only=True, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        embeds, _ = pipe.encode_prompt(PROMPT, torch.device("cpu"), 1, False)
    loaded = time.perf_counter()
    options = {"prompt_embeds": embeds, "num_inference_steps": 1, "guidance_scale": 1.0, "height": size, "width": size}
    latents = pipe(**options, output_type="latent").images
    stepped = time.perf_counter()
    if decode:
        with torch.inference_mode():
            pipe.vae.decode(latents / pipe.vae.config.scaling_factor)
    return _figures(start, loaded, stepped)


def _figures(start: float, loaded: float, stepped: float) -> Mapping[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak, "load": loaded - start, "step": stepped - loaded}


if __name__ == "__main__":
    main()
