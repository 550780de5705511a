"""Studies that are killed with SIGKILL and resumed, compared with one that is left alone.

``python -m tests.study.kill_runs`` runs all of them and prints a table; ``test_kill.py`` runs some. The model is a mock
server in a process of its own, which keeps a ledger; the study is another process, which this one kills once an event
stands in the store. As ``python -m tests.study.kill_runs work URL STORE MODE`` it is that process.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dspex.lm.model import LM
from dspex.lm.spend import Budget
from dspex.stores.sqlite import SqliteEventStore
from dspex.study.loop import optimize_async, resume_async
from dspex.testing import ServerProcess
from tests.study.tasks import Router, accuracy, messages

STUDY = "killed"
WIDTH = 12
LATENCY = 0.02
CALLS = 260
KINDS = (
    "study.created",
    "proposal.made",
    "trial.asked",
    "attempt.started",
    "call.committed",
    "evaluation.settled",
    "trial.told",
    "study.resumed",
)
"""Event types whose first appearance is a moment to kill at; the last one kills the resumed study."""

SAME = (
    "status",
    "stopped_because",
    "seed",
    "held_out",
    "gain",
    "baselines",
    "labels",
    "validation",
    "calls",
    "tokens",
    "configuration",
    "prompts",
    "splits",
    "search",
)


@dataclass(frozen=True)
class Moment:
    """When to kill: once so many events of a kind stand in the log."""

    kind: str
    count: int = 1


@dataclass(frozen=True)
class Result:
    """One killed and resumed study."""

    moment: Moment
    in_flight: int
    reported: int
    sent_again: int
    resent_committed: int
    same: bool
    differences: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.same and not self.resent_committed and self.sent_again <= self.reported <= self.in_flight


def work(url: str, store: str, mode: str) -> None:
    """The process that is killed."""
    lm = LM("openai/mock", base_url=url, api_key="x", concurrency=WIDTH, cache="off", retries=2)
    log = SqliteEventStore(store)
    if mode == "start":
        run = optimize_async(
            Router, messages(100), accuracy, budget=Budget(calls=CALLS), lm=lm, store=log, study_id=STUDY
        )
    else:
        run = resume_async(STUDY, Router, messages(100), accuracy, lm=lm, store=log)
    best = asyncio.run(run)
    log.close()
    print(json.dumps(best.study.report.as_json()))


def _spawn(url: str, store: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.study.kill_runs", "work", url, str(store), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=100)
    if process.returncode != 0:
        raise RuntimeError(f"the study's process ended with {process.returncode}")
    return cast("dict[str, Any]", json.loads(out.splitlines()[-1]))


def _kill_at(url: str, store: Path, mode: str, moment: Moment) -> bool:
    """Start a study's process and kill it once the moment has come; False when it ended before."""
    log = SqliteEventStore(store)
    process = _spawn(url, store, mode)
    seen, after = 0, 0
    try:
        while process.poll() is None:
            for event in log.read(STUDY, after, [moment.kind]):
                seen, after = seen + 1, event.id
            if seen >= moment.count:
                process.kill()
                process.communicate()
                return True
            try:
                process.wait(timeout=0.002)
            except subprocess.TimeoutExpired:
                continue
    finally:
        log.close()
    return False


def uninterrupted(folder: Path) -> dict[str, Any]:
    """The report of the study that nobody kills."""
    with ServerProcess(latency=LATENCY, answer="tests.study.tasks:served", ledger=folder / "ledger") as server:
        report = _finished(_spawn(server.url, folder / "log.db", "start"))
        sent = Counter(str(e["digest"]) for e in server.ledger() if e["event"] == "received")
    if max(sent.values()) > 1 or sent.total() != report["calls"]:
        raise RuntimeError(f"an uninterrupted study sent {sent.total()} requests for {report['calls']} calls")
    return report


def killed(folder: Path, moment: Moment, expected: Mapping[str, Any]) -> Result | None:
    """Kill a study at `moment`, resume it to its end, and compare; None when it ended before the moment came."""
    store = folder / "log.db"
    with ServerProcess(latency=LATENCY, answer="tests.study.tasks:served", ledger=folder / "ledger") as server:
        first = Moment("call.committed", 40) if moment.kind == "study.resumed" else moment
        if not _kill_at(server.url, store, "start", first):
            return None
        flying = _in_flight(store)
        if moment.kind == "study.resumed":
            _kill_at(server.url, store, "resume", moment)
            flying += _in_flight(store)
        mode = "resume" if _events(store) else "start"
        report = _finished(_spawn(server.url, store, mode))
        sent = Counter(str(e["digest"]) for e in server.ledger() if e["event"] == "received")
    differences = tuple(name for name in SAME if report[name] != expected[name])
    return Result(
        moment,
        flying,
        int(report["repeats_after_crash"]),
        sum(count - 1 for count in sent.values()),
        _resent(store),
        not differences,
        differences,
    )


def _events(store: Path) -> list[tuple[int, str, Mapping[str, Any]]]:
    log = SqliteEventStore(store)
    try:
        return [(event.id, event.kind, event.payload) for event in log.read(STUDY)]
    finally:
        log.close()


def _in_flight(store: Path) -> int:
    """Attempts that no event settles, of the process that was killed last."""
    flying: set[int] = set()
    for number, kind, payload in _events(store):
        if kind == "study.resumed":
            flying.clear()
        elif kind == "attempt.started":
            flying.add(number)
        elif kind in ("call.committed", "attempt.failed"):
            flying.discard(int(payload["attempt"]))
    return len(flying)


def _resent(store: Path) -> int:
    """Attempts that began for a request whose answer was committed before."""
    committed: set[str] = set()
    again = 0
    for _, kind, payload in _events(store):
        if kind == "call.committed":
            committed.add(str(payload["key"]))
        elif kind == "attempt.started":
            again += str(payload["key"]) in committed
    return again


def moments(count: int, seed: int = 0) -> Iterator[Moment]:
    """`count` moments: each kind of event in turn, and in between after a random number of started attempts."""
    rng = random.Random(seed)
    for number in range(count):
        if number % 2 == 0:
            yield Moment(KINDS[number // 2 % len(KINDS)])
        else:
            yield Moment("attempt.started", rng.randrange(10, CALLS - 20))


def main(count: int = 30) -> int:
    """Run them all, print a table, return how many did not pass."""
    failed = 0
    with tempfile.TemporaryDirectory() as top:
        base = Path(top, "base")
        base.mkdir()
        expected = uninterrupted(base)
        print(f"{'killed at':<28}{'in flight':>10}{'reported':>10}{'sent again':>12}{'committed':>11}  result")
        for number, moment in enumerate(moments(count)):
            folder = Path(top, str(number))
            folder.mkdir()
            result = killed(folder, moment, expected)
            title = f"{moment.kind} #{moment.count}"
            if result is None:
                print(f"{title:<28} ended before")
                failed += 1
                continue
            failed += not result.passed
            verdict = "same" if result.passed else "FAILED " + ", ".join(result.differences)
            print(
                f"{title:<28}{result.in_flight:>10}{result.reported:>10}{result.sent_again:>12}"
                f"{result.resent_committed:>11}  {verdict}",
                flush=True,
            )
    print(f"{count - failed} of {count} passed")
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:5])
    else:
        sys.exit(1 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 30) else 0)
