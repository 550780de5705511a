"""Importing dspex and defining a program loads pydantic and asyncio, and none of the heavy packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("numba", "numpy", "llvmlite", "httpx", "aiohttp", "rich", "click", "sqlite3", "ssl", "sqlalchemy", "xllamacpp")
"""What a program pays for when it uses it: the core, transports, the command line, stores."""

DEFINE = '''
import dspex as dx

class Ask(dx.Schema):
    question: str

class Answer(dx.Schema):
    answer: str = dx.field(description="one name")

class Bot(dx.Program[Ask, Answer]):
    """Answer."""

    k: dx.Var[int] = dx.var(4, lo=1, hi=8)
    answer = dx.Predict(Ask, Answer, demos_k=k)
    rules = [k <= 6]

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.answer(x)
'''


def loaded(source: str) -> list[str]:
    """Heavy packages that a new process has loaded after running `source`."""
    ask = f"\nimport sys, json\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", source + ask],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return json.loads(done.stdout)


def test_import_alone() -> None:
    assert loaded("import dspex") == []


def test_schema_and_program() -> None:
    assert loaded(DEFINE) == []


def test_an_instance_and_its_variables() -> None:
    assert loaded(DEFINE + "\nbot = Bot().bind(k=3)\nassert bot.k == 3\nbot.variables()") == []


@pytest.mark.parametrize("name", ["Budget", "LM", "Price", "using", "metric", "errors", "select", "Dataset"])
def test_names_that_a_program_is_written_with(name: str) -> None:
    assert loaded(f"import dspex as dx\ndx.{name}") == []


def test_help_loads_no_more_than_click() -> None:
    source = "from dspex.cli.main import run\nimport contextlib, io\n"
    source += "with contextlib.redirect_stdout(io.StringIO()):\n    run(['--help'])"
    assert loaded(source) == ["click"]
