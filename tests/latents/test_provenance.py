"""Records of provenance: their JSON is what files have had from the beginning."""

import json
from dataclasses import fields
from typing import Any

import pytest

from ddim_edit import InversionConfig
from ddim_edit.errors import ArgumentError, LatentError
from ddim_edit.images import Box, CentreSquare, Fit
from ddim_edit.latents.image_recipes import (
    OPTIONS,
    CombinationRecipe,
    DiscoveryRecipe,
    EditRecipe,
    EvaluationRecipe,
    ImageRecipe,
    InterpolationRecipe,
    ProbeRecipe,
    ReconstructionRecipe,
    SampleRecipe,
    SampleSheetRecipe,
    SelfInterpolationRecipe,
    TrainingSheetRecipe,
    TranslationRecipe,
    command_line,
    recipe_from_json,
)
from ddim_edit.latents.provenance import (
    CombinationOrigin,
    EditOrigin,
    ImportOrigin,
    InterpolationOrigin,
    InversionOrigin,
    LatentArrayOrigin,
    NoiseOrigin,
    Origin,
    Recipe,
    TranslationOrigin,
    UnknownOrigin,
    origin_from_json,
)
from ddim_edit.models.condition import Condition

COMPONENTS = {"network": "-".join(["ab" * 8, "cd" * 8, "ef" * 8]), "process": "01" * 8}
RECIPE = Recipe(
    *("faces64", COMPONENTS, {"kind": "linear", "T": 1000}, "epsilon", "float32", "dpm2m", "karras:14", (1.0, 1000.0)),
    condition=Condition(prompt="a cat"),
    dequantise=((7, 0.5), (8, 0.5)),
    origin=NoiseOrigin(3),
)
RECIPE_JSON = {
    "model": "faces64",
    "components": COMPONENTS,
    "schedule": {"kind": "linear", "T": 1000},
    "prediction": "epsilon",
    "dtype": "float32",
    "solver": "dpm2m",
    "grid": "karras:14",
    "times": [1.0, 1000.0],
    "condition": {"prompt": "a cat"},
    "dequantise": [[7, 0.5], [8, 0.5]],
    "origin": {"kind": "noise", "seed": 3},
    "format": 3,
}
CROPPED = {"crop": {"kind": "centre square"}}
ORIGINS: list[tuple[Origin, dict[str, Any]]] = [
    (UnknownOrigin(), {}),
    (UnknownOrigin({"kind": "of the future", "a": [1]}), {"kind": "of the future", "a": [1]}),
    (NoiseOrigin(3), {"kind": "noise", "seed": 3}),
    (
        InversionOrigin("s", exact=True, preprocessing=CROPPED, refine="gradient"),
        {"kind": "inversion", "exact": True, "source": "s", "preprocessing": CROPPED, "refine": "gradient"},
    ),
    (InversionOrigin("s"), {"kind": "inversion", "exact": False, "source": "s", "preprocessing": None}),
    (LatentArrayOrigin(None), {"kind": "codes", "dequantise": None, "refine": None}),
    (LatentArrayOrigin(level="0.4T"), {"kind": "codes", "dequantise": 0, "refine": None, "level": "0.4T"}),
    (ImportOrigin("npy", "s", 1), {"kind": "import", "format": "npy", "source": "s", "row": 1}),
    (
        InterpolationOrigin("slerp", 0.25, (NoiseOrigin(3), UnknownOrigin())),
        {"kind": "slerp", "w": 0.25, "ends": [{"kind": "noise", "seed": 3}, {}]},
    ),
    (
        CombinationOrigin((0.5, -2.0), (NoiseOrigin(3), UnknownOrigin())),
        {"kind": "combination", "weights": [0.5, -2.0], "sources": [{"kind": "noise", "seed": 3}, {}]},
    ),
    (
        EditOrigin({"old": 2.0}, ("female",), NoiseOrigin(3)),
        {"kind": "edit", "set": {"old": 2.0}, "keep": ["female"], "of": {"kind": "noise", "seed": 3}},
    ),
    (TranslationOrigin(RECIPE), {"kind": "translation", "of": RECIPE_JSON}),
]
SAMPLING = {"solver": "heun", "grid": "quad", "steps": 4, "condition": {"label": 3}}
IMAGES: list[tuple[ImageRecipe, dict[str, Any], str]] = [
    (
        EditRecipe({"old": 2.0, "dir/wide.direction.safetensors": -0.5}, ("female",), True, (-1.0, 0.0, 1.0), "m", "s"),
        {
            "kind": "edit",
            "set": {"old": 2.0, "wide": -0.5},
            "keep": ["female"],
            "conditional": True,
            "factors": [-1.0, 0.0, 1.0],
            "model": "m",
            "source": "s",
        },
        "edit a.png --set old=+2 --set dir/wide.direction.safetensors=-0.5 --keep female --conditional --strip -1:1:3",
    ),
    (
        EditRecipe(
            {"a cat/dog -> a dog": 2.0, "smiling": -1.0},
            ("a hat",),
            False,
            (1.0,),
            "m",
            "s",
            words={
                "a cat/dog -> a dog": {"to": "a dog", "from": "a cat/dog", "mask_quantile": 0.5},
                "smiling": {"to": "smiling", "mask_quantile": 0.5},
                "a hat": {"to": "a hat", "mask_quantile": 0.5},
            },
            config={"steps": 9, "condition": {"prompt": "a cat"}},
        ),
        {
            "kind": "edit",
            "set": {"a cat/dog -> a dog": 2.0, "smiling": -1.0},
            "keep": ["a hat"],
            "conditional": False,
            "factors": [1.0],
            "model": "m",
            "source": "s",
            "words": {
                "a cat/dog -> a dog": {"to": "a dog", "from": "a cat/dog", "mask_quantile": 0.5},
                "smiling": {"to": "smiling", "mask_quantile": 0.5},
                "a hat": {"to": "a hat", "mask_quantile": 0.5},
            },
            "config": {"steps": 9, "condition": {"prompt": "a cat"}},
        },
        "edit a.png --from 'a cat/dog' --to 'a dog=+2' --set smiling=-1 --keep 'a hat' --mask-quantile 0.5 --steps 9 "
        "--prompt 'a cat'",
    ),
    (
        InterpolationRecipe("lerp", 9, True, (RECIPE, RECIPE)),
        {"kind": "lerp", "frames": 9, "loop": True, "ends": [RECIPE_JSON, RECIPE_JSON]},
        "interpolate a.png --frames 9 --interpolation lerp --loop",
    ),
    (
        InterpolationRecipe("slerp", 9, False, (RECIPE,) * 6, (7, 5), 3),
        {"kind": "slerp", "frames": 9, "loop": False, "ends": [RECIPE_JSON] * 6, "sheet": [7, 5], "across": 3},
        "interpolate a.png --sheet 7x5 --across 3",
    ),
    (
        TranslationRecipe("cats", "m", "s", {**SAMPLING, "exact": True, "dequantise": None, "tol": 0.001}),
        {
            "kind": "translation",
            "to": "cats",
            "model": "m",
            "source": "s",
            **SAMPLING,
            "exact": True,
            "dequantise": None,
            "tol": 0.001,
        },
        "translate a.png --to cats --steps 4 --solver heun --grid quad --exact --tol 0.001 --no-dequantise --class 3",
    ),
    (
        ReconstructionRecipe("m", ("s", "t"), {"check": True, "dequantise": 5, "refine": "gradient", "condition": {}}),
        {
            "kind": "reconstruction",
            "model": "m",
            "sources": ["s", "t"],
            "check": True,
            "dequantise": 5,
            "refine": "gradient",
            "condition": {},
        },
        "reconstruct a.png --check --dequantise-seed 5 --refine-codec gradient",
    ),
    (
        DiscoveryRecipe("m", ("s", "t"), ("smile", "v2"), "0.6T", (-4.0, 0.0, 4.0), 7, SAMPLING, 20),
        {
            "kind": "discovery",
            "model": "m",
            "sources": ["s", "t"],
            "names": ["smile", "v2"],
            "level": "0.6T",
            "factors": [-4.0, 0.0, 4.0],
            "seed": 7,
            "iterations": 20,
            **SAMPLING,
        },
        "discover a.png --count 2 --names smile,v2 --level 0.6T --strengths -4:4:3 --seed 7 --iterations 20"
        " --steps 4 --solver heun --grid quad --class 3",
    ),
    (
        SampleRecipe("m", 7, 0.5, False, {**SAMPLING, "solver": "ddim"}),
        {"kind": "sample", "model": "m", "seed": 7, "eta": 0.5, "posterior_mean": False, **SAMPLING, "solver": "ddim"},
        "sample a.png -n 1 --seed 7 --eta 0.5 --steps 4 --grid quad --class 3",
    ),
    (
        SampleSheetRecipe("m", (7, 8), 0.0, False, {"solver": "dpm2m", "grid": "standard", "steps": 20}),
        {
            "kind": "samples",
            "model": "m",
            "seed": [7, 8],
            "eta": 0.0,
            "posterior_mean": False,
            "solver": "dpm2m",
            "grid": "standard",
            "steps": 20,
        },
        "sample a.png -n 2 --seed 7",
    ),
    (EvaluationRecipe({"model": "m", "tol": 0.1}), {"kind": "evaluation", "model": "m", "tol": 0.1}, ""),
    (
        CombinationRecipe((0.5, -1.0, 2.0)),
        {"kind": "combination", "weights": [0.5, -1.0, 2.0]},
        "combine a.png --weights 0.5,-1,2",
    ),
    (CombinationRecipe((1.0, 1.0)), {"kind": "combination", "weights": [1.0, 1.0]}, "combine a.png"),
    (SelfInterpolationRecipe({"model": "m"}), {"kind": "self-interpolation", "model": "m"}, ""),
    (
        ProbeRecipe("m", ("0.4T", "xT"), 0, SAMPLING),
        {"kind": "probe", "model": "m", "levels": ["0.4T", "xT"], "seed": 0, **SAMPLING},
        "",
    ),
    (TrainingSheetRecipe(500), {"kind": "samples of a training", "step": 500}, ""),
]


@pytest.mark.parametrize(("origin", "record"), ORIGINS, ids=lambda each: type(each).__name__)
def test_origins_are_written_as_ever_and_read_back(origin: Origin, record: dict[str, Any]) -> None:
    assert origin.to_json() == record
    assert origin_from_json(json.loads(json.dumps(record))) == origin


@pytest.mark.parametrize(("recipe", "record", "line"), IMAGES, ids=lambda each: type(each).__name__)
def test_recipes_of_images_are_written_as_ever_and_read_back(
    recipe: ImageRecipe, record: dict[str, Any], line: str
) -> None:
    assert recipe.to_json() == record
    assert recipe_from_json(json.loads(json.dumps(record))).to_json() == record


def test_recipes_of_latents_are_written_as_ever_and_read_back() -> None:
    assert RECIPE.to_json() == RECIPE_JSON
    assert recipe_from_json(json.loads(json.dumps(RECIPE_JSON))) == RECIPE


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"kind": "noise"}, "seed is missing"),
        ({"kind": "noise", "seed": "3"}, "seed must be an integer, not '3'"),
        ({"kind": "noise", "seed": 3, "colour": "red"}, "has no entry 'colour'"),
        ({"kind": "edit", "set": {"old": "much"}, "keep": [], "of": {}}, "set.old must be a finite number"),
        ({"kind": "slerp", "w": 0.5, "ends": [{}]}, "ends must be a list of 2"),
        ({"kind": "slerp", "w": 0.5, "ends": [{}, {"kind": "import"}]}, "format is missing"),
        ({"kind": "combination", "weights": [1.0], "sources": [{}, {}]}, "must have a weight for each source"),
        ({"kind": "combination", "weights": [0.0], "sources": [{}]}, "not all of them 0"),
        ({"kind": "combination", "weights": ["a"], "sources": [{}]}, r"weights\[0\] must be a finite number"),
        ({"kind": "translation", "of": {}}, "reads format 3 of a recipe, not null"),
    ],
    ids=str,
)
def test_malformed_origins_are_refused_by_name(record: dict[str, Any], words: str) -> None:
    with pytest.raises(LatentError, match=words):
        Recipe.from_json({**RECIPE_JSON, "origin": record})


def test_origins_nested_too_deeply_are_refused() -> None:
    record: dict[str, Any] = {}
    for _ in range(900):
        record = {"kind": "edit", "set": {}, "keep": [], "of": record}
    with pytest.raises(LatentError, match="nested too deeply"):
        Recipe.from_json({**RECIPE_JSON, "origin": record})


@pytest.mark.parametrize(("recipe", "record", "line"), IMAGES, ids=lambda each: type(each).__name__)
def test_command_lines_have_what_is_not_the_default(recipe: ImageRecipe, record: dict[str, Any], line: str) -> None:
    if line:
        assert command_line(recipe, ["a.png"], "out") == f"ddim-edit {line} -o out"
    else:
        with pytest.raises(ArgumentError, match="No command line is known"):
            command_line(recipe, ["a.png"], "out")


def test_command_lines_quote_names_and_end_with_the_options_of_the_caller() -> None:
    recipe = EditRecipe({"old": 1e-7, "wide": 0.0}, (), False, (1.0,), "m", "s")
    line = command_line(recipe, ["-my photo.png"], "out", crop=Box(1, 2, 3), options=["--dtype", "fp32"])
    assert line == (
        "ddim-edit edit './-my photo.png' --set old=+0.0000001 --set wide=0 --crop 1,2,3 --dtype fp32 -o out"
    )
    assert "--crop fit" in command_line(recipe, ["a.png"], "out", crop=Fit())
    assert "--crop centre" in command_line(recipe, ["a.png"], "out", crop=CentreSquare())


def test_defaults_of_command_lines_are_those_of_the_config() -> None:
    """The tolerance is left out: its default depends on --exact."""
    for each in fields(InversionConfig):
        if each.name not in ("condition", "tol"):
            assert OPTIONS[each.name][1] == each.default, each.name
    assert {each.name for each in fields(Condition)} < set(OPTIONS)
