"""Folders as diffusers writes them, at reduced width, against diffusers itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddim_edit.errors import DDIMEditError
from ddim_edit.models.autoencoders import load_autoencoder
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.refinement import REFINERS
from ddim_edit.models.pretrained import WEIGHTS
from ddim_edit.precision import HAS_FP32_PRECISION

from .. import tiny
from ..rounding import ROUNDING, assert_alike

Diffusers: Any = diffusers  # its types are hidden from mypy
Config = dict[str, Any]
CPU = torch.device("cpu")
ONE_SENTENCE = r"^[^\n]+$"


def coder(n: int, **more: Any) -> Config:
    """The entries that every AutoencoderKL and VQModel of n sizes has, at a sixteenth of the usual width or less."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * n,
        "up_block_types": ("UpDecoderBlock2D",) * n,
        "block_out_channels": (8, 16, 16, 16)[:n],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        **more,
    }


FAMILIES: dict[str, tuple[str, Config]] = {
    "stable diffusion": ("AutoencoderKL", coder(4, sample_size=512)),
    "sdxl": ("AutoencoderKL", coder(4, sample_size=1024, scaling_factor=0.13025)),
    "sd3": (
        "AutoencoderKL",
        coder(
            4,
            latent_channels=16,
            sample_size=1024,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
    ),
    "ldm kl f4": ("AutoencoderKL", coder(3, latent_channels=3, sample_size=256, mid_block_add_attention=False)),
    "ldm vq f4": ("VQModel", coder(3, num_vq_embeddings=64, sample_size=256)),
    "taesd": ("AutoencoderTiny", {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}),
}
FACTORS = {"ldm kl f4": 4, "ldm vq f4": 4}
SCALES = {"sdxl": 0.13025, "sd3": 1.5305, "taesd": 1.0}


def network(family: str, seed: int = 0, **more: Any) -> Any:
    """Diffusers' own, with random weights and a codebook that is spread as widely as latents are."""
    name, config = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = getattr(Diffusers, name)(**config | more).eval().requires_grad_(False)
        if name == "VQModel":
            made.quantize.embedding.weight.normal_()
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def saved(made: Any, folder: Path) -> Path:
    made.save_pretrained(folder, safe_serialization=True)
    return folder


def pictures(batch: int = 2, height: int = 32, width: int = 24, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64) * 2 - 1


def rewrite(folder: Path, **entries: Any) -> Path:
    """The folder, with these entries of its config replaced, or taken out where they are None."""
    config = json.loads((folder / "config.json").read_text()) | entries
    tiny.write_json(folder / "config.json", {name: value for name, value in config.items() if value is not None})
    return folder


def test_latents_equal_diffusers_mode(family: str, tmp_path: Path) -> None:
    made = network(family)
    codec = load_autoencoder(saved(made, tmp_path), CPU)
    z = torch.cat([retrieve_latents(made.encode(each), sample_mode="argmax") for each in pictures().float().split(1)])
    scale, shift = made.config.scaling_factor, made.config.get("shift_factor") or 0.0
    torch.testing.assert_close(codec.encode(pictures()), (z.double() - shift) * scale, rtol=1e-5, atol=1e-5)


def test_pictures_are_what_the_pipelines_decode(family: str, tmp_path: Path) -> None:
    """Which divide by the scale, add the shift and quantise what a VQModel is given."""
    made = network(family)
    codec = load_autoencoder(saved(made, tmp_path), CPU)
    x0 = codec.encode(pictures()) + 0.1
    scale, shift = made.config.scaling_factor, made.config.get("shift_factor") or 0.0
    wanted = torch.cat([made.decode((each / scale + shift).float()).sample for each in x0.split(1)])
    torch.testing.assert_close(codec.decode(x0), wanted.double(), rtol=1e-5, atol=1e-5)


def test_the_factor_and_the_scale_are_read_from_the_config(family: str, tmp_path: Path) -> None:
    codec = load_autoencoder(saved(network(family), tmp_path), CPU)
    assert codec.factor == FACTORS.get(family, 8)
    assert codec.scaling_factor == SCALES.get(family, 0.18215)
    assert codec.shift_factor == (0.0609 if family == "sd3" else 0.0)
    height, width = codec.encode(pictures()).shape[-2:]
    assert (height * codec.factor, width * codec.factor) == (32, 24)


def test_encoding_draws_nothing(tmp_path: Path) -> None:
    """The posterior's mean, whatever its deviation: with a wide posterior a sample would be far away."""
    made = network("stable diffusion")
    made.quant_conv.bias[4:] = 5.0
    codec = load_autoencoder(saved(made, tmp_path), CPU)
    posterior = made.encode(pictures(1).float()).latent_dist
    assert posterior.std.mean() > 5
    before = torch.get_rng_state()
    x0 = codec.encode(pictures(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert_alike(x0, codec.encode(pictures(1)))
    torch.testing.assert_close(x0, posterior.mean.double() * 0.18215, rtol=1e-5, atol=1e-5)


def test_loading_moves_no_random_generator(tmp_path: Path) -> None:
    folder = saved(network("stable diffusion"), tmp_path)
    before = torch.get_rng_state()
    load_autoencoder(folder, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_channels_may_have_means_and_deviations(tmp_path: Path) -> None:
    """As in the SDXL pipelines: latents * std / scale + mean."""
    means, stds = [-1.6, 1.1, 3.2, -0.6], [8.4, 5.9, 3.0, 5.2]
    made = network("sdxl", scaling_factor=0.5, latents_mean=means, latents_std=stds)
    codec = load_autoencoder(saved(made, tmp_path), CPU)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 4, 1, 1) for values in (means, stds))
    z = made.encode(pictures(1).float()).latent_dist.mean.double()
    x0 = codec.encode(pictures(1))
    torch.testing.assert_close(x0 * std / 0.5 + mean, z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(codec.decode(x0), made.decode(z.float()).sample.double(), rtol=1e-5, atol=1e-5)


# Vector quantisation.


def test_the_codebook_belongs_to_decoding(tmp_path: Path) -> None:
    made = network("ldm vq f4")
    codec = load_autoencoder(saved(made, tmp_path), CPU)
    z = codec.encode(pictures()) / made.config.scaling_factor
    torch.testing.assert_close(z, made.encode(pictures().float()).latents.double(), rtol=1e-5, atol=1e-5)
    quantised = made.quantize(z.float())[0].double()
    assert (quantised - z).abs().max() > 0.1
    torch.testing.assert_close(codec.decode(quantised * 0.18215), codec.decode(z * 0.18215), rtol=1e-5, atol=1e-5)


def test_the_ldm_pipeline_decodes_to_the_same_pictures(tmp_path: Path) -> None:
    vqvae = network("ldm vq f4")
    unet = Diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    pipeline = Diffusers.LDMPipeline(vqvae=vqvae, unet=unet, scheduler=Diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    codec, given = load_autoencoder(saved(vqvae, tmp_path), CPU), []
    vqvae.post_quant_conv.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    generator = torch.Generator().manual_seed(0)
    images = pipeline(batch_size=1, generator=generator, num_inference_steps=2, output_type="numpy").images
    (z,) = given  # quantised already, which quantising leaves alone
    ours = (codec.decode(z * vqvae.config.scaling_factor) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours.permute(0, 2, 3, 1), torch.from_numpy(images).double(), rtol=1e-5, atol=1e-5)


def test_vq_latents_without_a_scale_are_left_alone(tmp_path: Path) -> None:
    """As CompVis/ldm-celebahq-256 needs; diffusers' default of 0.18215 makes noise of it."""
    folder = rewrite(saved(network("ldm vq f4"), tmp_path), scaling_factor=None)
    assert load_autoencoder(folder, CPU).scaling_factor == 1.0


def test_kl_latents_without_a_scale_have_that_of_diffusers(tmp_path: Path) -> None:
    folder = rewrite(saved(network("sdxl"), tmp_path), scaling_factor=None, shift_factor=None)
    assert load_autoencoder(folder, CPU).scaling_factor == 0.18215


# Where and how it runs.


@pytest.mark.parametrize("family", ["stable diffusion", "ldm vq f4", "taesd"])
def test_no_picture_depends_on_its_batch(family: str, tmp_path: Path) -> None:
    codec = load_autoencoder(saved(network(family), tmp_path), CPU)
    x0 = codec.encode(pictures(3))
    back = codec.decode(x0)
    for row in range(3):
        assert_alike(codec.encode(pictures(3)[row : row + 1])[0], x0[row])
        assert_alike(codec.decode(x0[row : row + 1])[0], back[row])


def test_it_runs_in_float32_whatever_the_file_holds(tmp_path: Path) -> None:
    made = network("stable diffusion")
    codec = load_autoencoder(saved(made.half(), tmp_path), CPU)
    wanted = made.float().encode(pictures(1).float()).latent_dist.mean.double() * 0.18215
    torch.testing.assert_close(codec.encode(pictures(1)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HAS_FP32_PRECISION, reason="needs torch 2.9")
def test_autoencoder_is_strict_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors that multiply bfloat16 would otherwise round to it."""
    codec = load_autoencoder(saved(network("stable diffusion"), tmp_path), CPU)
    x0 = codec.encode(pictures(1))
    back = codec.decode(x0)
    monkeypatch.setattr(torch.backends, "fp32_precision", "bf16")
    torch.testing.assert_close(codec.encode(pictures(1)), x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(codec.decode(x0), back, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_codec_returns_tensors_on_the_input_device(tmp_path: Path) -> None:
    folder = saved(network("stable diffusion"), tmp_path)
    here, there = load_autoencoder(folder, CPU), load_autoencoder(folder, torch.device("cuda"))
    x0 = here.encode(pictures())
    torch.testing.assert_close(there.encode(pictures()), x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(there.decode(x0), here.decode(x0), rtol=1e-4, atol=1e-4)
    for refiner in REFINERS.values():
        assert refiner(there, pictures(), x0).device == CPU


@pytest.mark.parametrize("family", ["stable diffusion", "ldm vq f4", "taesd"])
@pytest.mark.parametrize("name", REFINERS)
@pytest.mark.parametrize("inference", [False, True])
def test_refining_lowers_the_error_of_each_picture(family: str, name: str, inference: bool, tmp_path: Path) -> None:
    with torch.inference_mode(inference):
        codec = load_autoencoder(saved(network(family), tmp_path), CPU)
        x0 = codec.encode(pictures())
        refined = REFINERS[name](codec, pictures(), x0)
        assert not refined.requires_grad
        before, after = errors(codec, x0), errors(codec, refined)
    assert (after <= before * (1 + ROUNDING)).all()
    if name == "gradient":
        assert (after < before).all()


def errors(codec: AutoencoderCodec, x0: Tensor) -> Tensor:
    return (codec.decode(x0) - pictures()).square().mean((1, 2, 3))


# Large pictures.


def test_large_pictures_are_cut_into_the_tiles_of_diffusers(tmp_path: Path) -> None:
    made = network("stable diffusion", sample_size=64)
    codec = load_autoencoder(saved(made, tmp_path), CPU, largest_untiled=64 * 64)
    large = pictures(1, 160, 112)
    x0 = codec.encode(large)
    made.enable_tiling()
    wanted = made.encode(large.float()).latent_dist.mean.double() * 0.18215
    torch.testing.assert_close(x0, wanted, rtol=1e-5, atol=1e-5)
    back = made.decode((x0 / 0.18215).float()).sample.double()
    torch.testing.assert_close(codec.decode(x0), back, rtol=1e-5, atol=1e-5)
    assert back.shape == large.shape


def test_small_images_are_not_tiled_after_a_large_one(tmp_path: Path) -> None:
    made = network("stable diffusion", sample_size=64)
    codec = load_autoencoder(saved(made, tmp_path), CPU, largest_untiled=72 * 72)
    codec.decode(codec.encode(pictures(1, 160, 112)))
    wanted = made.encode(pictures(1, 72, 72).float()).latent_dist.mean.double() * 0.18215
    x0 = codec.encode(pictures(1, 72, 72))
    torch.testing.assert_close(x0, wanted, rtol=1e-5, atol=1e-5)
    back = made.decode((x0 / 0.18215).float()).sample.double()
    torch.testing.assert_close(codec.decode(x0), back, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_tiles_lie_where_they_belong(attention: bool, tmp_path: Path) -> None:
    """Without norms, whose statistics differ from tile to tile, only the tiles' borders tell, and those are blended."""
    folder = saved(network("stable diffusion", sample_size=64, mid_block_add_attention=attention), tmp_path)
    whole, tiled = load_autoencoder(folder, CPU), load_autoencoder(folder, CPU, largest_untiled=0)
    for codec in (whole, tiled):
        strip_norms(codec.autoencoder.autoencoder.network)
    tiled.autoencoder.autoencoder.network.tile_overlap_factor = 0.5
    large = pictures(1, 136, 200)
    x0 = whole.encode(large)
    assert 0 < deviation(tiled.encode(large), x0) < 0.02
    assert 0 < deviation(tiled.decode(x0), whole.decode(x0)) < 0.03


def strip_norms(network: torch.nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, torch.nn.Identity())


def deviation(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference, in standard deviations of b."""
    return float((a - b).square().mean().sqrt() / b.std())


def test_gradients_flow_through_tiles(tmp_path: Path) -> None:
    codec = load_autoencoder(saved(network("stable diffusion", sample_size=32), tmp_path), CPU, largest_untiled=0)
    large = pictures(1, 48, 56)
    x0 = codec.encode(large)
    refined = REFINERS["gradient"](codec, large, x0)
    assert (codec.decode(refined) - large).square().mean() < (codec.decode(x0) - large).square().mean()


# What is refused.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(network("stable diffusion"), tmp_path / "vae")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(DDIMEditError, match=ONE_SENTENCE) as caught:
        load_autoencoder(folder, CPU)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unknown_autoencoders_are_refused_by_name(folder: Path) -> None:
    known = "Known: AutoencoderKL, VQModel, AutoencoderTiny, "
    refused(rewrite(folder, _class_name="AutoencoderOobleck"), known, "AutoencoderOobleck")
    refused(rewrite(folder, _class_name=None), known, "None")


@pytest.mark.parametrize("side", ["in_channels", "out_channels"])
def test_non_rgb_autoencoders_are_refused(folder: Path, side: str) -> None:
    refused(rewrite(folder, **{side: 1}), "RGB", f"{side} is 1")


def test_without_diffusers_the_remedy_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(folder, "AutoencoderKL", "pip install 'ddim-edit[diffusers]'")


def test_other_files_are_no_pickles(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    refused(folder, "diffusion_pytorch_model.bin", "it is a safetensors file. Name it .safetensors.")


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, name)


@pytest.mark.parametrize("content", [b"", b"no json"])
def test_broken_files_are_named(folder: Path, content: bytes) -> None:
    good = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(content)
    refused(folder, "config.json")
    (folder / "config.json").write_bytes(good)
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, WEIGHTS)


@pytest.mark.parametrize(
    "entries", [{"down_block_types": ["NoSuchBlock"]}, {"layers_per_block": "two"}, {"act_fn": "no such function"}]
)
def test_unbuildable_configs_are_refused(folder: Path, entries: Config) -> None:
    refused(rewrite(folder, **entries), "config.json", "AutoencoderKL")


def test_weights_of_another_config_are_refused(folder: Path) -> None:
    refused(rewrite(folder, latent_channels=8), WEIGHTS, "shape")


def test_old_names_of_attention_are_understood(folder: Path) -> None:
    """As in the first releases of Stable Diffusion."""
    wanted = load_autoencoder(folder, CPU).encode(pictures(1))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(folder / WEIGHTS)
    for new, name in old.items():
        weights = {key.replace(new, name): tensor for key, tensor in weights.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in weights
    save_file(weights, folder / WEIGHTS)
    assert_alike(load_autoencoder(folder, CPU).encode(pictures(1)), wanted)


def test_diffusers_is_not_imported_before_it_is_needed() -> None:
    script = "import sys, ddim_edit.models.autoencoders; print('diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
