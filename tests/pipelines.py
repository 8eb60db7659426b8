"""Diffusers folders of every family, from their real configurations at reduced width, with random weights."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

from .models.twins import CELEBAHQ, CIFAR10

Diffusers: Any = diffusers  # its types are hidden from mypy
Transformers: Any = transformers

SIZE = 32
"""Pixels a side; an x_0 of 16 at a factor of 2."""
WORDS = ("a", "photo", "of", "the", "old", "young", "face", "man", "woman", "smiling")
SD_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
CELLS = 16


def save(make: Callable[[], Any], folder: Path, seed: int = 0, share: float = 1.0) -> Path:
    """Build a pipeline with random weights of this seed and write it as diffusers does.

    The network answers with a share of its answer: little of v or of a velocity makes a tame, curved flow.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        pipe = make()
        for weight in last_layer(pipe).parameters():
            weight *= share
        pipe.save_pretrained(folder)
    return folder


def last_layer(pipe: Any) -> Any:
    network = pipe.components.get("unet") or pipe.components["transformer"]
    return next(layer for name in _LAST if (layer := getattr(network, name, None)) is not None)


_LAST = ("conv_out", "proj_out_2", "proj_out", "all_final_layer", "norm_out")


def clip_tokenizer(folder: Path) -> Any:
    """A real byte-pair tokenizer of a few words, from vocabulary and merges as CLIP keeps them."""
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[str] = []
    for word in dict.fromkeys(WORDS):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = f"{parts[0]} {parts[1]}"
            parts = [parts[0] + parts[1], *parts[2:]]
            if merge not in merges:
                merges.append(merge)
                vocabulary.append(parts[0])
    folder.mkdir(parents=True, exist_ok=True)
    numbered = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    (folder / "vocab.json").write_text(json.dumps(numbered))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return Transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def clip_config(tokenizer: Any, width: int = 16) -> Any:
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return Transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        pad_token_id=tokenizer.eos_token_id,
        **ends,
    )


def kl(**options: Any) -> Any:
    """Stable Diffusion's autoencoder, at two levels."""
    return Diffusers.AutoencoderKL(
        **{
            "block_out_channels": (8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": SIZE,
            **options,
        }
    )


def conditional_unet(**options: Any) -> Any:
    """Stable Diffusion's UNet, at two levels."""
    return Diffusers.UNet2DConditionModel(
        **{
            "sample_size": CELLS,
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "cross_attention_dim": 16,
            **options,
        }
    )


def stable_diffusion(
    tokens: Path, prediction: str = "epsilon", guidance_width: int | None = None, **scheduler: Any
) -> Any:
    """Stable Diffusion 1.x, or with prediction "v_prediction" 2.x; with a guidance_width a latent consistency model."""
    tokenizer = clip_tokenizer(tokens)
    return Diffusers.StableDiffusionPipeline(
        vae=kl(),
        text_encoder=Transformers.CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        unet=conditional_unet(use_linear_projection=prediction == "v_prediction", time_cond_proj_dim=guidance_width),
        scheduler=Diffusers.DDIMScheduler(**{**SD_SCHEDULE, "prediction_type": prediction, **scheduler}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(tokens: Path) -> Any:
    tokenizer = clip_tokenizer(tokens)
    options = {key: value for key, value in SD_SCHEDULE.items() if key not in ("clip_sample", "set_alpha_to_one")}
    return Diffusers.StableDiffusionXLPipeline(
        vae=kl(scaling_factor=0.13025),
        text_encoder=Transformers.CLIPTextModel(clip_config(tokenizer)),
        text_encoder_2=Transformers.CLIPTextModelWithProjection(clip_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(tokens),
        unet=conditional_unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=16 + 6 * 4,
            use_linear_projection=True,
        ),
        scheduler=Diffusers.EulerDiscreteScheduler(**options, timestep_spacing="leading"),
    )


def stable_diffusion_3(tokens: Path, t5: bool = False) -> Any:
    tokenizer = clip_tokenizer(tokens)
    return Diffusers.StableDiffusion3Pipeline(
        transformer=Diffusers.SD3Transformer2DModel(
            sample_size=CELLS,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=24,
        ),
        scheduler=Diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=Transformers.CLIPTextModelWithProjection(clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=Transformers.CLIPTextModelWithProjection(clip_config(tokenizer)),
        tokenizer_2=clip_tokenizer(tokens),
        text_encoder_3=t5_encoder() if t5 else None,
        tokenizer_3=t5_tokenizer() if t5 else None,
    )


def flux(tokens: Path, distilled: bool = True) -> Any:
    """FLUX.1-dev, which is told its guidance, or FLUX.1-schnell."""
    tokenizer = clip_tokenizer(tokens)
    return Diffusers.FluxPipeline(
        transformer=Diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=distilled,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=Diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Transformers.CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )


def t5_tokenizer() -> Any:
    """A tokenizer of a few words, of the class that checkpoints have: only the slow one needs SentencePiece."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(f"\u2581{word}" for word in dict.fromkeys(WORDS))]
    vocabulary = [(piece, -float(rank)) for rank, piece in enumerate(pieces)]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Transformers.T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=512)


def t5_encoder() -> Any:
    config = Transformers.T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return Transformers.T5EncoderModel(config)


def dit(tokens: Path) -> Any:
    """facebook/DiT-XL-2-256: class-conditional, with learned variances; its pipeline knows class 1000 for none."""
    return Diffusers.DiTPipeline(
        transformer=Diffusers.DiTTransformer2DModel(
            sample_size=CELLS,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_embeds_ada_norm=1000,
            patch_size=2,
        ),
        vae=kl(),
        scheduler=Diffusers.DDIMScheduler(clip_sample=False),
    )


def vq() -> Any:
    """CompVis/ldm-celebahq-256's autoencoder, at two levels."""
    return Diffusers.VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=4,
        num_vq_embeddings=64,
        scaling_factor=1.0,
        sample_size=SIZE,
    )


def latent(tokens: Path, codec: Callable[[], Any] = vq) -> Any:
    """CompVis/ldm-celebahq-256: unconditional latent diffusion."""
    scheduler = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "clip_sample": False}
    return Diffusers.LDMPipeline(
        vqvae=codec(),
        unet=Diffusers.UNet2DModel(
            sample_size=CELLS,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
        ),
        scheduler=Diffusers.DDIMScheduler(**scheduler),
    )


def pixels(unet: Mapping[str, Any], **scheduler: Any) -> Any:
    """google/ddpm-*: a network of pixels; the config of its sampler clips, which is not the network's business."""
    network = Diffusers.UNet2DModel(**{**CIFAR10, "sample_size": SIZE, **unet})
    return Diffusers.DDPMPipeline(network, Diffusers.DDPMScheduler(**{"clip_sample": True, **scheduler}))


SMALL: Mapping[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "layers_per_block": 1,
}
PIXELS: Mapping[str, Callable[[], Any]] = {
    "cifar10": partial(pixels, {}, variance_type="fixed_large"),
    "celebahq": partial(pixels, {**CELEBAHQ, "sample_size": SIZE}),
    "flipped": partial(pixels, {**SMALL, "flip_sin_to_cos": True, "freq_shift": 0}),
    "learned variances": partial(pixels, {**SMALL, "out_channels": 6}, variance_type="learned_range"),
    "classes": partial(pixels, {**SMALL, "num_class_embeds": 5}),
    "diffusers' own": partial(
        pixels,
        {
            **SMALL,
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        },
        prediction_type="v_prediction",
    ),
}
"""Networks of pixels: the last one has blocks that our own network does not know."""
LATENTS: Mapping[str, Callable[[Path], Any]] = {
    "stable diffusion 1": stable_diffusion,
    "stable diffusion 2": partial(stable_diffusion, prediction="v_prediction"),
    "zero snr": partial(
        stable_diffusion, prediction="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "latent consistency": partial(stable_diffusion, guidance_width=8),
    "stable diffusion xl": stable_diffusion_xl,
    "stable diffusion 3": stable_diffusion_3,
    "stable diffusion 3 with t5": partial(stable_diffusion_3, t5=True),
    "flux dev": flux,
    "flux schnell": partial(flux, distilled=False),
    "dit": dit,
    "ldm vq": latent,
    "ldm kl": partial(latent, codec=partial(kl, latent_channels=3)),
}
"""Networks of latents; each needs a folder for its tokenizer's files."""
