"""The plain-integer random numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dspex.core import streams


def test_the_finaliser_gives_the_published_sequence() -> None:
    # splitmix64 seeded with 0: its state advances by the golden constant, its output is the finaliser.
    found = [streams.mix(streams.GOLDEN * (step + 1)) for step in range(3)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_uniform_numbers_fill_the_interval_in_every_counter() -> None:
    for counter in range(4):
        draws: list[float] = []
        for i in range(2000):
            key = [5, 6, 7, 8]
            key[counter] = i
            draws.append(streams.uniform(*key))
        assert 0.0 <= min(draws) < 0.01
        assert 0.99 < max(draws) < 1.0
        assert abs(sum(draws) / 2000 - 0.5) < 0.03


@given(st.lists(st.integers()), st.integers(0, 99))
def test_a_shuffle_keeps_the_items_and_repeats(items: list[int], seed: int) -> None:
    once = streams.shuffled(items, seed)
    assert sorted(once) == sorted(items)
    assert once == streams.shuffled(items, seed)


def test_every_order_of_three_comes_up_equally_often() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(3000):
        order = tuple(streams.shuffled([0, 1, 2], seed))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 420
