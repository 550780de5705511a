"""How a text lies in a store: as it is while it is short, as a Zstandard frame when that saves space."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["pack", "unpack"]

_WORTHWHILE = 1024
"""Bytes below which a frame saves less than the time is worth: 10 µs to read it, whatever its length (measured)."""

_LEVEL = 3
_MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of every frame; no UTF-8 text begins with them (RFC 8878, section 3.1.1)."""


def pack(text: str) -> bytes:
    """`text` in UTF-8, compressed where that makes it shorter."""
    plain = text.encode()
    if len(plain) < _WORTHWHILE:
        return plain
    frame = zstd.compress(plain, _LEVEL)
    return frame if len(frame) < len(plain) else plain


def unpack(data: bytes) -> bytes:
    """What `pack` was given, in UTF-8.

    Raises:
        ValueError: `data` begins as a frame and is none.
    """
    if not data.startswith(_MAGIC):
        return data
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        raise ValueError(f"not a Zstandard frame: {error}") from error
