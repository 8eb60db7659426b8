"""What makes two models one: changes of a folder, and which of them another model."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ddim_edit import load_model
from ddim_edit.errors import ModelError
from ddim_edit.models import digest_cache, loading
from ddim_edit.models.identity import digest_config, digest_tensors, find_difference
from ddim_edit.models.pretrained import WEIGHTS

from .. import pipelines, tiny
from .single_file import test_ermongroup as ermongroup

Diffusers: Any = diffusers  # its types are hidden from mypy
Transformers: Any = transformers
Change = Callable[[Path], object]
TEXT = "model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("identity")
    return pipelines.save(partial(pipelines.stable_diffusion, shelf / "tokens"), shelf / "original")


@pytest.fixture(scope="module")
def components(original: Path) -> Mapping[str, str]:
    return load_model(original).components


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entries(file: str, **changes: Any) -> Change:
    """Set entries of a JSON file; None removes them."""

    def change(folder: Path) -> None:
        record = json.loads((folder / file).read_text())
        for name, value in changes.items():
            record.pop(name, None)
            if value is not None:
                record[name] = value
        tiny.write_json(folder / file, record)

    return change


def weights(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file, {"format": "pt"})

    return rewrite


def cast(dtype: torch.dtype, *files: str) -> Change:
    def change(folder: Path) -> None:
        for file in files or (f"unet/{WEIGHTS}", f"vae/{WEIGHTS}", f"text_encoder/{TEXT}"):
            weights(file, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))(folder)

    return change


def sharded(part: str) -> Change:
    def change(folder: Path) -> None:
        kind = {"unet": Diffusers.UNet2DConditionModel, "vae": Diffusers.AutoencoderKL}[part]
        network = kind.from_pretrained(folder / part)
        (folder / part / WEIGHTS).unlink()
        network.save_pretrained(folder / part, max_shard_size="20KB")
        assert len(list((folder / part).glob("*.safetensors"))) > 1

    return change


def as_variant(folder: Path) -> None:
    cast(torch.float16)(folder)
    for file in (*folder.glob(f"*/{WEIGHTS}"), *folder.glob(f"*/{TEXT}")):
        file.rename(file.with_name(file.name.replace(".", ".fp16.", 1)))


def as_pickles(folder: Path) -> None:
    for file, name in (
        (f"unet/{WEIGHTS}", "diffusion_pytorch_model.bin"),
        (f"text_encoder/{TEXT}", "pytorch_model.bin"),
    ):
        torch.save(load_file(folder / file), (folder / file).with_name(name))
        (folder / file).unlink()


def with_more_files(folder: Path) -> None:
    shutil.copytree(folder / "unet", folder / "unet_ema")
    shutil.copy(folder / "vae" / WEIGHTS, folder / "unet" / WEIGHTS.replace(".", ".non_ema.", 1))
    (folder / "README.md").write_text("A model.")


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Change:
    def rewrite(folder: Path) -> None:
        file = folder / "tokenizer" / "tokenizer.json"
        if file.is_file():
            record = json.loads(file.read_text())
            change(record["model"])
            file.write_text(json.dumps(record))
            return
        # Before transformers 5, CLIP's tokenizer was saved in two files.
        vocabulary, merges = file.with_name("vocab.json"), file.with_name("merges.txt")
        model = {"vocab": json.loads(vocabulary.read_text()), "merges": merges.read_text().splitlines()}
        change(model)
        vocabulary.write_text(json.dumps(model["vocab"]))
        merges.write_text("\n".join(model["merges"]))

    return rewrite


def swap_tokens(model: dict[str, Any]) -> None:
    vocabulary = model["vocab"]
    vocabulary["cat</w>"], vocabulary["old</w>"] = vocabulary["old</w>"], len(vocabulary)


def resave_tokenizer(folder: Path) -> None:
    Transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer").save_pretrained(folder / "tokenizer")


def nudge(name: str) -> Callable[[dict[str, torch.Tensor]], object]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[0] += 0.01

    return change


def swap(tensors: dict[str, torch.Tensor]) -> None:
    a, b = "time_embedding.linear_2.bias", "time_embedding.linear_1.bias"
    tensors[a], tensors[b] = tensors[b] + 1, tensors[a]


SAME: dict[str, Change] = {
    "nothing but the name": lambda folder: None,
    "a network in shards": sharded("unet"),
    "an autoencoder in shards": sharded("vae"),
    "float16": cast(torch.float16),
    "bfloat16": cast(torch.bfloat16),
    "float64": cast(torch.float64, f"unet/{WEIGHTS}"),
    "a float16 text encoder": cast(torch.float16, f"text_encoder/{TEXT}"),
    "files of the fp16 variant": as_variant,
    "further files": with_more_files,
    "other paths and versions": entries("unet/config.json", _name_or_path="/elsewhere", _diffusers_version="9.9"),
    "a default that is written out": entries("unet/config.json", mid_block_scale_factor=1, act_fn="silu"),
    "a default that is left out": entries("vae/config.json", act_fn=None, scaling_factor=None),
    "entries of a newer library": entries("unet/config.json", of_the_future=None, mid_block_only=None),
    "the size of the training images": entries("unet/config.json", sample_size=8),
    "dropout": entries("unet/config.json", dropout=0.5),
    "the precision of the autoencoder": entries("vae/config.json", force_upcast=False),
    "training of the text encoder": entries("text_encoder/config.json", attention_dropout=0.5, dtype="float16"),
    "entries of samplers": entries(
        "scheduler/scheduler_config.json", steps_offset=0, timestep_spacing="trailing", clip_sample=True
    ),
    "another sampler": entries("scheduler/scheduler_config.json", _class_name="DPMSolverMultistepScheduler"),
    "a tokenizer that was saved anew": resave_tokenizer,
    "pickles": as_pickles,
    "an index of other parts": entries("model_index.json", safety_checker=None, scheduler=["diffusers", "X"]),
}
OTHER: dict[str, tuple[str, Change]] = {
    "one weight": ("another network (other weights)", weights(f"unet/{WEIGHTS}", nudge("conv_in.weight"))),
    "exchanged tensors": ("another network (other weights)", weights(f"unet/{WEIGHTS}", swap)),
    "heads": ("another network (other settings)", entries("unet/config.json", attention_head_dim=2)),
    "frequencies": ("another network (other settings)", entries("unet/config.json", freq_shift=1)),
    "sines first": ("another network (other settings)", entries("unet/config.json", flip_sin_to_cos=False)),
    "groups": ("another network (other settings)", entries("unet/config.json", norm_num_groups=2)),
    "a scaled autoencoder": ("another autoencoder (other settings)", entries("vae/config.json", scaling_factor=0.2)),
    "a shifted autoencoder": ("another autoencoder (other settings)", entries("vae/config.json", shift_factor=0.1)),
    "an autoencoder's weight": (
        "another autoencoder (other weights)",
        weights(f"vae/{WEIGHTS}", nudge("decoder.conv_in.bias")),
    ),
    "a text encoder's weight": (
        "another text encoder (other weights)",
        weights(f"text_encoder/{TEXT}", lambda tensors: nudge(min(tensors))(tensors)),
    ),
    "a text encoder's heads": (
        "another text encoder (other settings)",
        entries("text_encoder/config.json", num_attention_heads=1),
    ),
    "a text encoder's function": (
        "another text encoder (other settings)",
        entries("text_encoder/config.json", hidden_act="gelu"),
    ),
    "a vocabulary": ("another tokenizer (other settings)", tokenizer(swap_tokens)),
    "merges": ("another tokenizer (other settings)", tokenizer(lambda model: model["merges"].pop())),
    "the length of texts": (
        "another tokenizer (other settings)",
        entries("tokenizer/tokenizer_config.json", model_max_length=20),
    ),
    "the side of the padding": (
        "another tokenizer (other settings)",
        entries("tokenizer/tokenizer_config.json", padding_side="left"),
    ),
    "latents scaled by channel": (
        "another autoencoder (other settings)",
        entries("vae/config.json", latents_mean=[0.1] * 4, latents_std=[2.0] * 4),
    ),
    "a scale in the middle": (
        "another network (other settings)",
        entries("unet/config.json", mid_block_scale_factor=2),
    ),
    "an epsilon of a text encoder": (
        "another text encoder (other settings)",
        entries("text_encoder/config.json", layer_norm_eps=0.01),
    ),
    "the number of timesteps": (
        "another noise schedule or parametrization (other settings)",
        entries("scheduler/scheduler_config.json", num_train_timesteps=900),
    ),
    "betas": (
        "another noise schedule or parametrization (other settings)",
        entries("scheduler/scheduler_config.json", beta_end=0.013),
    ),
    "a prediction type": (
        "another noise schedule or parametrization (other settings)",
        entries("scheduler/scheduler_config.json", prediction_type="v_prediction"),
    ),
}


def changed(original: Path, target: Path, change: Change) -> Path:
    shutil.copytree(original, target)
    change(target)
    return target


@pytest.mark.parametrize("name", SAME)
def test_copies_are_the_same_model(original: Path, components: Mapping[str, str], tmp_path: Path, name: str) -> None:
    copy = changed(original, tmp_path / "copy", SAME[name])
    assert find_difference(load_model(copy).components, components) is None


@pytest.mark.parametrize("name", OTHER)
def test_other_models_differ_by_name(original: Path, components: Mapping[str, str], tmp_path: Path, name: str) -> None:
    wanted, change = OTHER[name]
    copy = changed(original, tmp_path / "copy", change)
    assert find_difference(load_model(copy).components, components) == wanted


def test_a_network_of_our_own_in_shards_is_the_same_model(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "whole")
    first = load_model(folder).components
    tensors, part = tiny.load_weights(folder), folder / "unet"
    (part / WEIGHTS).unlink()
    shard = "diffusion_pytorch_model-0000{}-of-00002.safetensors"
    names = {name: shard.format(1 + index % 2) for index, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in tensors if names[name] == file}, part / file)
    tiny.write_json(part / f"{WEIGHTS}.index.json", {"metadata": {}, "weight_map": names})
    assert load_model(folder).components == first


# Checkpoints of one file, whose containers and averages do not matter.


def test_containers_and_averages_are_the_same_model(tmp_path: Path) -> None:
    state = ermongroup.state("cifar10")
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.bin")
    torch.save({"model": {k: v + 1 for k, v in state.items()}, "ema": state}, tmp_path / "b.ckpt")
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "half.safetensors")
    first = load_model(tmp_path / "a.safetensors").components
    for name in ("a.bin", "b.ckpt", "half.safetensors"):
        assert find_difference(load_model(tmp_path / name).components, first) is None
    torch.save({"model": {k: v + 1 for k, v in state.items()}}, tmp_path / "raw.ckpt")
    assert find_difference(load_model(tmp_path / "raw.ckpt").components, first) == "another network (other weights)"


# Digests.


def test_a_tensor_that_is_not_finite_is_named(original: Path, tmp_path: Path) -> None:
    for file, name in {f"unet/{WEIGHTS}": "conv_in.bias", f"vae/{WEIGHTS}": "decoder.conv_in.bias"}.items():

        def spoil(tensors: dict[str, torch.Tensor], name: str = name) -> None:
            tensors[name][1] = torch.nan

        part = file.partition("/")[0]
        copy = changed(original, tmp_path / part, weights(file, spoil))
        with pytest.raises(ModelError, match=f"^{part}: the tensor {name} contains NaN or infinite values"):
            load_model(copy)


def test_digests_do_not_depend_on_order_layout_or_dtype() -> None:
    tensors = {"a": torch.randn(3, 4, 5, 6), "b": torch.arange(5), "c": torch.tensor(2.5)}
    found = digest_tensors(tensors, "it")
    rearranged = {name: tensors[name] for name in reversed(tensors)}
    rearranged["a"] = tensors["a"].to(memory_format=torch.channels_last)
    assert digest_tensors(rearranged, "it") == found
    for index, kind in enumerate((torch.float16, torch.bfloat16)):
        rounded = digest_tensors({**tensors, "a": tensors["a"].to(kind)}, "it")
        assert rounded.split("-")[index] == found.split("-")[index]


def test_missing_and_additional_components_are_named() -> None:
    network = digest_config({}, "a" * 16)
    assert find_difference({"network": network}, {"network": network, "text_encoder_3": network}) == (
        "one text encoder 3 more"
    )
    assert find_difference({"network": network, "autoencoder": network}, {"network": network}) == "one autoencoder less"


# The cache.


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sources: list[str] = []

    def spy(tensors: Mapping[str, torch.Tensor], source: str) -> str:
        sources.append(source)
        return digest_tensors(tensors, source)

    monkeypatch.setattr("ddim_edit.models.folder.digest_tensors", spy)
    monkeypatch.setattr(loading, "digest_tensors", spy)
    monkeypatch.setattr(digest_cache, "_SETTLED", 0)
    monkeypatch.setattr(digest_cache, "_SMALLEST", 1)
    return sources


def test_digests_of_small_files_are_kept_by_the_process_alone(
    tmp_path: Path, hashed: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_cache, "_SMALLEST", 1 << 30)
    folder = tiny.save_model(tmp_path / "model")
    first = load_model(folder).components
    assert load_model(folder).components == first
    assert len(hashed) == 1
    weights(f"unet/{WEIGHTS}", nudge("conv_in.weight"))(folder)
    assert find_difference(load_model(folder).components, first) == "another network (other weights)"
    assert not own_cache.exists()


def test_digests_are_cached_until_a_file_changes(tmp_path: Path, hashed: list[str], own_cache: Path) -> None:
    folder = tiny.save_model(tmp_path / "model")
    first = load_model(folder).components
    assert load_model(folder).components == first
    assert len(hashed) == 1
    (file,) = (own_cache / "ddim-edit" / "digests").iterdir()
    for damage in ("", "{", "[]", '{"files": 3}', file.read_text().replace('"digest": "', '"digest": "?')):
        file.write_text(damage)
        assert load_model(folder).components == first
    assert len(hashed) == 6
    weights(f"unet/{WEIGHTS}", nudge("conv_in.weight"))(folder)
    assert find_difference(load_model(folder).components, first) == "another network (other weights)"
    assert len(list(file.parent.iterdir())) == 1


@pytest.mark.parametrize("place", ["/proc/nowhere", "relative", ""])
def test_a_cache_that_cannot_be_written_is_no_matter(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    folder = tiny.save_model(tmp_path / "model")
    assert load_model(folder).components == load_model(folder).components
    assert len(hashed) == 2
