"""Artifacts on another machine: without the source, without NumPy and Numba."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dspex.compiler import compile
from tests.compiler import library

ROOT = Path(__file__).parents[2]

BOT = '''
from enum import Enum
from typing import Literal
import dspex as dx

class Mood(str, Enum):
    CALM = "calm"
    ANGRY = "angry"

class Part(dx.Schema):
    """A part."""
    text: str
    inside: list["Part"] = []

class Message(dx.Schema):
    """What came in."""
    text: str
    parts: list[Part] = []
    key: dx.ApiKey | None = None
    tone: Literal["short", "long"] = dx.field("short", variable=True)

class Verdict(dx.Schema):
    """What it is about."""
    queue: Literal["billing", "delivery"]
    mood: Mood = Mood.CALM
    score: dx.Probability = 0.5

class Bot(dx.Program[Message, Verdict]):
    style: dx.Var[Literal["terse", "detailed"]] = dx.var("terse")
    k: dx.Var[int] = dx.var(3, lo=1, hi=8)
    rules = [style.is_("terse").implies(k <= 4)]
    solver = dx.select(
        plain=dx.Predict(Message, Verdict, instruction="Judge it in a {style} way.", demos_k=k),
        deep=dx.ChainOfThought(Message, Verdict),
    )

    async def __call__(self, x: Message, /) -> Verdict:
        return await self.solver(x)
'''

SAVE = """
import dspex as dx
from bot import *
demos = dx.DemoSet([dx.Demo({"text": "Charged twice"}, {"queue": "billing", "mood": "angry"})])
compiled = dx.compile(Bot()).bind({"style": "detailed", "k": 6, "solver.plain.demos": demos})
compiled.save("bot.dspex", provenance={"study": "s1"})
"""

RUN = """
import asyncio, json, sys
import dspex as dx
from dspex.compiler.render import prepare
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Usage

def answers(compiled):
    out = []
    capable = Capabilities(raw_prompt=True, json_schema=True, choices=True, score_choices=True)
    for bound in (compiled, compiled.bind({"solver": "deep"}), compiled.bind({"solver.plain.format": "completion"})):
        for path in bound.settings:
            ready = prepare(bound.settings[path])
            parts = [{"text": "b", "inside": [{"text": "c"}]}]
            x = bound.input_schema.model_validate({"text": "a", "parts": parts, "key": "sk-x"})
            for able in (capable, Capabilities()):
                out.append(repr(ready.request(x, 0, able)))
            wrong = '{"queue": "billing", "mood": "angry", "score": 2}'
            for text in (wrong, '{"queue": "delivery"}', "x", '{"queue": 1}'):
                try:
                    got, why = ready.parse(x, LMResponse(text=text, usage=Usage(1, 1)))
                    out.append([got.model_dump_json(), why])
                except dx.LMError as error:
                    out.append([error.code, error.message])
    return out
"""


def script(text: str, folder: Path, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DSPEX_CACHE_DIR": str(folder / "cache"), **more}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Where the source is and the artifact was saved, and a folder that has the artifact alone."""
    source, other = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("other")
    (source / "bot.py").write_text(BOT)
    script(SAVE, source)
    (other / "bot.dspex").write_bytes((source / "bot.dspex").read_bytes())
    return source, other


def test_artifact_without_its_source_asks_and_reads_the_same(folders: tuple[Path, Path]) -> None:
    source, other = folders
    here = script(
        RUN + "from bot import *\nprint(json.dumps(answers(dx.load_artifact('bot.dspex', program=Bot))))", source
    )
    there = script(RUN + "print(json.dumps(answers(dx.load_artifact('bot.dspex'))))", other)
    assert json.loads(here) == json.loads(there)
    assert "sk-x" not in there


def test_load_needs_neither_source_nor_numpy(folders: tuple[Path, Path]) -> None:
    _, other = folders
    loaded = script(
        "import dspex as dx, sys\n"
        "from importlib.util import find_spec\n"
        "assert find_spec('bot') is None\n"
        "x = dx.load_artifact('bot.dspex')\n"
        "bound = x.bind(solver='deep', k=2)\n"
        "assert bound.config['k'] == 2 and x.config['k'] == 6\n"
        "_ = str(x.graph), dict(x.settings), x.input_schema(text='a')\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in\n"
        "      ('numpy', 'numba', 'httpx', 'aiohttp', 'bot', 'cryptography', 'llvmlite', 'click')\n"
        "      or name.startswith(('dspex.compiler.frontend', 'dspex.core.jit', 'dspex.executor', 'dspex.study'))))\n",
        other,
    )
    assert loaded.strip() == "[]"


def test_loaded_artifact_runs_without_its_source(folders: tuple[Path, Path]) -> None:
    _, other = folders
    out = script(
        "import dspex as dx\n"
        "from dspex.testing import ScriptedLM\n"
        "x = dx.load_artifact('bot.dspex')\n"
        "with dx.using(lm=ScriptedLM(lambda r: {'queue': 'billing', 'mood': 'angry', 'score': 0.25})):\n"
        "    print(x.run(x.input_schema(text='a')).model_dump_json())\n"
        "    print(x.run({'text': 'a'}).model_dump_json())\n"
        "x.save('again.dspex')\n",
        other,
    )
    assert out.splitlines() == ['{"queue":"billing","mood":"angry","score":0.25}'] * 2
    assert (other / "again.dspex").read_bytes() == (other / "bot.dspex").read_bytes()


def test_needed_code_is_asked_for_and_never_imported_unasked(tmp_path: Path) -> None:
    compile(library.Loops()).save(tmp_path / "loops.dspex")
    out = script(
        "import dspex as dx, sys\n"
        "try:\n"
        "    dx.load_artifact('loops.dspex')\n"
        "except dx.CompileError as error:\n"
        "    print(error)\n"
        "assert 'tests.compiler.library' not in sys.modules\n"
        "print(dx.load_artifact('loops.dspex', imports=['tests.compiler.library']).program)\n",
        tmp_path,
    )
    assert "DX2205" in out
    assert "imports=['tests.compiler.library']" in out
    assert "--import tests.compiler.library" in out
    assert "program=Loops" in out
