"""Networks that keep their weights in another dtype than the one that they compute in."""

import copy
import pickle
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from ddim_edit.models.cast_layers import CastWeight, cast_on_use, kept_weights, share_cast

from .. import pipelines
from ..rounding import assert_alike

COARSE = 2**-5
"""Of the largest value: what other addresses of weights may change in bfloat16, which has 8 bits."""
LARGE = (nn.Linear, nn.Conv2d, nn.Embedding)


@pytest.fixture
def unet() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pipelines.conditional_unet().eval().requires_grad_(False)


def answer(network: Any, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, text = (torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 4, 16, 16), (2, 5, 16)))
    with torch.inference_mode():
        return network(x, timestep=torch.tensor([10.5, 700.0]), encoder_hidden_states=text, return_dict=False)[0]


def large_weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: module.weight for name, module in network.named_modules() if isinstance(module, LARGE)}


def test_a_cast_copy_shares_the_large_weights_and_computes_as_a_cast_network(unet: Any) -> None:
    rough = share_cast(unet, torch.bfloat16)
    kept = {name: module.kept for name, module in rough.named_modules() if isinstance(module, CastWeight)}
    own = large_weights(unet)
    assert {name: weight.data_ptr() for name, weight in kept.items()} == {
        name: weight.data_ptr() for name, weight in own.items()
    }
    assert rough.dtype == torch.bfloat16
    cast = copy.deepcopy(unet).bfloat16()
    for name, weight in large_weights(cast).items():
        assert torch.equal(large_weights(rough)[name], weight)
    assert_alike(answer(rough, torch.bfloat16), answer(cast, torch.bfloat16), COARSE)
    assert unet.dtype == torch.float32


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_of_both_share_as_well(unet: Any, duplicate: Any) -> None:
    fine, rough = duplicate((unet, share_cast(unet, torch.bfloat16)))
    found = {weight.data_ptr() for weight in kept_weights(rough)}
    assert found == {weight.data_ptr() for weight in large_weights(fine).values()}
    assert_alike(answer(rough, torch.bfloat16), answer(unet.bfloat16(), torch.bfloat16), COARSE)


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_a_text_encoder_in_float16_computes_as_one_in_float32(kind: str, tmp_path: Any) -> None:
    config = pipelines.clip_config(pipelines.clip_tokenizer(tmp_path))
    encoder = transformers.CLIPTextModel(config) if kind == "clip" else pipelines.t5_encoder()
    encoder = encoder.half().eval().requires_grad_(False)
    wanted = copy.deepcopy(encoder).float()
    weights = {weight.data_ptr() for weight in large_weights(encoder).values()}
    cast_on_use(encoder, torch.float32)
    tokens = torch.tensor([[0, 3, 4, 1]])
    with torch.inference_mode():
        assert_alike(encoder(tokens)[0], wanted(tokens)[0])
    assert {weight.data_ptr() for weight in kept_weights(encoder)} == weights
    assert encoder.dtype == torch.float32
