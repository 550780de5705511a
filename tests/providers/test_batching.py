"""The ids of a batch's requests, by which any process can read the answers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.providers.batching import id_read, request_id
from dspex.providers.reading import Reading

READINGS = st.builds(
    Reading,
    st.booleans(),
    st.just(()),
    stops=st.lists(st.text(min_size=1, max_size=3), max_size=3).map(tuple),
    logprobs=st.booleans(),
    # A batch has no raw prompts.
    bare=st.just(False),
)


@given(st.integers(0, 99_999), READINGS)
def test_an_id_says_position_and_reading(index: int, reading: Reading) -> None:
    name = request_id(index, reading)
    assert re.fullmatch(r"[a-z0-9-]+", name)
    assert id_read(name) == (index, reading)


def test_ids_are_as_batches_of_before_have_them() -> None:
    assert request_id(7, Reading()) == "7"
    assert request_id(7, Reading(enforced=True, choices=("a", "b"), logprobs=True)) == "7-choice-logprobs"
    assert request_id(7, Reading(stops=("\n\n", "#"))) == "7-cut-0a0a-23"


@pytest.mark.parametrize(
    "name", ["", "x", "-1", "1-", "1-other", "1-cut-zz", "1-logprobs-choice", "+1", "1_0", " 1", None, 3.5]
)
def test_other_ids_are_not_read(name: object) -> None:
    with pytest.raises(ValueError):
        id_read(name)
