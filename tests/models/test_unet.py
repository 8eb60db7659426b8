"""The pixel UNet against diffusers' UNet2DModel."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddim_edit.errors import ArgumentError
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import load_unet

from .host_tensors import HostTensors, on_meta
from .twins import CIFAR10, CLASSES, LAYERS, SMALL, TIMES, Config, Diffusers, assert_same_answers, images, twins

FACES64 = Path(__file__).parents[2] / "assets" / "models" / "faces64" / "unet"


@pytest.mark.parametrize("config", LAYERS.values(), ids=LAYERS)
def test_outputs_equal_diffusers(config: Config) -> None:
    assert_same_answers(*twins(config))


@pytest.mark.parametrize(("config", "label"), CLASSES.values(), ids=CLASSES)
def test_class_conditional_outputs_equal_diffusers(config: Config, label: Tensor) -> None:
    assert_same_answers(*twins(config), label)


@pytest.mark.parametrize(
    ("config", "label"), [*((config, None) for config in LAYERS.values()), *CLASSES.values()], ids=[*LAYERS, *CLASSES]
)
def test_network_makes_no_host_tensors(config: Config, label: Tensor | None) -> None:
    unet, _ = twins(config)
    inputs = on_meta(x=images(unet.config), index=TIMES, **({} if label is None else {"label": label}))
    unet.to("meta")
    with torch.inference_mode(), HostTensors() as host:
        _, h = unet.read(**inputs)
        unet.shifted(**inputs, shift=h)
    assert not host.made_by


@st.composite
def legal_configs(draw: st.DrawFn) -> Config:
    levels = draw(st.integers(1, 3))

    def per_level(*values: object) -> st.SearchStrategy[tuple[Any, ...]]:
        return st.tuples(*levels * (st.sampled_from(values),))

    drawn: Config = draw(
        st.fixed_dictionaries(
            {
                "block_out_channels": per_level(4, 8, 12),
                "down_block_types": per_level("DownBlock2D", "AttnDownBlock2D"),
                "up_block_types": per_level("UpBlock2D", "AttnUpBlock2D"),
                "mid_block_type": st.sampled_from(["UNetMidBlock2D", None]),
                "layers_per_block": st.integers(1, 2),
                "norm_num_groups": st.sampled_from([1, 2, 4]),
                "attn_norm_num_groups": st.sampled_from([None, 1, 2]),
                "attention_head_dim": st.sampled_from([None, 1, 3, 4]),
                "resnet_time_scale_shift": st.sampled_from(["default", "scale_shift"]),
                "downsample_padding": st.integers(0, 1),
                "downsample_type": st.sampled_from(["conv", "resnet"]),
                "upsample_type": st.sampled_from(["conv", "resnet"]),
                "flip_sin_to_cos": st.booleans(),
                "freq_shift": st.integers(0, 1),
                "act_fn": st.sampled_from(["silu", "mish", "gelu", "relu"]),
                "add_attention": st.booleans(),
                "mid_block_scale_factor": st.sampled_from([1, 2.5]),
            }
        )
    )
    return drawn


@settings(max_examples=60, deadline=None, derandomize=True)
@given(legal_configs())
def test_outputs_equal_diffusers_for_any_config(config: Config) -> None:
    assert_same_answers(*twins(config))


def test_faces64_outputs_equal_diffusers() -> None:
    theirs = Diffusers.from_pretrained(FACES64, torch_dtype=torch.float32).eval()
    assert_same_answers(load_unet(FACES64), theirs)


def test_gradients_are_those_of_diffusers() -> None:
    """The network works in place, which autograd must survive."""
    answers = []
    for network in twins(SMALL):
        x = images(UNetConfig.from_dict(SMALL)).requires_grad_()
        out = network(x, TIMES)
        (out if isinstance(out, Tensor) else out.sample).square().sum().backward()
        answers.append(x.grad)
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_images_do_not_see_each_other() -> None:
    ours, _ = twins(CIFAR10)
    x, times = images(ours.config, batch=5), torch.linspace(0, 999, 5)
    with torch.no_grad():
        alone = torch.cat([ours(x[i : i + 1], times[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(ours(x, times), alone, rtol=1e-5, atol=1e-5)


def test_one_time_serves_all_images() -> None:
    ours, _ = twins(SMALL)
    x = images(ours.config)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, TIMES[:1]), ours(x, TIMES[:1].expand(2)), rtol=1e-5, atol=1e-5)


def test_a_shifted_bottleneck_leaves_the_skips_alone() -> None:
    ours, _ = twins(SMALL)
    with torch.no_grad():
        emb = ours.embed(TIMES)
        bottom, skips = ours.encode(images(ours.config), emb)
        before = [skip.clone() for skip in skips]
        h = ours.middle(bottom, emb)
        ours.decode(h + 1, skips, emb)
        assert bottom is skips[-1]
        assert all(map(torch.equal, skips, before))
        assert torch.equal(ours.decode(h, skips, emb), ours(images(ours.config), TIMES))


@pytest.mark.parametrize("kind", ["positional", "fourier"])
def test_time_features_stay_float32(kind: str) -> None:
    ours, _ = twins(SMALL | {"time_embedding_type": kind})
    times = torch.tensor([998.5, 999.0, 1000.0])  # all the same to bfloat16
    before = ours.time_proj(times)
    after = ours.to(torch.bfloat16).time_proj(times)
    assert torch.equal(after, before)
    assert ours(images(ours.config).bfloat16(), TIMES).dtype == torch.bfloat16


def test_bfloat16_stays_near_float32() -> None:
    ours = load_unet(FACES64)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = ours(x, TIMES[:1])
        rough = ours.to(torch.bfloat16)(x.bfloat16(), TIMES[:1]).float()
    assert (rough - exact).norm() < 3e-2 * exact.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_replays_the_network(dtype: torch.dtype) -> None:
    ours = twins(SMALL)[0].to("cuda", dtype)
    x, times = images(ours.config).to("cuda", dtype), TIMES.cuda()
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            ours(x, times)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            captured = ours(x, times)
        x.mul_(-0.5)
        times.add_(100.5)
        graph.replay()
        torch.testing.assert_close(captured, ours(x, times))


@pytest.mark.parametrize("shape", [(1, 3, 8, 6), (1, 3, 9, 8), (1, 1, 8, 8), (3, 8, 8)])
def test_sizes_that_do_not_halve_are_refused(shape: tuple[int, ...]) -> None:
    ours, _ = twins(CIFAR10)
    with pytest.raises(ArgumentError, match=r"\[B, 3, H, W\] with H and W multiples of 8"):
        ours(torch.zeros(shape), TIMES[:1])


def test_labels_are_required_iff_there_are_classes() -> None:
    config, label = CLASSES["classes"]
    with pytest.raises(ArgumentError, match="Give a label for each image"):
        twins(config)[0].embed(TIMES)
    with pytest.raises(ArgumentError, match="no classes"):
        twins(SMALL)[0].embed(TIMES, label)
