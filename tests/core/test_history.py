"""The history of trials counts what its arrays hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import lower
from dspex.core.history import TOLD, History
from dspex.program.variables import Float

TABLE = lower([Float("x", 0, 1)]).table
LOSSES = st.sampled_from([0.0, 0.5, math.nan])
EVENTS = st.lists(st.tuples(st.integers(0, 5), LOSSES, st.sampled_from([0.0, 0.1]), st.integers(0, 1)), max_size=30)


@pytest.mark.parametrize("objectives", [1, 2])
@given(events=EVENTS)
def test_what_was_told_last_is_counted(objectives: int, events: list[tuple[int, float, float, int]]) -> None:
    history = History(TABLE, objectives, capacity=2)
    for index, loss, variance, examples in events:
        while index >= history.count:
            history.append(np.array([0.5]))
        history.record(index, np.full(objectives, loss), variance, examples)
        found = (history.told, history.noisy)
        assert history.told == np.count_nonzero(history.status[: history.count] == TOLD)
        assert history.noisy == bool(history.variances[:, : history.count].any() or history.examples.any())
        history.recount()
        assert (history.told, history.noisy) == found
