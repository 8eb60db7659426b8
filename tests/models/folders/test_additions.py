"""LoRAs, embeddings and autoencoders of their own files, merged into folders as the same folders saved with them."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddim_edit import ArgumentError, Condition, Editor, ModelError, load_model
from ddim_edit.models.identity import find_difference

from ... import pipelines
from ...rounding import assert_alike
from .loras import add_lora, scale_lora
from .originals import PROMPT, noise
from .test_user_folders import assert_same_model

Diffusers: Any = diffusers  # its types are hidden from mypy
PipeOf = Callable[[str], Any]
Folders = Callable[[str], Path]
SCALE, ALPHA, RANK = 0.5, 2.0, 4
CHANGED = ("to_q", "to_out.0", "ff.net.0.proj", "conv1", "q_proj", "fc1", "proj_in")
"""Ends of the names of layers that the LoRAs of these tests change."""
Change = tuple[Tensor, Tensor]


def changes_of(module: nn.Module) -> dict[str, Change]:
    """A and B for some layers, linear ones and convolutions."""
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Change] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(CHANGED):
            out, inner, *rest = layer.weight.shape
            down = torch.randn(RANK, inner, *rest, generator=generator) / 4
            up = torch.randn(out, RANK, *(1 for _ in rest), generator=generator) / 4
            found[name] = down, up
    assert len(found) > 2
    return found


def merge(module: nn.Module, changes: Mapping[str, Change], scale: float) -> None:
    """By hand: W + scale sum_r B[:, r] A[r]."""
    layers = dict(module.named_modules())
    with torch.no_grad():
        for name, (down, up) in changes.items():
            layers[name].weight += scale * torch.einsum("or,r...->o...", up.flatten(1), down)


def kohya_name(component: str, name: str) -> str:
    """kohya-ss has one word for each layer; text encoders have the names of transformers 4."""
    if component in ("unet", "transformer"):
        return f"lora_unet_{name.replace('.', '_')}"
    prefix = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}[component]
    return f"{prefix}_{with_text_model(name).replace('.', '_')}"


def with_text_model(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


def as_kohya(parts: Mapping[str, Mapping[str, Change]]) -> dict[str, Tensor]:
    tensors = {}
    for component, changes in parts.items():
        for name, (down, up) in changes.items():
            base = kohya_name(component, name)
            tensors |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
            tensors[f"{base}.alpha"] = torch.tensor(ALPHA)
    return tensors


def as_peft(parts: Mapping[str, Mapping[str, Change]]) -> dict[str, Tensor]:
    """What diffusers saves today."""
    tensors = {}
    for component, changes in parts.items():
        for name, (down, up) in changes.items():
            whole = with_text_model(name) if component.startswith("text") else name
            tensors |= {f"{component}.{whole}.lora_A.weight": down, f"{component}.{whole}.lora_B.weight": up}
    return tensors


def as_old_diffusers(parts: Mapping[str, Mapping[str, Change]]) -> dict[str, Tensor]:
    """What diffusers saved before it used PEFT."""
    tensors = {}
    for component, changes in parts.items():
        word = "lora_linear_layer" if component.startswith("text") else "lora"
        for name, (down, up) in changes.items():
            whole = with_text_model(name) if component.startswith("text") else name
            tensors |= {f"{component}.{whole}.{word}.down.weight": down, f"{component}.{whole}.{word}.up.weight": up}
    return tensors


FORMATS: dict[str, tuple[Callable[[Mapping[str, Mapping[str, Change]]], dict[str, Tensor]], float]] = {
    "kohya": (as_kohya, ALPHA / RANK),
    "peft": (as_peft, 1.0),
    "old diffusers": (as_old_diffusers, 1.0),
}
COMPONENTS = {
    "stable diffusion 1": ("unet", "text_encoder"),
    "stable diffusion xl": ("unet", "text_encoder", "text_encoder_2"),
    "stable diffusion 3": ("transformer", "text_encoder"),
    "flux dev": ("transformer", "text_encoder"),
}


def merged(pipe: Any, folder: Path, components: tuple[str, ...], scale: float) -> dict[str, dict[str, Change]]:
    """Save the pipeline with a LoRA merged into components of it, and return that LoRA."""
    parts = {component: changes_of(getattr(pipe, component)) for component in components}
    for component, changes in parts.items():
        merge(getattr(pipe, component), changes, scale)
    pipe.save_pretrained(folder)
    return parts


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        *(("stable diffusion 1", layout) for layout in FORMATS),
        ("stable diffusion xl", "kohya"),
        ("stable diffusion xl", "peft"),
        ("stable diffusion 3", "peft"),
        ("flux dev", "peft"),
    ],
)
def test_a_lora_is_the_folder_that_it_was_merged_into(
    pipe_of: PipeOf, folders: Folders, tmp_path: Path, family: str, layout: str
) -> None:
    """Its network and its text encoders, and so what the prompt means."""
    write, own = FORMATS[layout]
    parts = merged(pipe_of(family), tmp_path / "merged", COMPONENTS[family], SCALE * own)
    file = tmp_path / "ink.safetensors"
    save_file(write(parts), file)
    found = load_model(folders(family), size=pipelines.SIZE, loras=[f"{file}:{SCALE}"])
    wanted = load_model(tmp_path / "merged", size=pipelines.SIZE)
    x, level = noise(1, *wanted.shape).double(), wanted.schedule.level(400)
    condition = Condition(PROMPT)
    predictions = [model.conditioned_on(condition)(x, level).eps for model in (found, wanted)]
    assert_alike(*predictions)
    plain = load_model(folders(family), size=pipelines.SIZE)
    difference = find_difference(found.components, plain.components)
    assert difference is not None
    assert "another network (other weights)" in difference
    assert "another text encoder (other weights)" in difference
    assert float((plain.conditioned_on(condition)(x, level).eps - predictions[0]).abs().max()) > 1e-3


def test_a_lora_of_scale_0_is_none(pipe_of: PipeOf, folders: Folders, tmp_path: Path) -> None:
    file = lora_of(pipe_of("stable diffusion 1"), tmp_path)
    plain = load_model(folders("stable diffusion 1"))
    assert load_model(folders("stable diffusion 1"), loras=[f"{file}:0"]).components == plain.components


def lora_of(pipe: Any, folder: Path, name: str = "ink.safetensors") -> Path:
    file = folder / name
    save_file(as_peft({"unet": changes_of(pipe.unet)}), file)
    return file


def test_several_loras_add_up(pipe_of: PipeOf, folders: Folders, tmp_path: Path) -> None:
    file = lora_of(pipe_of("stable diffusion 1"), tmp_path)
    twice = load_model(folders("stable diffusion 1"), loras=[f"{file}:0.25", f"{file}:0.25"])
    once = load_model(folders("stable diffusion 1"), loras=[f"{file}:0.5"])
    x, level = noise(1, *once.shape).double(), once.schedule.level(400)
    assert_alike(twice.denoiser(x, level).eps, once.denoiser(x, level).eps)


def test_alpha_is_read_from_headers_and_from_files_of_peft(pipe_of: PipeOf, folders: Folders, tmp_path: Path) -> None:
    changes = changes_of(pipe_of("stable diffusion 1").unet)
    settings = {"unet.r": RANK, "unet.lora_alpha": ALPHA}
    header = {"lora_adapter_metadata": json.dumps(settings), "format": "pt"}
    save_file(as_peft({"unet": changes}), tmp_path / "header.safetensors", header)
    names: dict[str, Tensor] = {}
    for name, (down, up) in changes.items():
        names |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    (tmp_path / "peft").mkdir()
    save_file(names, tmp_path / "peft" / "adapter_model.safetensors")
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    save_file(as_peft({"unet": changes}), tmp_path / "plain.safetensors")
    wanted = load_model(folders("stable diffusion 1"), loras=[f"{tmp_path}/plain.safetensors:{ALPHA / RANK}"])
    for path in (tmp_path / "header.safetensors", tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors"):
        assert load_model(folders("stable diffusion 1"), loras=[path]).components == wanted.components


def test_a_lora_in_the_folder_is_named(pipe_of: PipeOf, folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders("stable diffusion 1"), tmp_path / "model")
    file = lora_of(pipe_of("stable diffusion 1"), folder, "pytorch_lora_weights.safetensors")
    assert load_model(folder).notes == (f"the LoRA {file.name} in the folder is not used; --lora {file} merges it",)
    assert load_model(folder, loras=[file]).notes == ()
    whole = load_model(folders("stable diffusion 1"))
    assert load_model(folder).components == whole.components


def saved_as(tensors: Mapping[str, Tensor]) -> Callable[[Path, Any], object]:
    return lambda file, pipe: save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)


WEIGHT = torch.zeros(4, 4)
NO_LORAS: dict[str, tuple[Callable[[Path, Any], object], str]] = {
    "none": (lambda file, pipe: None, "There is no LoRA"),
    "no safetensors": (lambda file, pipe: file.write_bytes(b"<html></html>"), "it is HTML|HTML page"),
    "weights": (saved_as({"conv_in.weight": WEIGHT}), "there is no LoRA in this file"),
    "loha": (saved_as({"lora_unet_x.hada_w1_a": WEIGHT}), "it is a LoHa"),
    "lokr": (saved_as({"lora_unet_x.lokr_w1": WEIGHT}), "it is a LoKr"),
    "whole differences": (saved_as({"lora_unet_mid_block_x.diff": WEIGHT}), "it is a file of whole differences"),
    "dora": (
        saved_as(
            {"unet.x.lora_A.weight": WEIGHT, "unet.x.lora_B.weight": WEIGHT, "unet.x.lora_magnitude_vector": WEIGHT}
        ),
        "it is a DoRA",
    ),
    "half of one": (saved_as({"unet.mid_block.x.lora_A.weight": WEIGHT}), "no part of a LoRA"),
    "another layer": (
        saved_as({"unet.mid_block.x.lora_A.weight": WEIGHT, "unet.mid_block.x.lora_B.weight": WEIGHT}),
        "this LoRA is of another model: there is no layer mid_block.x",
    ),
    "another width": (
        saved_as({"unet.conv_in.lora_A.weight": WEIGHT, "unet.conv_in.lora_B.weight": WEIGHT}),
        "this LoRA is of another model: its layer conv_in does not fit",
    ),
    "another encoder": (
        saved_as({"text_encoder_2.x.lora_A.weight": WEIGHT, "text_encoder_2.x.lora_B.weight": WEIGHT}),
        "no part of a StableDiffusionPipeline",
    ),
    "odd names of kohya": (
        saved_as({"lora_unet_mid.lora_down.weight": WEIGHT, "lora_unet_mid.lora_up.weight": WEIGHT}),
        "this LoRA is of another model",
    ),
    "a lone down of kohya": (saved_as({"lora_unet_mid.lora_down.weight": WEIGHT}), "this LoRA is of another model"),
    "not finite": (saved_as({"unet.conv_in.lora_A.weight": torch.full((4, 4), torch.nan)}), "NaN or infinite"),
    "of Flux": (
        saved_as({"transformer.x.lora_A.weight": WEIGHT, "transformer.x.lora_B.weight": WEIGHT}),
        "no part of a StableDiffusionPipeline",
    ),
}


@pytest.mark.parametrize("name", NO_LORAS)
def test_other_files_are_no_loras(folders: Folders, tmp_path: Path, name: str) -> None:
    write, words = NO_LORAS[name]
    write(tmp_path / "ink.safetensors", None)
    with pytest.raises((ArgumentError, ModelError), match=words) as caught:
        load_model(folders("stable diffusion 1"), loras=[tmp_path / "ink.safetensors"])
    assert "\n" not in str(caught.value)


def test_a_scale_must_be_a_number(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="must be a number, not 'x'"):
        load_model(folders("stable diffusion 1"), loras=[f"{tmp_path}/ink.safetensors:x"])


@pytest.mark.parametrize("family", ["cifar10", "dit", "ldm vq"])
def test_models_without_prompts_take_no_loras(pipe_of: PipeOf, folders: Folders, tmp_path: Path, family: str) -> None:
    file = lora_of(pipe_of("stable diffusion 1"), tmp_path)
    with pytest.raises(ArgumentError, match="follows no prompts, so it takes no LoRAs"):
        load_model(folders(family), loras=[file])


def test_a_lora_of_a_file_is_one_of_a_pipeline(pipe_of: PipeOf, folders: Folders, tmp_path: Path) -> None:
    """So latents of the one can be decoded by the other."""
    pipe = pipe_of("stable diffusion 1")
    add_lora(pipe, with_peft=False)
    scale_lora(pipe, SCALE)
    tensors = {}
    for name, layer in pipe.unet.named_modules():
        if hasattr(layer, "get_delta_weight"):
            tensors[f"unet.{name}.lora_A.weight"] = layer.lora_A["ink"].weight
            tensors[f"unet.{name}.lora_B.weight"] = layer.lora_B["ink"].weight
    save_file(tensors, tmp_path / "ink.safetensors")
    model = load_model(folders("stable diffusion 1"), loras=[f"{tmp_path}/ink.safetensors:{SCALE}"])
    assert model.components == Editor.from_pipeline(pipe).model.components


# Embeddings.


def written(path: Path, layout: str, vectors: Tensor) -> Path:
    if layout == "a1111":
        torch.save({"string_to_param": {"*": nn.Parameter(vectors)}, "name": "ink", "step": 5}, path.with_suffix(".pt"))
        return path.with_suffix(".pt")
    if layout == "diffusers":
        torch.save({"ink": vectors[0]}, path.with_suffix(".bin"))
        return path.with_suffix(".bin")
    save_file({"emb_params": vectors}, path)
    return path


@pytest.mark.parametrize(("layout", "rows"), [("a1111", 2), ("diffusers", 1), ("emb_params", 3)])
def test_an_embedding_is_a_word_of_prompts(
    pipe_of: PipeOf, folders: Folders, tmp_path: Path, layout: str, rows: int
) -> None:
    """As in diffusers' own pipeline."""
    vectors = torch.randn(rows, 16, generator=torch.Generator().manual_seed(2))
    file = written(tmp_path / "ink.safetensors", layout, vectors)
    family, prompt = "stable diffusion 1", "a photo of the ink man"
    pipe = pipe_of(family)
    pipe.load_textual_inversion({"ink": vectors}, token="ink")
    model = load_model(folders(family), embeddings=[file])
    wanted = Editor.from_pipeline(pipe, size=pipelines.SIZE).model
    x, level = noise(1, *model.shape).double(), model.schedule.level(400)
    conditions = [Condition(prompt), Condition(PROMPT)]
    for condition in conditions:
        assert_alike(*(each.conditioned_on(condition)(x, level).eps for each in (model, wanted)))
    assert find_difference(model.components, wanted.components) is None
    plain = load_model(folders(family))
    assert find_difference(model.components, plain.components)
    told = [each.conditioned_on(conditions[0])(x, level).eps for each in (model, plain)]
    assert float((told[0] - told[1]).abs().max()) > 1e-4


def test_an_embedding_of_stable_diffusion_xl(folders: Folders, tmp_path: Path) -> None:
    save_file({"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 16)}, tmp_path / "ink.safetensors")
    model = load_model(folders("stable diffusion xl"), embeddings=[tmp_path / "ink.safetensors"])
    difference = find_difference(model.components, load_model(folders("stable diffusion xl")).components)
    assert difference is not None
    assert "another text encoder" in difference
    assert "another text encoder 2" in difference
    model.conditioned_on(Condition("a photo of ink"))


NO_EMBEDDINGS: dict[str, tuple[Mapping[str, Tensor] | None, str]] = {
    "none": (None, "There is no embedding"),
    "another width": ({"emb_params": torch.zeros(2, 8)}, "its vectors have 8 numbers, and the text_encoder takes 16"),
    "two encoders": ({"clip_l": torch.zeros(2, 16), "clip_g": torch.zeros(2, 16)}, "for two text encoders"),
    "weights": ({"a.weight": torch.zeros(4, 4), "b.weight": torch.zeros(4)}, "there is no embedding"),
    "a known word": ({"photo</w>": torch.zeros(2, 16)}, "knows already"),
}


@pytest.mark.parametrize("name", NO_EMBEDDINGS)
def test_other_files_are_no_embeddings(folders: Folders, tmp_path: Path, name: str) -> None:
    tensors, words = NO_EMBEDDINGS[name]
    if tensors is not None:
        save_file(dict(tensors), tmp_path / "ink.safetensors")
    with pytest.raises((ArgumentError, ModelError), match=words):
        load_model(folders("stable diffusion 1"), embeddings=[tmp_path / "ink.safetensors"])


# Autoencoders.


def other_vae(pipe: Any, folder: Path) -> Any:
    with torch.no_grad():
        for parameter in pipe.vae.parameters():
            parameter *= 0.9
    pipe.save_pretrained(folder)
    return pipe.vae


@pytest.mark.parametrize("form", ["folder", "checkpoint", "file", "pickle"])
def test_another_autoencoder_takes_the_place_of_the_folders(
    pipe_of: PipeOf, folders: Folders, tmp_path: Path, form: str
) -> None:
    vae = other_vae(pipe_of("stable diffusion 1"), tmp_path / "whole")
    path = {
        "folder": tmp_path / "whole" / "vae",
        "checkpoint": tmp_path / "whole",
        "file": tmp_path / "vae.safetensors",
        "pickle": tmp_path / "vae.pt",
    }[form]
    save_file(vae.state_dict(), tmp_path / "vae.safetensors")
    torch.save({"state_dict": vae.state_dict()}, tmp_path / "vae.pt")
    model = load_model(folders("stable diffusion 1"), vae=path)
    assert_same_model(model, load_model(tmp_path / "whole"), Condition(PROMPT))


def test_an_autoencoder_of_latent_diffusion(pipe_of: PipeOf, folders: Folders, tmp_path: Path) -> None:
    """vae-ft-mse-840000-ema-pruned.ckpt, and one inside of a whole checkpoint."""
    vae = other_vae(pipe_of("stable diffusion 1"), tmp_path / "whole")
    weights = {ldm_name(name): ldm_shape(name, tensor) for name, tensor in vae.state_dict().items()}
    for prefix in ("", "first_stage_model."):
        file = tmp_path / f"{prefix}vae.safetensors"
        save_file({prefix + name: tensor for name, tensor in weights.items()}, file)
        model = load_model(folders("stable diffusion 1"), vae=file)
        assert_same_model(model, load_model(tmp_path / "whole"), Condition(PROMPT))


def ldm_name(name: str) -> str:
    """The name in the code of latent diffusion, for two levels."""
    found = re.match(
        r"(encoder|decoder)\.(?:down|up)_blocks\.(\d)\.(resnets|downsamplers|upsamplers)\.(\d)\.(.*)", name
    )
    if found:
        side, level, kind, number, rest = found.groups()
        if side == "decoder":
            level = str(1 - int(level))
        word = "down" if side == "encoder" else "up"
        rest = rest.replace("conv_shortcut", "nin_shortcut")
        if kind == "resnets":
            return f"{side}.{word}.{level}.block.{number}.{rest}"
        return f"{side}.{word}.{level}.{word}sample.{rest}"
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm").replace("conv_norm_out", "norm_out")
    for ours, theirs in {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
        name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    return name


def ldm_shape(name: str, tensor: Tensor) -> Tensor:
    """Attention there is a convolution."""
    return tensor[..., None, None] if "attentions" in name and tensor.dim() == 2 else tensor


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "There is no autoencoder"),
        ("stable diffusion 1/unet/config.json", "it is|no tensors|broken"),
        ("stable diffusion 1/unet", "UNet2DConditionModel"),
        ("stable diffusion 1/unet/diffusion_pytorch_model.safetensors", "there is no autoencoder"),
        ("ldm kl", "the autoencoder has 3 latent channels and the network 4"),
    ],
)
def test_other_autoencoders_are_refused(folders: Folders, tmp_path: Path, path: str, words: str) -> None:
    for family in ("stable diffusion 1", "ldm kl"):
        shutil.copytree(folders(family), tmp_path / family)
    with pytest.raises((ArgumentError, ModelError), match=words) as caught:
        load_model(folders("stable diffusion 1"), vae=tmp_path / path)
    assert "\n" not in str(caught.value)
