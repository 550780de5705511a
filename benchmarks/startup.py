"""How long a search waits for kernels: `python -m benchmarks.startup [--rounds N]`.

Wall milliseconds in new processes, medians over rounds: `create` and the first ask, `create` and twelve asks, and the
longest ask; after each ask an evaluation takes 20 ms, which is not counted. "busy" is the processor's time of the
asking thread alone, for create and twelve asks: without waits, and whatever else runs on the machine.

cold       nothing is compiled; the cache directory is new
warm       the same cache directory, in the next process
package    with libraries in the package, as a wheel for Linux on x86-64 has them; where they are missing, left out
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from statistics import median

from dspex.core.native import library

PROBE = """
import json, os, sys, time
import numpy
import dspex as dx
from dspex.optimizers import create
from dspex.core import jit
from dspex.core.native import library
from dspex.optimizers import gp, tpe
from dspex.optimizers.warm import warm
names = [dx.Float(f"f{i}", -5, 5) for i in range(14)] + [dx.Int(f"i{i}", 1, 64) for i in range(14)]
names += [dx.Float(f"l{i}", 1e-5, 1e-1, log=True) for i in range(7)]
names += [dx.Choice(f"c{i}", ("a", "b", "c")) for i in range(7)]
space = dx.Space(names)
if os.environ["PACKAGE"] == "0":
    library.leave_out()
begin, busy = time.perf_counter(), time.thread_time()
optimizer = create(os.environ["KIND"], space, budget=100)
waited, worked = time.perf_counter() - begin, time.thread_time() - busy
asks = []
for number in range(12):
    begin, busy = time.perf_counter(), time.thread_time()
    candidate = optimizer.ask()
    asks.append(time.perf_counter() - begin)
    worked += time.thread_time() - busy
    optimizer.tell(candidate, candidate.config["f0"])
    time.sleep(float(os.environ["EVALUATION"]))
print(json.dumps({"first": waited + asks[0], "twelve": waited + sum(asks), "longest": max(asks), "busy": worked,
                  "numba": "numba" in sys.modules}), flush=True)
if os.environ["FINISH"] == "1":
    thread = warm(type(optimizer))
    if thread is not None:
        thread.join()
    jit.settle()
os._exit(0)
"""


PLACES = ("cold", "warm", "package")


def probe(kind: str, cache: str, *, package: bool, evaluation: float, finish: bool = False) -> dict[str, float]:
    """One process's figures, in seconds."""
    more = {"KIND": kind, "DSPEX_CACHE_DIR": cache, "EVALUATION": str(evaluation)}
    more |= {"PACKAGE": str(int(package)), "FINISH": str(int(finish)), "DSPEX_JIT": "1", "DSPEX_BOUNDSCHECK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env={**os.environ, **more}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def measured(kind: str, place: str, rounds: int, evaluation: float) -> dict[str, float]:
    """Medians over processes."""
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="dspex-startup-") as cache:
        if place == "warm":
            probe(kind, cache, package=False, evaluation=evaluation, finish=True)
        for number in range(rounds):
            own = os.path.join(cache, str(number)) if place == "cold" else cache
            found.append(probe(kind, own, package=place == "package", evaluation=evaluation))
    return {key: median(each[key] for each in found) for key in found[0]}


def main() -> None:
    """Print a line for each kind of optimizer and place."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes for each line")
    parser.add_argument("--evaluation", type=float, default=0.02, help="seconds of evaluation after each ask")
    options = parser.parse_args()
    places = PLACES if library.shipped() is not None else PLACES[:2]
    print(f"{'':16} {'first':>8} {'12th':>8} {'longest':>8} {'busy':>8}  Numba loaded   (ms)")
    for kind in ("tpe", "gp"):
        for place in places:
            found = measured(kind, place, options.rounds, options.evaluation)
            times = " ".join(f"{found[key] * 1e3:8.1f}" for key in ("first", "twelve", "longest", "busy"))
            print(f"{kind + ' ' + place:16} {times}  {'yes' if found['numba'] else 'no'}", flush=True)


if __name__ == "__main__":
    main()
