"""One run of one optimizer on one problem, and the folder that keeps the runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.quality import groups, theirs

SCHEMA_VERSION = 1
EVERY = 10
"""Results are kept after every so many evaluations."""


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes:
        at: Numbers of evaluations after which the recommendation was taken, where there was one.
        truth: Its true value then.
        cpu_s: Seconds of the processor in ask, tell and recommend, all evaluations together.
    """

    optimizer: str
    problem: str
    seed: int
    at: list[int]
    truth: list[float]
    cpu_s: float


def measure(optimizer: str, problem_name: str, seed: int, evaluations: int) -> Run:
    """Run `optimizer` on a problem. A peer's incumbent is taken after each evaluation, ours after every tenth."""
    problem = groups.load(problem_name)
    if optimizer.startswith("dspex-"):
        # Only here, so that peers run where dspex is not installed.
        from benchmarks.quality.ours import Ours

        search, every = Ours(optimizer.removeprefix("dspex-"), problem.space, seed, evaluations), EVERY
    else:
        search, every = theirs.create(optimizer, problem.space, seed), 1
    at: list[int] = []
    truth: list[float] = []
    cpu = 0.0
    for number in range(1, evaluations + 1):
        start = time.process_time()
        config = search.ask()
        cpu += time.process_time() - start
        value = problem.observe(config, seed, number) if problem.space.obeys(config) else None
        start = time.process_time()
        search.tell(value, problem.examples)
        recommended = search.recommend() if number % every == 0 else None
        cpu += time.process_time() - start
        if recommended is not None:
            at.append(number)
            truth.append(problem.truth(recommended))
    return Run(optimizer, problem_name, seed, at, truth, cpu)


def full_name(optimizer: str) -> str:
    """`gp` is dspex's; a peer's name says whose it is."""
    return optimizer if optimizer == "catcma" or "-" in optimizer else f"dspex-{optimizer}"


def path(out: Path, optimizer: str, problem: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / optimizer / f"{problem}-{seed}.json"


def keep(out: Path, run: Run) -> None:
    """Write a run, whole or not at all."""
    target = path(out, run.optimizer, run.problem, run.seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(f".{os.getpid()}.partial")
    beside.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(run)}) + "\n", encoding="utf-8")
    beside.replace(target)


def kept(out: Path) -> Iterator[Run]:
    """Every run in the folder.

    Raises:
        ValueError: for one of another schema version.
    """
    for file in sorted(out.glob("*/*.json")):
        fields = json.loads(file.read_text(encoding="utf-8"))
        if fields.pop("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"{file} is of another schema version: delete it, and it is made again")
        yield Run(**fields)


def plan(optimizers: Sequence[str], names: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str, int]]:
    """The order of runs: by optimizer, then by seed, so that what is done early is a sample of all problems."""
    return [(optimizer, name, seed) for optimizer in optimizers for seed in seeds for name in names]


def values_at(runs: Sequence[Run], evaluations: int) -> dict[str, dict[tuple[str, int], float]]:
    """True values after so many evaluations, by optimizer and (problem, seed); shorter runs are left out."""
    table: dict[str, dict[tuple[str, int], float]] = {}
    for run in runs:
        if evaluations in run.at:
            value = run.truth[run.at.index(evaluations)]
            table.setdefault(run.optimizer, {})[run.problem, run.seed] = value
    return table
