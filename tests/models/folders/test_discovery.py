"""Directions without labels on networks of diffusers: those with a bottleneck, prompts included, and others."""

from pathlib import Path

import pytest
import torch

from ddim_edit import ModelError
from ddim_edit.diffusion.denoisers import NetworkDenoiser
from ddim_edit.models.condition import NOTHING, Condition
from ddim_edit.models.differentiation import BottleneckJacobian

from ... import tiny
from .conftest import Editors
from .originals import PROMPT, noise

QUICK = {"steps": 3}
UNETS = {"stable diffusion 1": Condition(PROMPT), "diffusers' own": NOTHING, "classes": Condition(label=1)}
unets = pytest.mark.parametrize(("family", "condition"), UNETS.items(), ids=UNETS)


@unets
def test_products_are_slopes_of_the_bottleneck_and_of_one_matrix(
    editors: Editors, family: str, condition: Condition
) -> None:
    model = editors(family).model
    denoiser, level = model.conditioned_on(condition), model.schedule.level(400)
    assert isinstance(denoiser, NetworkDenoiser)
    x, v = noise(1, *model.shape), noise(1, *model.shape, seed=1)
    index = torch.full((1,), denoiser.parametrization.time_condition(level))
    (_, ahead), (_, behind) = (denoiser.network.read(x + step * v, index) for step in (0.01, -0.01))
    slope = (ahead - behind) / 0.02
    jacobian = BottleneckJacobian(denoiser, level)
    forward = jacobian.times(x, v)
    assert (forward - slope).norm() < 1e-2 * slope.norm()
    backward = jacobian.transposed_times(x, forward)
    torch.testing.assert_close((v * backward).sum().float(), forward.square().sum(), rtol=1e-3, atol=0)


@unets
def test_directions_edit_under_their_condition(
    editors: Editors, tmp_path: Path, family: str, condition: Condition
) -> None:
    editor = editors(family)
    picture = tiny.save_picture(tmp_path / "a.png", 0, *editor.model.size)
    (direction,) = editor.discover(picture, 1, condition=condition, iterations=1, **QUICK)
    assert direction.vector.shape == editor.model.shape
    assert direction.recipe.condition == condition
    still, moved = editor.edits(picture, [{direction: 0}, {direction: 3}])
    assert not torch.equal(still, moved)


@pytest.mark.parametrize(
    ("family", "condition"),
    [("dit", Condition(label=3)), ("stable diffusion 1", Condition(PROMPT, guidance_scale=3.0))],
)
def test_what_has_no_bottleneck_is_refused(editors: Editors, tmp_path: Path, family: str, condition: Condition) -> None:
    editor = editors(family)
    picture = tiny.save_picture(tmp_path / "a.png", 0, *editor.model.size)
    with pytest.raises(ModelError, match=r"bottleneck h[^\n]+$"):
        editor.discover(picture, 1, condition=condition, **QUICK)
