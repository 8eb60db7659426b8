import json
import math
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddim_edit import Direction, DirectionError, Grid, InversionConfig, Latent
from ddim_edit.directions import SUFFIX, directions_in, find_direction, finding, packaged_directions

from .homes import H_HOME, H_TIMES, X_HOME, of_h, of_x, randn

SENTENCE = r"^[^\n]+$"
KEY = "ddim-edit direction"


@pytest.mark.parametrize("make", [of_x, of_h], ids=["x", "h"])
def test_files_round_trip(tmp_path: Path, make: Callable[..., Direction]) -> None:
    """All but the digits of the vector that float32 does not hold."""
    direction = make(report={"method": "mean", "auc": None, "n": 7, "nested": {"a": [1, 2.5]}})
    direction.save(tmp_path / f"a{SUFFIX}")
    found = Direction.load(tmp_path / f"a{SUFFIX}")
    for each in fields(Direction):
        if each.name != "vector":
            assert getattr(found, each.name) == getattr(direction, each.name), each.name
    assert found.vector.dtype == torch.float64
    assert float(found.vector.norm()) == pytest.approx(1, abs=1e-15)
    assert float((found.vector - direction.vector).abs().max()) < 1e-7
    assert found.config == direction.config
    found.require_fits(direction.recipe)


def test_equal_directions_give_equal_bytes(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}{SUFFIX}" for name in "abc")
    of_x(report={"a": 1, "b": 2}).save(first)
    of_x(report={"b": 2, "a": 1}).save(second)
    Direction.load(first).save(third)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()
    of_x(intercept=0.25, report={"a": 1, "b": 2}).save(second)
    assert first.read_bytes() != second.read_bytes()
    assert first.stat().st_mode & 0o444 == (tmp_path / f"b{SUFFIX}").stat().st_mode & 0o444


def with_header(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        of_x().save(path)
        header = {"format": 1, "name": "old", "intercept": 0.0, "mean": 0.0, "sd": 1.0, "times": [], "report": {}}
        header = {**header, "recipe": X_HOME.to_json(), **changes}
        kept = {name: value for name, value in header.items() if value is not None}
        save_file(load_file(path), path, {KEY: json.dumps(kept)})

    return change


def with_vector(vector: torch.Tensor, name: str = "vector") -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with_header()(path)
        header = {"format": 1, "name": "old", "intercept": 0, "mean": 0, "sd": 1, "times": [], "report": {}}
        save_file({name: vector}, path, {KEY: json.dumps({**header, "recipe": X_HOME.to_json()})})

    return change


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a letter"),
    "a folder": lambda path: path.mkdir(),
    "a latent": lambda path: Latent(randn(3, 4, 4), 400.0, X_HOME).save(path),
    "truncated": lambda path: (of_x().save(path), path.write_bytes(path.read_bytes()[:-7])),
    "bare weights": lambda path: save_file({"vector": torch.ones(3)}, path),
    "a header that is a list": lambda path: save_file({"vector": torch.ones(1)}, path, {KEY: "[1, 2]"}),
    "a header that is no JSON": lambda path: save_file({"vector": torch.ones(1)}, path, {KEY: "{"}),
    "no format": with_header(format=None),
    "a future format": with_header(format=2),
    "no name": with_header(name=None),
    "no recipe": with_header(recipe=None),
    "no times": with_header(times=None),
    "an unknown field": with_header(colour="red"),
    "a future recipe": with_header(recipe={**X_HOME.to_json(), "format": 4}),
    "a recipe without fields": with_header(recipe={"format": 1}),
    "a recipe of text": with_header(recipe="karras"),
    "an intercept of text": with_header(intercept="half"),
    "an sd of zero": with_header(sd=0.0),
    "a mean of NaN": with_header(mean=math.nan),
    "no vector": with_vector(torch.ones(3), "x"),
    "a vector of NaN": with_vector(torch.full((3,), math.nan)),
    "a vector of zeros": with_vector(torch.zeros(3)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"broken{SUFFIX}"
    BROKEN[name](path)
    with pytest.raises(DirectionError, match=r"broken\.direction\.safetensors: [^\n]+$"):
        Direction.load(path)


def test_messages_name_the_file(tmp_path: Path) -> None:
    for name in ("missing", "text", "truncated", "no recipe", "a future recipe"):
        path = tmp_path / f"{name}{SUFFIX}"
        BROKEN[name](path)
        with pytest.raises(DirectionError, match=path.name):
            Direction.load(path)
    with_header(format=2)(tmp_path / "future")
    with pytest.raises(DirectionError, match="reads format 1 of a direction file, not 2"):
        Direction.load(tmp_path / "future")


@pytest.mark.parametrize("target", ["a file/old", "\0"])
def test_unwritable_places_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "a file").write_text("kept")
    with pytest.raises((DirectionError, ValueError)):
        of_x().save(tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file"]


def test_failed_writes_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"old{SUFFIX}"
    of_x().save(path)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for home, name in ((os, "replace"), (os, "rename"), (Path, "replace"), (Path, "rename")):
        monkeypatch.setattr(home, name, fail)
    with pytest.raises(DirectionError, match="No space left on device"):
        of_x("new").save(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_vectors_must_have_length_1_and_a_positive_sd() -> None:
    for wrong in (
        {"vector": 2 * of_x().vector},
        {"vector": 0 * of_x().vector},
        {"vector": math.nan * of_x().vector},
        {"sd": 0.0},
        {"sd": -1.0},
        {"sd": math.nan},
        {"sd": math.inf},
        {"mean": math.nan},
        {"intercept": math.inf},
    ):
        with pytest.raises(DirectionError, match=SENTENCE):
            of_x(**wrong)


def test_score_counts_standard_deviations_from_the_mean() -> None:
    direction, latents = of_x(), randn(5, 3, 4, 4, seed=9)
    projections = (latents * direction.vector).sum((1, 2, 3))
    torch.testing.assert_close(direction.score(latents), (projections + 1.25) / 2, rtol=1e-12, atol=1e-12)
    step = direction.score(latents + 3 * 2.0 * direction.vector) - direction.score(latents)
    assert step.tolist() == pytest.approx([3] * 5)


def test_config_inverts_to_the_level_of_the_direction() -> None:
    assert of_x().config == InversionConfig("dpm2m", Grid("karras:14", (1.0, 90.0, 400.0)), dequantise=3)
    assert of_h().config == InversionConfig("dpm2m", Grid("karras:14", H_HOME.times), dequantise=0)
    assert (of_x().level, of_x().t) == ("400", 400.0)
    assert (of_h().level, of_h().t, of_h().times) == ("h", 1000.0, H_TIMES)


def test_directions_are_found_by_name_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "baby"):
        of_x(name).save(tmp_path / "directions" / "toy" / f"{name}{SUFFIX}")
    (tmp_path / "directions" / "toy" / "README.md").write_text("a card")
    monkeypatch.setattr(finding.resources, "files", lambda _: tmp_path)
    assert list(packaged_directions("toy")) == ["baby", "old"] == list(directions_in(tmp_path / "directions" / "toy"))
    assert packaged_directions("nosuch") == {}
    assert find_direction("baby", "toy").name == "baby"
    assert find_direction(tmp_path / "directions" / "toy" / f"old{SUFFIX}", "nosuch").name == "old"
    of_x("renamed").save(tmp_path / "plain.safetensors")
    assert find_direction(str(tmp_path / "plain.safetensors"), "toy").name == "renamed"
    for name, words in {
        "young": r"no direction 'young': toy comes with baby, old\.",
        f"young{SUFFIX}": "no such file",
    }.items():
        with pytest.raises(DirectionError, match=words):
            find_direction(name, "toy")
    with pytest.raises(DirectionError, match=r"none are packaged for nosuch"):
        find_direction("young", "nosuch")
    for folder in (tmp_path, tmp_path / "nosuch", tmp_path / "plain.safetensors"):
        with pytest.raises(DirectionError, match=SENTENCE):
            directions_in(folder)
