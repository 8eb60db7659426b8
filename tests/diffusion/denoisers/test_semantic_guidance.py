"""Semantic guidance beside its formula, on denoisers that are known in closed form."""

import pytest
import torch
from torch import Tensor

from ddim_edit import make_grid
from ddim_edit.diffusion.denoisers import MixtureDenoiser
from ddim_edit.diffusion.integration import sample
from ddim_edit.diffusion.schedules import Level, NoiseSchedule
from ddim_edit.diffusion.semantic_guidance import Contrast, SemanticDenoiser, SemanticTerm, magnitude_mask, shares_of
from ddim_edit.diffusion.solvers.registry import find_solver

LINEAR = NoiseSchedule.linear()
SHAPE = (2, 8, 8)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(seed: int) -> MixtureDenoiser:
    """Of data N(m, 0.5^2 I), so that eps = s (x / alpha - m) / (0.25 + s^2)."""
    return MixtureDenoiser(
        randn(1, *SHAPE, seed=seed), torch.full((1,), 0.5, dtype=torch.float64), torch.ones(1).double()
    )


OWN, TO, ORIGIN, KEPT = (gaussian(seed) for seed in range(4))
X = randn(3, *SHAPE, seed=9)


def eps_of(denoiser: MixtureDenoiser, level: Level) -> Tensor:
    return level.s * (X / level.alpha - denoiser.means) / (0.25 + level.s**2)


@pytest.mark.parametrize("t", [20, 500, 990])
def test_the_formula(t: float) -> None:
    level = LINEAR.level(t)
    terms = [SemanticTerm(Contrast(TO, ORIGIN), 2.0), SemanticTerm(Contrast(KEPT, ORIGIN), -0.5)]
    x0, eps = SemanticDenoiser(OWN, terms)(X, level)
    own, to, origin, kept = (eps_of(each, level) for each in (OWN, TO, ORIGIN, KEPT))
    torch.testing.assert_close(eps, own + 2 * (to - origin) - 0.5 * (kept - origin), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(level.alpha * x0 + level.sigma * eps, X, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", [20, 990])
@pytest.mark.parametrize("quantile", [0.0, 0.5])
def test_nothing_is_left_along_what_is_kept(t: float, quantile: float) -> None:
    level = LINEAR.level(t)
    kept = [Contrast(KEPT, ORIGIN), Contrast(KEPT, TO), Contrast(KEPT, ORIGIN)]  # one of them twice
    x0, eps = SemanticDenoiser(OWN, [SemanticTerm(Contrast(TO, ORIGIN), 3.0, kept[:1], quantile)])(X, level)
    moved = eps - eps_of(OWN, level)
    along = eps_of(KEPT, level) - eps_of(ORIGIN, level)
    scale = (moved.flatten(1).norm(dim=1) * along.flatten(1).norm(dim=1)).max()
    assert scale > 0
    assert ((moved * along).flatten(1).sum(1).abs() < 1e-10 * scale).all()
    torch.testing.assert_close(level.alpha * x0 + level.sigma * eps, X, rtol=1e-9, atol=1e-9)
    # TO - ORIGIN is a combination of these.
    _, eps = SemanticDenoiser(OWN, [SemanticTerm(Contrast(TO, ORIGIN), 3.0, kept, quantile)])(X, level)
    assert (eps - eps_of(OWN, level)).abs().max() < 1e-8 * moved.abs().max()


def test_shares_solve_the_weighted_least_squares() -> None:
    d, k = randn(2, *SHAPE, seed=1), [randn(2, *SHAPE, seed=seed) for seed in (2, 3)]
    weight = randn(2, 1, 8, 8, seed=4).square()
    shares = shares_of(d, k, weight)
    for row in range(2):
        root = weight[row].sqrt().expand(SHAPE).flatten()
        matrix = torch.stack([each[row].flatten() * root for each in k], 1)
        wanted = torch.linalg.lstsq(matrix, (d[row].flatten() * root)[:, None]).solution[:, 0]
        torch.testing.assert_close(shares[:, row].flatten(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.8])
def test_a_mask_covers_its_part_of_every_image(quantile: float) -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    blobs = torch.stack([torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 60) for a, b in ((16, 16), (10, 20))])
    mask = magnitude_mask(blobs[:, None].double() * torch.tensor([1.0, -2.0]).double().view(1, 2, 1, 1), quantile)
    assert mask.shape == (2, 1, 32, 32)
    assert ((mask >= 0) & (mask <= 1)).all()
    torch.testing.assert_close(mask.mean((1, 2, 3)), torch.full((2,), 1 - quantile).double(), atol=0.02, rtol=0)
    for image, (a, b) in enumerate(((16, 16), (10, 20))):
        assert mask[image, 0, b, a] == 1
        assert mask[image, 0, 31, 31] == 0


def test_warming_up_is_the_plain_denoiser() -> None:
    guided = SemanticDenoiser(OWN, [SemanticTerm(Contrast(TO, ORIGIN), 2.0, latest=600.0)])
    for t, acts in ((601.0, False), (600.0, True)):
        level = LINEAR.level(t)
        assert torch.equal(guided(X, level).eps, OWN(X, level).eps) is not acts


def test_the_whole_way_from_its_own_prompt_decodes_as_the_other_one() -> None:
    spans = LINEAR.spans(make_grid("karras:14", LINEAR, 10))
    guided = SemanticDenoiser(ORIGIN, [SemanticTerm(Contrast(TO, ORIGIN), 1.0)])
    there, wanted = (sample(each, (X,), spans, find_solver("dpm2m")).x0 for each in (guided, TO))
    torch.testing.assert_close(there, wanted, rtol=1e-9, atol=1e-9)


def test_a_denoiser_is_evaluated_once_a_level() -> None:
    calls: list[MixtureDenoiser] = []

    class Counted:
        def __init__(self, denoiser: MixtureDenoiser) -> None:
            self.denoiser = denoiser

        def __call__(self, x: Tensor, level: Level) -> object:
            calls.append(self.denoiser)
            return self.denoiser(x, level)

    own, to, kept = Counted(OWN), Counted(TO), Counted(KEPT)
    terms = [SemanticTerm(Contrast(to, own), 2.0, [Contrast(kept, own)]), SemanticTerm(Contrast(kept, own), 1.0)]
    SemanticDenoiser(own, terms)(X, LINEAR.level(300))
    assert len(calls) == 3
