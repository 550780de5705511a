"""How long a process takes to import dspex, and to load an artifact, beside one that imports pydantic and asyncio.

Goals: importing dspex and defining a program at most 40 ms more than pydantic and asyncio; loading an artifact that
needs no source at most 60 ms more; `dspex --help` within 250 ms. Seconds are those of the processor, which other load
does not lengthen; processes are started in turns and compared by their medians. ``pydantic`` touches ``BaseModel``,
which pydantic loads lazily, and ``model`` defines one; ``bare`` does neither.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROUNDS = 15
MOST_MORE = 0.040
MOST_MORE_LOADED = 0.060
MOST_HELP = 0.250

DEFINE = """
import dspex as dx
class Ask(dx.Schema):
    question: str
class Answer(dx.Schema):
    answer: str
class Bot(dx.Program[Ask, Answer]):
    k: dx.Var[int] = dx.var(4, lo=1, hi=8)
    answer = dx.Predict(Ask, Answer, demos_k=k)
    async def __call__(self, x: Ask, /) -> Answer:
        return await self.answer(x)
"""

CASES = {
    "bare": "import pydantic, asyncio",
    "pydantic": "import pydantic, asyncio\npydantic.BaseModel",
    "model": "import pydantic, asyncio\nclass Ask(pydantic.BaseModel):\n    question: str",
    "dspex": DEFINE,
    "load": "import os, dspex as dx\ndx.load_artifact(os.environ['ARTIFACT'])",
    "help": "import sys\nsys.argv = ['dspex', '--help']\nfrom dspex.cli.main import main\nmain()",
}


SAVE = """
import os, bot, dspex as dx
dx.compile(bot.Bot()).save(os.environ['ARTIFACT'])
"""


def started(source: str, folder: str) -> float:
    """Seconds of the processor that a new process takes to run `source`.

    Args:
        source: Python code.
        folder: Holds the artifact, and the bytecode, as of a package that is installed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPYCACHEPREFIX"] = os.path.join(folder, "bytecode")
    environment["ARTIFACT"] = os.path.join(folder, "bot.dspex")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", source], check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def medians(rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each case, the processes started in turns after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bot.py").write_text(DEFINE, encoding="utf-8")
        started(f"import sys\nsys.path.insert(0, {folder!r})\n{SAVE}", folder)
        for number in range(rounds + 1):
            for name, source in CASES.items():
                seconds = started(source, folder)
                if number:
                    times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def test_import(benchmark: Any) -> None:
    found = medians()
    benchmark.extra_info.update({name: round(seconds * 1e3, 1) for name, seconds in found.items()})
    with tempfile.TemporaryDirectory() as folder:
        benchmark.pedantic(started, (CASES["dspex"], folder), rounds=3, warmup_rounds=1)
    assert found["dspex"] - found["bare"] <= MOST_MORE, found
    assert found["load"] - found["bare"] <= MOST_MORE_LOADED, found
    assert found["help"] <= MOST_HELP, found


if __name__ == "__main__":
    for title, seconds in medians(21).items():
        print(f"{title:<10}{seconds * 1e3:7.1f} ms")
