"""Stable Diffusion and Flux in one file are the same models as their folders."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ddim_edit import ArgumentError, Condition, Editor, Model, ModelError, load_model
from ddim_edit.models import original_prompts
from ddim_edit.models.identity import find_difference
from ddim_edit.models.originals.parts import assets_folder

from ... import pipelines
from ...rounding import assert_alike
from . import original_names, whole_models
from .original_names import State, prefixed
from .whole_models import MODELS

PROMPT = Condition("a photo of the old man", guidance_scale=1.5, negative_prompt="young woman")
SIZE = 32
UNET, VAE = "model.diffusion_model.", "first_stage_model."
Whole = Callable[[str], tuple[Path, State]]


@pytest.fixture(scope="module", autouse=True)
def few_words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have a vocabulary of a few words, which is read in no time, in the place of CLIP's."""
    folder = tmp_path_factory.mktemp("words")
    pipelines.clip_tokenizer(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(original_prompts, "CLIP_VOCABULARY", folder)
        yield


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing asks the network for anything, not even in vain."""
    asked: list[object] = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise OSError("the network is switched off")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert asked == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The folder of a model, and the tensors of its file; each is built once."""
    shelf = tmp_path_factory.mktemp("whole")
    built: dict[str, tuple[Path, State]] = {}

    def get(name: str) -> tuple[Path, State]:
        if name not in built:
            folder = shelf / name.replace(" ", "-")
            built[name] = folder, whole_models.build(name, folder)
        return built[name]

    return get


def load(path: Path, **parts: Any) -> Model:
    return load_model(path, size=SIZE, **parts)


def saved(state: State, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def without(state: State, *prefixes: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def assert_same_components(found: Model, wanted: Model) -> None:
    assert find_difference(found.components, wanted.components) is None
    assert found.components.keys() == wanted.components.keys()


def refusal(path: Path, kind: type[Exception] = ModelError, **parts: Any) -> str:
    with pytest.raises(kind) as caught:
        load(path, **parts)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", [name for name in MODELS if name != "stable diffusion 3 with t5"])
def test_a_file_is_the_model_of_its_folder(whole: Whole, tmp_path: Path, name: str) -> None:
    """The same components, so that latents can be exchanged, and the same image from the same noise."""
    folder, state = whole(name)
    parts = {}
    if name.startswith("flux"):
        # Of a folder of diffusers, all that a file of Flux needs is the vocabulary of T5.
        shutil.copytree(folder / "tokenizer_2", tmp_path / "base" / "tokenizer_2")
        parts["base"] = tmp_path / "base"
    found, wanted = load(saved(state, tmp_path / "model.safetensors"), **parts), load(folder)
    assert_same_components(found, wanted)
    assert (found.sizes, found.schedule.sampler) == (wanted.sizes, wanted.schedule.sampler)
    assert_alike(*(Editor(model).sample(1, steps=2, condition=PROMPT) for model in (found, wanted)))


def test_pickles_float16_and_what_trainings_leave_are_the_same_model(whole: Whole, tmp_path: Path) -> None:
    folder, state = whole("stable diffusion 1")
    rounded = {name: tensor.half() for name, tensor in state.items()}
    training = {"state_dict": rounded, "global_step": 470000, "callbacks": {"a": 1}, "optimizer_states": [{}]}
    torch.save(training, tmp_path / "model.ckpt")
    assert_same_components(load(tmp_path / "model.ckpt"), load(folder))


def test_a_training_with_objects_in_it_is_refused(whole: Whole, tmp_path: Path) -> None:
    """As those of Lightning, whose callbacks are classes."""
    state = whole("stable diffusion 1")[1]
    torch.save({"state_dict": state, "callbacks": {Callback: {"best": 1.0}}}, tmp_path / "model.ckpt")
    message = refusal(tmp_path / "model.ckpt")
    assert "so it cannot be read without running code" in message
    assert "save its state_dict with save_file of safetensors" in message


class Callback:
    """Stands for a callback of Lightning."""


def test_averaged_weights_come_first(whole: Whole, tmp_path: Path) -> None:
    folder, state = whole("stable diffusion 1")
    raw, averages = dict(state), {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(7)}
    for name, tensor in state.items():
        if name.startswith(UNET):
            averages[f"model_ema.diffusion_model{name.removeprefix(UNET).replace('.', '')}"] = tensor
            raw[name] = 2 * tensor
    wanted = load(folder)
    assert_same_components(load(saved({**raw, **averages}, tmp_path / "full.safetensors")), wanted)
    averages.popitem()
    found = load(saved({**raw, **averages}, tmp_path / "half.safetensors"))
    assert find_difference(found.components, wanted.components) == "another network (other weights)"


def network_alone(state: State) -> State:
    """As files of a network without autoencoder and text encoders are, whose names have no prefix."""
    return {name.removeprefix(UNET): tensor for name, tensor in state.items() if name.startswith(UNET)}


def test_what_a_file_lacks_comes_from_a_folder(whole: Whole, tmp_path: Path) -> None:
    folder, state = whole("stable diffusion 1")
    pruned = saved(without(state, VAE), tmp_path / "pruned.safetensors")
    assert "there is no autoencoder (VAE) in this file. Name one with --vae" in refusal(pruned)
    network = saved(network_alone(state), tmp_path / "unet.safetensors")
    assert (
        "has only the network and no text_encoder and no autoencoder (VAE). Name a diffusers folder with --base"
        in refusal(network)
    )
    wanted = load(folder)
    vae = {name: tensor for name, tensor in state.items() if name.startswith(VAE)}
    for file, parts in (
        (pruned, {"vae": folder}),
        (pruned, {"vae": saved(vae, tmp_path / "vae.safetensors")}),
        (pruned, {"vae": folder / "vae" / "diffusion_pytorch_model.safetensors"}),
        (pruned, {"base": folder}),
        (network, {"base": folder}),
    ):
        assert_same_components(load(file, **parts), wanted)


def test_stable_diffusion_2_predicts_v_unless_told_otherwise(whole: Whole, tmp_path: Path) -> None:
    folder, state = whole("stable diffusion 2")
    path = saved(state, tmp_path / "model.safetensors")
    assert "is taken to predict v" in load(path).notes[0]
    # Other programs keep notes of their own there.
    path.with_suffix(".json").write_text(json.dumps({"sd version": "SD2", "prediction_type": "epsilon"}))
    model = load_model(path, size=None)
    assert (model.prediction, model.shape[1:], model.notes) == ("epsilon", (64, 64), ())
    path.with_suffix(".json").write_text(json.dumps({"prediction_type": "x"}))
    assert 'model.json: prediction_type must be "epsilon" or "v_prediction"' in refusal(path)
    path.with_suffix(".json").unlink()
    assert load(path, scheduler=folder).prediction == "v_prediction"


def test_marks_of_fine_tuned_models_are_read(whole: Whole, tmp_path: Path) -> None:
    state = whole("stable diffusion xl")[1]
    model = load(saved({**state, "v_pred": torch.empty(0), "ztsnr": torch.empty(0)}, tmp_path / "model.safetensors"))
    assert model.prediction == "v_prediction"
    assert model.schedule.description != load(whole("stable diffusion xl")[0]).schedule.description


def test_t5_needs_a_vocabulary(whole: Whole, tmp_path: Path) -> None:
    folder, state = whole("flux dev")
    path = saved(state, tmp_path / "flux.safetensors")
    assert "Fetch the folder tokenizer_2 of a diffusers folder of Flux once" in refusal(path)
    transformer = saved(network_alone(state), tmp_path / "transformer.safetensors")
    assert (
        "has only the network and no text_encoder and no text_encoder_2 and no autoencoder (VAE). Name a diffusers"
        in refusal(transformer)
    )
    assert_same_components(load(transformer, base=folder), load(folder))


def test_a_base_must_be_a_folder_of_the_family(whole: Whole, tmp_path: Path) -> None:
    path = saved(whole("stable diffusion 1")[1], tmp_path / "model.safetensors")
    assert "There is no folder" in refusal(path, ArgumentError, base=tmp_path / "none")
    message = refusal(path, ArgumentError, base=whole("stable diffusion xl")[0])
    assert "it is a folder of Stable Diffusion XL, but the file is of Stable Diffusion 1 and 2" in message
    folder = whole("stable diffusion 1")[0]
    assert "base goes with a single file" in refusal(folder, ArgumentError, base=folder)


def test_the_vocabulary_is_that_of_clip(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_words: None
) -> None:
    monkeypatch.setattr(original_prompts, "CLIP_VOCABULARY", assets_folder() / "tokenizers" / "clip")
    tokens = whole_models.tokenizer()("A photo of an astronaut  riding a horse on Mars").input_ids
    assert tokens == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]
    path = saved(whole("stable diffusion 1")[1], tmp_path / "model.safetensors")
    message = refusal(path)
    assert "tokens, and the tokenizer has 49,408. Name a diffusers folder with the tokenizer that belongs" in message


@pytest.mark.parametrize("scaled", [False, True])
def test_fp8_is_upcast(whole: Whole, tmp_path: Path, scaled: bool) -> None:
    """Also with a scale for each tensor, as ComfyUI has it."""
    state = whole("stable diffusion 1")[1]
    coarse: State = {}
    wanted: State = {}
    for name, tensor in state.items():
        if name.startswith(UNET) and tensor.dim() > 1:
            scale = tensor.abs().amax() / 400 if scaled else torch.tensor(1.0)
            coarse[name] = (tensor / scale).to(torch.float8_e4m3fn)
            wanted[name] = coarse[name].float() * scale
            if scaled:
                coarse[f"{name.removesuffix('.weight')}.scale_weight"] = scale
        else:
            coarse[name] = wanted[name] = tensor
    if scaled:
        coarse["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    found = load(saved(coarse, tmp_path / "coarse.safetensors"))
    same = load(saved(wanted, tmp_path / "wanted.safetensors"))
    assert_same_components(found, same)
    assert "are fp8" in found.notes[-1]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("stable diffusion 1", {"dtype": "bfloat16"}),
        ("stable diffusion xl", {"dtype": "float16"}),
        ("flux dev", {"dtype": "mixed"}),
        ("stable diffusion 3", {"encoder_dtype": "bfloat16"}),
    ],
)
def test_a_file_is_its_folder_in_every_dtype(whole: Whole, tmp_path: Path, name: str, parts: dict[str, Any]) -> None:
    """What is mapped, cast or computed more roughly is so of both, and does not change what identifies them."""
    folder, state = whole(name)
    half = {each: tensor.half() for each, tensor in state.items()}
    file = saved(half, tmp_path / "model.safetensors")
    base = {"base": folder} if name.startswith("flux") else {}
    found = load(file, **parts, **base)
    other = {each: value for each, value in parts.items() if each != "dtype"}
    assert find_difference(found.components, load(file, **other, **base).components) is None
    network = {key: tensor for key, tensor in inner(found).state_dict().items() if tensor.is_floating_point()}
    kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    assert {tensor.dtype for tensor in network.values()} == {kinds.get(parts.get("dtype", ""), torch.float32)}
    wanted = inner(load(file, **base)).state_dict()
    for key, tensor in network.items():
        assert torch.equal(tensor, wanted[key].to(tensor.dtype))
    x, level = torch.randn(1, *found.shape, dtype=torch.float64), found.schedule.level(0.4 * found.schedule.T)
    assert found.conditioned_on(PROMPT)(x, level).eps.isfinite().all()


def inner(model: Model) -> Any:
    """The network of diffusers."""
    assert model.conditioner is not None
    return model.conditioner.network.network.inner


Change = Callable[[State], State]


def with_channels(count: int) -> Change:
    """The first layer sees more channels."""

    def change(state: State) -> State:
        name = f"{UNET}input_blocks.0.0.weight" if f"{UNET}input_blocks.0.0.weight" in state else f"{UNET}img_in.weight"
        first = state[name]
        return {**state, name: first.new_zeros(len(first), count, *first.shape[2:])}

    return change


def renamed(old: str, new: str) -> Change:
    return lambda state: {name.replace(old, new): tensor for name, tensor in state.items()}


def with_tensor(name: str, *shape: int) -> Change:
    return lambda state: {**state, name: torch.zeros(shape)}


REFUSED: dict[str, tuple[str, Change, str]] = {
    "inpainting": ("stable diffusion 1", with_channels(9), "it is an inpainting model, whose network"),
    "inpainting of XL": ("stable diffusion xl", with_channels(9), "it is an inpainting model"),
    "depth": ("stable diffusion 2", with_channels(5), "it is a model that is told the depth of an image"),
    "instructions": ("stable diffusion 1", with_channels(8), "InstructPix2Pix"),
    "upscaler": ("stable diffusion 2", with_channels(7), "it is an upscaler"),
    "Flux Fill": ("flux dev", with_channels(96), "it is a Flux for filling in, or for edges or depth"),
    "refiner": (
        "stable diffusion xl",
        renamed("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
        "it is the refiner of Stable Diffusion XL",
    ),
    "unCLIP": ("stable diffusion 2", with_tensor(f"{UNET}label_emb.0.0.weight", 4, 4), "(unCLIP)"),
    "Playground": ("stable diffusion xl", with_tensor("edm_mean", 4), "it is Playground 2.5"),
    "4 bits": (
        "flux dev",
        with_tensor(f"{UNET}double_blocks.0.img_attn.qkv.weight.absmax", 4),
        "its weights are quantised",
    ),
    "LCM": ("stable diffusion 1", with_tensor(f"{UNET}time_embed.cond_proj.weight", 4, 4), "time_embed.cond_proj"),
    "Chroma": ("flux dev", with_tensor(f"{UNET}distilled_guidance_layer.in_proj.bias", 4), "it is Chroma in one file"),
    "ControlNet": ("stable diffusion 1", with_tensor("control_model.input_hint_block.0.weight", 4), "a ControlNet"),
    "no prompts": (
        "stable diffusion 1",
        lambda state: {name: each for name, each in state.items() if ".transformer_blocks." not in name},
        "it is latent diffusion without prompts",
    ),
    "a layer is missing": (
        "stable diffusion 1",
        lambda state: without(state, f"{UNET}output_blocks.1.0.in_layers.2.weight"),
        "the weights do not fit the config",
    ),
    "a layer of Flux is missing": (
        "flux dev",
        lambda state: without(state, f"{UNET}double_blocks.1.img_mlp.0"),
        "the weights do not fit the config",
    ),
    "a layer of SD3 is missing": (
        "stable diffusion 3",
        lambda state: without(state, f"{UNET}joint_blocks.1.x_block.mlp.fc1.weight"),
        "do not fit together (KeyError)",
    ),
    "a text encoder is cut": (
        "stable diffusion 1",
        lambda state: without(state, "cond_stage_model.transformer.text_model.encoder.layers.1.mlp"),
        "text_encoder: the weights do not fit the config",
    ),
    "half an autoencoder": ("stable diffusion 1", lambda state: without(state, f"{VAE}decoder."), "no autoencoder"),
    "an autoencoder of another model": (
        "stable diffusion 1",
        lambda state: {**state, **prefixed(VAE, original_names.ldm_vae(whole_models.vae(latent_channels=16)))},
        "the autoencoder has 16 latent channels and the network 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_is_refused_in_a_sentence(whole: Whole, tmp_path: Path, name: str) -> None:
    model, change, wanted = REFUSED[name]
    folder, state = whole(model)
    parts = {"base": folder} if model.startswith("flux") else {}
    assert wanted in refusal(saved(change(state), tmp_path / "model.safetensors"), **parts)


def test_files_tell_their_prediction_type(whole: Whole, tmp_path: Path) -> None:
    """In the metadata of ModelSpec, by the steps of the training as diffusers knows them, or by the base."""
    folder, state = whole("stable diffusion 2")
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, tmp_path / "spec.safetensors", {"modelspec.prediction_type": "epsilon"})
    torch.save({"state_dict": state, "global_step": 875000}, tmp_path / "base.ckpt")
    for file in ("spec.safetensors", "base.ckpt"):
        model = load_model(tmp_path / file)
        assert (model.prediction, model.shape[1:], model.notes) == ("epsilon", (64, 64), ())
    assert load(tmp_path / "spec.safetensors", scheduler=folder).prediction == "v_prediction"
    shutil.copytree(folder / "scheduler", tmp_path / "base" / "scheduler")
    edited = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    edited.write_text(edited.read_text().replace("v_prediction", "epsilon"))
    assert load(saved(state, tmp_path / "model.safetensors"), base=tmp_path / "base").prediction == "epsilon"


def test_text_encoders_of_another_model_are_refused(whole: Whole, tmp_path: Path) -> None:
    folder, state = whole("stable diffusion 1")
    network = saved(without(state, "cond_stage_model."), tmp_path / "model.safetensors")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    whole_models.clip(width=64).save_pretrained(other / "text_encoder")
    assert "the text encoders give 64 numbers for a token, and the network takes 32" in refusal(network, base=other)


def test_t5_of_stable_diffusion_3_is_used_where_its_vocabulary_is(whole: Whole, tmp_path: Path) -> None:
    folder, state = whole("stable diffusion 3 with t5")
    path = saved(state, tmp_path / "model.safetensors")
    shutil.copytree(folder / "tokenizer_3", tmp_path / "base" / "tokenizer_3")
    assert_same_components(load(path, base=tmp_path / "base"), load(folder))
    without_t5 = load(path)
    assert "text_encoder_3" not in without_t5.components
    assert "the T5 of model.safetensors is not used" in without_t5.notes[0]


def test_loras_and_embeddings_are_added_as_to_a_folder(whole: Whole, tmp_path: Path) -> None:
    folder, state = whole("stable diffusion 1")
    path = saved(state, tmp_path / "model.safetensors")
    layer = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"lora_unet_{layer}.lora_{side}.weight": torch.ones(shape) for side, shape in LORA.items()}
    lora[f"lora_unet_{layer}.alpha"] = torch.tensor(1.0)
    parts = {
        "loras": [saved(lora, tmp_path / "lora.safetensors")],
        "embeddings": [saved({"emb_params": torch.ones(1, 32)}, tmp_path / "style.safetensors")],
    }
    found, wanted = (load(each, **parts) for each in (path, folder))
    assert_same_components(found, wanted)
    assert find_difference(found.components, load(path).components) is not None


LORA = {"down": (1, 32), "up": (32, 1)}


KOHYA: dict[str, tuple[str, str]] = {
    # Which layers, by the names of the code that trained the model, and what of these names a LoRA leaves out.
    "stable diffusion 1": (
        rf"{UNET}(input_blocks\.1\.1|middle_block\.1)\..*(attn1\.to_q|attn2\.to_out\.0|ff\.net\.2|proj_in)",
        UNET,
    ),
    "stable diffusion xl": (
        rf"{UNET}(input_blocks\.4\.1|middle_block\.1|output_blocks\.0\.1)\..*(attn1\.to_q|attn2\.to_k|ff\.net\.0\.proj)"
        rf"|{UNET}input_blocks\.4\.0\.(in_layers\.2|emb_layers\.1)",
        UNET,
    ),
    "flux dev": (
        rf"{UNET}double_blocks\.\d\.(img_attn\.qkv|txt_attn\.proj|img_mlp\.0|txt_mlp\.2|img_mod\.lin)"
        rf"|{UNET}single_blocks\.\d\.(linear2|modulation\.lin)",
        UNET,
    ),
}
HF_LAYERS = "text_model.encoder.layers"
# A layer in a file, and in a LoRA of kohya-ss, which has the names of transformers for text encoders.
TEXT_ENCODERS: dict[str, dict[str, str]] = {
    "stable diffusion 1": {f"cond_stage_model.transformer.{HF_LAYERS}.0.self_attn.q_proj": "te.0.self_attn.q_proj"},
    "stable diffusion xl": {
        f"conditioner.embedders.0.transformer.{HF_LAYERS}.1.mlp.fc1": "te1.1.mlp.fc1",
        "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_proj": "te2.0.mlp.fc2",
    },
    "flux dev": {f"text_encoders.clip_l.transformer.{HF_LAYERS}.0.self_attn.v_proj": "te1.0.self_attn.v_proj"},
}


@pytest.mark.parametrize("name", KOHYA)
def test_loras_of_kohya_change_the_layers_of_the_original_code(whole: Whole, tmp_path: Path, name: str) -> None:
    """A LoRA by their names is the file that it was merged into by hand, text encoders included."""
    folder, state = whole(name)
    pattern, prefix = KOHYA[name]
    words = {}
    for each in state:
        if re.fullmatch(rf"(?:{pattern})\.weight", each):
            layer = each.removesuffix(".weight")
            words[layer] = f"lora_unet_{layer.removeprefix(prefix).replace('.', '_')}"
    assert len(words) > 5
    for layer, word in TEXT_ENCODERS[name].items():
        encoder, _, rest = word.partition(".")
        words[layer] = f"lora_{encoder}_{HF_LAYERS}.{rest}".replace(".", "_")
    generator = torch.Generator().manual_seed(1)
    merged, lora = dict(state), {}
    for layer, word in words.items():
        weight = state[f"{layer}.weight"]
        down = torch.randn(4, *weight.shape[1:], generator=generator) / 4
        up = torch.randn(len(weight), 4, *(1 for _ in weight.shape[2:]), generator=generator) / 4
        lora |= {f"{word}.lora_down.weight": down, f"{word}.lora_up.weight": up, f"{word}.alpha": torch.tensor(2.0)}
        merged[f"{layer}.weight"] = weight + 0.8 * 2 / 4 * torch.einsum("or,r...->o...", up.flatten(1), down)
    ink = saved(lora, tmp_path / "ink.safetensors")
    parts = {"base": folder} if name.startswith("flux") else {}
    found = load(folder, loras=[f"{ink}:0.8"])
    wanted = load(saved(merged, tmp_path / "merged.safetensors"), **parts)
    x, level = torch.randn(1, *wanted.shape, dtype=torch.float64), wanted.schedule.level(0.4 * wanted.schedule.T)
    assert_alike(*(model.conditioned_on(PROMPT)(x, level).eps for model in (found, wanted)))
    plain = load(folder)
    assert (plain.conditioned_on(PROMPT)(x, level).eps - found.conditioned_on(PROMPT)(x, level).eps).abs().max() > 1e-3
