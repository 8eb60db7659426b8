import pytest

from ddim_edit.io.schema import find_invalid, is_count, is_number, is_whole, list_of, maybe, parsed, short, table_of


@pytest.mark.parametrize("text", ["[" * 100_000, b'{"\xff": 1}', "{a: 1}", "", '{"a": 1' + "0" * 10_000 + "}"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(text)


def test_numbers_are_finite_and_no_truth_values() -> None:
    assert all(map(is_number, [0, -1.5, 10**300]))
    assert not any(map(is_number, [True, None, "1", float("nan"), float("inf"), 10**400]))
    assert [is_whole(value) for value in (2**64 - 1, 2**64, -(2**63), True, 1.0)] == [True, False, True, False, False]
    assert [is_count(value) for value in (0, -1)] == [True, False]


def test_the_first_misfit_is_named() -> None:
    checks = {"a": is_number, "b": maybe(list_of(is_count)), "c": table_of({"d": is_number})}
    assert find_invalid({"a": 1, "b": [1, 2], "c": {"e": "any"}}, checks) is None
    assert find_invalid({"a": 1, "b": None, "c": {}}, checks) is None
    assert find_invalid({"a": "x", "b": 3}, checks) == "a 'x'"
    assert find_invalid({"a": 1, "b": [-1], "c": {}}, checks) == "b of several entries"
    assert find_invalid({"a": 1, "b": None}, checks) == "no c"


def test_values_of_any_length_are_shown_in_few_words() -> None:
    assert max(len(short(value)) for value in ("a" * 10_000, 10**10_000, ["a"] * 10_000, {})) <= 60
