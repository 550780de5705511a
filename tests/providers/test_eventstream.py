"""AWS's event stream framing: what is read back, at any cut, and what is refused."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.providers.bedrock.eventstream import Frame, FrameReader
from tests.providers.recorded import frame

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
FRAMES = st.lists(st.tuples(st.dictionaries(NAMES, NAMES, max_size=3), st.binary(max_size=40)), max_size=4)


def read(data: bytes, piece: int) -> tuple[list[Frame], bool]:
    reader = FrameReader()
    frames = [f for start in range(0, len(data), piece) for f in reader.feed(data[start : start + piece])]
    return frames, reader.within


@given(FRAMES, st.integers(1, 60))
def test_frames_come_back_at_any_cut(frames: list[tuple[dict[str, str], bytes]], piece: int) -> None:
    data = b"".join(frame(headers, payload) for headers, payload in frames)
    assert read(data, piece) == ([Frame(headers, payload) for headers, payload in frames], False)


@given(st.dictionaries(NAMES, NAMES, max_size=2), st.binary(max_size=40), st.data())
def test_a_changed_byte_is_found_out(headers: dict[str, str], payload: bytes, data: st.DataObject) -> None:
    whole = bytearray(frame(headers, payload))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="checksum"):
        read(bytes(whole), 1000)


@given(st.dictionaries(NAMES, NAMES, max_size=2), st.binary(max_size=40), st.data())
def test_a_cut_frame_is_incomplete(headers: dict[str, str], payload: bytes, data: st.DataObject) -> None:
    whole = frame(headers, payload)
    part = whole[: data.draw(st.integers(1, len(whole) - 1))]
    assert read(part, 7) == ([], True)


def framed(head: bytes, total: int | None = None) -> bytes:
    prelude = struct.pack(">II", 16 + len(head) if total is None else total, len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head
    return message + struct.pack(">I", zlib.crc32(message))


def test_headers_of_other_types_are_passed_over() -> None:
    head = (
        b"\x01a\x00"  # true
        b"\x01b\x02\x07"  # a byte
        b"\x01c\x03\x00\x07"
        b"\x01d\x04\x00\x00\x00\x07"
        b"\x01e\x05" + b"\x00" * 8 + b"\x01f\x06\x00\x02xy"  # bytes
        b"\x01g\x08" + b"\x00" * 8 + b"\x01h\x09" + b"\x00" * 16 + b"\x01i\x07\x00\x02ok"
    )
    assert read(framed(head), 1000) == ([Frame({"i": "ok"}, b"")], False)


@pytest.mark.parametrize("head", [b"\x05a\x07", b"\x01a\x07\x00\x09x", b"\x01a\x0a", b"\x01"])
def test_headers_that_are_cut_off_are_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match="headers"):
        read(framed(head), 1000)


@pytest.mark.parametrize("total", [0, 15, 1 << 30])
def test_an_absurd_length_is_refused_at_once(total: int) -> None:
    with pytest.raises(ValueError, match=f"a message of {total} bytes"):
        read(framed(b"", total)[:12], 1000)


@given(FRAMES)
def test_botocore_reads_alike(frames: list[tuple[dict[str, str], bytes]]) -> None:
    eventstream: Any = pytest.importorskip("botocore.eventstream")
    buffer = eventstream.EventStreamBuffer()
    buffer.add_data(b"".join(frame(headers, payload) for headers, payload in frames))
    assert [(message.headers, message.payload) for message in buffer] == frames
