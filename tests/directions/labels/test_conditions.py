import math
from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ddim_edit.directions.labels import parse_condition
from ddim_edit.errors import ArgumentError

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text("abcXYZ äß_", min_size=1).filter(lambda word: word.strip() not in ("", "inf", "nan"))


@given(NUMBERS, NUMBERS)
def test_comparisons_compare_numbers(cell: float, bound: float) -> None:
    assert parse_condition(f">={bound!r}")(repr(cell)) == (cell >= bound)
    assert parse_condition(f"<={bound!r}")(repr(cell)) == (cell <= bound)
    assert parse_condition(f"> {bound!r}")(repr(cell)) == (cell > bound)
    assert parse_condition(f" < {bound!r} ")(repr(cell)) == (cell < bound)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_ranges_include_both_ends(cell: float, one: float, other: float) -> None:
    low, high = sorted([one, other])
    condition = parse_condition(f"{low!r}..{high!r}")
    assert condition(repr(cell)) == (low <= cell <= high)
    assert condition(repr(low))
    assert condition(repr(high))


@given(NUMBERS)
def test_a_range_is_two_comparisons(cell: float) -> None:
    both = parse_condition(">=18")(repr(cell)) and parse_condition("<=32")(repr(cell))
    assert parse_condition("18..32")(repr(cell)) == both


@given(WORDS, WORDS)
def test_words_are_met_by_themselves_only(word: str, other: str) -> None:
    condition = parse_condition(word)
    assert condition(word)
    assert condition(f"  {word} ")
    assert condition(other) == (other.strip() == word.strip())


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_numbers_are_met_in_any_notation(number: int, other: int) -> None:
    condition = parse_condition(str(number))
    assert condition(f"{number}.0")
    assert condition(f"{number}e0")
    assert condition(str(other)) == (other == number)


@pytest.mark.parametrize("text", ["", "  ", ">", ">=", "<x", "=5", "==5", "!=5", "=>5", ">=5 years", "> 1e", "<>3"])
def test_malformed_conditions_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not a condition such as '>=55'"):
        parse_condition(text)


@pytest.mark.parametrize("text", ["..", "18..", "..32", "32..18"])
def test_ranges_without_two_ascending_ends_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not a range such as"):
        parse_condition(text)


@given(st.text(max_size=200))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        condition = parse_condition(text)
    except ArgumentError:
        return
    assert isinstance(condition("1"), bool)


@pytest.mark.parametrize("condition", [">=1", "1..2"])
@given(st.text(max_size=200))
def test_comparisons_refuse_cells_that_are_not_finite_numbers(condition: str, cell: str) -> None:
    with suppress(ValueError):
        assume(not math.isfinite(float(cell)))
    with pytest.raises(ArgumentError, match="is not a number"):
        parse_condition(condition)(cell)
