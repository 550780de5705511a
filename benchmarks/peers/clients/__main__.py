"""Clients side by side, in one run: ``python -m benchmarks.peers.clients --peer-python PATH [--full] [--json FILE]``.

Every client runs in a process of its own, from one environment, against servers of raw sockets in further processes.
Rounds alternate and medians are compared, so that another load on the machine meets all of them. Time is that of the
client's processor; calls a second are what two cores give to client and server together.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, cast

from benchmarks import capacity, hedging, queued
from benchmarks.peers.clients.cells import FULL, SHORT, THROUGHPUT, Cell, Job

ROOT = Path(__file__).resolve().parents[3]
CERTIFICATE = ROOT / "tests" / "providers" / "loopback.pem"
CLIENTS = ("dspex", "dspex+uvloop", "raw", "aiohttp", "aiohttp+uvloop", "openai", "litellm", "pydantic-ai", "dspy")
FAST = ("dspex", "dspex+uvloop", "aiohttp", "aiohttp+uvloop", "dspy")
"""Those whose calls a second are compared, in more rounds."""

PARTS = ("instant", "http", "throughput", "cache", "queued", "hedging", "capacity")

Figures = dict[str, dict[str, list[float]]]
"""Row → client → the figure of each round."""


class Contender:
    """The process of one client."""

    def __init__(self, python: str, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.clients.contender", name],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, job: Job) -> dict[str, float]:
        """The figures of `job`.

        Raises:
            RuntimeError: the process ended; its standard error says why.
        """
        given, made = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        given.write(json.dumps(asdict(job)) + "\n")
        given.flush()
        line = made.readline()
        if not line:
            raise RuntimeError(f"{self.name} could not do {job}")
        return json.loads(line)

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


@contextmanager
def served(python: str, cell: Cell) -> Generator[str]:
    """A server for `cell`; its base URL."""
    command = [python, "-m", "benchmarks.peers.server", "--delay", str(cell.delay)]
    command += ["--certificate", str(CERTIFICATE)] * cell.tls
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = cast("IO[str]", server.stdout).readline().strip()
        yield f"{'https' if cell.tls else 'http'}://127.0.0.1:{port}/v1"
    finally:
        server.communicate()


def surroundings(folder: str) -> dict[str, str]:
    """The environment of a client: the server's certificate is trusted, and nobody fetches a list of prices."""
    return {
        **os.environ,
        "SSL_CERT_FILE": str(CERTIFICATE),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DSPEX_CACHE_DIR": folder,
        "DSPY_CACHEDIR": folder,
    }


def over_http(python: str, clients: list[str], cells: tuple[Cell, ...], rounds: int, seconds: float) -> Figures:
    """Processor time a call and calls a second of each client in each cell."""
    figures: Figures = {}
    with ExitStack() as stack:
        environment = surroundings(stack.enter_context(tempfile.TemporaryDirectory()))
        kinds = {(cell.delay, cell.tls): cell for cell in cells}
        urls = {kind: stack.enter_context(served(python, cell)) for kind, cell in kinds.items()}
        contenders = [Contender(python, name, environment) for name in clients]
        for one in contenders:
            stack.callback(one.close)
        for number in range(rounds):
            for cell in cells:
                first = number % len(contenders)
                for one in contenders[first:] + contenders[:first]:
                    job = Job("http", urls[cell.delay, cell.tls], cell.in_flight, cell.stream, seconds)
                    got = one.measure(job)
                    for key in ("us", "calls_per_s"):
                        figures.setdefault(f"{cell.name}: {key}", {}).setdefault(one.name, []).append(got[key])
            print(f"{len(cells)} cells: round {number + 1} of {rounds} is done", file=sys.stderr)
    return figures


def instant(python: str, clients: list[str], rounds: int) -> Figures:
    """Processor time a call with a model in the process."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        contenders = [Contender(python, name, surroundings(folder)) for name in clients]
        for _ in range(rounds):
            for one in contenders:
                for kind, value in one.measure(Job("instant")).items():
                    figures.setdefault(f"instant model, {kind}: us", {}).setdefault(one.name, []).append(value)
        for one in contenders:
            one.close()
    return figures


def caches(python: str, clients: list[str], rounds: int) -> Figures:
    """Processor time of a call that is in no cache, on disk (asked by a new process) and in memory."""
    figures: Figures = {}
    with served(python, Cell(1, 0.0)) as url:
        for _ in range(rounds):
            for name in clients:
                with tempfile.TemporaryDirectory() as folder:
                    for stages in (("miss, written",), ("hit on disk", "hit in memory")):
                        one = Contender(python, name, surroundings(folder))
                        for stage in stages:
                            got = one.measure(Job("cached", url))["us"]
                            figures.setdefault(f"cache, {stage}: us", {}).setdefault(name, []).append(got)
                        one.close()
    return figures


def table(figures: Figures, clients: list[str]) -> str:
    """Medians, as Markdown."""
    lines = ["| | " + " | ".join(clients) + " |", "|---" * (len(clients) + 1) + "|"]
    for row, by_client in figures.items():
        cells = [f"{statistics.median(by_client[name]):.0f}" if name in by_client else "–" for name in clients]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="interpreter of an environment with all peers and dspex")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--clients", default=",".join(CLIENTS), help=f"of {', '.join(CLIENTS)}")
    parser.add_argument("--full", action="store_true", help="every combination of the grid, not the short one")
    parser.add_argument("--only", default="", help="cells whose name contains this, such as '64 in flight'")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    parts, clients = args.parts.split(","), args.clients.split(",")
    python, rounds = args.peer_python, args.rounds
    figures: Figures = {}
    framework = [name for name in ("dspex", "dspy") if name in clients]
    if "instant" in parts:
        figures |= instant(python, [name for name in ("dspex", "raw", "dspy") if name in clients], rounds)
    if "http" in parts:
        cells = tuple(cell for cell in (FULL if args.full else SHORT) if args.only in cell.name)
        figures |= over_http(python, clients, cells, rounds, args.seconds)
    if "throughput" in parts:
        fast = [name for name in FAST if name in clients]
        figures |= over_http(python, fast, (THROUGHPUT,), 3 * rounds, 2 * args.seconds)
    if "cache" in parts:
        figures |= caches(python, framework, rounds)
    print(table(figures, clients))
    row = figures.get(f"{THROUGHPUT.name}: calls_per_s", {})
    for mine, other in (("dspex", "aiohttp"), ("dspex+uvloop", "aiohttp+uvloop"), ("dspex", "dspy")):
        if mine in row and other in row:
            # Of runs next to each other in time, whatever else the machine did then.
            ratio = statistics.median(a / b for a, b in zip(row[mine], row[other], strict=True))
            print(f"calls/s at {THROUGHPUT.name}: {mine} {ratio:.2f} x {other}")
    results: dict[str, object] = {"schema_version": 1, "rounds": rounds, "figures": figures}
    for name, part in (("queued", queued), ("hedging", hedging), ("capacity", capacity)):
        if name in parts:
            print(f"\n{(part.__doc__ or '').splitlines()[0]}")
            results[name] = part.main([])
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
