"""The packaged model as a checkpoint of improved-diffusion: trained weights in that file format."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ddim_edit.models.loading import load_model
from ddim_edit.models.packaged import packaged_models
from ddim_edit.models.pretrained import WEIGHTS

State = dict[str, Tensor]
LEVELS, BLOCKS, HEAD = 4, 2, 64
FLAGS = {
    "num_head_channels": HEAD,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "rescale_timesteps": False,
    "image_size": 64,
}


def resnet(ours: str, theirs: str) -> dict[str, str]:
    parts = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    return {f"{ours}.{part}": f"{theirs}.{other}" for part, other in parts.items()}


def layers() -> Iterator[tuple[str, str]]:
    """Every layer but attentions, under diffusers' name and OpenAI's."""
    yield from {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        **resnet("mid_block.resnets.0", "middle_block.0"),
        **resnet("mid_block.resnets.1", "middle_block.2"),
    }.items()
    for level in range(LEVELS):
        for block in range(BLOCKS):
            number = level * (BLOCKS + 1) + block + 1
            yield from resnet(f"down_blocks.{level}.resnets.{block}", f"input_blocks.{number}.0").items()
        yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{(level + 1) * (BLOCKS + 1)}.0.op"
        for block in range(BLOCKS + 1):
            number = level * (BLOCKS + 1) + block
            yield from resnet(f"up_blocks.{level}.resnets.{block}", f"output_blocks.{number}.0").items()
        place = 2 if level == 1 else 1  # after the attention, where there is one
        yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{level * (BLOCKS + 1) + BLOCKS}.{place}.conv"


def attentions() -> Iterator[tuple[str, str]]:
    yield "mid_block.attentions.0", "middle_block.1"
    yield from ((f"down_blocks.2.attentions.{block}", f"input_blocks.{7 + block}.1") for block in range(BLOCKS))
    yield from ((f"up_blocks.1.attentions.{block}", f"output_blocks.{3 + block}.1") for block in range(BLOCKS + 1))


def by_heads(state: State, name: str, kind: str) -> Tensor:
    """Queries, keys and values of one head below each other, then those of the next."""
    q, k, v = (state[f"{name}.{part}.{kind}"].unflatten(0, (-1, HEAD)) for part in ("to_q", "to_k", "to_v"))
    return torch.stack([q, k, v], 1).flatten(0, 2)


def as_openai(state: State) -> State:
    made: State = {}
    for kind in ("weight", "bias"):
        made |= {f"{b}.{kind}": state[f"{a}.{kind}"] for a, b in layers() if f"{a}.{kind}" in state}
        for a, b in attentions():
            made[f"{b}.norm.{kind}"] = state[f"{a}.group_norm.{kind}"]
            made[f"{b}.qkv.{kind}"] = by_heads(state, a, kind)
            made[f"{b}.proj_out.{kind}"] = state[f"{a}.to_out.0.{kind}"]
    return {name: tensor[..., None] if is_linear_there(name) else tensor for name, tensor in made.items()}


def is_linear_there(name: str) -> bool:
    return name.endswith(("qkv.weight", "proj_out.weight"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = load_file(packaged_models()["faces64"] / "unet" / WEIGHTS)
    made = as_openai(state)
    assert sum(tensor.numel() for tensor in made.values()) == sum(tensor.numel() for tensor in state.values())
    path = tmp_path_factory.mktemp("openai") / "ema_0.9999_faces.pt"
    torch.save(made, path)
    path.with_suffix(".json").write_text(json.dumps(FLAGS))
    return path


def test_network_equals_packaged_one(checkpoint: Path) -> None:
    theirs, ours = load_model(), load_model(checkpoint)
    assert (ours.name, ours.shape, ours.prediction) == ("ema_0.9999_faces", theirs.shape, theirs.prediction)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (2, 431.5, 1000):
        level = theirs.schedule.level(t)
        assert ours.schedule.level(t).s == pytest.approx(level.s, rel=1e-9)
        wanted = theirs.denoiser(x, level).eps
        torch.testing.assert_close(ours.denoiser(x, level).eps, wanted, rtol=1e-5, atol=1e-5)
