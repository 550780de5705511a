"""How long compiling takes as programs grow: `python -m benchmarks.compiler_growth`.

Programs are written as source text and compiled once each, so that reading and parsing the source count; what is
not counted is importing them. Seconds are those of the processor, which other load does not lengthen. The exponent is
the slope of a line through the logarithms of nodes and seconds: 1 is linear growth. Python's full collections, which go
through all that is alive, add to it; the exponent without them stands beside.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import dspex as dx
from dspex.compiler import compile
from dspex.compiler.compiled import stages

SIZES = (250, 500, 1000, 2000)
GOAL_SECONDS = 1.0

Form = Literal["chain", "wide", "nested"]
FORMS: tuple[Form, ...] = ("chain", "wide", "nested")

HEAD = '''\
"""A program to be compiled."""

from __future__ import annotations

import dspex as dx


class Text(dx.Schema):
    text: str


'''

_numbers = itertools.count()


def source(nodes: int, form: Form, modules: int = 10) -> str:
    """A module whose class `Root` has about `nodes` nodes.

    Args:
        nodes: Calls of models and expressions together.
        form: ``chain``, where each step needs the last one; ``wide``, independent steps that are joined; or ``nested``,
            programs of 20 nodes inside a program.
        modules: Attributes that are called in turn.
    """
    names = [f"m{number}" for number in range(modules)]
    fields = [f"    {name} = dx.Predict(Text, Text)" for name in names]
    turn = itertools.cycle(names)
    if form == "nested":
        inner = [f"        x = await self.{next(turn)}(x)" for _ in range(20)]
        outer = [f"        x = await self.p{number}(x)" for number in range(nodes // 22)]
        held = [f"    p{number} = Part()" for number in range(nodes // 22)]
        call = "    async def __call__(self, x: Text, /) -> Text:"
        part = ["class Part(dx.Program[Text, Text]):", *fields, "", call, *inner, "        return x", "", ""]
        root = ["class Root(dx.Program[Text, Text]):", *held, "", call, *outer, "        return x", ""]
        return HEAD + "\n".join([*part, *root])
    lines: list[str] = []
    known = "x"
    for number in range(nodes // 3):
        given = known if form == "chain" else "x"
        lines.append(f'        t{number} = {given}.text + "{number}"')
        lines.append(f"        v{number} = await self.{next(turn)}(Text(text=t{number}))")
        known = f"v{number}"
    if form == "wide":
        joined = "".join(f" + v{number}.text" for number in range(0, nodes // 3, 50))
        lines.append(f'        last = ""{joined}')
        known = "Text(text=last)"
    root = ["class Root(dx.Program[Text, Text]):", *fields, "", "    async def __call__(self, x: Text, /) -> Text:"]
    return HEAD + "\n".join([*root, *lines, f"        return {known}", ""])


def program(text: str, folder: Path) -> dx.Program[Any, Any]:
    """`Root` of a module with the source `text`, newly imported."""
    name = f"growth_{next(_numbers)}"
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.Root()


def seconds(nodes: int, form: Form, folder: Path, rounds: int = 3) -> tuple[float, int]:
    """The median of the processor's seconds for compiling, and how many nodes the front end read."""
    text = source(nodes, form)
    times: list[float] = []
    read = 0
    for _ in range(rounds):
        root = program(text, folder)
        # What earlier rounds left would be gone through again by every full collection.
        gc.collect()
        begun = time.process_time()
        compile(root)
        times.append(time.process_time() - begun)
        if not read:
            read = len(next(iter(stages(root)))[1].nodes)
        del sys.modules[type(root).__module__]
    return statistics.median(times), read


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The slope of log(times) over log(sizes) by least squares."""
    xs, ys = [math.log(size) for size in sizes], [math.log(time) for time in times]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mean_x) ** 2 for x in xs)


def measured(
    form: Form, folder: Path, sizes: Sequence[int] = SIZES, rounds: int = 3, *, collected: bool = True
) -> tuple[dict[int, float], float]:
    """Seconds by number of nodes, and the exponent; with Python's garbage collection or without."""
    compile(program(source(20, form), folder))
    if not collected:
        gc.disable()
    try:
        found = {read: took for took, read in (seconds(size, form, folder, rounds) for size in sizes)}
    finally:
        gc.enable()
    return found, exponent(list(found), list(found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            found, slope = measured(form, Path(folder), rounds=rounds)
            _, plain = measured(form, Path(folder), rounds=rounds, collected=False)
            row = "  ".join(f"{nodes} nodes {took * 1e3:.0f} ms" for nodes, took in found.items())
            print(f"{form:<8}{row}  exponent {slope:.2f}, {plain:.2f} without collections")


if __name__ == "__main__":
    main()
