"""What stands in the catalogue for one code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One error code: `title` is the broken rule in a line, `text` says what, why and how to fix it."""

    title: str
    text: str
