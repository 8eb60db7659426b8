import warnings
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_edit import ArgumentError, DirectionMismatchError, Latent, Latents, MixtureDenoiser, orthogonalize
from ddim_edit.directions import BottleneckEdit, Direction, ShellEdit, complement, edits, make_edit, rotate
from ddim_edit.errors import InputWarning, ModelError
from ddim_edit.latents.provenance import Recipe, UnknownOrigin

from .homes import H_HOME, SHAPE, X_HOME, of_h, of_x, randn

SEEDS, STRENGTHS = st.integers(0, 2**31), st.floats(-20, 20)
NOBODY = MixtureDenoiser(torch.zeros(1, *SHAPE), torch.ones(1), torch.ones(1))
SENTENCE = r"^[^\n]+$"


def make_latents(seed: int = 0, n: int = 3) -> Latents:
    return Latents(Latent(x, 400.0, X_HOME) for x in randn(n, *SHAPE, seed=seed))


def several(seed: int, n: int) -> list[Direction]:
    return [of_x(f"d{index}", seed + index, sd=0.5 + index) for index in range(n)]


@settings(max_examples=50)
@given(SEEDS, st.lists(STRENGTHS, min_size=1, max_size=4), st.integers(0, 3), st.booleans())
def test_shell_edit_rotates_by_the_summed_step(seed: int, strengths: list[float], kept: int, conditional: bool) -> None:
    (*moving,) = several(seed, len(strengths) + kept)
    keep = [moving.pop() for _ in range(kept)]
    latents, asked = make_latents(seed), dict(zip(moving, strengths, strict=True))
    moved, denoiser = make_edit(asked, keep, conditional)(latents, NOBODY)
    held = torch.stack([each.vector.flatten() for each in keep]) if keep else torch.zeros(0, 48).double()
    step = torch.zeros(48).double()
    for each, strength in asked.items():
        others = [*keep, *(o for o in moving if conditional and o is not each)]
        span = torch.stack([o.vector.flatten() for o in others]) if others else torch.zeros(0, 48).double()
        free = complement(each.vector.flatten(), span)
        step += strength * each.sd * free / free.norm()
    torch.testing.assert_close(moved.x.flatten(1), rotate(latents.x.flatten(1), step, held), rtol=0, atol=1e-10)
    assert denoiser is NOBODY
    for each in keep:
        torch.testing.assert_close(each.score(moved.x), each.score(latents.x), rtol=0, atol=1e-9)


@given(SEEDS, STRENGTHS)
def test_bottleneck_edit_shifts_each_time_by_its_own_part(seed: int, strength: float) -> None:
    a, b = of_h("a", seed), of_h("b", seed + 1, sd=0.25)
    latents = Latents([Latent(randn(*SHAPE), 1000.0, H_HOME)])

    def shifts_of(strengths: dict[Direction, float]) -> dict[float, torch.Tensor]:
        with mock.patch.object(edits, "ShiftedDenoiser") as shifted:
            BottleneckEdit(strengths)(latents, NOBODY)
        return shifted.call_args.args[1]

    shifts = shifts_of({a: strength, b: 1.0})
    for index, t in enumerate(a.times):
        expected = 2 * strength * a.vector[index] + 0.25 * b.vector[index]
        torch.testing.assert_close(shifts[t], expected, rtol=1e-12, atol=1e-12)
    assert shifts_of({a: 0.0, b: -0.0}) == {}


def rounded_otherwise(recipe: Recipe) -> Recipe:
    """The recipe with times that another version of NumPy computes."""
    return replace(recipe, times=tuple(float(np.nextafter(t, 0)) if t else t for t in recipe.times))


@pytest.mark.parametrize("make", [of_x, of_h], ids=["x", "h"])
def test_last_bits_of_times_make_no_other_grid(make: Any) -> None:
    direction = make("a", 0)
    direction.require_fits(rounded_otherwise(direction.recipe))
    other = replace(make("b", 1), recipe=rounded_otherwise(direction.recipe))
    orthogonalize(direction, [replace(other, times=tuple(np.nextafter(t, 0) for t in other.times))])


def test_bottleneck_edit_shifts_at_the_times_of_the_latents() -> None:
    direction, latent = of_h("a", 0), Latent(randn(*SHAPE), 1000.0, H_HOME)
    recipe = rounded_otherwise(H_HOME)
    moved = replace(latent, t=recipe.times[-1], recipe=recipe)
    with mock.patch.object(edits, "ShiftedDenoiser") as shifted:
        BottleneckEdit({direction: 1.0})(Latents([moved]), NOBODY)
    shifts = shifted.call_args.args[1]
    assert len(shifts) == len(direction.times)
    assert shifts.keys() <= set(recipe.times)
    assert not shifts.keys() & set(direction.times)


@given(SEEDS, st.integers(1, 5))
def test_orthogonalize_returns_the_nearest_unit_vector_outside_the_span(seed: int, n: int) -> None:
    direction, *against = several(seed, n + 1)
    free = orthogonalize(direction, against)
    span = torch.stack([each.vector.flatten() for each in against])
    assert float((span @ free.vector.flatten()).abs().max()) < 1e-12
    assert float(free.vector.norm()) == pytest.approx(1, abs=1e-12)
    fitted = span.T @ torch.linalg.lstsq(span.T, direction.vector.flatten()[:, None]).solution
    rest = direction.vector.flatten() - fitted[:, 0]
    torch.testing.assert_close(free.vector.flatten(), rest / rest.norm(), rtol=0, atol=1e-10)
    assert (free.name, free.sd, free.mean, free.recipe) == (direction.name, direction.sd, direction.mean, X_HOME)
    assert free.report["orthogonal_to"] == [each.name for each in against]


def test_orthogonalize_against_nothing_changes_nothing() -> None:
    direction = of_x()
    assert orthogonalize(direction, []) is direction


def test_orthogonalize_projects_out_the_span_not_one_after_the_other() -> None:
    """InterFaceGAN subtracts projections in turn, which are not orthogonal to both where the conditions are not."""
    a, b, c = several(0, 3)
    c = replace(c, vector=(b.vector + 0.5 * c.vector) / (b.vector + 0.5 * c.vector).norm())
    in_turn = orthogonalize(orthogonalize(a, [b]), [c])
    assert abs(float((in_turn.vector * b.vector).sum())) > 1e-3
    assert abs(float((orthogonalize(a, [b, c]).vector * b.vector).sum())) < 1e-12
    torch.testing.assert_close(orthogonalize(a, [b, c]).vector, orthogonalize(a, [c, b]).vector)


@pytest.mark.parametrize("make", [of_x, of_h], ids=["x", "h"])
def test_dependent_directions_are_refused(make: object) -> None:
    a, b = make("a", 0), make("b", 1)
    for direction, against in [(a, [a]), (a, [replace(a, vector=-a.vector)]), (b, [a, a]), (b, [a, make("c", 0)])]:
        with pytest.raises(ArgumentError, match=SENTENCE):
            orthogonalize(direction, against)
    assert isinstance(make_edit({a: 1.0, make("a", 0): 1.0}), ShellEdit | BottleneckEdit)


FOREIGN = {
    "components": {"process": "b" * 16},
    "schedule": {"kind": "cosine"},
    "prediction": "sample",
    "times": (1.0, 90.0, 401.0),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_mismatched_recipes_are_refused(name: str) -> None:
    away = replace(X_HOME, **{name: FOREIGN[name]})
    here, there = of_x(), of_x("away", 1, recipe=away)
    strangers = Latents([Latent(randn(*SHAPE), 400.0, away)])
    for refuse in (
        lambda: orthogonalize(here, [there]),
        lambda: make_edit({here: 1.0, there: 1.0}),
        lambda: make_edit({here: 1.0}, [there]),
        lambda: make_edit({here: 1.0})(strangers, NOBODY),
        lambda: make_edit({here: 1.0}, [of_x("b", 1)])(Latents([*make_latents(n=1), *strangers]), NOBODY),
    ):
        with pytest.raises(DirectionMismatchError, match=SENTENCE):
            refuse()


@pytest.mark.parametrize("name", ["solver", "dtype", "origin", "dequantise", "grid"])
def test_solver_dtype_origin_and_grid_name_may_differ(name: str) -> None:
    other = {
        "solver": "bdia",
        "dtype": "bfloat16",
        "origin": UnknownOrigin(),
        "dequantise": ((1, 1.0),),
        "grid": "mine",
    }[name]
    latents = Latents(replace(latent, recipe=replace(X_HOME, **{name: other})) for latent in make_latents())
    moved, _ = make_edit({of_x(): 1.0})(latents, NOBODY)
    torch.testing.assert_close(moved.x, make_edit({of_x(): 1.0})(make_latents(), NOBODY)[0].x)
    assert getattr(moved[0].recipe, name) == other or name == "origin"


def test_grid_mismatch_names_both_grids() -> None:
    theirs = replace(X_HOME, grid="quad", times=(1.0, 91.0, 400.0))
    with pytest.raises(DirectionMismatchError, match=r"level 400 on a grid karras:14 of 2 .* 400 on a grid quad of 2 "):
        of_x().require_fits(theirs)


def test_bottleneck_edit_needs_a_bottleneck() -> None:
    latents = Latents([Latent(randn(*SHAPE), 1000.0, H_HOME)])
    with pytest.raises(ModelError, match=SENTENCE):
        make_edit({of_h(): 1.0})(latents, NOBODY)


def test_no_directions_and_mixed_spaces_are_refused() -> None:
    for strengths, keep in (({}, []), ({}, [of_x()]), ({of_x(): 1.0, of_h(): 1.0}, []), ({of_h(): 1.0}, [of_x()])):
        with pytest.raises(ArgumentError, match=r"^(Directions of several kinds |An edit needs a )"):
            make_edit(strengths, keep)


@pytest.mark.parametrize("make", [of_x, of_h], ids=["x", "h"])
@pytest.mark.parametrize("sign", [1, -1])
def test_strengths_beyond_those_that_are_measured_are_warned_of(make: Any, sign: int) -> None:
    direction = make("a", 0)
    if not direction.times:
        assert direction.strongest == pytest.approx(0.3 * direction.vector.numel() ** 0.5 / direction.sd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_edit({direction: sign * direction.strongest})
    limit = f"{direction.strongest:.3g}"
    with pytest.warns(
        InputWarning, match=rf"Edits along a are measured for strengths from -{limit} to {limit}, not of"
    ):
        make_edit({direction: sign * 1.01 * direction.strongest})
