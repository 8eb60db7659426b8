import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddim_edit.errors import ArgumentError, LatentError, LatentMismatchError
from ddim_edit.latents.interpolation import linear_combination, slerp
from ddim_edit.latents.latent import SUFFIX, Latent, Latents, combine, interpolate, require_compatible
from ddim_edit.latents.provenance import (
    COMPATIBILITY,
    DTYPES,
    FORMAT,
    CombinationOrigin,
    EditOrigin,
    InterpolationOrigin,
    InversionOrigin,
    NoiseOrigin,
    Recipe,
    UnknownOrigin,
)
from ddim_edit.models.condition import Condition
from ddim_edit.models.devices import PRECISIONS

RECIPE = Recipe(
    model="faces",
    components={"network": "-".join(["ab" * 8, "cd" * 8, "ef" * 8]), "process": "01" * 8},
    schedule={"kind": "linear", "start": 1e-4, "end": 0.02, "T": 1000},
    prediction="epsilon",
    dtype="float32",
    solver="bdia",
    grid="karras",
    times=(1.0, 40.25, 1000 / 3, 1000.0),
    dequantise=((2**63 - 1, 1.0),),
    origin=InversionOrigin("cd" * 32),
)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
ANY_FLOATS = arrays.arrays(np.float64, SHAPES, elements=st.floats(allow_nan=False, allow_infinity=False))


def randn(seed: int = 0) -> Tensor:
    return torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def latent(seed: int = 0, **changes: Any) -> Latent:
    """A latent with a delta, and some parts of its recipe changed."""
    report = {"nfe": 20, "residual": 0.0, "converged": True, "error": None}
    return Latent(randn(seed), 1000.0, replace(RECIPE, **changes), 0.1 * randn(seed + 1), report)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("latents") / f"one{SUFFIX}"


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        read: dict[str, Any] = json.loads(file.metadata()["ddim-edit"])
    return read


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Save a good latent, but with its header changed."""
    latent().save(path)
    record = header(path)
    change(record)
    save_file({"x": randn(), "delta": randn(1)}, path, {"ddim-edit": json.dumps(record)})


def assert_refused(path: Path, wanted: str) -> None:
    with pytest.raises(LatentError) as caught:
        Latent.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert wanted in message
    assert "\n" not in message
    assert str(path.parent) not in message
    assert message.endswith(".")


@settings(max_examples=60)
@given(x=ANY_FLOATS)
def test_numbers_read_back_bit_by_bit(place: Path, x: np.ndarray) -> None:
    one = Latent(torch.from_numpy(x), 1000.0, RECIPE, torch.from_numpy(-x))
    one.save(place)
    back = Latent.load(place)
    assert back.delta is not None
    for written, read in ((x, back.x), (-x, back.delta)):
        assert read.numpy().dtype == np.float64
        assert read.shape == written.shape
        assert read.numpy().tobytes() == written.tobytes()


@pytest.mark.parametrize(
    "one",
    [
        latent(),
        replace(latent(solver="ddim"), delta=None, report={}),
        latent(dequantise=(), origin=UnknownOrigin()),
    ],
)
def test_everything_else_reads_back_equal(place: Path, one: Latent) -> None:
    one.save(place)
    back = Latent.load(place)
    assert back.recipe == one.recipe
    assert type(back.recipe.times) is tuple
    assert back.recipe.compatibility_key == one.recipe.compatibility_key
    assert (back.t, back.report) == (one.t, one.report)
    assert (back.delta is None) == (one.delta is None)
    assert len(back.state) == len(one.state)
    require_compatible([one, back])


def test_views_of_tensors_are_saved(place: Path) -> None:
    batch = torch.stack([randn(0), randn(1), randn(2)])
    Latent(batch[1], 1000.0, RECIPE, batch[2].transpose(1, 2)).save(place)
    back = Latent.load(place)
    assert back.delta is not None
    assert torch.equal(back.x, batch[1])
    assert torch.equal(back.delta, batch[2].transpose(1, 2))


def test_equal_latents_make_equal_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "one.safetensors", tmp_path / "another-name.safetensors"]
    shuffled = dict(reversed(list(RECIPE.schedule.items())))
    for path, one in zip(paths, (latent(), latent(schedule=shuffled)), strict=True):
        one.save(path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    latent(1).save(paths[0])
    assert paths[0].read_bytes() != second


def test_header_is_sorted_json_without_paths(place: Path) -> None:
    latent().save(place)
    with safe_open(place, "pt") as file:
        assert list(file.metadata()) == ["ddim-edit"]
        text = file.metadata()["ddim-edit"]
    record = json.loads(text)
    assert text == json.dumps(record, sort_keys=True)
    assert set(record) == {"recipe", "report", "t"}
    assert set(record["recipe"]) == {each.name for each in fields(Recipe)} - {"detail"}
    assert record["recipe"]["format"] == FORMAT
    assert str(place.parent).encode() not in place.read_bytes()
    assert place.name.encode() not in place.read_bytes()


def test_save_leaves_no_temporary_files(tmp_path: Path) -> None:
    latent().save(tmp_path / "one.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "gone.safetensors"
    assert_refused(path, "gone.safetensors: no such file.")


def test_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(LatentError, match="folder: this is a folder, not a file"):
        Latent.load(tmp_path / "folder")


@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(place: Path, cut: float) -> None:
    latent().save(place)
    content = place.read_bytes()
    place.write_bytes(content[: int(cut * len(content))])
    assert_refused(place, "not a latent file")


@given(content=st.binary(max_size=200))
def test_any_other_file_is_refused(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    assert_refused(place, "not a latent file")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_safetensors_file_is_refused(place: Path, metadata: dict[str, str] | None) -> None:
    save_file({"x": randn()}, place, metadata)
    assert_refused(place, "it has no 'ddim-edit' header. Invert the image again.")


HEADERS = ["{", "[]", "7", "{}", '{"recipe": 3, "report": {}, "t": 1}', '{"recipe": {}, "t": 1}']


@pytest.mark.parametrize("text", HEADERS)
def test_a_foreign_header_is_refused(place: Path, text: str) -> None:
    save_file({"x": randn()}, place, {"ddim-edit": text})
    assert_refused(place, "not a latent file")


def test_a_file_without_x_is_refused(place: Path) -> None:
    latent().save(place)
    save_file({"y": randn()}, place, {"ddim-edit": json.dumps(header(place))})
    assert_refused(place, "not a latent file")


TIMES = "the recipe: times must be 2 to 10,002 times from 0 up, each later than the one before, not "
CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another t": (
        lambda record: record.update(t=999.0),
        "it stands at t = 999, but the last time of its recipe is 1000",
    ),
    "times that fall": (
        lambda record: record["recipe"].update(times=[1.0, 1000.0, 40.0]),
        f"{TIMES}a list of 3 entries",
    ),
    "a time twice": (lambda record: record["recipe"].update(times=[1.0, 1.0, 1000.0]), f"{TIMES}a list of 3 entries"),
    "a negative time": (lambda record: record["recipe"].update(times=[-1.0, 1000.0]), f"{TIMES}a list of 2 entries"),
    "a single time": (lambda record: record["recipe"].update(times=[1000.0]), f"{TIMES}a list of 1 entries"),
    "a text for a time": (
        lambda record: record["recipe"].update(times=["1", 1000.0]),
        f"{TIMES}a list of 2 entries",
    ),
    "NaN for a time": (
        lambda record: record["recipe"].update(times=[1.0, float("nan")]),
        f"{TIMES}a list of 2 entries",
    ),
    "100,001 times": (
        lambda record: record["recipe"].update(times=[index / 100 for index in range(100_001)]),
        f"{TIMES}a list of 100001 entries",
    ),
    "times beyond the schedule": (
        lambda record: (record.update(t=2000.0), record["recipe"].update(times=[1.0, 2000.0])),
        "the recipe: its times go up to 2000, and its schedule to 1000.",
    ),
    "a solver of one state": (
        lambda record: record["recipe"].update(solver="ddim"),
        "it has a second state, delta, but its solver ddim has only one. Invert the image again.",
    ),
    "an unknown dtype": (lambda record: record["recipe"].update(dtype="int8"), "the recipe: dtype must be "),
    "a million noises": (
        lambda record: record["recipe"].update(dequantise=[[1, 1.0]] * 5000),
        "dequantise must be up to 4096 pairs of a seed and a weight from -1000 to 1000, not a list of 5000 entries",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_latents_that_contradict_themselves_are_refused(place: Path, name: str) -> None:
    change, message = CONTRADICTIONS[name]
    rewrite(place, change)
    assert_refused(place, message)
    with pytest.raises(LatentError):
        Latent.read_header(place)


ENDS = {
    "inversion": RECIPE.origin,
    "interpolation": InterpolationOrigin("slerp", 0.5, (UnknownOrigin(), RECIPE.origin)),
    "combination": CombinationOrigin((1.0, 2.0), (UnknownOrigin(), RECIPE.origin)),
    "edit": EditOrigin({"old": 1.0}, (), RECIPE.origin),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_second_state_may_be_missing_of_noise_alone(place: Path, name: str) -> None:
    single = replace(latent(origin=NoiseOrigin(3)), delta=None)
    single.save(place)
    assert Latent.load(place).delta is None
    replace(single, recipe=replace(single.recipe, origin=ENDS[name])).save(place)
    assert_refused(place, "its solver bdia has two states, but the second one, delta, is missing.")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.bool, torch.complex64])
def test_numbers_of_other_kinds_are_refused(place: Path, dtype: torch.dtype) -> None:
    if dtype.is_complex:
        pytest.importorskip("safetensors", "0.7")  # older versions cannot write them
    latent().save(place)
    save_file({"x": randn().to(dtype), "delta": randn().to(dtype)}, place, {"ddim-edit": json.dumps(header(place))})
    assert_refused(place, "x, delta and detail must be real numbers of one shape [C, H, W], not ")


def test_dtypes_are_those_that_models_have() -> None:
    # Networks in memory may be in float64, which none is loaded in.
    assert (*PRECISIONS, "float64") == DTYPES


@pytest.mark.parametrize("version", [1, 2])
def test_older_recipes_are_refused(place: Path, version: int) -> None:
    rewrite(place, lambda record: record["recipe"].update(format=version))
    assert_refused(place, f"this version of ddim-edit reads format 3 of a recipe, not {version}. Make it again")


def test_the_condition_is_kept_with_the_latent(place: Path) -> None:
    condition = Condition(prompt="a cat", negative_prompt="grey", guidance_scale=3.5)
    latent(condition=condition).save(place)
    assert Latent.load(place).recipe.condition == condition
    assert header(place)["recipe"]["condition"] == condition.as_dict()


def test_with_condition_changes_the_recipe_alone(place: Path) -> None:
    plain, dog = latent(), Condition(prompt="a dog")
    moved = plain.with_condition(dog)
    assert moved.recipe == replace(plain.recipe, condition=dog)
    assert torch.equal(moved.x, plain.x)
    with pytest.raises(LatentMismatchError, match="These latents differ in condition"):
        require_compatible([plain, moved])


@pytest.mark.parametrize("condition", [{"mood": "sad"}, {"label": -1}, {"guidance_scale": "much"}, 3])
def test_malformed_conditions_are_refused(place: Path, condition: object) -> None:
    rewrite(place, lambda record: record["recipe"].update(condition=condition))
    assert_refused(place, "the recipe: condition")


@pytest.mark.parametrize("number", [FORMAT + 1, 0, None, "1"])
def test_another_format_is_refused(place: Path, number: object) -> None:
    rewrite(place, lambda record: record["recipe"].update(format=number))
    assert_refused(place, f"this version of ddim-edit reads format {FORMAT} of a recipe, not")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda recipe: recipe.update(colour="blue"), "colour is not a known entry"),
        (lambda recipe: recipe.pop("grid"), "grid is missing"),
    ],
)
def test_unknown_and_missing_fields_are_named(
    place: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    rewrite(place, lambda record: change(record["recipe"]))
    assert_refused(place, f"the recipe: {named}")


@pytest.mark.parametrize(("name", "value"), [("times", 3), ("dequantise", 5), ("dequantise", [1]), ("times", None)])
def test_fields_of_another_shape_are_refused(place: Path, name: str, value: object) -> None:
    rewrite(place, lambda record: record["recipe"].update({name: value}))
    assert_refused(place, f"the recipe: {name}")


OTHERS: dict[str, Any] = {
    "components": {**RECIPE.components, "process": "02" * 8},
    "schedule": {"kind": "cosine", "max_beta": 0.999, "T": 1000},
    "dtype": "bfloat16",
    "condition": Condition(prompt="a cat"),
    "solver": "belm",
    "times": (1.0, 1000.0),
}


def test_every_part_of_the_compatibility_key_is_tried() -> None:
    assert set(OTHERS) == set(COMPATIBILITY)


@pytest.mark.parametrize("name", OTHERS)
def test_incompatible_latents_are_refused_naming_both(name: str) -> None:
    a, b = latent(), latent(1, **{name: OTHERS[name]})
    for attempt in (lambda: require_compatible([a, a, b]), lambda: interpolate(a, b, "slerp", 0.5)):
        with pytest.raises(LatentMismatchError) as caught:
            attempt()
        if name == "components":
            assert "faces has another noise schedule or parametrization (other settings)" in str(caught.value)
            continue
        mine, theirs = (str(each)[:37] for each in (getattr(RECIPE, name), OTHERS[name]))
        assert str(caught.value).startswith(f"These latents differ in {name}: {mine}")
        assert f" and {theirs}" in str(caught.value)
        assert str(caught.value).endswith("Invert the images with the same settings.")


@pytest.mark.parametrize(
    "changes", [{"origin": UnknownOrigin()}, {"dequantise": ()}, {"grid": "other"}, {"schedule": dict(RECIPE.schedule)}]
)
def test_compatibility_ignores_what_decoding_ignores(changes: dict[str, Any]) -> None:
    require_compatible([latent(), latent(1, **changes)])


def test_last_bits_of_times_make_no_other_grid() -> None:
    times = tuple(float(np.nextafter(t, 0)) if t else t for t in RECIPE.times)
    a, b = latent(), latent(1, times=times)
    assert times != RECIPE.times
    require_compatible([a, replace(b, t=times[-1])])


@pytest.mark.parametrize("count", [0, 1])
def test_few_latents_are_always_compatible(count: int) -> None:
    require_compatible([latent()] * count)


@given(st.floats(0, 1))
def test_interpolate_mixes_x_delta_noise_and_origin(w: float) -> None:
    a, b = latent(0, dequantise=((1, 1.0),)), latent(5, dequantise=((2, 1.0),))
    made = interpolate(a, b, "slerp", w)
    assert a.delta is not None
    assert b.delta is not None
    assert made.delta is not None
    assert torch.equal(made.x, slerp(a.x, b.x, w))
    assert torch.allclose(made.delta, (1 - w) * a.delta + w * b.delta, rtol=0, atol=1e-15)
    assert dict(made.recipe.dequantise) == {seed: weight for seed, weight in ((1, 1 - w), (2, w)) if weight}
    assert made.recipe.compatibility_key == a.recipe.compatibility_key
    assert made.recipe.origin == InterpolationOrigin("slerp", w, (a.recipe.origin, b.recipe.origin))
    assert (made.t, made.report) == (a.t, {})


@pytest.mark.parametrize("method", ["slerp", "lerp", "norm"])
def test_interpolation_is_exact_at_its_ends(method: str) -> None:
    a, b = latent(0, dequantise=((1, 1.0),)), latent(5, dequantise=((2, 1.0),))
    for w, end in ((0.0, a), (1.0, b)):
        made = interpolate(a, b, method, w)
        assert all(torch.equal(part, same) for part, same in zip(made.state, end.state, strict=True))
        assert made.recipe.dequantise == end.recipe.dequantise


@given(st.lists(st.floats(0.1, 2), min_size=3, max_size=3), st.sampled_from([1, -1]))
def test_combine_mixes_x_delta_and_noise_alike(sizes: list[float], sign: int) -> None:
    weights = [sizes[0], sign * sizes[1], sizes[2]]
    latents = [latent(5 * seed, dequantise=((seed, 1.0),)) for seed in range(3)]
    made = combine(latents, weights)
    assert torch.equal(made.x, linear_combination([each.x for each in latents], weights))
    factors = [weight for _, weight in sorted(made.recipe.dequantise)]
    assert [factor / factors[0] for factor in factors] == pytest.approx([weight / weights[0] for weight in weights])
    for part, parts in zip(made.state, zip(*(each.state for each in latents), strict=True), strict=True):
        expected = sum(factor * each for factor, each in zip(factors, parts, strict=True))
        assert torch.allclose(part, torch.as_tensor(expected), rtol=0, atol=1e-12)
    assert made.recipe.compatibility_key == latents[0].recipe.compatibility_key
    assert made.recipe.origin == CombinationOrigin(tuple(weights), tuple(each.recipe.origin for each in latents))
    assert (made.t, made.report) == (latents[0].t, {})


def test_as_much_noise_is_taken_off_a_mixture_as_of_its_sources() -> None:
    """Of independent latents: the variances of independent noises add up to 1."""
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    latents = [replace(latent(dequantise=((seed, 1.0),)), x=x, delta=None) for seed, x in enumerate(states)]
    noises = combine(latents, [3, 1, -1, 1]).recipe.dequantise
    assert sum(weight**2 for _, weight in noises) == pytest.approx(1, abs=0.02)


def test_a_combination_with_a_single_weight_is_its_latent() -> None:
    latents = [latent(seed, dequantise=((seed, 1.0),)) for seed in range(3)]
    made = combine(latents, [0, 3, 0])
    assert all(torch.equal(part, same) for part, same in zip(made.state, latents[1].state, strict=True))
    assert made.recipe.dequantise == latents[1].recipe.dequantise


def test_without_weights_a_combination_is_the_centroid() -> None:
    latents = [latent(seed) for seed in range(3)]
    assert torch.equal(combine(latents).x, combine(latents, [1, 1, 1]).x)


def test_combined_latents_can_be_saved_and_combined_again(place: Path) -> None:
    latents = [latent(seed, dequantise=((seed, 1.0),)) for seed in range(3)]
    once = combine(latents, [1, -1, 1])
    once.save(place)
    twice = combine([Latent.load(place), latent(9)], [0.5, 0.5])
    twice.save(place)
    assert Latent.load(place).recipe == twice.recipe


def test_more_noises_than_a_recipe_holds_are_not_mixed() -> None:
    noisy = [latent(first, dequantise=tuple((first + seed, 1e-4) for seed in range(3000))) for first in (0, 3000)]
    with pytest.raises(ArgumentError, match="at most 4,096 dequantisation noises, not 6,000"):
        combine(noisy)


def test_interpolated_latents_can_be_saved_and_interpolated_again(place: Path) -> None:
    once = interpolate(latent(0), latent(5), "slerp", 0.25)
    once.save(place)
    twice = interpolate(Latent.load(place), latent(9), "lerp", 0.5)
    twice.save(place)
    assert Latent.load(place).recipe == twice.recipe


@given(st.floats(0, 1))
def test_missing_delta_counts_as_zero(w: float) -> None:
    bare, paired = replace(latent(0), delta=None), latent(3)
    made = interpolate(bare, paired, "slerp", w)
    assert made.delta is not None
    assert paired.delta is not None
    assert torch.allclose(made.delta, w * paired.delta, rtol=0, atol=1e-15)
    assert interpolate(bare, replace(paired, delta=None), "slerp", w).delta is None


def test_latents_are_an_immutable_sequence() -> None:
    some = [latent(seed) for seed in range(4)]
    row = Latents(iter(some))
    assert len(row) == 4
    assert list(row) == some
    assert row[2] is some[2]
    assert row[-1] is some[3]
    assert isinstance(row[1:3], Latents)
    assert list(row[1:3]) == some[1:3]
    assert list(row[::-1]) == some[::-1]
    assert some[0] in row
    with pytest.raises(IndexError):
        row[4]
    with pytest.raises(TypeError):
        row[0] = some[1]  # type: ignore[index]


def test_latents_stack_what_a_solver_decodes() -> None:
    some = [latent(seed) for seed in range(3)]
    x, delta = Latents(some).state
    assert torch.equal(x, torch.stack([one.x for one in some]))
    assert torch.equal(Latents(some).x, x)
    assert torch.equal(delta, torch.stack([one.delta for one in some if one.delta is not None]))
    (bare,) = Latents([replace(one, delta=None) for one in some]).state
    assert torch.equal(bare, x)


def test_a_latent_keeps_its_delta_whatever_its_neighbours_have() -> None:
    some = [latent(0), replace(latent(1), delta=None)]
    _, delta = Latents(some).state
    assert torch.equal(delta[0], some[0].state[1][0])
    assert torch.equal(delta[1], torch.zeros_like(delta[1]))
