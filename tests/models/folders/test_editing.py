"""All that an editor does, on tame networks of every family: codes, files, paths, other conditions, edits, probes."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddim_edit import (
    DirectionMismatchError,
    Editor,
    InversionConfig,
    Latent,
    LatentMismatchError,
    Latents,
    MeanDifference,
    ModelError,
    find_solver,
    fit_direction,
    probe,
    sample,
)
from ddim_edit.diffusion.grids import Grid
from ddim_edit.models.condition import NOTHING, Condition

from ... import pipelines, tiny
from .conftest import Editors
from .originals import NEGATIVE, PROMPT, noise

GUIDED, OTHER = Condition(PROMPT, NEGATIVE, guidance_scale=2.0), Condition("young woman")
CONDITIONS: dict[str, tuple[Condition, Condition | None]] = {
    **dict.fromkeys([name for name in pipelines.LATENTS if not name.startswith(("ldm", "dit"))], (GUIDED, OTHER)),
    "dit": (Condition(label=3, guidance_scale=2.0), Condition(label=7)),
    "classes": (Condition(label=1), Condition(label=4)),
    **dict.fromkeys(["ldm vq", "ldm kl", "cifar10", "diffusers' own"], (NOTHING, None)),
}
"""What to invert under, and another thing to decode under."""
CONDITIONED = [family for family, (_, other) in CONDITIONS.items() if other]
TRANSFORMERS = [family for family in CONDITIONS if family.startswith(("dit", "stable diffusion 3", "flux"))]
UNETS = [family for family in CONDITIONS if family not in TRANSFORMERS]
ONE_SENTENCE = r"^[^\n]+$"
TOL = 1e-4
families = pytest.mark.parametrize("family", CONDITIONS)
conditioned = pytest.mark.parametrize("family", CONDITIONED)


def pictures(*seeds: int) -> Tensor:
    """Smooth pictures, float64 [B, 3, H, W] in [-1, 1]."""
    size = pipelines.SIZE
    rows = [torch.from_numpy(tiny.pixels(seed, size, size)).permute(2, 0, 1) for seed in seeds]
    return torch.stack(rows).double() / 127.5 - 1


def method(family: str, solver: str = "dpm2m", **options: object) -> InversionConfig:
    return InversionConfig(solver, steps=6, condition=CONDITIONS[family][0], **{"tol": TOL, **options})


def x0_of(editor: Editor, latents: Latents) -> Tensor:
    """What codes without dequantisation decode to, before the codec."""
    recipe, model = latents[0].recipe, editor.model
    spans = model.schedule.spans(Grid(recipe.grid, recipe.times))
    return sample(model.conditioned_on(recipe.condition), latents.state, spans, find_solver(recipe.solver)).x0


def max_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize(("family", "solver"), list(zip(CONDITIONS, cycle(["dpm2m", "ddim", "belm"]), strict=False)))
def test_exact_latents_decode_to_the_encoded_image(editors: Editors, family: str, solver: str) -> None:
    editor, codec = editors(family), editors(family).model.codec
    latents = editor.invert(pictures(0), method(family, solver, exact=True, dequantise=None))
    assert all(latent.report["converged"] for latent in latents)
    x0 = codec.encode(pictures(0))
    assert max_error(x0_of(editor, latents), x0) < 1.5 * TOL
    # The decoders are as random as the networks, and steeper.
    assert max_error(editor.decode(latents), codec.decode(x0)) < 100 * TOL


@families
def test_a_latent_keeps_its_condition_in_its_file(editors: Editors, family: str, tmp_path: Path) -> None:
    editor = editors(family)
    (latent,) = editor.invert(pictures(0), method(family))
    latent.save(tmp_path / "one.latent.safetensors")
    loaded = Latent.load(tmp_path / "one.latent.safetensors")
    assert loaded.recipe == latent.recipe
    assert loaded.recipe.condition == CONDITIONS[family][0]
    assert torch.equal(editor.decode([loaded]), editor.decode([latent]))


@families
def test_a_path_leads_from_picture_to_picture(editors: Editors, family: str) -> None:
    editor = editors(family)
    latents = editor.invert(pictures(0, 1), method(family))
    path = editor.interpolate(latents, 3)
    assert [each.recipe.condition for each in path] == 3 * [CONDITIONS[family][0]]
    first, middle, last = editor.decode(path)
    ends = editor.decode(latents)
    assert max_error(torch.stack([first, last]), ends) < 1e-5
    assert min(max_error(middle, end) for end in ends) > 1e-2


@conditioned
def test_decoding_with_another_condition_changes_the_image(editors: Editors, family: str) -> None:
    editor, other = editors(family), CONDITIONS[family][1]
    assert other is not None
    (latent,) = editor.invert(pictures(0), method(family))
    assert max_error(editor.decode([latent.with_condition(other)]), editor.decode([latent])) > 1e-3
    assert torch.equal(editor.decode([latent.with_condition(latent.recipe.condition)]), editor.decode([latent]))


@conditioned
def test_codes_of_two_conditions_are_not_mixed(editors: Editors, family: str) -> None:
    editor, other = editors(family), CONDITIONS[family][1]
    assert other is not None
    (a,), (b,) = (
        editor.invert(pictures(0), each) for each in (method(family), replace(method(family), condition=other))
    )
    with pytest.raises(LatentMismatchError, match=ONE_SENTENCE) as caught:
        editor.interpolate([a, b])
    assert "These latents differ in condition" in str(caught.value)


@families
def test_a_direction_is_fitted_and_edits_under_its_condition(editors: Editors, family: str) -> None:
    editor, shown = editors(family), pictures(0, 1, 2, 3)
    (codes,) = editor.latents_at(shown, ["0.4T"], method(family))
    direction = fit_direction("bright", codes, np.array([0.0, 0.0, 1.0, 1.0]), MeanDifference(), folds=2)
    assert direction.config.condition == CONDITIONS[family][0]
    assert max_error(editor.edit(shown[:2], {direction: 0.0}), shown[:2]) < 1e-12
    assert max_error(editor.edit(shown[:2], {direction: 2.0}), shown[:2]) > 1e-2


@conditioned
def test_a_direction_stays_with_its_condition(editors: Editors, family: str) -> None:
    editor, other = editors(family), CONDITIONS[family][1]
    assert other is not None
    direction = editor.attribute_from(pictures(0), pictures(1), config=method(family))
    strangers = editor.invert(pictures(2), replace(method(family), condition=other, level=400))
    with pytest.raises(DirectionMismatchError, match=ONE_SENTENCE) as caught:
        editor.edit(strangers, {direction: 1.0})
    assert "condition" in str(caught.value)


@families
def test_codes_at_several_levels_can_be_probed(editors: Editors, family: str) -> None:
    """Which of two pictures a noisy copy comes from can be read off its code at every level."""
    editor = editors(family)
    noisy = pictures(*[0, 1] * 6) + 0.01 * noise(12, 3, pipelines.SIZE, pipelines.SIZE)
    levels = ["0.2T", "xT"]
    codes = editor.latents_at(noisy, levels, method(family, dequantise=None))
    assert [each.values.shape for each in codes] == 2 * [(12, *editor.model.shape)]
    named = {level: each.values.flatten(1).numpy() for level, each in zip(levels, codes, strict=True)}
    report = probe(named, np.tile([0.0, 1.0], 6), sizes=[None], draws=1)
    assert report.best().balanced_accuracy == 1


# The bottleneck.


DISTILLED = ("flux dev", "latent consistency")
"""Networks that take the scale of guidance as an input, and so run once."""


@pytest.mark.parametrize("family", UNETS)
def test_a_bottleneck_edits_every_unet(editors: Editors, family: str) -> None:
    """Ours or diffusers', under a prompt or class, without guidance."""
    editor, shown = editors(family), pictures(0, 1, 2, 3)
    condition = replace(CONDITIONS[family][0], negative_prompt="", guidance_scale=1.0)
    (codes,) = editor.latents_at(shown, ["h"], replace(method(family), condition=condition))
    assert codes.times
    direction = fit_direction("bright", codes, np.array([0.0, 0.0, 1.0, 1.0]), MeanDifference(), folds=2)
    assert max_error(editor.edit(shown[:1], {direction: 0.0}), shown[:1]) < 1e-12
    assert max_error(editor.edit(shown[:1], {direction: 3.0}), shown[:1]) > 1e-5


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_transformers_have_no_bottleneck(editors: Editors, family: str) -> None:
    condition = replace(CONDITIONS[family][0], negative_prompt="", guidance_scale=1.0)
    with pytest.raises(ModelError, match=ONE_SENTENCE) as caught:
        editors(family).latents_at(pictures(0), ["h"], replace(method(family), condition=condition))
    assert "does not expose its bottleneck" in str(caught.value)


@pytest.mark.parametrize("family", [name for name in CONDITIONED if name not in ("classes", *DISTILLED)])
def test_guidance_has_no_bottleneck(editors: Editors, family: str) -> None:
    with pytest.raises(ModelError, match=ONE_SENTENCE) as caught:
        editors(family).latents_at(pictures(0), ["h"], method(family))
    assert "(GuidedNetwork) does not expose its bottleneck" in str(caught.value)


# What is hard.


def test_diverging_guidance_is_reported(models: Callable[[str], object]) -> None:
    """The defect correction runs on the guided denoiser, and tells of what did not converge."""
    editor = Editor(models("stable diffusion 2"))
    strong = Condition(PROMPT, NEGATIVE, guidance_scale=200.0)
    (latent,) = editor.invert(pictures(0), InversionConfig("ddim", steps=4, exact=True, tol=TOL, condition=strong))
    assert latent.report["converged"] is False
    assert latent.report["error"] is None or latent.report["error"] > TOL
