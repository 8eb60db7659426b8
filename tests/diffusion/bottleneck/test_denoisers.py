"""One evaluation of the denoisers that read and shift h."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ddim_edit import Model, load_model
from ddim_edit.diffusion.bottleneck import (
    FORMS,
    BottleneckReader,
    Form,
    ShiftedDenoiser,
    asymmetric,
    bottleneck_of,
    plain,
)
from ddim_edit.diffusion.denoisers import ClippedDenoiser, Denoiser, GuidedDenoiser, NetworkDenoiser, ProgressDenoiser
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.devices import PRECISIONS, DeviceNetwork
from ddim_edit.models.unet.network import UNet

from ... import tiny
from .conftest import H_SHAPE, randn

TIMES = (1000.0, 400.0, 12.5, 1.0, 0.25)
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def same(a: Prediction, b: Prediction) -> bool:
    return torch.equal(a.x0, b.x0) and torch.equal(a.eps, b.eps)


class ByHand:
    """The parts of a UNet, called as `NetworkDenoiser` should have called them."""

    def __init__(self, unet: UNet, x: Tensor, level: Level) -> None:
        self.unet, index = unet, torch.full((len(x),), max(level.t - 1, 0.0))
        with torch.inference_mode():
            self.emb = unet.embed(index)
            h, self.skips = unet.encode(x.float(), self.emb)
            self.h = unet.middle(h, self.emb)

    def output(self, shift: Tensor | float = 0.0) -> Tensor:
        with torch.inference_mode():
            return self.unet.decode(self.h + shift, self.skips, self.emb).double()


@pytest.mark.parametrize("t", TIMES)
def test_reader_records_bottleneck_and_changes_no_output(
    model: Model, denoiser: NetworkDenoiser, unet: UNet, x: Tensor, t: float
) -> None:
    level, seen = model.schedule.level(t), {}
    assert same(BottleneckReader(denoiser, seen)(x, level), denoiser(x, level))
    assert seen.keys() == {t}
    assert torch.equal(seen[t], ByHand(unet, x, level).h)
    assert seen[t].dtype == torch.float32


def test_reader_records_last_bottleneck_of_each_level(model: Model, denoiser: NetworkDenoiser, x: Tensor) -> None:
    seen: dict[float, Tensor] = {}
    reading = BottleneckReader(denoiser, seen)
    for t in TIMES:
        reading(x, model.schedule.level(t))
    assert tuple(seen) == TIMES
    before = seen[400.0]
    reading(-x, model.schedule.level(400.0))
    assert not torch.equal(seen[400.0], before)


@forms
@pytest.mark.parametrize("batch", [(), (1,), (3,)], ids=["one for all", "one for a batch", "one each"])
def test_zero_shift_changes_nothing(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, form: Form, batch: tuple[int, ...]
) -> None:
    for t in TIMES:
        level, nothing = model.schedule.level(t), torch.zeros(*batch, *H_SHAPE)
        assert same(ShiftedDenoiser(denoiser, {t: nothing}, form)(x, level), denoiser(x, level))


@forms
def test_levels_without_shift_are_unchanged(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, shift: Tensor, form: Form
) -> None:
    shifted = ShiftedDenoiser(denoiser, {400.0: shift}, form)
    for t in (399.0, 401.0, 1000.0):
        level = model.schedule.level(t)
        assert same(shifted(x, level), denoiser(x, level))


@pytest.mark.parametrize(("t", "size"), list(zip(TIMES, cycle([0.5, -3.0]))))
def test_constant_shift_is_decoding_by_hand(
    model: Model, denoiser: NetworkDenoiser, unet: UNet, x: Tensor, size: float, t: float
) -> None:
    level = model.schedule.level(t)
    answer = ShiftedDenoiser(denoiser, {t: torch.full(H_SHAPE, size)}, plain)(x, level)
    expected = denoiser.parametrization.to_prediction(ByHand(unet, x, level).output(size), x, level)
    assert same(answer, expected)
    assert not torch.allclose(answer.x0, denoiser(x, level).x0)


@pytest.mark.parametrize("t", TIMES)
def test_asymmetric_form_shifts_x0_only(
    model: Model, denoiser: NetworkDenoiser, unet: UNet, x: Tensor, shift: Tensor, t: float
) -> None:
    level = model.schedule.level(t)
    x0, eps = ShiftedDenoiser(denoiser, {t: shift}, asymmetric)(x, level)
    assert torch.equal(eps, denoiser(x, level).eps)
    assert torch.equal(
        x0, denoiser.parametrization.to_prediction(ByHand(unet, x, level).output(shift.float()), x, level).x0
    )


@forms
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), row=st.integers(0, 2))
def test_rows_are_independent(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, form: Form, seed: int, row: int
) -> None:
    """Another shift for one image changes that image alone, and order does not matter."""
    level, shifts = model.schedule.level(400.0), randn(3, *H_SHAPE, seed=seed)
    others, order = shifts.clone(), torch.tensor([2, 0, 1])
    others[row] += 1
    one, other = (ShiftedDenoiser(denoiser, {400.0: each}, form)(x, level).x0 for each in (shifts, others))
    changed = [not torch.equal(a, b) for a, b in zip(one, other, strict=True)]
    assert changed == [each == row for each in range(3)]
    turned = ShiftedDenoiser(denoiser, {400.0: shifts[order]}, form)(x[order], level).x0
    torch.testing.assert_close(turned, one[order], rtol=1e-4, atol=1e-4)


@forms
def test_progress_counts_one_evaluation(
    model: Model, denoiser: NetworkDenoiser, x: Tensor, shift: Tensor, form: Form
) -> None:
    told: list[int] = []
    level = model.schedule.level(400.0)
    bare = ShiftedDenoiser(denoiser, {400.0: shift}, form)
    assert same(ProgressDenoiser(bare, told.append)(x, level), bare(x, level))
    assert told == [3]
    assert same(ProgressDenoiser(BottleneckReader(denoiser, {}), told.append)(x, level), denoiser(x, level))
    assert told == [3, 3]
    ProgressDenoiser(ShiftedDenoiser(denoiser, {}, form), told.append)(x, level)
    assert told == [3] * 3


def test_bottleneck_of_denoiser_is_that_of_its_network(denoiser: NetworkDenoiser) -> None:
    own, bottleneck = bottleneck_of(denoiser)
    assert own is denoiser
    assert bottleneck is denoiser.network


WRAPPERS: dict[str, Callable[[NetworkDenoiser], Denoiser]] = {
    "GuidedDenoiser": lambda denoiser: GuidedDenoiser(denoiser, denoiser, 2.0),
    "ClippedDenoiser": ClippedDenoiser,
    "ShiftedDenoiser": lambda denoiser: ShiftedDenoiser(denoiser, {}),
    "BottleneckReader": lambda denoiser: BottleneckReader(denoiser, {}),
    "ProgressDenoiser": lambda denoiser: ProgressDenoiser(denoiser, print),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_composed_denoisers_have_no_bottleneck(denoiser: NetworkDenoiser, name: str) -> None:
    other = WRAPPERS[name](denoiser)
    message = rf"^Only a single network has a bottleneck h, not a {name}"
    for refuse in (bottleneck_of, lambda each: BottleneckReader(each, {}), lambda each: ShiftedDenoiser(each, {})):
        with pytest.raises(ModelError, match=message):
            refuse(other)


def test_network_without_bottleneck_is_refused(model: Model, x: Tensor, shift: Tensor) -> None:
    bare = NetworkDenoiser(lambda x, index: x)
    with pytest.raises(ModelError, match=r"\(function\) does not expose its bottleneck"):
        ShiftedDenoiser(bare, {})
    placed = replace(bare, network=DeviceNetwork(nn.Identity(), torch.device("cpu"), PRECISIONS["float32"]))
    level = model.schedule.level(400.0)
    for denoiser in (BottleneckReader(placed, {}), ShiftedDenoiser(placed, {400.0: shift})):
        with pytest.raises(ModelError, match=r"\(Identity\) does not expose its bottleneck"):
            denoiser(x, level)


def test_shift_of_other_shape_is_refused(model: Model, denoiser: NetworkDenoiser, x: Tensor) -> None:
    shifted = ShiftedDenoiser(denoiser, {400.0: torch.zeros(8, 8, 8)})
    with pytest.raises(ArgumentError, match=r"must have the shape \[16, 8, 8\], .*, not \[8, 8, 8\]"):
        shifted(x, model.schedule.level(400.0))


def test_half_precision_network_is_read_in_float32(tmp_path_factory: pytest.TempPathFactory, x: Tensor) -> None:
    model = load_model(tiny.save_model(tmp_path_factory.mktemp("half")), dtype="bfloat16")
    level, seen = model.schedule.level(400.0), {}
    BottleneckReader(model.denoiser, seen)(x, level)
    assert seen[400.0].dtype == torch.float32
    assert same(ShiftedDenoiser(model.denoiser, {400.0: 0 * seen[400.0]})(x, level), model.denoiser(x, level))
