"""The order of the best trials: always right without noise, and the same after it was saved and loaded."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import lower
from dspex.core import standing
from dspex.core.history import History
from dspex.core.standing import Standing, others
from dspex.program.variables import Float

TABLE = lower([Float("x", 0, 1)]).table
EVENTS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from([0.0, 0.5, 1.0, 2.0, math.nan])), max_size=120)


def record(history: History, index: int, loss: float, examples: int = 0) -> tuple[int, bool]:
    """Tell trial `index`, or a new one when there are fewer. Returns its index and whether it was told before."""
    if index >= history.count:
        index = history.append(np.array([0.5]))
    again = bool(history.status[index])
    history.record(index, np.full(history.objectives, loss), 0.0, examples)
    return index, again


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 12))
def test_without_noise_the_order_is_that_of_all_trials(events: list[tuple[int, float]], most: int) -> None:
    history = History(TABLE)
    order = Standing(history, most)
    for index, loss in events:
        order.observe(*record(history, index, loss))
        told = [i for i in range(history.count) if not math.isnan(history.losses[0, i])]
        expected = sorted(told, key=lambda i: (history.losses[0, i], i))[:most]
        assert order.best(most).tolist() == expected


@pytest.mark.parametrize("objectives", [1, 2])
@settings(max_examples=20, deadline=None)
@given(events=EVENTS, pause=st.integers(0, 119))
def test_what_is_remembered_continues_the_order(objectives: int, events: list[tuple[int, float]], pause: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standing, "RANKED", 8)
        history = History(TABLE, objectives)
        order = Standing(history, 5)
        copy = order
        for turn, (index, loss) in enumerate(events):
            event = record(history, index, loss, turn % 5 + 1)
            order.observe(*event)
            if copy is not order:
                copy.observe(*event)
            assert order.best(5).tolist() == copy.best(5).tolist()
            if turn == pause:
                copy, memory = Standing(history, 5), order.memory()
                if memory is not None:
                    copy.remember(*memory)


@given(st.integers(0, 100_000), st.integers(1, 96), st.integers(1, 32))
def test_few_trials_stand_for_the_others(count: int, spread: int, recent: int) -> None:
    good = np.array([index for index in (0, 5, count - 1) if 0 <= index < count], dtype=np.int64)
    found = others(count, good, spread, recent).tolist()
    assert found == sorted(set(found))
    assert not set(found) & set(good.tolist())
    assert set(range(max(count - recent, 0), count)) <= set(found) | set(good.tolist())
    assert len(found) <= spread + recent
    if count <= spread + recent:
        assert len(found) == count - len(set(good.tolist()))
