"""Walks down with a shifted bottleneck."""

import math
from itertools import cycle

import pytest
import torch
from torch import Tensor

from ddim_edit import Model, load_model
from ddim_edit.diffusion.bottleneck import FORMS, BottleneckReader, Form, ShiftedDenoiser, asymmetric, plain
from ddim_edit.diffusion.denoisers import Denoiser, NetworkDenoiser, ProgressDenoiser
from ddim_edit.diffusion.grids import make_grid
from ddim_edit.diffusion.integration import sample
from ddim_edit.diffusion.schedules import Span
from ddim_edit.diffusion.solvers.registry import SOLVERS
from ddim_edit.diffusion.solvers.statistics import TrackedDenoiser
from ddim_edit.diffusion.solvers.steps import euler_step

from .conftest import H_SHAPE

forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def spans(model: Model, steps: int = 6) -> tuple[Span, ...]:
    return model.schedule.spans(make_grid("karras:14", model.schedule, steps))


def decoded(denoiser: Denoiser, x: Tensor, walk: tuple[Span, ...], solver: str = "ddim") -> Tensor:
    return sample(denoiser, (x,), walk, SOLVERS[solver]).x0


@pytest.mark.parametrize("there", [0.0, 250.0])
def test_step_is_equation_of_asyrp(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, shift: Tensor, there: float
) -> None:
    """x' = sqrt(a') P(eps(x | h + shift)) + D(eps(x | h)), a and a' the alpha_bar of both levels."""
    span = model.schedule.span(400.0, there)
    a, a_there = span.here.alpha**2, span.there.alpha**2
    eps = denoiser(x, span.here).eps
    bent = ShiftedDenoiser(denoiser, {400.0: shift}, plain)(x, span.here).eps
    expected = math.sqrt(a_there) * (x - math.sqrt(1 - a) * bent) / math.sqrt(a) + math.sqrt(1 - a_there) * eps
    stepped, _ = euler_step(TrackedDenoiser.start(ShiftedDenoiser(denoiser, {400.0: shift}), 3), x, span, ())
    torch.testing.assert_close(stepped, expected, rtol=1e-12, atol=1e-12)


def test_plain_form_shifts_by_share_of_removed_noise(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, shift: Tensor
) -> None:
    """Asyrp's theorem: a shift of x0 and eps alike moves x' by 1 - s'/s of what the shift of x0 alone does."""
    span = model.schedule.span(400.0, 390.0)
    own, weak, strong = (
        euler_step(TrackedDenoiser.start(each, 3), x, span, ())[0]
        for each in (denoiser, *(ShiftedDenoiser(denoiser, {400.0: shift}, form) for form in (plain, asymmetric)))
    )
    share = 1 - span.there.s / span.here.s
    assert 0 < share < 0.1
    assert float((strong - own).abs().max()) > 1e-3
    torch.testing.assert_close(weak - own, share * (strong - own), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("solver", "form"), list(zip(SOLVERS, cycle(FORMS.values()))))
def test_sampling_without_shifts_is_plain_sampling(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, form: Form, solver: str
) -> None:
    walk = spans(model)
    own = decoded(denoiser, x, walk, solver)
    assert torch.equal(decoded(ShiftedDenoiser(denoiser, {}, form), x, walk, solver), own)
    none = {span.there.t: torch.zeros(H_SHAPE) for span in walk}
    assert torch.equal(decoded(ShiftedDenoiser(denoiser, none, form), x, walk, solver), own)


@pytest.mark.parametrize("solver", ["ddim", "dpm2m"])
def test_asymmetric_shift_affects_solvers_of_x0_and_eps(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, shift: Tensor, solver: str
) -> None:
    walk = spans(model)
    shifted = ShiftedDenoiser(denoiser, {span.there.t: shift for span in walk})
    assert float((decoded(shifted, x, walk, solver) - decoded(denoiser, x, walk, solver)).abs().max()) > 0.1


@pytest.mark.parametrize("solver", ["heun", "midpoint", "belm", "bdia", "edict"])
def test_only_plain_shift_affects_solvers_of_eps(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, shift: Tensor, solver: str
) -> None:
    walk = spans(model)
    shifts = {span.there.t: shift for span in walk}
    own, unseen, weak = (
        decoded(each, x, walk, solver)
        for each in (denoiser, ShiftedDenoiser(denoiser, shifts), ShiftedDenoiser(denoiser, shifts, plain))
    )
    assert torch.equal(unseen, own)
    assert not torch.allclose(weak, own)


def test_last_ddim_step_returns_shifted_image(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, shift: Tensor
) -> None:
    """At the clean image there is no noise left for eps to describe."""
    walk = model.schedule.spans(make_grid("karras:14", model.schedule, 6).to_clean())
    last, seen = walk[0].there, []

    def listening(x: Tensor, level: object) -> object:
        seen.append(x)
        return denoiser(x, level)

    decoded(listening, x, walk)
    shifted = ShiftedDenoiser(denoiser, {last.t: shift})
    torch.testing.assert_close(decoded(shifted, x, walk), shifted(seen[-1], last).x0, rtol=1e-12, atol=1e-12)


@forms
def test_shifts_do_not_change_evaluation_counts(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, shift: Tensor, form: Form
) -> None:
    walk, told = spans(model), []
    shifts = {span.there.t: shift for span in walk[2:5]}
    watched = ProgressDenoiser(ShiftedDenoiser(denoiser, shifts, form), told.append)
    result = sample(watched, (x,), walk, SOLVERS["dpm2m"])
    assert result.nfe.tolist() == [len(walk)] * 3
    assert told == [3] * len(walk)


def test_reader_records_every_level_of_sampling(model: Model, denoiser: NetworkDenoiser, x: Tensor) -> None:
    walk, seen = spans(model), {}
    assert torch.equal(decoded(BottleneckReader(denoiser, seen), x, walk), decoded(denoiser, x, walk))
    assert list(seen) == [span.there.t for span in reversed(walk)]


@pytest.mark.slow
def test_shift_changes_images_of_packaged_model() -> None:
    """Towards another picture's h the picture changes more in x0 alone than in x0 and eps alike."""
    model = load_model("faces64")
    walk, seen = spans(model, 3), {}
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = decoded(BottleneckReader(model.denoiser, seen), x, walk)
    shifts = {t: h[1] - h[0] for t, h in seen.items()}
    none = {t: 0 * shift for t, shift in shifts.items()}
    for form in FORMS.values():
        assert torch.equal(decoded(ShiftedDenoiser(model.denoiser, none, form), x, walk), own)
    weak, strong = (
        float((decoded(ShiftedDenoiser(model.denoiser, shifts, form), x, walk) - own)[0].square().mean())
        for form in (plain, asymmetric)
    )
    assert strong > 1e-3
    assert strong > weak > 0
