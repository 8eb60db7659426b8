"""Weights are loaded in the dtype that is asked for, one tensor at a time, and are the same model in every dtype."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddim_edit import Condition, load_model
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models import placing, tensor_files
from ddim_edit.models.cast_layers import CastWeight
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.conditioning import Conditioner
from ddim_edit.models.devices import DeviceNetwork
from ddim_edit.models.identity import Components, find_difference
from ddim_edit.models.pretrained import load_pretrained_network
from ddim_edit.models.tensor_files import StoredTensors, StoredViews

from .. import pipelines, tiny
from ..rounding import ROUNDING, assert_alike

WEIGHTS = "diffusion_pytorch_model.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion in float16."""
    shelf = tmp_path_factory.mktemp("half")

    def make() -> Any:
        pipe = pipelines.stable_diffusion(shelf / "tokens")
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.half()
        return pipe

    return pipelines.save(make, shelf / "model")


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors of a dtype that were alive at once, on the CPU."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.most = dtype, 0
        self._alive: dict[int, tuple[Any, int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.dtype == self.dtype and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                self._alive[id(tensor)] = (weakref.ref(tensor), storage.data_ptr(), storage.nbytes())
        self._alive = {key: each for key, each in self._alive.items() if each[0]() is not None}
        self.most = max(self.most, sum({pointer: size for _, pointer, size in self._alive.values()}.values()))
        return made


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_no_network_exists_in_float32_while_it_is_loaded(folder: Path, dtype: str) -> None:
    with LiveBytes(torch.float32) as live:
        network = load_pretrained_network(pipelines.Diffusers.UNet2DConditionModel, folder / "unet", DTYPES[dtype])
    sizes = [4 * parameter.numel() for parameter in network.parameters()]
    assert {parameter.dtype for parameter in network.parameters()} == {DTYPES[dtype]}
    assert live.most <= 2 * max(sizes) < sum(sizes) / 4


def test_weights_are_read_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are opened again and again, since what is mapped of one counts as memory while it is open."""
    monkeypatch.setattr(tensor_files, "_MAPPED", 0)
    file = folder / "unet" / WEIGHTS
    stored, loaded = StoredTensors([file]), load_file(file)
    assert stored.keys() == loaded.keys()
    with LiveBytes(torch.float16) as live:
        assert all(torch.equal(stored[name], tensor) for name, tensor in loaded.items())
    assert live.most <= 2 * max(tensor.nbytes for tensor in loaded.values())
    assert stored.dtype == torch.float16


def test_views_of_weights_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of single files, which are renamed, cut, transposed, and sometimes made anew."""
    monkeypatch.setattr(tensor_files, "_MAPPED", 0)
    file = tmp_path / "model.safetensors"
    save_file({"qkv": torch.randn(6, 4), "bias": torch.randn(3), "none": torch.zeros(0)}, file)
    state = load_file(file)
    query, key, value = state["qkv"].chunk(3)
    made = {
        "q": query,
        "k": key,
        "v": value.T,
        "b": state["bias"],
        "flipped": state["bias"].flip(0),
        "n": state["none"],
    }
    views = StoredViews(made, state, file)
    pointers = {name: tensor.data_ptr() for name, tensor in views.items()}
    assert [name for name in made if pointers[name] == made[name].data_ptr()] == ["flipped", "n"]
    assert all(torch.equal(views[name], tensor) for name, tensor in made.items())
    assert views.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_is_that_of_float32_cast_afterwards(folder: Path, dtype: str) -> None:
    kind = pipelines.Diffusers.UNet2DConditionModel
    loaded = load_pretrained_network(kind, folder / "unet", DTYPES[dtype])
    cast = kind.from_pretrained(folder / "unet").to(DTYPES[dtype])
    assert loaded.state_dict().keys() == cast.state_dict().keys()
    for name, tensor in cast.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


class Copies(TorchDispatchMode):
    """Counts copies of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        on_cpu = isinstance(made, Tensor) and made.device.type == "cpu" and made.numel() > 1
        self.count += on_cpu and func.overloadpacket in (torch.ops.aten.copy_, torch.ops.aten._to_copy)
        return made


@pytest.mark.parametrize(("dtype", "copied"), [(torch.float16, False), (None, False), (torch.float32, True)])
def test_weights_in_the_dtype_of_their_file_stay_there(folder: Path, dtype: torch.dtype | None, copied: bool) -> None:
    with Copies() as copies:
        network = load_pretrained_network(pipelines.Diffusers.UNet2DConditionModel, folder / "unet", dtype)
    assert network.dtype == (dtype or torch.float16)
    assert bool(copies.count) == copied


def test_an_autoencoder_computes_in_float32_and_keeps_its_weights(folder: Path) -> None:
    model = load_model(folder)
    assert isinstance(model.codec, AutoencoderCodec)
    network = pipelines.Diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False)
    kept = [module.kept for module in model.codec.autoencoder.network.modules() if isinstance(module, CastWeight)]
    assert kept
    assert {weight.dtype for weight in kept} == {torch.float16}
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    images, wanted = model.codec.autoencoder.decode(z), network.decode(z).sample
    assert_alike(*(torch.autograd.grad(each.square().sum(), z)[0] for each in (images, wanted)))
    images, wanted = images.detach(), wanted.detach()
    assert_alike(images, wanted)
    assert_alike(model.codec.autoencoder.encode(images), network.encode(images).latent_dist.mode())


@pytest.mark.parametrize(("size", "tiles"), [(1024, False), (1040, True)])
def test_tiles_are_noted(folder: Path, size: int, tiles: bool) -> None:
    note = "images of more than 1024x1024 pixels go through the autoencoder in tiles, which changes them a little"
    assert (note in load_model(folder, size=size).notes) == tiles


def test_a_model_is_the_same_in_every_dtype(folder: Path) -> None:
    found = [load_model(folder, dtype=dtype).components for dtype in (*DTYPES, "mixed")]
    assert all(components == found[0] for components in found)


def networks(model: Any) -> tuple[Any, Any]:
    conditioner = model.conditioner
    assert isinstance(conditioner, Conditioner)
    assert isinstance(conditioner.network, DeviceNetwork)
    assert isinstance(conditioner.low, DeviceNetwork)
    return conditioner.network.network, conditioner.low.network


def test_a_large_mixed_model_holds_its_weights_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = load_model(folder, dtype="mixed")
    monkeypatch.setattr(placing, "SHARED_FROM", 0)
    shared = load_model(folder, dtype="mixed")
    fine, rough = networks(shared)
    own = {parameter.data_ptr() for parameter in fine.parameters()}
    kept = [module.kept for module in rough.modules() if isinstance(module, CastWeight)]
    assert kept
    assert all(weight.data_ptr() in own for weight in kept)
    assert not any(isinstance(module, CastWeight) for module in networks(apart)[1].modules())
    x = torch.ones(1, *shared.shape, dtype=torch.float64)
    condition = Condition(prompt="a photo of a man", guidance_scale=3)
    for t in (100, 900):
        level = shared.schedule.level(t)
        answers = [model.conditioned_on(condition)(x, level).eps for model in (shared, apart)]
        assert_alike(*answers, tol=2**-5 if level.s < 1 else ROUNDING)


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def narrowed(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensors[name][:-1].clone()})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without("conv_in.bias"), "unet: the weights do not fit the config: conv_in.bias missing. Take both"),
        (narrowed("conv_in.bias"), "conv_in.bias has the shape [7], not [8]. Take both from one checkpoint."),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    tensors = load_file(folder / "unet" / WEIGHTS)
    change(tensors)
    (tmp_path / "unet").mkdir()
    save_file(tensors, tmp_path / "unet" / WEIGHTS, {"format": "pt"})
    config = json.loads((folder / "unet" / "config.json").read_text())
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        load_pretrained_network(pipelines.Diffusers.UNet2DConditionModel, tmp_path / "unet", torch.float16)
    assert problem in str(caught.value)


def encoded(folder: Path, dtype: str | None) -> tuple[Tensor, Components]:
    model = load_model(folder, encoder_dtype=dtype)
    conditioner = model.conditioner
    assert isinstance(conditioner, Conditioner)
    return conditioner.encoder.positive(Condition("a man"))["encoder_hidden_states"], model.components


def test_text_encoders_compute_in_float32_unless_told_otherwise(folder: Path) -> None:
    (own, components), (asked, same) = encoded(folder, None), encoded(folder, "fp32")
    assert_alike(own, asked)
    assert own.dtype == torch.float32
    assert components == same


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_text_encoders_in_another_dtype_are_others(folder: Path, name: str, dtype: torch.dtype) -> None:
    (fine, components), (rough, others) = encoded(folder, None), encoded(folder, name)
    assert rough.dtype == dtype
    assert 0 < (rough.float() - fine).abs().max() < 0.1
    assert find_difference(components, others) == "another text encoder (other settings)"


def test_a_dtype_for_no_text_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="follows no prompts, so it has no text encoders"):
        load_model(tiny.save_model(tmp_path / "tiny"), encoder_dtype="bf16")
    with pytest.raises(ArgumentError, match="encoder_dtype must be one of fp32, bf16, fp16, float32"):
        load_model(folder, encoder_dtype="int8")
