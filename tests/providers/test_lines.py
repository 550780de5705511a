"""Lines and server-sent events from bytes in pieces."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dspex.providers.lines import Events, Lines

TEXTS = st.text(st.sampled_from("ab: \r\n\ufeffé€😀d"), max_size=40)
STREAMS = st.lists(st.sampled_from(["data: a", "data:b", "data", "event: x", ": c", "id: 1", "", "other"]), max_size=20)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks) if a < b]


def lines(pieces: list[bytes]) -> list[str]:
    reader = Lines()
    found = [line for piece in pieces for line in reader.feed(piece)]
    return found + reader.end()


def events(pieces: list[bytes]) -> list[tuple[str, str]]:
    reader = Events()
    found = [event for piece in pieces for event in reader.feed(piece)]
    return found + reader.end()


def naive_lines(data: bytes) -> list[str]:
    """The whole at once, by a regular expression."""
    whole = re.split(rb"\r\n|\n|\r", data)
    if not whole[-1]:
        whole.pop()
    texts = [line.decode("utf-8", "replace") for line in whole]
    if texts:
        texts[0] = texts[0].removeprefix("\ufeff")
    return texts


@given(TEXTS, st.lists(st.integers(0, 200)))
def test_lines_do_not_depend_on_where_the_bytes_are_cut(text: str, places: list[int]) -> None:
    data = text.encode()
    assert lines(cut(data, places)) == naive_lines(data)


@given(st.binary(max_size=60), st.lists(st.integers(0, 200)))
def test_any_bytes_are_lines(data: bytes, places: list[int]) -> None:
    assert lines(cut(data, places)) == naive_lines(data)


@given(STREAMS, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200)))
def test_events_do_not_depend_on_ends_of_lines_or_on_cuts(stream: list[str], end: str, places: list[int]) -> None:
    data = "".join(line + end for line in stream).encode()
    blocks = "\n".join(stream).split("\n\n")
    expected: list[tuple[str, str]] = []
    for block in blocks:
        fields = [line.split(":", 1) for line in block.split("\n")]
        values = [field[1].removeprefix(" ") if len(field) > 1 else "" for field in fields if field[0] == "data"]
        names = [field[1].removeprefix(" ") for field in fields if field[0] == "event"]
        if values:
            expected.append((names[-1] if names else "message", "\n".join(values)))
    assert events(cut(data, places)) == expected


def test_a_line_is_there_as_soon_as_it_has_ended() -> None:
    reader = Lines()
    assert reader.feed(b"one\r") == ["one"]
    assert reader.feed(b"\ntwo") == []
    assert reader.pending == 3
    assert reader.feed(b"\n") == ["two"]
    assert (reader.pending, reader.end()) == (0, [])


def test_an_event_is_there_as_soon_as_it_has_ended() -> None:
    reader = Events()
    assert reader.feed(b"event: a\ndata: 1\n") == []
    assert reader.feed(b"data: 2\n\nda") == [("a", "1\n2")]
    assert reader.feed(b"ta: 3") == []
    assert reader.end() == [("message", "3")]


def test_what_is_pending_counts() -> None:
    reader = Events()
    for _ in range(100):
        reader.feed(b"data: 0123456789\n")
    assert reader.pending >= 1000
    reader.feed(b"\n")
    assert reader.pending == 0


def test_what_an_event_holds_so_far_is_counted() -> None:
    reader = Events()
    reader.feed(b"data: ab\ndata:\nda")
    # A line of data counts even where it is empty, or there could be any number of them.
    assert reader.pending == len("data: ab" + "data:" + "da")
    assert reader.feed(b"ta: c\n\n: d") == [("message", "ab\n\nc")]
    assert reader.pending == len(": d")
