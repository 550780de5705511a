"""Answers that are cut on this side: the same at once and piece by piece."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dspex.lm.types import LMResponse
from dspex.providers.anthropic.claude import blank_stops
from dspex.providers.stops import Cutter, cut

TEXTS = st.text("ab\n", max_size=12)
STOPS = st.lists(st.text("ab\n", max_size=4), max_size=3).map(tuple)
"""Some are empty, and stop nothing."""


def naive(text: str, stops: tuple[str, ...]) -> str:
    """As a server that looks at each letter that it generates."""
    for end in range(len(text) + 1):
        met = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))]
    return text


@given(st.lists(TEXTS, max_size=6), STOPS)
def test_pieces_are_cut_where_the_whole_is(pieces: list[str], stops: tuple[str, ...]) -> None:
    cutter = Cutter(stops)
    shown = "".join([*map(cutter.feed, pieces), cutter.end()])
    whole = "".join(pieces)
    assert shown == naive(whole, stops)
    assert cutter.met is any(stop and stop in whole for stop in stops)


@given(TEXTS, STOPS)
def test_a_response_is_cut_like_its_text(text: str, stops: tuple[str, ...]) -> None:
    response = LMResponse(text, stop="length")
    found = cut(response, stops)
    if any(stop and stop in text for stop in stops):
        assert found == LMResponse(naive(text, stops))
    else:
        assert found is response


def test_stop_texts_of_blanks() -> None:
    assert blank_stops(("\n", "a\n", " \t", "###")) == ("\n", " \t")
