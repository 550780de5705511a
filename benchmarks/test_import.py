"""How long a process takes to import dspex and define a program, beside one that imports pydantic and asyncio.

Goals: at most 40 ms more than pydantic and asyncio; `dspex --help` within 250 ms. Processes are started in turns, so
that whatever else the machine does hits all of them alike, and compared by their medians. ``pydantic`` touches
``BaseModel``, which pydantic loads lazily; ``bare`` does not.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROUNDS = 11
MOST_MORE = 0.040
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
    "dspex": DEFINE,
    "help": "import sys\nsys.argv = ['dspex', '--help']\nfrom dspex.cli.main import main\nmain()",
}


def started(source: str) -> float:
    """Seconds that a new process takes to run `source`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", source], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def medians(rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each case, the processes started in turns after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(rounds + 1):
        for name, source in CASES.items():
            seconds = started(source)
            if number:
                times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def test_import(benchmark: Any) -> None:
    found = medians()
    benchmark.extra_info.update({name: round(seconds * 1e3, 1) for name, seconds in found.items()})
    benchmark.pedantic(started, (CASES["dspex"],), rounds=3, warmup_rounds=1)
    assert found["dspex"] - found["bare"] <= MOST_MORE, found
    assert found["help"] <= MOST_HELP, found


if __name__ == "__main__":
    for title, seconds in medians(21).items():
        print(f"{title:<10}{seconds * 1e3:7.1f} ms")
