"""Amounts add up, caps are read strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import UsageError
from dspex.lm.spend import Budget, Spend

amounts = st.builds(
    Spend,
    st.integers(0, 1000),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.one_of(st.none(), st.floats(0, 1e3)),
)


@given(amounts, amounts)
def test_a_sum_is_unpriced_when_a_part_is(a: Spend, b: Spend) -> None:
    total = a + b
    assert (total.calls, total.tokens) == (a.calls + b.calls, a.tokens + b.tokens)
    assert (total.usd is None) == (a.usd is None or b.usd is None)
    assert total == b + a


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("4m", 240), ("1h", 3600), ("1h30m", 5400), ("1.5m", 90), ("500ms", 0.5), (3, 3)]
)
def test_wall_is_read_when_it_names_a_time(text: str | float, seconds: float) -> None:
    assert Budget(wall=text).wall_seconds == seconds


@pytest.mark.parametrize(
    "caps",
    [
        {"calls": 0},
        {"calls": -1},
        {"calls": 1.5},
        {"calls": True},
        {"tokens": 0},
        {"usd": 0.0},
        {"usd": -0.1},
        {"usd": float("nan")},
        {"usd": float("inf")},
        {"wall": 0},
        {"wall": "0s"},
        {"wall": "soon"},
        {"wall": ""},
        {"wall": "5"},
        {"wall": "4m and"},
    ],
)
def test_a_budget_is_refused_when_a_cap_means_nothing(caps: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Budget(**caps)  # type: ignore[arg-type]
    assert caught.value.code == "DX4501"
    assert next(iter(caps)) in str(caught.value)


def test_an_empty_budget_is_false() -> None:
    assert not Budget()
    assert Budget(calls=1)
