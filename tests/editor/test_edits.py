from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_edit import (
    ArgumentError,
    Direction,
    DirectionError,
    DirectionMismatchError,
    Editor,
    InversionConfig,
    Latents,
    Model,
    load_model,
    orthogonalize,
)
from ddim_edit.diffusion.bottleneck import ShiftedDenoiser
from ddim_edit.diffusion.integration import sample
from ddim_edit.diffusion.noise import draw_mixed_noise
from ddim_edit.diffusion.solvers.registry import find_solver
from ddim_edit.directions import BottleneckEdit, make_edit, to_unit
from ddim_edit.images import to_uint8
from ddim_edit.latents.provenance import EditOrigin

from .. import tiny
from .attributes import GREY, made, moved
from .measures import QUICK, as_tensor, max_error

LEVELS = ["0.4T", "xT", "h", "h:0.4T"]
SENTENCE = r"^[^\n]+$"


@pytest.fixture(scope="module")
def a(editor: Editor) -> Direction:
    return made(editor, "a", 1)


@pytest.fixture(scope="module")
def b(editor: Editor, a: Direction) -> Direction:
    """At an angle to a, as attributes are."""
    return made(editor, "b", 2, vector=made(editor, "b", 2).vector + a.vector)


@pytest.fixture(scope="module")
def c(editor: Editor) -> Direction:
    return made(editor, "c", 3)


@pytest.fixture(scope="module")
def latents(editor: Editor, files: list[Path], a: Direction) -> Latents:
    return editor.invert(files, a.config)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dequantise", [0, 7, None])
def test_strength_0_is_the_picture(editor: Editor, files: list[Path], level: str, dequantise: int | None) -> None:
    """Alone, and in the middle of a strip whose other pictures differ."""
    direction = made(editor, "a", 1, level, replace(QUICK, dequantise=dequantise))
    originals = as_tensor(files).double()
    still = editor.edit(files, {direction: 0.0})
    assert max_error(still, originals) < 1e-14
    assert torch.equal(to_uint8(still), to_uint8(originals))
    strip = editor.edits(files, [{direction: s} for s in (-2.0, 0.0, 2.0)])
    assert torch.equal(to_uint8(strip[:, 1]), to_uint8(originals))
    for side in (0, 2):
        assert (to_uint8(strip[:, side]) != to_uint8(originals)).any(1).flatten(1).any(1).all()


def test_codes_at_strength_0_are_the_same_bits(
    editor: Editor, latents: Latents, a: Direction, b: Direction, c: Direction
) -> None:
    still = moved(latents, {a: 0.0, b: -0.0}, keep=[c], conditional=True)
    assert torch.equal(still.x, latents.x)
    assert torch.equal(editor.edit(latents, {a: 0.0}), editor.decode(latents))


@settings(max_examples=25)
@given(by=st.tuples(st.floats(-6, 6), st.floats(-6, 6)), conditional=st.booleans(), hold=st.booleans())
def test_codes_come_back_from_an_edit_and_its_opposite_and_keep_their_radius(
    latents: Latents, a: Direction, b: Direction, c: Direction, by: tuple[float, float], conditional: bool, hold: bool
) -> None:
    options = {"keep": [c] if hold else [], "conditional": conditional}
    there = moved(latents, {a: by[0], b: by[1]}, **options)
    torch.testing.assert_close(there.x.flatten(1).norm(dim=1), latents.x.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    assert max_error(moved(there, {a: -by[0], b: -by[1]}, **options).x, latents.x) < 1e-9
    if hold:
        assert max_error(c.score(there.x), c.score(latents.x)) < 1e-9


def test_pictures_come_back_from_an_edit_and_its_opposite_as_well_as_from_a_round_trip(
    editor: Editor, files: list[Path]
) -> None:
    """Both shrink together with the steps; the way back starts from another picture than the way there led to."""
    errors = []
    for steps in (10, 40):
        direction = made(editor, "a", 1, config=InversionConfig(steps=steps, dequantise=None))
        there = editor.edit(files[:2], {direction: 1.0})
        back = editor.edit(there, {direction: -1.0})
        walks = (editor.invert(x, replace(direction.config, check=True)) for x in (files[:2], there))
        trip = max(latent.report["error"] for latents in walks for latent in latents)
        assert max_error(there, as_tensor(files[:2])) > 0.1
        assert max_error(back, as_tensor(files[:2])) < 2 * trip
        errors.append(trip)
    assert errors[1] < errors[0] / 4


def test_several_directions_at_once_are_their_summed_step(
    editor: Editor, files: list[Path], latents: Latents, a: Direction, b: Direction, c: Direction
) -> None:
    step = 3 * (1.0 * a.vector - 2.0 * b.vector + 0.5 * c.vector)
    total = replace(made(editor, "sum", 0, vector=step), sd=float(step.norm()))
    several = {a: 1.0, b: -2.0, c: 0.5}
    assert max_error(moved(latents, several).x, moved(latents, {total: 1.0}).x) < 1e-12
    assert max_error(editor.edit(files, several), editor.edit(files, {total: 1.0})) < 1e-5


@pytest.mark.parametrize("strength", [-3.0, 0.5, 4.0])
def test_what_is_preserved_keeps_its_score_while_the_target_moves(
    latents: Latents, a: Direction, b: Direction, c: Direction, strength: float
) -> None:
    free, held = moved(latents, {a: strength}), moved(latents, {a: strength}, keep=[b, c])
    for each in (b, c):
        assert max_error(each.score(held.x), each.score(latents.x)) < 1e-9
        assert max_error(each.score(free.x), each.score(latents.x)) > 1e-3
    assert ((a.score(held.x) - a.score(latents.x)) * strength > 0).all()


def test_a_conditional_edit_moves_along_what_is_orthogonal_to_the_others(
    editor: Editor, files: list[Path], a: Direction, b: Direction
) -> None:
    """And in a small step from where the code is orthogonal, the one score moves without the other."""
    alone = {orthogonalize(a, [b]): 2.0, orthogonalize(b, [a]): 1.0}
    conditional = editor.edit(files, {a: 2.0, b: 1.0}, conditional=True)
    assert max_error(conditional, editor.edit(files, alone)) < 1e-5
    assert max_error(conditional, editor.edit(files, {a: 2.0, b: 1.0})) > 1e-2
    for free, other in ((orthogonalize(a, [b]), b), (orthogonalize(b, [a]), a)):
        assert abs(float((free.vector * other.vector).sum())) < 1e-12
        assert (free.sd, float(free.vector.norm())) == (3.0, pytest.approx(1, abs=1e-12))


@pytest.mark.parametrize("level", ["0.4T", "h"])
def test_neither_batch_nor_order_moves_an_edit(model: Model, files: list[Path], level: str) -> None:
    whole = Editor(model)
    strengths = {made(whole, "a", 1, level): 2.0, made(whole, "b", 2, level): -1.0}
    pictures = whole.edit(files, strengths)
    for size in (1, 2):
        shuffled = Editor(model, size).edit(files[::-1], strengths)
        assert max_error(shuffled.flip(0), pictures) < 1e-5


@pytest.mark.parametrize("level", LEVELS)
def test_edits_of_codes_and_of_pictures_differ_by_what_the_round_trip_loses(
    editor: Editor, files: list[Path], level: str
) -> None:
    direction = made(editor, "a", 1, level)
    trip = editor.reconstruct(files, direction.config)
    lost = trip.originals - trip.decoded
    of_codes = editor.edit(editor.invert(files, direction.config), {direction: 1.5})
    assert max_error(editor.edit(files, {direction: 1.5}), of_codes + lost) < 1e-12
    assert max_error(of_codes, trip.decoded) > 1e-2


def test_one_latent_is_edited_to_one_image(editor: Editor, latents: Latents, a: Direction) -> None:
    assert torch.equal(editor.edit(latents[0], {a: 2.0}), editor.edit(latents[:1], {a: 2.0})[0])


def test_an_edited_code_says_what_was_done_to_it(latents: Latents, a: Direction, c: Direction) -> None:
    (first, *_) = moved(latents, {a: 2.0}, keep=[c])
    origin = EditOrigin({"a": 2.0}, ("c",), latents[0].recipe.origin)
    assert first.recipe == replace(latents[0].recipe, origin=origin)
    assert first.t == latents[0].t


def test_two_state_codes_are_edited_in_x_alone(editor: Editor, files: list[Path], a: Direction) -> None:
    pairs = editor.invert(files, replace(a.config, solver="bdia"))
    there = moved(pairs, {a: 1.0})
    assert torch.equal(there.state[1], pairs.state[1])
    assert max_error(editor.edit(pairs, {a: 0.0}), as_tensor(files)) < 1e-12


def test_directions_may_come_as_files(editor: Editor, files: list[Path], a: Direction, tmp_path: Path) -> None:
    path = tmp_path / "a.direction.safetensors"
    a.save(path)
    wanted = editor.edit(files, {a: 2.0})
    for named in (path, str(path)):
        assert max_error(editor.edit(files, {named: 2.0}), wanted) < 1e-4
    with pytest.raises(ArgumentError, match="lies in the span"):
        editor.edit(files, {a: 2.0}, keep=[path])


def test_what_an_edit_costs_is_told(model: Model, files: list[Path]) -> None:
    """A walk up, one down for what is lost, and one down for each setting."""
    spent: list[int] = []
    editor = Editor(model, batch_size=2, on_evaluation=spent.append)
    for level in ("0.4T", "xT", "h"):
        direction = made(Editor(model), "a", 1, level)
        steps = len(direction.recipe.times) - 1
        spent.clear()
        editor.edits(files, [{direction: s} for s in (-1.0, 0.0, 1.0)])
        assert sum(spent) == 5 * len(files) * steps
        assert max(spent) == 2


FOREIGN: dict[str, Callable[[Direction], Direction]] = {
    "components": lambda d: replace(d, recipe=replace(d.recipe, components={"process": "f" * 16})),
    "schedule": lambda d: replace(d, recipe=replace(d.recipe, schedule={"kind": "cosine", "T": 10})),
    "prediction": lambda d: replace(d, recipe=replace(d.recipe, prediction="epsilon")),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_direction_of_another_model_is_refused_before_anything_is_inverted(
    model: Model, files: list[Path], a: Direction, name: str
) -> None:
    spent: list[int] = []
    editor, foreign = Editor(model, on_evaluation=spent.append), FOREIGN[name](a)
    for images in (files, Latents([])):
        with pytest.raises(DirectionMismatchError, match=SENTENCE) as caught:
            editor.edit(images, {foreign: 1.0})
    for recipe in () if name == "components" else (foreign.recipe, a.recipe):
        value = getattr(recipe, name)
        assert (str(value["kind"]) if isinstance(value, dict) else str(value)[:12]) in str(caught.value)
    assert not spent


@pytest.mark.parametrize(
    "other",
    [InversionConfig(steps=4, level=900), InversionConfig(steps=9, level=465), InversionConfig(grid="quad", steps=4)],
)
def test_codes_of_another_level_or_grid_are_refused_by_both_names(
    editor: Editor, files: list[Path], a: Direction, other: InversionConfig
) -> None:
    strangers = editor.invert(files[:1], other)
    with pytest.raises(DirectionMismatchError, match=SENTENCE) as caught:
        editor.edit(strangers, {a: 1.0})
    for times in (a.recipe.times, strangers[0].recipe.times):
        assert f"level {times[-1]:g} on a grid " in str(caught.value)
        assert f" of {len(times) - 1} steps" in str(caught.value)
    assert f"a grid {strangers[0].recipe.grid} of" in str(caught.value)
    foreign = replace(a, recipe=strangers[0].recipe)
    for refused in ({"strengths": {a: 1.0, foreign: 1.0}}, {"strengths": {a: 1.0}, "keep": [foreign]}):
        with pytest.raises(DirectionMismatchError, match=SENTENCE):
            editor.edit(files, **refused)
    with pytest.raises(DirectionMismatchError, match=SENTENCE):
        editor.edits(files, [{a: 1.0}, {foreign: 1.0}])


def test_codes_of_another_model_are_refused(editor: Editor, files: list[Path], a: Direction, tmp_path: Path) -> None:
    twin = Editor(load_model(tiny.save_model(tmp_path / "tiny", seed=1)))
    with pytest.raises(DirectionMismatchError, match=SENTENCE):
        editor.edit(twin.invert(files, a.config), {a: 1.0})
    theirs = replace(a, recipe=twin.invert(files[:1], a.config)[0].recipe)
    with pytest.raises(DirectionMismatchError, match=SENTENCE):
        editor.edit(twin.invert(files, a.config), {theirs: 1.0})


def test_a_vector_of_another_shape_is_refused_by_both(editor: Editor, files: list[Path], a: Direction) -> None:
    narrow = replace(a, vector=to_unit(a.vector[..., :8]))
    with pytest.raises(DirectionMismatchError, match=r"\[3, 16, 8\].*\[3, 16, 16\]"):
        editor.edit(files, {narrow: 1.0})


@pytest.mark.parametrize(("grid", "steps"), [("karras:14", 4), ("karras:14", 10), ("leading", 10), ("uniform", 4)])
@pytest.mark.parametrize("level", ["0.2T", "0.4T", "600", "xT", "h", "h:0.2T"])
def test_a_direction_is_accepted_at_the_level_it_was_fitted_for(
    editor: Editor, grid: str, steps: int, level: str
) -> None:
    """However far the grid's nearest time is from it."""
    direction = made(editor, "a", 1, level, InversionConfig("ddim", grid, steps))
    still = editor.edit(GREY, {direction: 0.0}, level=level)
    assert max_error(still, GREY) < 1e-12


def test_another_level_than_the_directions_own_is_refused_by_both_names(editor: Editor, files: list[Path]) -> None:
    method = InversionConfig("ddim", "uniform", 10)
    at_400, at_h = made(editor, "a", 1, "0.4T", method), made(editor, "a", 1, "h:0.2T", method)
    for level in (400, "400", "0.40T", 400.0, "0.42T"):
        editor.edit(GREY, {at_400: 0.0}, level=level)
    for level in ("h", "h:200"):
        editor.edit(GREY, {at_h: 0.0}, level=level)
    for direction, level in [(at_400, "xT"), (at_400, 300), (at_400, "h"), (at_400, "h:0.4T"), (at_h, "0.2T")]:
        with pytest.raises(DirectionMismatchError, match=SENTENCE) as caught:
            editor.edit(files, {direction: 1.0}, level=level)
        assert f"direction a is of level {direction.level}, not {level}. " in str(caught.value)
    with pytest.raises(DirectionMismatchError, match=r"level h, not h:0\.9T"):
        editor.edit(files, {at_h: 1.0}, level="h:0.9T")
    for level in ("high", "0", "1001", "-1", ""):
        with pytest.raises(ArgumentError, match=SENTENCE):
            editor.edit(files, {at_400: 1.0}, level=level)


def test_directions_of_several_spaces_are_refused(editor: Editor, files: list[Path]) -> None:
    at_end, in_h = made(editor, "x", 1, "xT"), made(editor, "y", 1, "h")
    for refused in ({"strengths": {at_end: 1.0, in_h: 1.0}}, {"strengths": {in_h: 1.0}, "keep": [at_end]}):
        with pytest.raises(ArgumentError, match=r"Directions of several kinds cannot be combined: .*level h"):
            editor.edit(files, **refused)
    some, others = made(editor, "y", 1, "h:0.4T"), made(editor, "z", 2, "h")
    with pytest.raises(DirectionMismatchError, match="bottlenecks at times"):
        editor.edit(files, {some: 1.0, others: 1.0})


def test_directions_that_follow_from_one_another_are_refused(
    editor: Editor, files: list[Path], a: Direction, b: Direction
) -> None:
    same, opposite = replace(a, name="same"), replace(a, vector=-a.vector)
    between = replace(a, vector=to_unit(a.vector + b.vector))
    refusals = [
        {"strengths": {a: 1.0}, "keep": [a]},
        {"strengths": {a: 1.0}, "keep": [opposite]},
        {"strengths": {between: 1.0}, "keep": [a, b]},
        {"strengths": {b: 1.0}, "keep": [a, same]},
        {"strengths": {a: 1.0, same: 1.0}, "conditional": True},
        {"strengths": {a: 1.0, b: 1.0, between: 1.0}, "conditional": True},
    ]
    for refused in refusals:
        with pytest.raises(ArgumentError, match=SENTENCE):
            editor.edit(files, **refused)
    assert max_error(editor.edit(files, {a: 1.0, same: 1.0}), editor.edit(files, {a: 2.0})) < 1e-5


def test_nothing_to_do_is_refused(editor: Editor, files: list[Path], a: Direction) -> None:
    refusals: list[Callable[[], object]] = [
        lambda: editor.edit(files, {}),
        lambda: editor.edits(files, []),
        lambda: editor.edits(files, [{a: 1.0}, {}]),
        lambda: editor.edit([], {a: 1.0}),
        lambda: editor.edit(Latents([]), {a: 1.0}),
        lambda: editor.edit(torch.zeros(0, 3, 16, 16), {a: 1.0}),
    ]
    for refused in refusals:
        with pytest.raises(ArgumentError, match=SENTENCE):
            refused()


def test_an_unknown_direction_is_refused_with_what_is_known(editor: Editor, files: list[Path]) -> None:
    for name in ("nosuch", "nosuch.direction.safetensors"):
        with pytest.raises(DirectionError, match=name):
            editor.edit(files, {name: 1.0})
    with pytest.raises(DirectionError, match="none are packaged for tiny"):
        editor.direction("old")


def test_an_edit_in_h_is_decoding_with_the_summed_shifts(editor: Editor, files: list[Path]) -> None:
    model, (y, z) = editor.model, (made(editor, name, seed, "h") for name, seed in (("y", 1), ("z", 2)))
    latents = editor.invert(files, y.config)
    shifts = {t: 3 * (2 * y.vector[i] - z.vector[i]) for i, t in enumerate(y.times)}
    noise = draw_mixed_noise([latent.recipe.dequantise for latent in latents], model.shape)
    spans = model.schedule.spans(y.config.make_grid(model.schedule))
    by_hand = sample(ShiftedDenoiser(model.denoiser, shifts), (latents.x,), spans, find_solver("dpm2m"), noise).x0
    assert max_error(editor.edit(latents, {y: 2.0, z: -1.0}), by_hand) < 1e-5
    assert max_error(by_hand, editor.decode(latents)) > 1e-2


def test_an_edit_in_h_leaves_codes_alone_and_minds_what_is_preserved(editor: Editor, files: list[Path]) -> None:
    y, z = (made(editor, name, seed, "h") for name, seed in (("y", 1), ("z", 2)))
    latents = editor.invert(files[:1], y.config)
    same, shifted = make_edit({y: 2.0}, [z])(latents, editor.model.denoiser)
    assert same is latents
    assert isinstance(shifted, ShiftedDenoiser)
    shift = torch.stack([shifted.shifts[t] for t in y.times])
    assert abs(float((shift * z.vector).sum())) < 1e-12
    assert float(shift.norm()) == pytest.approx(6)


@pytest.mark.parametrize("solver", ["heun", "belm", "bdia", "edict", "midpoint"])
def test_codes_that_a_shift_of_h_would_not_reach_are_refused(editor: Editor, files: list[Path], solver: str) -> None:
    """Their steps ask for eps alone, which an asymmetric shift leaves as it is: the picture would not change."""
    direction = made(editor, "y", 1, "h")
    latents = editor.invert(files[:1], replace(direction.config, solver=solver))
    with pytest.raises(ArgumentError, match=rf"The solver {solver} does not notice a shift .* dpm2m or ddim"):
        editor.edit(latents, {direction: 1.0})
    if solver == "heun":
        plainly, shifted = BottleneckEdit({direction: 1.0}, "plain")(latents, editor.model.denoiser)
        assert max_error(editor._runner.decode(plainly, shifted), editor.decode(latents)) > 1e-3
