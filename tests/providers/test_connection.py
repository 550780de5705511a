"""The parser of answers: however the bytes are cut, the answer is the same; whatever comes, nothing but an error."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.providers.transport.connection import Connection, Malformed

Answer = tuple[int, dict[str, str], bytes, bool]


class Deaf(asyncio.Transport):
    """Takes everything and does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None: ...

    def abort(self) -> None:
        self.cut = True

    def is_closing(self) -> bool:
        return self.cut

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def answered(pieces: list[bytes], ended: bool = True, method: bytes = b"POST") -> Answer | BaseException:
    """Status, headers, body, and whether the connection serves on; or why there is no answer."""

    async def work() -> Answer | BaseException:
        connection = Connection(asyncio.get_running_loop())
        connection.connection_made(Deaf())
        asking = asyncio.ensure_future(connection.request(method + b" / HTTP/1.1\r\n\r\n", b"", None, None))
        await asyncio.sleep(0)
        for piece in pieces:
            connection.data_received(piece)
        if ended:
            connection.eof_received()
            connection.connection_lost(None)
        try:
            await asking
            body = b""
            while piece := await connection.read(None):
                body += piece
        except (OSError, Malformed) as error:
            return error
        return connection.status, dict(connection.headers), body, connection.rest()

    return asyncio.run(work())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks) if a < b]


def chunked(body: bytes, sizes: list[int]) -> bytes:
    out, rest = b"", body
    for size in sizes:
        piece, rest = rest[:size], rest[size:]
        if piece:
            out += b"%x;x=y\r\n%b\r\n" % (len(piece), piece)
    return out + (b"%X\r\n%b\r\n" % (len(rest), rest) if rest else b"") + b"0\r\nTrailer: t\r\n\r\n"


BODIES = st.binary(max_size=60)
PLACES = st.lists(st.integers(0, 400), max_size=8)


@settings(max_examples=60, deadline=None)
@given(BODIES, PLACES, st.lists(st.integers(1, 20), max_size=4), st.sampled_from(["length", "chunked", "end"]))
def test_an_answer_does_not_depend_on_where_its_bytes_are_cut(
    body: bytes, places: list[int], sizes: list[int], framing: str
) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-One: 1\r\nx-one:  2 \r\n"
    data = {
        "length": b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body),
        "chunked": b"%bTransfer-Encoding: chunked\r\n\r\n%b" % (head, chunked(body, sizes)),
        "end": b"%b\r\n%b" % (head, body),
    }[framing]
    found = answered(cut(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + data, places), framing == "end")
    assert isinstance(found, tuple)
    assert (found[0], found[1]["x-one"], found[2], found[3]) == (200, "1, 2", body, framing != "end")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), PLACES)
def test_whatever_comes_is_an_answer_or_an_error(data: bytes, places: list[int]) -> None:
    assert isinstance(answered(cut(data, places)), (OSError, Malformed, tuple))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255), PLACES)
def test_a_byte_that_is_wrong_is_an_answer_or_an_error(place: int, byte: int, places: list[int]) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n"
    place %= len(data)
    data = data[:place] + bytes([byte]) + data[place + 1 :]
    assert isinstance(answered(cut(data, places)), (OSError, Malformed, tuple))


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n folded: 1",
        b"HTTP/1.1 200 OK\r\nName : 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(head: bytes) -> None:
    assert isinstance(answered([head + b"\r\n\r\n{}"]), Malformed)


def test_a_head_without_an_end_is_refused() -> None:
    assert isinstance(answered([b"HTTP/1.1 200 OK\r\nX: ", b"x" * 70_000], ended=False), Malformed)


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body(status: int) -> None:
    found = answered([b"HTTP/1.1 %d None\r\nContent-Length: 5\r\n\r\n" % status], ended=False)
    assert found == (status, {"content-length": "5"}, b"", True)


def test_the_answer_to_head_has_no_body() -> None:
    found = answered([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"], ended=False, method=b"HEAD")
    assert found == (200, {"content-length": "5"}, b"", True)


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nConnection: close", b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"],
)
def test_a_connection_that_ends_or_is_ambiguous_serves_no_more(head: bytes) -> None:
    body = b"2\r\n{}\r\n0\r\n\r\n" if b"chunked" in head else b"{}"
    found = answered([head + b"\r\nContent-Length: 2\r\n\r\n" + body], ended=False)
    assert isinstance(found, tuple)
    assert (found[2], found[3]) == (b"{}", False)
