"""AWS's event stream framing: messages of headers and a payload, each with its length and checksums.

A message is its length and the length of its headers (4 bytes each, big-endian), the CRC-32 of these eight bytes, the
headers, the payload, and the CRC-32 of all before.

Source: Smithy, "Amazon Event Stream Specification".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator
from dataclasses import dataclass

_PRELUDE = 12
_CRC = 4
_LONGEST = 24 * 1024 * 1024

# Bytes of the values of fixed size, by their type; 6 and 7 have their length before them.
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTES, _TEXT = 6, 7


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; of its headers those that hold text."""

    headers: dict[str, str]
    payload: bytes


class FrameReader:
    """Cuts the bytes of a stream into messages."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def within(self) -> bool:
        """Whether the bytes so far end within a message."""
        return bool(self._rest)

    def feed(self, chunk: bytes) -> Generator[Frame]:
        """The messages that `chunk` completes.

        Raises:
            ValueError: a checksum or a length is wrong.
        """
        rest = self._rest
        rest += chunk
        while len(rest) >= _PRELUDE:
            total, headers, crc = struct.unpack_from(">III", rest)
            if zlib.crc32(rest[:8]) != crc:
                raise ValueError("the checksum of a message's lengths is wrong")
            if not _PRELUDE + headers + _CRC <= total <= _LONGEST:
                raise ValueError(f"a message of {total} bytes with {headers} bytes of headers")
            if len(rest) < total:
                return
            message = bytes(rest[:total])
            del rest[:total]
            if zlib.crc32(message[:-_CRC]) != int.from_bytes(message[-_CRC:], "big"):
                raise ValueError("the checksum of a message is wrong")
            end = _PRELUDE + headers
            yield Frame(_headers(message[_PRELUDE:end]), message[end:-_CRC])


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name = data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
            kind = data[at]
            at += 1
            if kind in (_BYTES, _TEXT):
                size = int.from_bytes(data[at : at + 2], "big")
                at += 2
            else:
                size = _SIZES[kind]
            if kind == _TEXT:
                found[name.decode()] = data[at : at + size].decode()
            at += size
    except (IndexError, KeyError) as error:
        raise ValueError("the headers of a message are cut off") from error
    if at != len(data):
        raise ValueError("the headers of a message are cut off")
    return found
