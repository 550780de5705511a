"""The pages of the documentation and the code blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

NEEDS_MODEL = "# needs the model"
"""Ends a shell line, or begins a Python block, that runs the real local model: the tests pass over it."""

_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/]+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its first line of code."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is to be written to: the name in its first line, when that is a comment."""
        named = _FILE.match(self.text)
        return named.group(1) if named else None


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(2)) + 1, found.group(1), found.group(2))
        for found in _FENCE.finditer(text)
    ]
