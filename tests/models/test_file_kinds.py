"""Files and folders that are no checkpoint say what they are, and what to do."""

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from ddim_edit import Direction, Latent, load_model
from ddim_edit.errors import DDIMEditError, ModelError
from ddim_edit.latents.exchange import import_latents
from ddim_edit.models.pretrained import WEIGHTS

from .. import pipelines, tiny
from ..latents.store.samples import RECIPE

Change = Callable[[Path], object]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3438167540\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
CONTENTS: Mapping[str, tuple[bytes, str]] = {
    "a git-lfs pointer": (POINTER, "it is a pointer of git-lfs, not the file that it stands for; run:"),
    "a page": (PAGE, "it is an HTML page"),
    "an error of a bucket": (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "it is an XML file, not weights",
    ),
    "JSON": (b'{"error": "not found"}', "it is a JSON text, not weights"),
    "GGUF": (b"GGUF" + bytes(100), "it is a GGUF file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "it is an HDF5 file"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(100), "it is a PNG image"),
    "an archive": (b"\x1f\x8b" + bytes(100), "it is a gzip archive"),
    "numpy": (b"\x93NUMPY" + bytes(100), "it is an array of numpy, not weights. Download"),
    "nothing": (b"", "the file is empty"),
    "an answer of a server": (b"Entry not found", "it is a text, 'Entry not found', not weights"),
    "a torn checkpoint of torch": (b"PK\x03\x04" + bytes(100), "the file is cut short"),
    "a torn safetensors file": (save({"a": torch.zeros(100, 100)})[:-9], "the file is cut short: it has 40,"),
}


def tensors(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(2, 2) for name in names}


STATES: Mapping[str, tuple[dict[str, torch.Tensor], str]] = {
    "a LoRA": (tensors("lora_unet_down_blocks_0.lora_down.weight"), "it is a LoRA"),
    "a LoRA of diffusers": (tensors("unet.down_blocks.0.attn1.to_q.lora_A.weight"), "it is a LoRA"),
    "a LyCORIS": (tensors("lycoris_blocks.0.lokr_w1"), "it is a LoRA"),
    "a ControlNet": (tensors("control_model.input_hint_block.0.weight", "control_model.x"), "it is a ControlNet"),
    "a ControlNet of diffusers": (tensors("controlnet_cond_embedding.conv_in.weight"), "it is a ControlNet"),
    "an autoencoder": (tensors("encoder.conv_in.weight", "decoder.conv_in.weight"), "it is an autoencoder (VAE) alone"),
    "Stable Diffusion": (
        tensors("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"),
        "the tensors of this stable-diffusion checkpoint do not fit together",
    ),
    "a relative of Flux": (
        tensors("double_blocks.0.img_attn.qkv.weight"),
        "of a family whose single files are not read",
    ),
    "a video model": (tensors("down_blocks.0.temp_convs.0.conv1.0.temporal_transformer.weight"), "a video model"),
    "Wan": (
        tensors("model.diffusion_model.head.modulation", "model.diffusion_model.patch_embedding.weight"),
        "a video",
    ),
    "a text encoder": (tensors("text_model.embeddings.position_embedding.weight"), "it is a text encoder alone"),
    "a textual inversion": (tensors("emb_params"), "it is a textual inversion"),
    "a textual inversion of XL": (tensors("clip_l", "clip_g"), "it is a textual inversion"),
    "a textual inversion of A1111": ({"*": torch.zeros(1, 768)}, "it is a textual inversion"),
    "a textual inversion of diffusers": ({"cat-toy": torch.zeros(768)}, "it is a textual inversion"),
    "an IP-Adapter": (tensors("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "a ControlNet or an adapter"),
    "a T2I-Adapter": (tensors("conv_in.weight", "body.0.block1.weight"), "a ControlNet or an adapter"),
    "a nested IP-Adapter": (tensors("1.to_k_ip.weight", "1.to_v_ip.weight"), "a ControlNet or an adapter"),
    "an ESRGAN": (tensors("conv_first.weight", "body.0.rdb1.conv1.weight"), "a network that enlarges images"),
    "an old ESRGAN": (tensors("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"), "a network that enlarges images"),
    "a language model": (
        tensors("model.embed_tokens.weight", "visual.blocks.0.attn.qkv.weight"),
        "it is a text encoder",
    ),
    "Mochi": (tensors("t5_yproj.weight", "blocks.0.attn.qkv_x.weight"), "a video model"),
    "Stable Cascade": (tensors("clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight"), "of Stable Cascade"),
    "HiDream": (tensors("double_stream_blocks.0.block.x.weight", "x_embedder.proj.weight"), "it is HiDream"),
    "an image encoder": (tensors("vision_model.embeddings.class_embedding"), "it is an image encoder alone"),
    "a network of diffusers": (tensors("time_embedding.linear_1.weight"), "it is the network of a diffusers folder"),
    "fp8": ({"blocks.0.weight": torch.zeros(2).to(torch.float8_e4m3fn)}, "a checkpoint of an unknown family"),
}


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".gguf", ".bin"])
@pytest.mark.parametrize("name", CONTENTS)
def test_files_say_what_they_are(tmp_path: Path, name: str, suffix: str) -> None:
    content, wanted = CONTENTS[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: {wanted}")


@pytest.mark.parametrize("name", CONTENTS)
def test_weights_of_a_folder_say_what_they_are(tmp_path: Path, name: str) -> None:
    content, wanted = CONTENTS[name]
    file = tiny.save_model(tmp_path / "model") / "unet" / WEIGHTS
    file.write_bytes(content)
    assert refusal(tmp_path / "model").startswith(f"{file}: {wanted}")


@pytest.mark.parametrize("name", STATES)
def test_checkpoints_of_other_kinds_say_what_they_are(tmp_path: Path, name: str) -> None:
    state, wanted = STATES[name]
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    for file in ("a.safetensors", "a.ckpt"):
        assert wanted in refusal(tmp_path / file)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("ControlNetModel", "it is a ControlNet"),
        ("T2IAdapter", "it is a ControlNet or an adapter"),
        ("AutoencoderKL", "it is an autoencoder (VAE) alone"),
        ("UNet3DConditionModel", "it is a video model"),
        ("UNetSpatioTemporalConditionModel", "it is a video model"),
        ("CogVideoXTransformer3DModel", "it is a video model"),
    ],
)
def test_folders_of_other_networks_say_what_they_are(tmp_path: Path, kind: str, wanted: str) -> None:
    tiny.write_json(tmp_path / "config.json", {"_class_name": kind})
    assert wanted in refusal(tmp_path)
    tiny.write_json(tmp_path / "whole" / "unet" / "config.json", {"_class_name": kind})
    tiny.write_json(tmp_path / "whole" / "scheduler" / "scheduler_config.json", tiny.SCHEDULER)
    tiny.write_json(tmp_path / "whole" / "model_index.json", {"_class_name": "DiffusionPipeline"})
    assert wanted in refusal(tmp_path / "whole")


def test_a_text_encoder_or_a_lora_is_no_folder_of_a_model(tmp_path: Path) -> None:
    tiny.write_json(tmp_path / "text" / "config.json", {"architectures": ["CLIPTextModel"]})
    assert "it is a text encoder alone" in refusal(tmp_path / "text")
    tiny.write_json(tmp_path / "lora" / "adapter_config.json", {})
    assert "it is a LoRA" in refusal(tmp_path / "lora")
    (tmp_path / "files").mkdir()
    save_file(tensors("a"), tmp_path / "files" / "ema.safetensors")
    assert "If ema.safetensors is a checkpoint of its own, name it." in refusal(tmp_path / "files")


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ((), "the folder is empty"),
        (
            ("checkpoint-500/optimizer.bin", "checkpoint-1000/optimizer.bin"),
            "Name one of them, as model/checkpoint-1000",
        ),
        (("unet/model.onnx", "vae_decoder/model.onnx"), "its weights are those of ONNX (model.onnx)"),
        (("unetxl.trt/sd_xl.plan",), "its weights are those of TensorRT"),
        (("Unet.mlmodelc/coremldata.bin",), "its weights are those of Core ML"),
        (("flux1-dev-Q4_0.gguf",), "it has only GGUF files"),
    ],
)
def test_folders_of_other_programs_say_what_they_are(tmp_path: Path, files: tuple[str, ...], wanted: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"weights")
    assert wanted in refusal(folder)


@pytest.mark.parametrize("kind", ["WuerstchenDecoderPipeline", "StableCascadePriorPipeline"])
def test_chains_of_models_are_known_by_their_index(tmp_path: Path, kind: str) -> None:
    """Their networks lie in folders of other names."""
    tiny.write_json(tmp_path / "model_index.json", {"_class_name": kind})
    tiny.write_json(tmp_path / "decoder" / "config.json", {"_class_name": "StableCascadeUNet"})
    assert "it is Stable Cascade or Wuerstchen" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model.safetensors.crdownload", "it is a download that was not finished"),
        ("unet.engine", "its weights are those of TensorRT"),
        ("model.ckpt", "it is a safetensors file. Name it .safetensors."),
        ("model.zip", "it is a zip archive with a.safetensors in it. Unpack it"),
        ("packed.safetensors", "it is a zip archive with a.safetensors in it. Unpack it"),
        ("torch.safetensors", "it is a checkpoint of torch. Name it .pt."),
    ],
)
def test_files_by_wrong_names_say_how_to_call_them(tmp_path: Path, name: str, wanted: str) -> None:
    path, tensors_file = tmp_path / name, tmp_path / "a.safetensors"
    save_file(tensors("a"), tensors_file)
    if name.startswith("torch"):
        torch.save(tensors("a"), path)
    elif "zip" in wanted:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tensors_file, "a.safetensors")
    else:
        tensors_file.rename(path)
    assert wanted in refusal(path)


def test_a_hypernetwork_says_what_it_is(tmp_path: Path) -> None:
    torch.save({320: [{"linear.0.weight": torch.zeros(2, 2)}], "layer_structure": [1, 2, 1]}, tmp_path / "a.pt")
    assert "it is a hypernetwork" in refusal(tmp_path / "a.pt")


# Names that only single files of these families have, which are not read.
UNREAD = {
    "Flux.2": ("double_blocks.0.img_attn.norm.key_norm.scale", "double_stream_modulation_img.lin.weight"),
    "Chroma": ("double_blocks.0.img_attn.norm.key_norm.scale", "distilled_guidance_layer.in_proj.weight"),
    "Z-Image": ("cap_embedder.0.weight", "cap_pad_token", "layers.0.attention.qkv.weight"),
    "Lumina-Image 2.0": ("model.diffusion_model.cap_embedder.0.weight", "model.diffusion_model.noise_refiner.0.x"),
    "Qwen-Image": ("transformer_blocks.0.img_mod.1.weight", "time_text_embed.timestep_embedder.linear_1.weight"),
    "AuraFlow": ("model.double_layers.0.attn.w1q.weight", "model.register_tokens"),
    "Sana": ("attention_y_norm.weight", "y_embedder.y_proj.fc1.weight", "x_embedder.proj.weight"),
    "PixArt-alpha and PixArt-Sigma": ("y_embedder.y_proj.fc1.weight", "t_block.1.weight", "x_embedder.proj.weight"),
    "HunyuanDiT": ("mlp_t5.0.weight", "x_embedder.proj.weight"),
    "DiT": ("y_embedder.embedding_table.weight", "x_embedder.proj.weight"),
}


@pytest.mark.parametrize("family", UNREAD)
def test_single_files_that_are_not_read_name_their_family(tmp_path: Path, family: str) -> None:
    save_file(tensors(*UNREAD[family]), tmp_path / "model.safetensors")
    found = refusal(tmp_path / "model.safetensors")
    assert f"it is {family}" in found
    assert "in one file, which cannot be read. Use its folder." in found


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("kinds")
    return pipelines.save(partial(pipelines.stable_diffusion, shelf / "tokens"), shelf / "original")


def change_index(**entries: object) -> Change:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text()) | entries
        tiny.write_json(folder / "model_index.json", index)

    return change


def stale_index(folder: Path) -> None:
    shard = "diffusion_pytorch_model-00001-of-00002.safetensors"
    (folder / "unet" / WEIGHTS).unlink()
    tiny.write_json(folder / "unet" / f"{WEIGHTS}.index.json", {"weight_map": {"conv_in.weight": shard}})


def as_4_bits(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS
    quantised = {"conv_in.weight": torch.zeros(9, 1, dtype=torch.uint8), "conv_in.weight.absmax": torch.zeros(4)}
    save_file(load_file(file) | quantised, file)


def with_a_layer(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS
    save_file(load_file(file) | {"conv_out_2.weight": torch.zeros(3, 3)}, file)


FOLDERS: Mapping[str, tuple[Change, str]] = {
    "no vae": (lambda folder: shutil.rmtree(folder / "vae"), "names the autoencoder vae, but there is no folder vae"),
    "no vae and no index": (
        lambda folder: (shutil.rmtree(folder / "vae"), change_index(vae=None)(folder)),
        "the network has 4 channels, as those of latents have, but there is no autoencoder",
    ),
    "a refiner": (change_index(requires_aesthetics_score=True), "it is the refiner of Stable Diffusion XL"),
    "a stale list of shards": (stale_index, "names diffusion_pytorch_model-00001-of-00002.safetensors, which is not"),
    "4 bits": (as_4_bits, "its weights are quantised (conv_in.weight"),
    "a further layer": (with_a_layer, "conv_out_2.weight is unknown"),
    "no text encoder": (
        lambda folder: (shutil.rmtree(folder / "text_encoder"), change_index(text_encoder=[None, None])(folder)),
        "text_encoder: this text encoder is missing",
    ),
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "there is no model_index.json, which names"),
    "Kandinsky": (change_index(_class_name="KandinskyV22Pipeline"), "it is Kandinsky"),
    "Kolors": (change_index(_class_name="KolorsPipeline"), "it is Kolors"),
    "unCLIP": (change_index(_class_name="StableUnCLIPPipeline"), "told an image by its embedding"),
    "an upscaler": (change_index(_class_name="StableDiffusionUpscalePipeline"), "it is an upscaler"),
    "DeepFloyd": (change_index(_class_name="IFPipeline"), "it is DeepFloyd IF"),
    "a vae that is a pointer": (
        lambda folder: (folder / "vae" / WEIGHTS).write_bytes(POINTER),
        "it is a pointer of git-lfs",
    ),
    "a text encoder that is a page": (
        lambda folder: (folder / "text_encoder" / "model.safetensors").write_bytes(PAGE),
        "text_encoder/model.safetensors: it is an HTML page",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_incomplete_folders_say_what_is_missing(original: Path, tmp_path: Path, name: str) -> None:
    change, wanted = FOLDERS[name]
    shutil.copytree(original, tmp_path / "copy")
    change(tmp_path / "copy")
    assert wanted in refusal(tmp_path / "copy")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_of_a_checkpoint_names_the_whole(original: Path, part: str) -> None:
    assert "Name that folder" in refusal(original / part) or "alone" in refusal(original / part)


OWN_FILES = {"latent": "a latent of ddim-edit", "direction": "a direction of ddim-edit", "shard": "a shard of a store"}


@pytest.fixture
def own_files(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind that ddim-edit writes, under a name that says nothing."""
    files = {name: tmp_path / f"{name}.safetensors" for name in OWN_FILES}
    for key, name in (("ddim-edit", "latent"), ("ddim-edit direction", "direction"), ("ddim-edit store", "shard")):
        save_file({"x": torch.zeros(3, 4, 4)}, files[name], {key: "{}"})
    return files


@pytest.mark.parametrize("kind", OWN_FILES)
def test_our_own_files_are_told_apart(own_files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    file, words = own_files[kind], f"it is {OWN_FILES[kind]}"
    like = Latent(torch.zeros(3, 4, 4), 1000.0, RECIPE)
    readers: list[Callable[[], object]] = [lambda: load_model(file), lambda: import_latents(file, like)]
    if kind != "latent":
        readers.append(lambda: Latent.load(file))
    if kind != "direction":
        readers.append(lambda: Direction.load(file))
    for reader in readers:
        with pytest.raises(DDIMEditError, match=words):
            reader()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n", "it is a PNG image, not a"),
        (b"<html>", "it is an HTML page"),
        (b"version https://git-lfs.github.com", "it is a pointer of git-lfs"),
        (b"", "it is an empty file, not a"),
        (b"file,label", "it is a text, not a"),
    ],
)
def test_other_files_are_no_latents_and_directions(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    for load in (Latent.load, Direction.load):
        with pytest.raises(DDIMEditError, match=words):
            load(file)


def test_folders_that_are_no_models_say_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to load")
    with pytest.raises(ModelError, match=r"it has no model_index\.json and no config\.json"):
        load_model(tmp_path)
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(ModelError, match="it is a store of latents, not a model"):
        load_model(tmp_path)
