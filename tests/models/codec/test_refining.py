"""Refiners on linear autoencoders, where the best x_0 and the way to it are known, and on one that is neither."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.refinement import REFINERS, FixedPointRefiner, GradientRefiner, Refiner

from ...rounding import ROUNDING, assert_alike
from .closed_forms import CHANNELS, Folding, Linear, orthogonal, randn

PICTURES = randn(3, 3, 4, 6).clamp(-1, 1)


def shrinking(low: float, high: float) -> tuple[Tensor, Linear]:
    """An orthogonal decoder Q^T with the encoder G Q, where G is symmetric with eigenvalues in [low, high]."""
    basis, Q = orthogonal(seed=1), orthogonal(seed=2)
    G = basis @ torch.diag(torch.linspace(low, high, CHANNELS)) @ basis.T
    return G.double(), Linear(G @ Q, Q.T.contiguous())


def errors(codec: AutoencoderCodec, x0: Tensor, pictures: Tensor = PICTURES) -> Tensor:
    return (codec.decode(x0) - pictures).square().mean((1, 2, 3))


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_fixed_point_converges_at_the_contraction_rate(steps: int, weight: float) -> None:
    """z_k - z* = (I - w G)^k (z_0 - z*), for z* = Q p and z_0 = G z*."""
    G, autoencoder = shrinking(0.5, 0.9)
    codec, best = AutoencoderCodec(autoencoder, factor=2), autoencoder.best(PICTURES)
    x0 = FixedPointRefiner(steps, weight)(codec, PICTURES, codec.encode(PICTURES))
    power = torch.linalg.matrix_power(torch.eye(CHANNELS) - weight * G, steps)
    offset = torch.einsum("cd,bdhw->bchw", power @ (G - torch.eye(CHANNELS)), best)
    torch.testing.assert_close(x0, best + offset, rtol=0, atol=1e-5)


def test_the_fixed_point_does_not_depend_on_scale_and_shift() -> None:
    _, autoencoder = shrinking(0.5, 0.9)
    codec = AutoencoderCodec(autoencoder, 0.18215, 0.3, 2)
    x0 = FixedPointRefiner(40)(codec, PICTURES, codec.encode(PICTURES))
    torch.testing.assert_close(x0, (autoencoder.best(PICTURES) - 0.3) * 0.18215, rtol=0, atol=1e-6)


def test_overshooting_steps_are_halved() -> None:
    """With eigenvalues up to 3 the plain iteration diverges."""
    _, autoencoder = shrinking(1.0, 3.0)
    codec = AutoencoderCodec(autoencoder, factor=2)
    x0 = FixedPointRefiner(60)(codec, PICTURES, codec.encode(PICTURES))
    torch.testing.assert_close(x0, autoencoder.best(PICTURES), rtol=0, atol=1e-4)


def compressing(latents: int = 5) -> Linear:
    """A decoder of fewer latents than pixels, with an encoder that is not its best."""
    decoder = orthogonal(seed=3)[:, :latents] @ torch.diag(torch.linspace(0.6, 1.4, latents))
    return Linear(decoder.T.contiguous(), decoder)


def test_gradients_find_the_least_squares_code() -> None:
    autoencoder = compressing()
    codec = AutoencoderCodec(autoencoder, 2.0, 0.1, 2)
    x0 = GradientRefiner(steps=400, pull=0.0)(codec, PICTURES, codec.encode(PICTURES))
    torch.testing.assert_close(x0, (autoencoder.best(PICTURES) - 0.1) * 2, rtol=0, atol=5e-4)


def test_a_pull_finds_the_ridge_solution_around_the_start() -> None:
    """x = a + (B^T B + pull I)^-1 B^T (p - B a)."""
    autoencoder, pull = compressing(), 0.3
    codec = AutoencoderCodec(autoencoder, factor=2)
    start = codec.encode(PICTURES)
    x0 = GradientRefiner(steps=400, pull=pull)(codec, PICTURES, start)
    B = autoencoder.decoder.double()
    ridge = torch.linalg.inv(B.T @ B + pull * torch.eye(B.shape[1])) @ B.T
    missing = F.pixel_unshuffle(PICTURES - codec.decode(start), 2)
    torch.testing.assert_close(x0, start + torch.einsum("ck,bkhw->bchw", ridge, missing), rtol=0, atol=1e-4)


@dataclass(frozen=True)
class Crooked:
    """Encoder and decoder know nothing of each other, and neither is linear."""

    seed: int

    def encode(self, pictures: Tensor) -> Tensor:
        return torch.tanh(F.conv2d(pictures, randn(4, 3, 2, 2, seed=self.seed).float(), stride=2))

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(F.conv_transpose2d(z, randn(4, 3, 2, 2, seed=self.seed + 1).float(), stride=2))


@pytest.mark.parametrize("name", REFINERS)
@given(seed=st.integers(0, 99))
def test_no_picture_comes_back_worse(name: str, seed: int) -> None:
    codec = AutoencoderCodec(Crooked(seed), factor=2)
    x0 = 2 * randn(3, 4, 2, 3, seed=seed + 2)
    refined = shortened(REFINERS[name])(codec, PICTURES, x0)
    assert (errors(codec, refined) <= errors(codec, x0) * (1 + ROUNDING)).all()


def shortened(refiner: Refiner) -> Refiner:
    assert isinstance(refiner, FixedPointRefiner | GradientRefiner)
    return replace(refiner, steps=3)


class Watched(torch.autograd.Function):
    """The identity, which notes whether gradients come back while cuDNN is deterministic."""

    strict: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        Watched.strict.append(torch.backends.cudnn.deterministic)
        return gradient


@dataclass
class WatchedFolding(Folding):
    def decode(self, z: Tensor) -> Tensor:
        pictures: Tensor = Watched.apply(super().decode(z))
        return pictures


def test_backward_pass_is_strict_float32() -> None:
    Watched.strict.clear()
    codec, before = AutoencoderCodec(WatchedFolding(), factor=2), torch.backends.cudnn.deterministic
    GradientRefiner(steps=2)(codec, PICTURES, codec.encode(PICTURES))
    assert Watched.strict == [True] * 2 * len(PICTURES)
    assert torch.backends.cudnn.deterministic is before is False


@pytest.mark.parametrize("name", REFINERS)
def test_what_is_exact_already_stays(name: str) -> None:
    codec = AutoencoderCodec(Folding(), factor=2)
    x0 = codec.encode(PICTURES)
    refined = REFINERS[name](codec, PICTURES, x0)
    torch.testing.assert_close(refined, x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("refiner", [*REFINERS.values(), GradientRefiner(0)], ids=[*REFINERS, "no steps"])
def test_no_picture_depends_on_its_batch(refiner: Refiner) -> None:
    codec = AutoencoderCodec(Crooked(0), 0.7, 0.1, 2)
    x0 = codec.encode(PICTURES)
    together = refiner(codec, PICTURES, x0)
    for row in range(len(PICTURES)):
        alone = refiner(codec, PICTURES[row : row + 1], x0[row : row + 1])
        assert_alike(together[row], alone[0])


@pytest.mark.parametrize("name", REFINERS)
def test_the_start_is_left_as_it_was(name: str) -> None:
    codec = AutoencoderCodec(shrinking(0.5, 0.9)[1], factor=2)
    x0 = codec.encode(PICTURES)
    before = x0.clone()
    refined = REFINERS[name](codec, PICTURES, x0)
    assert torch.equal(x0, before)
    assert not torch.equal(refined, before)


@pytest.mark.parametrize("name", REFINERS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_answer_is_the_same_in_any_mode(name: str, mode: type[torch.no_grad] | type[torch.inference_mode]) -> None:
    codec = AutoencoderCodec(Crooked(0), 0.7, 0.1, 2)
    wanted = REFINERS[name](codec, PICTURES, codec.encode(PICTURES))
    with mode():
        pictures = PICTURES * 1
        refined = REFINERS[name](codec, pictures, codec.encode(pictures))
    assert_alike(refined, wanted)
    assert (wanted.dtype, wanted.requires_grad) == (torch.float64, False)
