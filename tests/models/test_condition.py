import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_edit.errors import ArgumentError
from ddim_edit.models.condition import NOTHING, Condition

CONDITIONS = st.builds(
    Condition,
    prompt=st.text(max_size=20),
    negative_prompt=st.text(max_size=20),
    label=st.none() | st.integers(0, 10**6),
    guidance_scale=st.floats(allow_nan=False, allow_infinity=False),
)


@given(CONDITIONS)
def test_a_record_of_a_condition_is_that_condition(condition: Condition) -> None:
    assert Condition.from_dict(condition.as_dict()) == condition


@given(CONDITIONS)
def test_a_record_holds_what_differs_from_no_condition_alone(condition: Condition) -> None:
    record = condition.as_dict()
    assert (record == {}) == (condition == NOTHING)
    assert all(getattr(NOTHING, name) != value for name, value in record.items())
    assert condition.guided == (condition.guidance_scale != 1)


@pytest.mark.parametrize("wrong", [{"label": -1}, {"guidance_scale": math.nan}, {"guidance_scale": math.inf}], ids=str)
def test_invalid_conditions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="must be"):
        Condition(**wrong)


def test_an_unknown_entry_is_named() -> None:
    with pytest.raises(ArgumentError, match="A condition has no mood"):
        Condition.from_dict({"prompt": "a cat", "mood": "sad"})
