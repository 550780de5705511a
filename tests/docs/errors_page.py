"""Writes docs/errors.md from the catalogue: `python -m tests.docs.errors_page`."""

from __future__ import annotations

from dspex.catalogue import CATALOGUE
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "errors.md"

RANGES = {
    "1": ("Programs", "`dx.ProgramError`: schemas, Variables, rules, programs, bindings"),
    "2": ("Compiler", "`dx.CompileError`: graph, types, rules that cannot hold, artifacts"),
    "3": ("Core", "`dx.CoreError`: parameter tables and arrays"),
    "4": ("Calls of models", "`dx.LMError` and its subclasses, budgets"),
    "5": ("Data and metrics", "`dx.DataError`, `dx.MetricError`"),
    "6": ("Studies", "`dx.StudyError`, `dx.ResumeRefused`: studies, the event log, resuming"),
    "7": ("Local model", "`dx.LocalModelError`: files, child process, system libraries"),
    "8": ("Usage", "`dx.UsageError`: settings, models' names, the command line"),
}

HEAD = """\
# Error codes

Every error of dspex begins with one of these codes. `dspex explain DX4001`, or any other code, prints what it means,
why it happens and how to fix it, offline. In Python the code is `error.code`.

This page is written by `python -m tests.docs.errors_page`.
"""


def errors_page() -> str:
    """The page: a table of codes and titles for each range."""
    parts = [HEAD]
    for digit, (name, what) in RANGES.items():
        codes = sorted(code for code in CATALOGUE if code[2] == digit)
        rows = [f"| {code} | {_cell(CATALOGUE[code].title)} |" for code in codes]
        parts.append("\n".join([f"\n## {name}\n", f"{what}\n", "| code | rule |", "|---|---|", *rows, ""]))
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(errors_page(), encoding="utf-8")
