"""ermongroup/ddim's checkpoints against its own code, and against diffusers' network.

The fixtures were made by `models/diffusion.py` of github.com/ermongroup/ddim (commit 5e85a21f), at 32 channels, in
float64 after its float32 time angles: names and shapes of its state dict, x, index and output. The weights are drawn
again here, each from a generator seeded by its name.
"""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.diffusion.schedules import NoiseSchedule
from ddim_edit.errors import ModelError
from ddim_edit.io.tensorfile import TensorFile, TensorFormat
from ddim_edit.models.checkpoint import Checkpoint
from ddim_edit.models.checkpoint_file import read_state_dict
from ddim_edit.models.families.ermongroup import FAMILY

FIXTURES = Path(__file__).parent / "fixtures"
Diffusers: Any = UNet2DModel  # its types are hidden from mypy
# ch_mult, attending levels, picture size: what the code base's configs say of the files it released.
RELEASED = {
    "cifar10": ((1, 2, 2, 2), {1}, 32),
    "celeba": ((1, 2, 2, 2, 4), {2}, 64),
    "lsun": ((1, 1, 2, 2, 4, 4), {4}, 256),
}


def fixture(case: str) -> TensorFile:
    form = TensorFormat("fixture", "ermongroup", ModelError, "Make it again.")
    return form.load(FIXTURES / f"ermongroup_{case}.safetensors")


def made(name: str, shape: list[int]) -> Tensor:
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return torch.from_numpy(draw / np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(("norm" in name and name.endswith("weight")) + 0.1 * draw)


def state(case: str) -> dict[str, Tensor]:
    return {name: made(name, shape) for name, shape in fixture(case).header["shapes"].items()}


def build(weights: dict[str, Tensor], **settings: Any) -> Checkpoint:
    assert FAMILY.matches(weights)
    return FAMILY.load(weights, settings)


def answer(checkpoint: Checkpoint, x: Tensor, index: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = checkpoint.network.double()(x.double(), index)
    return output


@pytest.mark.parametrize("case", [*RELEASED, "variance"])
def test_outputs_equal_the_original(case: str) -> None:
    known = fixture(case).tensors
    output = answer(build(state(case)), known["x"], known["index"])
    torch.testing.assert_close(output, known["output"].double(), rtol=2e-6, atol=2e-6)


def original_name(name: str, levels: int) -> str:
    """What ermongroup calls a parameter of diffusers' network."""
    if found := re.match(r"up_blocks\.(\d+)", name):
        name = f"up.{levels - 1 - int(found[1])}" + name[found.end() :]
    for theirs, original in (
        (r"^down_blocks", "down"),
        (r"^mid_block\.resnets\.0", "mid.block_1"),
        (r"^mid_block\.resnets\.1", "mid.block_2"),
        (r"^mid_block\.attentions\.0", "mid.attn_1"),
        (r"^time_embedding\.linear_1", "temb.dense.0"),
        (r"^time_embedding\.linear_2", "temb.dense.1"),
        (r"^conv_norm_out", "norm_out"),
        (r"\.resnets\.", ".block."),
        (r"\.attentions\.", ".attn."),
        (r"\.(up|down)samplers\.0\.", r".\1sample."),
        (r"\.time_emb_proj\.", ".temb_proj."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
        (r"\.group_norm\.", ".norm."),
        (r"\.to_([qkv])\.", r".\1."),
        (r"\.to_out\.0\.", ".proj_out."),
    ):
        name = re.sub(theirs, original, name)
    return name


@pytest.mark.parametrize("case", RELEASED)
def test_outputs_equal_diffusers(case: str) -> None:
    mult, attending, _ = RELEASED[case]
    down = ["AttnDownBlock2D" if level in attending else "DownBlock2D" for level in range(len(mult))]
    torch.manual_seed(0)
    theirs = Diffusers(
        block_out_channels=[32 * factor for factor in mult],
        down_block_types=down,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)],
        layers_per_block=2,
        attention_head_dim=None,
        norm_num_groups=32,
        norm_eps=1e-6,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
    )
    for weight in theirs.parameters():
        weight.data.add_(0.05 * torch.randn_like(weight))
    weights = {original_name(name, len(mult)): tensor for name, tensor in theirs.state_dict().items()}
    matrices = r"\.(q|k|v|proj_out)\.weight$"
    weights = {name: w[..., None, None] if re.search(matrices, name) else w for name, w in weights.items()}
    assert {name: list(w.shape) for name, w in weights.items()} == fixture(case).header["shapes"]
    x, index = fixture(case).tensors["x"], fixture(case).tensors["index"]
    with torch.no_grad():
        wanted = theirs.double()(x.double(), index).sample
    torch.testing.assert_close(answer(build(weights), x, index), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", RELEASED)
def test_a_released_layout_tells_its_pictures(case: str) -> None:
    checkpoint = build(state(case))
    _, _, size = RELEASED[case]
    assert (checkpoint.channels, checkpoint.size, checkpoint.classes) == (3, (size, size), None)
    assert checkpoint.parametrization.name == "epsilon"
    assert checkpoint.schedule.description == NoiseSchedule.linear(1e-4, 0.02, 1000).description


def test_x0_and_eps_are_those_of_the_original_sampler() -> None:
    """Index i of the repository, whose alpha_bar is the product of the first i + 1 factors, is our time i + 1."""
    checkpoint, known = build(state("cifar10")), fixture("cifar10").tensors
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[3]
    denoise = NetworkDenoiser(checkpoint.network.double(), checkpoint.parametrization, dtype=torch.float64)
    x = known["x"][1:].double()
    x0, eps = denoise(x, checkpoint.schedule.level(4))
    torch.testing.assert_close(eps, known["output"][1:].double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x0, (x - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5, rtol=1e-12, atol=1e-12)


def test_size_is_inferred_from_a_single_attending_level() -> None:
    several = state("variance")
    assert build(several).size is None
    assert build(several, image_size=64).size == (64, 64)
    none = {name: w for name, w in state("cifar10").items() if ".attn." not in name}
    assert build(none).size is None
    assert build(state("cifar10"), image_size=64).size == (64, 64)


def test_learned_variances_are_more_channels_of_the_output() -> None:
    checkpoint = build(state("variance"))
    assert checkpoint.channels == 1
    assert fixture("variance").tensors["output"].shape[1] == 2


@pytest.mark.parametrize(
    ("kind", "betas"),
    [
        ("linear", np.linspace(0.001, 0.1, 50)),
        ("quad", np.linspace(0.001**0.5, 0.1**0.5, 50) ** 2),
        ("const", np.full(50, 0.1)),
        ("sigmoid", 0.001 + 0.099 / (1 + np.exp(-np.linspace(-6, 6, 50)))),
    ],
)
def test_betas_follow_the_settings(kind: str, betas: np.ndarray) -> None:
    checkpoint = build(
        state("variance"), beta_schedule=kind, beta_start=0.001, beta_end=0.1, num_diffusion_timesteps=50
    )
    np.testing.assert_allclose(checkpoint.schedule.alpha_bar, np.cumprod(1 - betas), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 30),
        ("beta_schedule", "jsd"),
        ("beta_end", 1.0),
        ("num_diffusion_timesteps", 0),
    ],
)
def test_a_setting_out_of_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"{name} must be "):
        build(state("variance"), **{name: value})


def test_networks_without_convolutions_to_resample_are_refused() -> None:
    averaging = {name: w for name, w in state("cifar10").items() if "sample.conv" not in name}
    with pytest.raises(ModelError, match="resamp_with_conv"):
        build(averaging)


def test_conditional_networks_are_refused() -> None:
    conditional = state("cifar10") | {"conv_in.weight": torch.zeros(32, 6, 3, 3)}
    with pytest.raises(ModelError, match="6 channels in and 3 out"):
        build(conditional)


def test_tensors_that_do_not_fit_are_named() -> None:
    spoilt = state("cifar10") | {"emb_conv.0.weight": torch.zeros(1)}
    del spoilt["up.3.block.0.norm1.bias"]
    with pytest.raises(ModelError, match=r"\.0\.resnets\.0\.norm1\.bias is missing, emb_conv\.0\.weight is unknown"):
        build(spoilt)


@pytest.mark.parametrize("mark", ["temb.dense.0.weight", "conv_in.weight", "down.0.block.0.conv1.weight"])
def test_other_state_dicts_are_not_its_own(mark: str) -> None:
    weights = state("cifar10")
    del weights[mark]
    assert not FAMILY.matches(weights)


def test_training_checkpoint_loads_its_average(tmp_path: Path) -> None:
    """`ckpt.pth` as the training script writes it: the network under DataParallel, Adam, epoch, step, the average."""
    average = {name: w.float() for name, w in state("cifar10").items()}
    raw = {f"module.{name}": torch.nn.Parameter(torch.zeros_like(w)) for name, w in average.items()}
    adam = torch.optim.Adam(raw.values())
    for weight in raw.values():
        weight.grad = torch.ones_like(weight)
    adam.step()
    torch.save([raw, adam.state_dict(), 12, 3456, average], tmp_path / "ckpt.pth")
    known = fixture("cifar10").tensors
    output = answer(build(dict(read_state_dict(tmp_path / "ckpt.pth"))), known["x"], known["index"])
    torch.testing.assert_close(output, known["output"].double(), rtol=1e-5, atol=1e-5)
