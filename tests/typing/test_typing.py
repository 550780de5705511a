"""What a user's type checker infers and refuses: pyright, run on planted files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

PLANTED = Path(__file__).parent / "planted"


@pytest.fixture(scope="module")
def findings() -> dict[str, set[int]]:
    """Lines with errors, by file name."""
    pytest.importorskip("pyright")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "-p", str(PLANTED)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    report = cast("dict[str, Any]", json.loads(done.stdout))
    assert report["summary"]["filesAnalyzed"] >= 3
    lines: dict[str, set[int]] = {}
    for entry in report["generalDiagnostics"]:
        if entry["severity"] == "error":
            lines.setdefault(Path(entry["file"]).name, set()).add(entry["range"]["start"]["line"] + 1)
    return lines


def test_public_names_are_inferred_as_documented(findings: dict[str, set[int]]) -> None:
    assert findings.get("right.py", set()) == set()
    assert findings.get("flow.py", set()) == set()
    assert findings.get("schemas.py", set()) == set()


def test_every_planted_mistake_is_refused_and_nothing_else(findings: dict[str, set[int]]) -> None:
    source = (PLANTED / "wrong.py").read_text().splitlines()
    planted = {number for number, line in enumerate(source, 1) if "# WRONG" in line}
    kinds = {
        word for line in source if "# WRONG" in line for word in ("metric", "composition", "literal") if word in line
    }
    assert kinds == {"metric", "composition", "literal"}
    assert findings.get("wrong.py", set()) == planted
