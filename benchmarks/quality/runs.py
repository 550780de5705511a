"""One run of one optimizer on one problem, and the folder that keeps the runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.quality import problems, theirs

SCHEMA_VERSION = 1
PEERS = ("optuna-random", "catcma", "optuna-tpe", "optuna-gp")
EVERY = 10


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes:
        at: Numbers of evaluations after which the recommendation was taken.
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
    problem = problems.load(problem_name)
    if optimizer in PEERS or optimizer.startswith("optuna-"):
        search, every = theirs.create(optimizer, problem.space, seed), 1
    else:
        from benchmarks.quality.ours import Ours

        search, every = Ours(optimizer.removeprefix("dspex-"), problem.space, seed, evaluations), EVERY
    at: list[int] = []
    truth: list[float] = []
    cpu = 0.0
    for number in range(1, evaluations + 1):
        start = time.process_time()
        config = search.ask()
        cpu += time.process_time() - start
        value = problem.observe(config, seed, number)
        start = time.process_time()
        search.tell(value, problem.examples)
        if number % every == 0:
            at.append(number)
            truth.append(problem.truth(search.recommend()))
        cpu += time.process_time() - start
    return Run(optimizer, problem_name, seed, at, truth, cpu)


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
    """Every run in the folder."""
    for file in sorted(out.glob("*/*.json")):
        fields = json.loads(file.read_text(encoding="utf-8"))
        if fields.pop("schema_version") == SCHEMA_VERSION:
            yield Run(**fields)


def plan(optimizers: Sequence[str], names: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str, int]]:
    """The order of runs: cheap optimizers first; the dear one by seed, so that a part of it is already a sample."""
    return [(optimizer, name, seed) for optimizer in optimizers for seed in seeds for name in names]
