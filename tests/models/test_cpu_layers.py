"""Packed networks against what they were before, and against diffusers."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddim_edit.models import cpu_layers
from ddim_edit.models.cpu_layers import (
    PLAIN,
    UPSAMPLED,
    PackedConv2d,
    WinogradConv2d,
    WinogradTransform,
    optimize_for_cpu,
    restore_layers,
)
from ddim_edit.models.layers import GroupNormAct
from ddim_edit.models.unet.network import load_unet

from .twins import LAYERS, SMALL, TIMES, Config, Diffusers, images, twins

FACES64 = Path(__file__).parents[2] / "assets" / "models" / "faces64" / "unet"
CONVOLVES = cpu_layers._can_convolve(torch.float32)
needs_onednn = pytest.mark.skipif(not CONVOLVES, reason="needs oneDNN's convolution")
seeds = st.integers(0, 1000)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wide(bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(128, 136, 3, padding=1, bias=bias).to(memory_format=torch.channels_last)


def on_doubled(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2.0), conv)


def maps(*shape: int) -> Tensor:
    return noise(*shape).float().contiguous(memory_format=torch.channels_last)


def assert_near(ours: Tensor, exact: Tensor, error: float) -> None:
    assert (ours.double() - exact).norm() < error * exact.norm()


@given(seeds)
def test_a_scheme_is_exact(seed: int) -> None:
    row, kernel = noise(6, seed=seed), noise(3, seed=seed + 1)
    made = PLAIN.write @ ((PLAIN.weigh @ kernel) * (PLAIN.read @ row))
    torch.testing.assert_close(made, row.unfold(0, 3, 1) @ kernel)


@given(seeds)
def test_a_scheme_of_doubled_rows_is_exact_and_spares_a_product(seed: int) -> None:
    row, kernel = noise(4, seed=seed), noise(3, seed=seed + 1)
    made = UPSAMPLED.write @ ((UPSAMPLED.weigh @ kernel) * (UPSAMPLED.read @ row))
    torch.testing.assert_close(made, row.repeat_interleave(2)[1:-1].unfold(0, 3, 1) @ kernel)
    assert len(UPSAMPLED.weigh) == 5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("transform", "height", "width"), [(PLAIN, 16, 20), (UPSAMPLED, 8, 12)])
@torch.inference_mode()
def test_winograd_convolves(transform: WinogradTransform, height: int, width: int, bias: bool) -> None:
    conv, x = wide(bias), maps(3, 128, height, width)
    whole: nn.Module = conv if transform is PLAIN else on_doubled(conv)
    fast = WinogradConv2d(conv, transform, nn.Identity())
    made = fast(x)
    assert_near(made, whole.double()(x.double()), 1e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def test_winograd_leaves_small_and_uneven_maps_to_the_direct_way() -> None:
    conv = wide()
    fast = WinogradConv2d(conv, PLAIN, conv)
    for shape in ((1, 128, 12, 16), (1, 128, 18, 16), (1, 128, 16, 21)):
        assert torch.equal(fast(maps(*shape)), conv(maps(*shape)))


@torch.inference_mode()
def test_chunks_of_a_batch_are_worked_out_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, x = WinogradConv2d(wide(), PLAIN, nn.Identity()), maps(3, 128, 16, 16)
    whole = fast(x)
    monkeypatch.setattr(cpu_layers, "_CHUNK", 1)
    torch.testing.assert_close(fast(x), whole, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_a_picture_is_rounded_alike_beside_any_others() -> None:
    fast, x = WinogradConv2d(wide(), PLAIN, nn.Identity()), maps(3, 128, 16, 16)
    assert torch.equal(fast(torch.cat((x[:1], 7 * x[1:])))[:1], fast(x)[:1])


@needs_onednn
@pytest.mark.parametrize("config", LAYERS.values(), ids=LAYERS)
@torch.inference_mode()
def test_a_packed_network_answers_as_before(config: Config) -> None:
    ours, _ = twins(config)
    before = ours(images(ours.config), TIMES)
    torch.testing.assert_close(optimize_for_cpu(ours)(images(ours.config), TIMES), before, rtol=1e-3, atol=1e-4)
    assert not any(type(module) is nn.Conv2d for module in ours.modules())


@needs_onednn
@torch.inference_mode()
def test_the_packed_packaged_model_answers_as_it_does_in_diffusers() -> None:
    theirs = Diffusers.from_pretrained(FACES64, torch_dtype=torch.float32).eval()
    ours, x = optimize_for_cpu(load_unet(FACES64)), noise(2, 3, 32, 64).float()
    assert sum(isinstance(module, WinogradConv2d) for module in ours.modules()) > 10
    torch.testing.assert_close(ours(x, TIMES), theirs(x, TIMES).sample, rtol=1e-5, atol=1e-5)


@needs_onednn
@torch.inference_mode()
def test_a_packed_bottleneck_is_read_and_shifted() -> None:
    ours, x = load_unet(FACES64), noise(2, 3, 32, 32).float()
    output, h = ours.read(x, TIMES)
    shift = 0.1 * torch.ones_like(h[0])
    _, moved = ours.shifted(x, TIMES, shift)
    optimize_for_cpu(ours)
    for fast, plain in zip((*ours.read(x, TIMES), ours.shifted(x, TIMES, shift)[1]), (output, h, moved), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@needs_onednn
@torch.inference_mode()
def test_doubling_and_convolution_become_one() -> None:
    whole, x = on_doubled(wide()), maps(1, 128, 8, 8)
    exact = on_doubled(wide()).double()(x.double())
    assert_near(optimize_for_cpu(whole)(x), exact, 1e-5)
    assert isinstance(whole[0], nn.Identity)


def some_layers(dtype: torch.dtype) -> nn.Sequential:
    """A layer of every kind that is replaced, two of them by Winograd's algorithm in float32."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 128, 3, 2, 1),
        nn.GroupNorm(8, 128),
        nn.SiLU(),
        wide(),
        nn.Conv2d(136, 128, 1, bias=False, groups=8),
    )
    for each in on_doubled(wide()):
        layers.append(each)
    return layers.to(dtype).to(memory_format=torch.channels_last).requires_grad_(False)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layers: pickle.loads(pickle.dumps(layers))])
@torch.inference_mode()
def test_copies_of_packed_layers_answer_alike(dtype: torch.dtype, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    packed, x = optimize_for_cpu(some_layers(dtype)), maps(2, 3, 32, 32).to(dtype)
    before, wanted = duplicate(packed), packed(x)
    assert torch.equal(before(x), wanted)
    assert torch.equal(duplicate(packed)(x), wanted)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_packed_layers_are_restored_with_their_weights(dtype: torch.dtype) -> None:
    plain, x = some_layers(dtype), maps(2, 3, 32, 32).to(dtype)
    restored = restore_layers(optimize_for_cpu(copy.deepcopy(plain)))
    assert {type(module) for module in restored.modules()} <= {type(module) for module in plain.modules()} | {
        GroupNormAct,
        nn.Identity,
    }
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for weight, wanted in zip(restored.parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight, wanted)
    assert_near(restored(x), plain(x).double(), tolerance)
    assert_near(optimize_for_cpu(restored)(x), plain(x).double(), tolerance)


@pytest.mark.skipif(not cpu_layers._can_convolve(torch.bfloat16), reason="needs bfloat16 convolutions")
@torch.inference_mode()
def test_small_maps_are_normed_in_float32_when_packed() -> None:
    norm, x = nn.GroupNorm(8, 32).bfloat16(), maps(2, 32, 8, 8).bfloat16()
    exact = F.group_norm(x.double(), 8)
    (fast,) = optimize_for_cpu(nn.Sequential(norm))
    assert type(fast) is not nn.GroupNorm
    near = exact.bfloat16()
    torch.testing.assert_close(fast(x), near, rtol=2**-7, atol=0)  # a unit in the last place
    assert (fast(x) != near).double().mean() < 0.01  # and that only on the verge
    large = maps(2, 32, 32, 32).bfloat16()
    assert torch.equal(fast(large), norm(large))


@pytest.mark.skipif(not cpu_layers._can_convolve(torch.bfloat16), reason="needs bfloat16 convolutions")
@torch.inference_mode()
def test_a_packed_bfloat16_network_is_as_near_float32_as_before() -> None:
    ours, x = load_unet(FACES64), noise(1, 3, 32, 32).float()
    exact = ours(x, TIMES[:1])
    before = (ours.bfloat16()(x.bfloat16(), TIMES[:1]).float() - exact).norm()
    after = (optimize_for_cpu(ours)(x.bfloat16(), TIMES[:1]).float() - exact).norm()
    assert after < 1.1 * before < 0.03 * exact.norm()


class _Halved(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., ::2, ::2])


def test_convolutions_that_do_more_are_left_alone() -> None:
    layers = [
        _Halved(16, 16, 1),
        nn.Conv2d(16, 16, 3, padding="same"),
        nn.Conv2d(16, 16, 3, 1, 1, padding_mode="reflect"),
    ]
    assert list(optimize_for_cpu(nn.Sequential(*layers))) == layers


def test_a_dtype_that_cannot_be_packed_is_left_alone() -> None:
    ours = twins(SMALL)[0].double()
    before = list(ours.modules())
    assert list(optimize_for_cpu(ours).modules()) == before


def test_nothing_is_packed_where_onednn_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: PackedConv2d, x: Tensor) -> Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(PackedConv2d, "forward", fails)
    cpu_layers._can_convolve.cache_clear()
    ours, _ = twins(SMALL)
    before = list(ours.modules())
    assert list(optimize_for_cpu(ours).modules()) == before
    cpu_layers._can_convolve.cache_clear()


def test_packing_leaves_the_random_numbers_alone() -> None:
    cpu_layers._can_convolve.cache_clear()
    ours = twins(SMALL)[0]
    torch.manual_seed(3)
    optimize_for_cpu(ours)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), drawn)
