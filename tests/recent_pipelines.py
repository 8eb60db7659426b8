"""Pipelines of the families of 2024 to 2026, from their real classes at reduced width, with random weights."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import diffusers
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from .pipelines import CELLS, WORDS, kl, t5_encoder, t5_tokenizer

Diffusers: Any = diffusers  # its types are hidden from mypy
Transformers: Any = transformers
TEMPLATE_OF_PARTS = (
    "{% for message in messages %}{% for part in message.content %}{{ part.text }}<|im_end|>{% endfor %}{% endfor %}"
)
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
LANGUAGE = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
"""The size of a language model."""


def byte_tokenizer(kind: str, *special: str) -> Any:
    """A tokenizer of single bytes, of a class that checkpoints have."""
    letters = ["<pad>", "<bos>", "<eos>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    ends = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    made = getattr(Transformers, kind)(tokenizer_object=tokenizer, model_max_length=4096, **ends)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *special]})
    made.chat_template = TEMPLATE
    return made


def even(**options: Any) -> Any:
    return Diffusers.FlowMatchEulerDiscreteScheduler(**options)


def qwen_image() -> Any:
    """Its sampler shifts by the size of the image, and is stretched to end on 0.02."""
    mean, std = (0.3, -0.2, 0.1, -0.4), (1.5, 0.8, 1.2, 0.6)
    text = {**LANGUAGE, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    return Diffusers.QwenImagePipeline(
        transformer=Diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
        scheduler=even(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02, base_shift=0.5
        ),
        vae=Diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=list(mean),
            latents_std=list(std),
        ),
        text_encoder=Transformers.Qwen2_5_VLForConditionalGeneration(
            Transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=byte_tokenizer("Qwen2TokenizerFast"),
    )


def z_image() -> Any:
    return Diffusers.ZImagePipeline(
        transformer=Diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
        scheduler=even(shift=3.0),
        vae=kl(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Transformers.Qwen3Model(Transformers.Qwen3Config(**LANGUAGE)),
        tokenizer=byte_tokenizer("Qwen2TokenizerFast"),
    )


def flux_2_vae() -> Any:
    """Its batch normalisation of patches has seen something."""
    vae = Diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def flux_2_network(distilled: bool) -> Any:
    return Diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=distilled,
    )


def flux_2() -> Any:
    """Its text encoder is read at three of 30 layers, and the prompt comes after a long instruction."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**LANGUAGE, "model_type": "mistral", "num_hidden_layers": 30}
    config = Transformers.Mistral3Config(text_config=text, vision_config={**vision, "model_type": "pixtral"})
    tokenizer = byte_tokenizer("PreTrainedTokenizerFast", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    return Diffusers.Flux2Pipeline(
        transformer=flux_2_network(distilled=True),
        scheduler=even(use_dynamic_shifting=True),
        vae=flux_2_vae(),
        text_encoder=Transformers.Mistral3ForConditionalGeneration(config),
        tokenizer=Transformers.PixtralProcessor(
            Transformers.PixtralImageProcessor(), tokenizer, chat_template=TEMPLATE_OF_PARTS
        ),
    )


def flux_2_klein() -> Any:
    """Its text encoder is read at three layers, of 28 in the released one."""
    return Diffusers.Flux2KleinPipeline(
        transformer=flux_2_network(distilled=False),
        scheduler=even(use_dynamic_shifting=True),
        vae=flux_2_vae(),
        text_encoder=Transformers.Qwen3ForCausalLM(Transformers.Qwen3Config(**{**LANGUAGE, "num_hidden_layers": 27})),
        tokenizer=byte_tokenizer("Qwen2TokenizerFast"),
    )


def pixart(kind: str = "PixArtSigmaPipeline", **options: Any) -> Any:
    """PixArt-alpha of 128 cells is told the size of the image."""
    return getattr(Diffusers, kind)(
        transformer=Diffusers.PixArtTransformer2DModel(
            num_layers=2,
            num_attention_heads=3,
            attention_head_dim=8,
            cross_attention_dim=24,
            caption_channels=32,
            **{"sample_size": CELLS, **options},
        ),
        scheduler=Diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        vae=kl(scaling_factor=0.13025),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )


def chroma() -> Any:
    return Diffusers.ChromaPipeline(
        transformer=Diffusers.ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
        scheduler=even(use_beta_sigmas=True),
        vae=kl(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
    )


def sana() -> Any:
    return Diffusers.SanaPipeline(
        transformer=Diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=CELLS,
        ),
        scheduler=Diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        vae=Diffusers.AutoencoderDC(
            latent_channels=4,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=[1, 1],
            attention_head_dim=2,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        text_encoder=gemma(),
        tokenizer=byte_tokenizer("GemmaTokenizerFast"),
    )


def gemma() -> Any:
    return Transformers.Gemma2Model(Transformers.Gemma2Config(**LANGUAGE))


def lumina_2() -> Any:
    return Diffusers.Lumina2Pipeline(
        transformer=Diffusers.Lumina2Transformer2DModel(
            sample_size=CELLS,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(300, 32, 32),
            cap_feat_dim=16,
        ),
        scheduler=even(shift=6.0),
        vae=kl(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=gemma(),
        tokenizer=byte_tokenizer("GemmaTokenizerFast"),
    )


def aura_flow() -> Any:
    return Diffusers.AuraFlowPipeline(
        transformer=Diffusers.AuraFlowTransformer2DModel(
            sample_size=CELLS,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pos_embed_max_size=144,
        ),
        scheduler=even(shift=1.73),
        vae=kl(scaling_factor=0.13025),
        text_encoder=Transformers.UMT5EncoderModel(
            Transformers.UMT5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ),
        tokenizer=t5_tokenizer(),
    )


def cog_view_4() -> Any:
    return Diffusers.CogView4Pipeline(
        transformer=Diffusers.CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=16,
            time_embed_dim=8,
            condition_dim=4,
            sample_size=CELLS,
        ),
        scheduler=even(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"),
        vae=kl(scaling_factor=1.0),
        text_encoder=Transformers.GlmModel(Transformers.GlmConfig(**LANGUAGE, pad_token_id=0)),
        tokenizer=byte_tokenizer("PreTrainedTokenizerFast"),
    )


def hunyuan_dit() -> Any:
    """Its pipeline takes 8 pixels for a cell, whatever its autoencoder is."""
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    bert = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return Diffusers.HunyuanDiTPipeline(
        transformer=Diffusers.HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            patch_size=2,
            sample_size=CELLS,
            hidden_size=16,
            num_layers=2,
            mlp_ratio=2.0,
            cross_attention_dim=16,
            cross_attention_dim_t5=32,
            pooled_projection_dim=16,
            activation_fn="gelu-approximate",
        ),
        scheduler=Diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.018,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            steps_offset=1,
        ),
        vae=kl(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=Transformers.BertModel(Transformers.BertConfig(**bert, num_attention_heads=2)),
        tokenizer=Transformers.BertTokenizer({word: number for number, word in enumerate(words)}, model_max_length=77),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


RECENT: Mapping[str, Callable[[], Any]] = {
    "qwen-image": qwen_image,
    "z-image": z_image,
    "flux 2": flux_2,
    "flux 2 klein": flux_2_klein,
    "pixart sigma": pixart,
    "pixart alpha": partial(pixart, "PixArtAlphaPipeline", sample_size=128),
    "chroma": chroma,
    "sana": sana,
    "lumina 2": lumina_2,
    "aura flow": aura_flow,
    "cog view 4": cog_view_4,
    "hunyuan dit": hunyuan_dit,
}
