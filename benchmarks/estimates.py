"""How well `estimate` foretells what the real local model then uses, on the examples.

    python -m benchmarks.estimates            runs the model and compares
    python -m benchmarks.estimates --record   writes what it used to tests/compiler/data/usage.jsonl too

The recorded file lets `tests/compiler/test_estimate.py` check the same claims without a model.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dspex as dx
from dspex.compiler.compiled import Compiled
from dspex.compiler.estimate.amounts import Amount
from dspex.compiler.estimate.estimates import Estimates
from dspex.errors import DspexError

ROOT = Path(__file__).parents[1]
USAGE = ROOT / "tests" / "compiler" / "data" / "usage.jsonl"
MODEL = "local/smollm2"


@dataclass(frozen=True)
class Case:
    """A program under a configuration, with inputs and the outputs that are wanted."""

    name: str
    compiled: Compiled[Any, Any]
    inputs: Sequence[dx.Schema]
    expected: Sequence[dx.Schema] | Mapping[str, Sequence[dx.Schema]] | None

    def estimates(self) -> Estimates:
        """What is expected of its runs."""
        return self.compiled.estimate(self.inputs, model=MODEL, expected=self.expected)


def example(folder: str, module: str) -> Any:
    """A module of an example."""
    place = str(ROOT / "examples" / folder)
    if place not in sys.path:
        sys.path.insert(0, place)
    return importlib.import_module(module)


def rows(folder: str, name: str) -> list[dict[str, Any]]:
    """The lines of an example's data."""
    text = (ROOT / "examples" / folder / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def cases() -> Iterator[Case]:
    """Every case, always the same."""
    router = example("support_tickets", "router")
    tickets = rows("support_tickets", "tickets.jsonl")
    demos = dx.DemoSet(tuple(dx.Demo({"text": t["text"]}, {"team": t["team"]}) for t in tickets[200:212]))
    nearest = dx.Nearest(tuple(dx.Demo({"text": t["text"]}, {"team": t["team"]}) for t in tickets[100:300]), 6)
    compiled = dx.compile(router.Router())
    used = tickets[:24]
    inputs = [router.Ticket(text=ticket["text"]) for ticket in used]
    wanted = [router.Route(team=ticket["team"]) for ticket in used]
    for name, config in {
        "router: as written": {},
        "router: six demonstrations": {"solver.direct.demos": demos},
        "router: nearest, completion": {"solver.direct.demos": nearest, "solver.direct.format": "completion"},
        "router: scored": {"solver.direct.demos": demos, "shown": 3, "solver.direct.scoring": "logprob"},
        "router: calibrated": {"solver.direct.scoring": "calibrated", "solver.direct.format": "completion"},
        "router: reasoned": {"solver": "reasoned", "shown": 2},
    }.items():
        yield Case(name, compiled.bind(cast("Mapping[str, object]", config)), inputs, wanted)
    desk = example("help_desk", "desk")
    asked = rows("help_desk", "questions.jsonl")[:16]
    questions = [desk.Question(text=row["text"]) for row in asked]
    kinds = [desk.Sorted(kind=row["kind"]) for row in asked]
    helped = dx.compile(desk.HelpDesk())
    sorters = {path: kinds for path in helped.settings if path.startswith("sort")}
    for name, config in {"desk: as written": {}, "desk: reasoned": {"draft": "reasoned", "shown": 3}}.items():
        yield Case(name, helped.bind(cast("Mapping[str, object]", config)), questions, sorters)


def used(case: Case) -> Iterator[dict[str, object]]:
    """What each run of `case` uses on the real model."""
    lm = dx.LM(MODEL, cache="off")
    for index, x in enumerate(case.inputs):
        failure = None
        with dx.using(lm=lm), dx.trace() as trace:
            try:
                case.compiled.run(x)
            except DspexError as error:
                failure = error.code
        usage = trace.usage
        yield {
            "case": case.name,
            "index": index,
            "calls": sum(not call.cached for call in trace.calls),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "usd": trace.usd,
            "failure": failure,
            "modules": [
                [call.module, call.response.usage.input_tokens, call.response.usage.output_tokens]
                for call in trace.calls
                if call.response is not None and call.response.usage is not None and not call.cached
            ],
        }


def covers(amount: Amount | None, number: float) -> bool:
    """Whether `number` is in the range."""
    return amount is not None and amount.low <= number and (amount.high is None or number <= amount.high)


@dataclass(frozen=True)
class Comparison:
    """Estimates against what was used.

    Attributes:
        error: Relative error of the expected input tokens over all runs together.
        near: Share of runs whose input tokens are within 15 % of what was expected.
        input, output, usd: Share of runs inside the ranges.
    """

    name: str
    runs: int
    error: float
    near: float
    input: float
    output: float
    usd: float

    def __str__(self) -> str:
        return (
            f"{self.name:<30} {self.runs:>4} {self.error:>+7.1%} {self.near:>8.0%} "
            f"{self.input:>8.0%} {self.output:>8.0%} {self.usd:>8.0%}"
        )


def compared(case: Case, measured: Sequence[Mapping[str, Any]]) -> Comparison:
    """How the estimates of `case` compare with what its runs used."""
    runs = case.estimates().runs
    expected = [run.input.point or 0.0 for run in runs]
    real = [float(row["input_tokens"]) for row in measured]
    pairs = list(zip(runs, measured, strict=True))
    return Comparison(
        case.name,
        len(pairs),
        sum(expected) / sum(real) - 1,
        _share([abs(guess / number - 1) <= 0.15 for guess, number in zip(expected, real, strict=True)]),
        _share([covers(run.input, row["input_tokens"]) for run, row in pairs]),
        _share([covers(run.output, row["output_tokens"]) for run, row in pairs]),
        _share([covers(run.usd, row["usd"]) for run, row in pairs]),
    )


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


def main() -> None:
    """Runs everything and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write tests/compiler/data/usage.jsonl")
    arguments = parser.parse_args()
    print(f"{'case':<30} runs   error  in 15 %    input   output  dollars")
    lines: list[str] = []
    for case in cases():
        measured = list(used(case))
        lines += [json.dumps(row) for row in measured]
        print(compared(case, measured), flush=True)
    if arguments.record:
        USAGE.parent.mkdir(exist_ok=True)
        USAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"wrote {USAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
