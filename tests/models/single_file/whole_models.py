"""Whole models at reduced width, as diffusers has them and as single files."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import transformers

from ddim_edit.models import original_prompts

from ... import pipelines
from .original_names import State, original_1, original_2, original_3, original_flux, original_xl

Diffusers: Any = diffusers  # its types are hidden from mypy
Transformers: Any = transformers
ENDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}


def tokenizer(pad: str = "<|endoftext|>") -> Any:
    """CLIP's own, or that of a few words which the tests put in its place."""
    folder = original_prompts.CLIP_VOCABULARY
    return Transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77, pad_token=pad)


def clip(act: str = "quick_gelu", kind: str = "CLIPTextModel", width: int = 32, projection: int = 768) -> Any:
    """A CLIP as Stable Diffusion has it: one head of up to 64 channels."""
    config = Transformers.CLIPTextConfig(
        vocab_size=len(tokenizer("!")),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=1,
        projection_dim=projection,
        hidden_act=act,
        **ENDS,
    )
    return getattr(Transformers, kind)(config)


def unet(**options: Any) -> Any:
    return pipelines.conditional_unet(
        **{"block_out_channels": (32, 64), "norm_num_groups": 32, "attention_head_dim": 8, **options}
    )


def vae(**options: Any) -> Any:
    return pipelines.kl(**{"block_out_channels": (32, 64), "norm_num_groups": 32, **options})


def stable_diffusion_1() -> Any:
    return Diffusers.StableDiffusionPipeline(
        vae=vae(sample_size=512),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(cross_attention_dim=32, sample_size=64),
        scheduler=Diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def stable_diffusion_2() -> Any:
    return Diffusers.StableDiffusionPipeline(
        vae=vae(sample_size=768),
        text_encoder=clip("gelu", projection=512),
        tokenizer=tokenizer("!"),
        unet=unet(
            cross_attention_dim=32,
            sample_size=96,
            use_linear_projection=True,
            attention_head_dim=(1, 1),
            upcast_attention=True,
        ),
        scheduler=Diffusers.DDIMScheduler(
            **SCHEDULE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> Any:
    return Diffusers.StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025, sample_size=1024),
        text_encoder=clip(),
        text_encoder_2=clip("gelu", "CLIPTextModelWithProjection", 32, 24),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer("!"),
        unet=unet(
            sample_size=128,
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            use_linear_projection=True,
            attention_head_dim=(1, 1),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            upcast_attention=None,
        ),
        scheduler=Diffusers.EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading"),
    )


def stable_diffusion_3(*, later: bool = False, t5: bool = False) -> Any:
    """The first release, or 3.5, where queries and keys are normalised and layers attend twice."""
    norms = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if later else {}
    return Diffusers.StableDiffusion3Pipeline(
        transformer=Diffusers.SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=56,
            pos_embed_max_size=24,
            **norms,
        ),
        scheduler=Diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_vae(1.5305, 0.0609),
        text_encoder=clip("quick_gelu", "CLIPTextModelWithProjection", 32, 32),
        tokenizer=tokenizer(),
        text_encoder_2=clip("gelu", "CLIPTextModelWithProjection", 32, 24),
        tokenizer_2=tokenizer("!"),
        text_encoder_3=t5_encoder() if t5 else None,
        tokenizer_3=pipelines.t5_tokenizer() if t5 else None,
    )


def flow_vae(scale: float, shift: float) -> Any:
    quantisers = {"use_quant_conv": False, "use_post_quant_conv": False}
    return vae(sample_size=1024, scaling_factor=scale, shift_factor=shift, force_upcast=True, **quantisers)


def t5_encoder(width: int = 64) -> Any:
    config = Transformers.T5Config(
        vocab_size=32,
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=True,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    return Transformers.T5EncoderModel(config)


def flux(*, guided: bool = True) -> Any:
    """FLUX.1-dev, which is told its guidance, or FLUX.1-schnell."""
    dynamic = {"use_dynamic_shifting": guided, "shift": 3.0 if guided else 1.0}
    return Diffusers.FluxPipeline(
        transformer=Diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=32,
            guidance_embeds=guided,
            axes_dims_rope=(4, 14, 14),
        ),
        scheduler=Diffusers.FlowMatchEulerDiscreteScheduler(**dynamic),
        vae=flow_vae(0.3611, 0.1159),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=pipelines.t5_tokenizer(),
    )


MODELS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], State]]] = {
    "stable diffusion 1": (stable_diffusion_1, original_1),
    "stable diffusion 2": (stable_diffusion_2, original_2),
    "stable diffusion xl": (stable_diffusion_xl, original_xl),
    "stable diffusion 3": (stable_diffusion_3, original_3),
    "stable diffusion 3 with t5": (partial(stable_diffusion_3, t5=True), original_3),
    "stable diffusion 3.5": (partial(stable_diffusion_3, later=True), original_3),
    "flux dev": (flux, original_flux),
    "flux schnell": (partial(flux, guided=False), original_flux),
}


def build(name: str, folder: Path) -> State:
    """Write a model with random weights to a folder, and return the tensors of its original file."""
    make, original = MODELS[name]
    made: list[Any] = []

    def remember() -> Any:
        made.append(make())
        return made[0]

    pipelines.save(remember, folder, share=0.3)
    for file in folder.glob("*/*config.json"):
        config = json.loads(file.read_text())
        if config.get("model_type") == "t5":
            # As released; transformers 5 writes it down otherwise, which changes nothing of an encoder alone.
            config |= {"is_encoder_decoder": True, "tie_word_embeddings": False}
            config.pop("scale_decoder_outputs", None)
        if config.get("_class_name") == "EulerDiscreteScheduler":
            # As released: an entry of other schedulers.
            config["set_alpha_to_one"] = False
        file.write_text(json.dumps(config))
    return original(made[0])
