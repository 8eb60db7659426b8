"""Mixed precision by noise level: two networks behind one denoiser, float32 above s = 1 and bfloat16 below."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddim_edit import Condition, Model, Prediction, load_model, suited_dtype
from ddim_edit.diffusion.bottleneck import BottleneckReader, ShiftedDenoiser
from ddim_edit.models import devices

from .. import tiny
from ..rounding import ROUNDING

Load = Callable[[str], Model]
TIMES = (50.0, 200.0, 400.0, 900.0)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = tiny.save_model(tmp_path_factory.mktemp("models") / "tiny", unet={"num_class_embeds": 3})
    return lambda dtype: load_model(folder, dtype=dtype)


def x() -> Tensor:
    return torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def same(a: Prediction, b: Prediction) -> bool:
    return torch.equal(a.x0, b.x0) and torch.equal(a.eps, b.eps)


@pytest.mark.parametrize("t", TIMES)
def test_a_mixed_model_is_the_float32_one_in_noise_and_the_bfloat16_one_below(load: Load, t: float) -> None:
    condition = Condition(label=1)
    level = load("mixed").schedule.level(t)
    answers = (load(dtype).conditioned_on(condition)(x(), level) for dtype in ("mixed", "bfloat16", "float32"))
    mixed, rough, fine = (torch.cat(answer) for answer in answers)
    far = float((rough - fine).abs().max())
    assert far > 5 * ROUNDING
    assert (mixed - (rough if level.s < 1 else fine)).abs().max() < far / 2  # which no two loads are apart


@pytest.mark.parametrize("t", TIMES)
def test_the_bottleneck_is_that_of_the_network_asked(tmp_path: Path, t: float) -> None:
    model = load_model(tiny.save_model(tmp_path / "plain"), dtype="mixed")
    level, seen = model.schedule.level(t), dict[float, Tensor]()
    assert same(BottleneckReader(model.denoiser, seen)(x(), level), model.denoiser(x(), level))
    shifted = ShiftedDenoiser(model.denoiser, {t: torch.zeros_like(seen[t][0])})
    assert same(shifted(x(), level), model.denoiser(x(), level))


def test_both_sides_of_the_border_are_among_the_times(load: Load) -> None:
    levels = [load("mixed").schedule.level(t).s for t in TIMES]
    assert min(levels) < 1 < max(levels)


def test_it_is_suited_where_a_cpu_multiplies_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, dtype in ((True, "mixed"), (False, "float32")):
        monkeypatch.setattr(devices, "is_native", lambda device, dtype, native=native: native)
        assert suited_dtype("cpu") == dtype


def test_tf32_is_suited_to_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_device", torch.device)
    assert suited_dtype("cuda") == "tf32"
