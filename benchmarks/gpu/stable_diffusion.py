"""A network of the size of Stable Diffusion 1.5 with random weights: diffusers' own call of it, and ours."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timing.place import Place
from timing.spread import spread
from torch import Tensor

from ddim_edit import NetworkDenoiser, load_model
from ddim_edit.models.devices import PRECISIONS, DeviceNetwork
from gpu.material import relative
from gpu.plan import Case, Row, Setting, Skipped

DTYPES = ("bfloat16", "float16")
BATCHES = (1, 4)
FACTOR = 8
"""Pixels a side of one position of x_0."""


class _Size(NamedTuple):
    """Pixels a side, channels of the levels of the network, width of the text encoder, groups of the norms."""

    pixels: int
    channels: tuple[int, ...]
    text: int
    groups: int


REAL, TINY = _Size(512, (320, 640, 1280, 1280), 768, 32), _Size(32, (8, 16, 16, 16), 16, 4)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the cases: the folder is made first, and read by all others."""
    yield Case("random weights", partial(_write_pipeline, setting))
    for dtype in DTYPES[:1] if setting.tiny else DTYPES:
        for name, layout in (("diffusers", torch.contiguous_format), ("diffusers, channels_last", torch.channels_last)):
            yield Case(f"{name}, {dtype}", partial(_theirs, setting, f"{name}, {dtype}", dtype, layout))
        yield Case(f"ours, {dtype}", partial(_ours, setting, dtype))


def _folder(setting: Setting) -> Path:
    return setting.folder("stable-diffusion") / "model"


def _import_diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise Skipped("diffusers is not installed, and nothing runs this network without it") from error
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def _write_pipeline(setting: Setting) -> Iterator[Row]:
    """Write a pipeline with the network in float16; its text encoder and its autoencoder are small."""
    diffusers, size = _import_diffusers(), TINY if setting.tiny else REAL
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = _write_tokenizer(setting.folder("stable-diffusion") / "words")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text,
        intermediate_size=2 * size.text,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    with torch.device(setting.device):  # where hundreds of millions of weights are drawn in a moment
        network = diffusers.UNet2DConditionModel(
            sample_size=size.pixels // FACTOR,
            block_out_channels=size.channels,
            cross_attention_dim=size.text,
            attention_head_dim=size.groups // 4,
            norm_num_groups=size.groups,
        )
    pipe = diffusers.StableDiffusionPipeline(
        # Stable Diffusion's autoencoder at an eighth of its width.
        vae=diffusers.AutoencoderKL(
            block_out_channels=(16, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=network.half(),
        scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(_folder(setting))
    weights = sum(parameter.numel() for parameter in network.parameters())
    yield {"network": "random weights", "million weights": weights / 1e6}


def _write_tokenizer(folder: Path) -> Any:
    """Return CLIP's tokenizer with no words but the two that begin and end a text."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def _inputs(setting: Setting, batch: int) -> Tensor:
    side = (TINY if setting.tiny else REAL).pixels // FACTOR
    return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(0)).to(setting.device)


def _theirs(setting: Setting, name: str, dtype: str, layout: torch.memory_format) -> Iterator[Row]:
    """Measure diffusers' network, called as its pipelines call it."""
    kind: Any = _import_diffusers().UNet2DConditionModel
    precision = PRECISIONS[dtype].dtype
    network = kind.from_pretrained(_folder(setting) / "unet", torch_dtype=precision).eval().to(setting.device)
    network = network.to(memory_format=layout)
    torch.manual_seed(1)
    states = torch.randn(1, 77, (TINY if setting.tiny else REAL).text, device=setting.device, dtype=precision)

    def evaluate(x: Tensor, time: Tensor) -> Tensor:
        text_states = states.expand(len(x), -1, -1)
        with torch.no_grad():
            output = network(x.to(precision, memory_format=layout), time, encoder_hidden_states=text_states)
        sample: Tensor = output.sample
        return sample

    yield from _measure(setting, name, evaluate)


def _ours(setting: Setting, dtype: str) -> Iterator[Row]:
    """Measure our call of diffusers' network, and compare its output with that of the network called plainly."""
    _import_diffusers()
    size = (TINY if setting.tiny else REAL).pixels
    # Conditioned on the empty prompt.
    denoiser = load_model(_folder(setting), setting.device, dtype, size=size).denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    network = denoiser.network
    assert isinstance(network, DeviceNetwork)
    x, time = _inputs(setting, 1), torch.full((1,), 500.0, device=setting.device)
    given = {name: value[:1] for name, value in network.conditioning.items()}
    with torch.inference_mode():
        plain = network.network(x.to(network.precision.dtype), time, **given)
    error = relative(network(x, time), plain)
    for row in _measure(setting, f"ours, {dtype}", network):
        yield {**row, "relative difference to a plain call": error}


def _measure(setting: Setting, name: str, evaluate: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Row]:
    place = Place(setting.device)
    for batch in BATCHES[:1] if setting.tiny else BATCHES:
        x, time = _inputs(setting, batch), torch.full((batch,), 500.0, device=setting.device)
        if place.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(1 if setting.tiny else 3):
            evaluate(x, time)
        calls = [place.timed(partial(evaluate, x, time))[0] for _ in range(1 if setting.tiny else 9)]
        held = torch.cuda.max_memory_allocated() / 2**30 if place.device.type == "cuda" else None
        yield {"network": name, "batch": batch, "evaluation ms": 1000 * spread(calls).median, "memory GiB": held}
