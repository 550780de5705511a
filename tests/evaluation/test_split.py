"""Parts that share no input, whatever the data."""

from __future__ import annotations

import random
from collections import Counter
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import DataError
from dspex.evaluation.dataset import Dataset, load
from dspex.evaluation.split import MINIMUM, Split, split
from dspex.program.schema import Schema


class Text(Schema):
    text: str


class Label(Schema):
    label: Literal["a", "b", "c"]


Rows = list[tuple[str, str]]


def data(rows: Rows) -> Dataset[Text, Label]:
    return load([{"text": text, "label": label} for text, label in rows], Text, Label)


def parts(found: Split[Text, Label]) -> tuple[Dataset[Text, Label], ...]:
    return (found.train, found.validation, found.held_out)


def folded(part: Dataset[Text, Label]) -> set[str]:
    return {" ".join(example.input.text.casefold().split()) for example in part}


ROWS = st.lists(
    st.tuples(st.text("xyzXY ", min_size=1, max_size=3), st.sampled_from("abc")), min_size=12, max_size=60
).filter(lambda rows: len({" ".join(text.casefold().split()) for text, _ in rows}) >= sum(MINIMUM))


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_parts_are_disjoint_complete_and_independent_of_order(rows: Rows, seed: int, order: random.Random) -> None:
    found = split(data(rows), seed)
    one, two, three = (folded(part) for part in parts(found))
    assert not one & two
    assert not one & three
    assert not two & three
    assert Counter(e.hash for part in parts(found) for e in part) == Counter(e.hash for e in data(rows))
    assert [len(inputs) >= least for inputs, least in zip((one, two, three), MINIMUM, strict=True)] == [True] * 3
    shuffled = list(rows)
    order.shuffle(shuffled)
    again = split(data(shuffled), seed)
    assert parts(again) == parts(found)
    assert again.hashes == found.hashes


def test_sizes_and_labels_are_in_proportion() -> None:
    rows = [(f"text {n}", "a" if n % 10 < 6 else "b" if n % 10 < 9 else "c") for n in range(300)]
    found = split(data(rows), 1)
    assert [len(part) for part in parts(found)] == [120, 90, 90]
    for part in parts(found):
        counts = Counter(example.want.label for example in part)
        for label, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
            assert abs(counts[label] - share * len(part)) <= 1.01


def test_seeds_give_different_splits_and_rare_labels_move() -> None:
    rows = [(f"text {n}", "a") for n in range(40)] + [("rare", "c")]
    places = {
        next(i for i, part in enumerate(parts(split(data(rows), s))) if "rare" in folded(part)) for s in range(30)
    }
    assert places == {0, 1, 2}
    assert len({split(data(rows), seed).train.hash for seed in range(10)}) == 10


def test_repeated_and_conflicting_rows_are_noticed() -> None:
    rows = [(f"text {n}", "a") for n in range(20)] + [("Text  1", "a"), ("text 2", "b")]
    found = split(data(rows))
    assert len(found.notices) == 2
    assert "2 inputs stand in 4 rows" in found.notices[0]
    assert "1 inputs" in found.notices[1]
    assert "row 21" in found.notices[1]
    assert sum(len(part) for part in parts(found)) == 22


def test_a_held_out_part_of_ones_own_is_used_as_it_is() -> None:
    mine = data([(f"mine {n}", "b") for n in range(9)])
    found = split(data([(f"text {n}", "a") for n in range(70)]), held_out=mine)
    assert found.held_out == mine
    assert (len(found.train), len(found.validation)) == (40, 30)


def test_a_held_out_part_that_was_seen_is_refused() -> None:
    rows = [(f"text {n}", "a") for n in range(10)]
    with pytest.raises(DataError) as caught:
        split(data(rows), held_out=data([("new", "a"), (" TEXT 3", "b")]))
    assert caught.value.code == "DX5203"
    assert "row 1 = row 3" in caught.value.message


@pytest.mark.parametrize("count", [1, 4])
def test_too_few_distinct_inputs_are_refused_with_the_number_needed(count: int) -> None:
    rows = [(f"text {n}", "a") for n in range(count)] * 5
    with pytest.raises(DataError) as caught:
        split(data(rows))
    assert caught.value.code == "DX5201"
    assert f"{count} distinct" in caught.value.message
    assert "at least 5" in caught.value.message
    assert len(split(data([*rows, *((f"more {n}", "a") for n in range(5 - count))])).held_out) >= 2


def test_a_small_held_out_part_of_ones_own_is_refused() -> None:
    rows = [(f"text {n}", "a") for n in range(10)]
    with pytest.raises(DataError, match=r"the held-out part has 1 distinct input and"):
        split(data(rows), held_out=data([("new", "a")]))


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_unsound_fractions_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="DX5202"):
        split(data([(f"text {n}", "a") for n in range(10)]), fractions=fractions)


def test_minimum_sizes_hold_against_the_fractions() -> None:
    rows = [(f"text {n}", "a") for n in range(20)]
    found = split(data(rows), fractions=(0.9, 0.05, 0.05), minimum=(1, 4, 6))
    assert [len(part) for part in parts(found)] == [10, 4, 6]
    with pytest.raises(DataError, match="DX5202"):
        split(data(rows), minimum=(1, -1, 1))
    with pytest.raises(DataError, match=r"10 for train, 10 for validation, 10 for held_out"):
        split(data(rows), minimum=(10, 10, 10))
