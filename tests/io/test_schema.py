import json
from pathlib import Path
from typing import Any

import pytest

from ddim_edit.errors import ModelError
from ddim_edit.io import schema
from ddim_edit.io.schema import Check

ACCEPTED: dict[str, tuple[Check, list[Any], list[Any]]] = {
    "text": (schema.text, ["", "a"], [None, 1, ["a"]]),
    "integer": (schema.integer, [0, -(2**63), 2**64 - 1], [True, 1.0, 2**64, "1", None]),
    "count": (schema.count, [0, 7], [-1, False]),
    "positive_int": (schema.positive_int, [1], [0, True, 1.0]),
    "number": (schema.number, [0, -1.5, 10**300], [True, None, "1", float("nan"), float("inf"), 10**400]),
    "positive_number": (schema.positive_number, [1e-9, 1], [0, -1, float("nan")]),
    "flag": (schema.flag, [True, False], [0, 1, None]),
    "one_of": (schema.one_of("a", 1, None), ["a", 1, None], ["b", True, 1.0]),
    "list_of": (schema.list_of(schema.count), [[], [1, 2], (3,)], [[-1], 3, "ab", None]),
    "pair": (schema.list_of(schema.count, 2), [[1, 2]], [[1], [1, 2, 3]]),
    "optional": (schema.optional(schema.list_of(schema.count)), [None, [1]], [[None], 1]),
    "either": (schema.either(schema.count, schema.list_of(schema.count)), [1, [1]], [-1, [-1], None]),
    "table_of": (schema.table_of({"a": schema.count}), [{}, {"a": 1, "b": None}], [{"a": -1}, [], None]),
    "closed": (schema.table_of({"a": schema.count}, closed=True), [{}, {"a": 1}], [{"b": 1}]),
    "map_of": (schema.map_of(schema.text), [{}, {"x": "y"}], [{"x": 1}, []]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_checks_accept_what_they_say(name: str) -> None:
    check, good, bad = ACCEPTED[name]
    for value in good:
        assert check.find_problem(value, "x") is None, value
    for value in bad:
        assert check.find_problem(value, "x"), value


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"a": "x", "b": [1]}, "a must be a finite number, not 'x'"),
        ({"a": 1}, "b is missing"),
        ({"a": 1, "b": [1, -1]}, "b[1] must be an integer of at least 0, not -1"),
        ({"a": 1, "b": [], "c": {"d": 3}}, "c.d must be a text or null, not 3"),
        ({"a": 1, "b": [], "c": {"d": None}, "e": 0}, "e is not a known entry"),
        ({"a": 1, "b": [], "c": {"d": None}}, None),
    ],
)
def test_the_first_problem_is_named(record: dict[str, Any], problem: str | None) -> None:
    checks = {
        "a": schema.number,
        "b": schema.list_of(schema.count),
        "c": schema.table_of({"d": schema.optional(schema.text)}),
    }
    assert schema.find_problem(record, checks, closed=True) == problem


def test_errors_name_the_source_and_end_with_the_remedy() -> None:
    with pytest.raises(ModelError, match=r"^a\.json: steps must be a positive integer, not 0\. Correct it\.$"):
        schema.validate({"steps": 0}, {"steps": schema.positive_int}, "a.json", ModelError, "Correct it.")
    with pytest.raises(ModelError, match=r"^a\.json: it must be a JSON object, not a list of 2 entries\.$"):
        schema.validate([1, 2], {}, "a.json", ModelError)


def test_single_entries_have_defaults() -> None:
    read = {"source": "a.json", "error": ModelError}
    assert schema.read_entry({"T": 10}, "T", schema.positive_int, 1000, **read) == 10
    assert schema.read_entry({}, "T", schema.positive_int, 1000, **read) == 1000
    with pytest.raises(ModelError, match=r"^a\.json: T is missing\.$"):
        schema.read_entry({}, "T", schema.positive_int, **read)


@pytest.mark.parametrize("text", ["[" * 100_000, b'{"\xff": 1}', "{a: 1}", "", '{"a": 1' + "0" * 10_000 + "}"])
def test_what_is_not_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        schema.parse_json(text)


def test_json_files_are_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text(json.dumps({"a": 1}))
    assert schema.read_json(tmp_path / "good.json", ModelError) == {"a": 1}
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text("a")
    for name in ("absent", "list", "text"):
        with pytest.raises(ModelError, match=rf"{name}\.json: .* Fetch it again\.$"):
            schema.read_json(tmp_path / f"{name}.json", ModelError, "Fetch it again.")


@pytest.mark.parametrize(
    "value", ["a" * 10_000, 10**10_000, ["a"] * 10_000, {}, None], ids=["text", "number", "list", "table", "null"]
)
def test_values_of_any_length_are_described_shortly(value: object) -> None:
    assert len(schema.describe(value)) <= 60
