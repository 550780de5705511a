"""Every error code that the sources use is explained, and every explanation belongs to a code in use."""

from __future__ import annotations

import re
from pathlib import Path

from dspex import catalogue

SOURCES = Path(__file__).parents[1] / "dspex"
CODE = re.compile(r"""["'](DX\d{4})["']""")
RANGES = {
    "PROGRAM": "1",
    "COMPILE": "2",
    "CORE": "3",
    "LM": "4",
    "DATA": "5",
    "STUDY": "6",
    "LOCAL": "7",
    "USAGE": "8",
}


def used() -> set[str]:
    files = [file for file in SOURCES.rglob("*.py") if "catalogue" not in file.relative_to(SOURCES).parts[0]]
    return {code for file in files for code in CODE.findall(file.read_text(encoding="utf-8"))}


def test_every_code_in_the_sources_is_explained() -> None:
    assert sorted(used() - set(catalogue.CATALOGUE)) == []


def test_every_explained_code_is_used() -> None:
    assert sorted(set(catalogue.CATALOGUE) - used()) == []


def test_codes_stand_in_their_range_and_are_explained_in_full() -> None:
    total = 0
    for name, digit in RANGES.items():
        entries: dict[str, catalogue.Entry] = getattr(catalogue, name)
        total += len(entries)
        for code, entry in entries.items():
            assert code.startswith("DX" + digit), (name, code)
            assert entry.title, code
            assert not entry.title.endswith("."), code
            assert len(entry.text) > 40, code
            assert entry.text.endswith((".", ")")), code
    assert total == len(catalogue.CATALOGUE), "a code stands in two ranges"
