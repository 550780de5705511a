"""Ctrl-C and SIGTERM, sent to real processes once they are seen to work."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from dspex.testing import Fault, ServerProcess
from tests.cli.commands import Invoke, ended, read_until, spawn, wait_while
from tests.kernels import share

OPTIMIZE = ["optimize", "bot:QABot", "train.jsonl", "--metric", "bot:accuracy", "--budget-calls", "150"]
LM = ["--lm", "openai/mock", "--concurrency", "4"]

SAME = (
    "stopped_because",
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


@pytest.fixture(autouse=True)
def _project(dspex: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    assert dspex("new", "mybot").code == 0
    monkeypatch.chdir("mybot")


def using(server: ServerProcess, **more: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "x", **more}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of the study that nobody interrupts."""
    folder = tmp_path_factory.mktemp("expected")
    with ServerProcess(latency=0.02, answer="tests.cli.commands:capital") as server:
        places = {"DSPEX_HOME": str(folder / "home"), "DSPEX_CACHE_DIR": str(share(folder / "cache"))}
        made = ended(spawn("new", "mybot", folder=folder, settings=places))
        assert made.code == 0, made.err
        done = ended(spawn(*OPTIMIZE, *LM, "--json", folder=folder / "mybot", settings=using(server, **places)))
    assert done.code == 0, done.err
    return done.json


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains_saves_and_can_be_resumed(
    expected: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    with ServerProcess(latency=0.02, answer="tests.cli.commands:capital", ledger=tmp_path / "ledger") as server:
        process = spawn(*OPTIMIZE, *LM, "--json", settings=using(server))
        wait_while(process, lambda: sum(e["event"] == "answered" for e in server.ledger()) < 60)
        process.send_signal(number)
        stopped = ended(process)
        assert stopped.code == 130, stopped.err
        found = stopped.json
        assert (found["status"], found["stopped_because"], found["error"]) == ("interrupted", "signal", None)
        assert 0 < found["calls"] < expected["calls"]
        assert f"dspex study resume {found['study']}" in stopped.err
        # What was in flight was waited for: every request has its answer, and the study knows each.
        events = [entry["event"] for entry in server.ledger()]
        assert events.count("received") == events.count("answered") == found["calls"]

        shown = ended(spawn("study", "show", found["study"], "--json"))
        assert shown.json["status"] == "interrupted"
        listed = ended(spawn("study", "list", "--json"))
        assert [s["status"] for s in listed.json["studies"]] == ["interrupted"]

        resumed = ended(spawn("study", "resume", found["study"], "--json", settings=using(server)))
        assert resumed.code == 0, resumed.err
        assert resumed.json["status"] == "complete"
        sent = [entry["digest"] for entry in server.ledger() if entry["event"] == "received"]
        assert len(sent) == len(set(sent)) == resumed.json["calls"]
    assert {name: resumed.json[name] for name in SAME} == {name: expected[name] for name in SAME}


def test_the_second_signal_cancels(tmp_path: Path) -> None:
    hanging = [Fault("hang", every=40)]
    with ServerProcess(answer="tests.cli.commands:capital", faults=hanging, ledger=tmp_path / "ledger") as server:
        process = spawn(*OPTIMIZE, *LM, settings=using(server))
        wait_while(process, lambda: len(server.ledger()) < 80)
        process.send_signal(signal.SIGINT)
        read_until(process, "stopping")
        process.send_signal(signal.SIGINT)
        stopped = ended(process)
    assert stopped.code == 130
    assert "cancelling" in stopped.err
    assert "interrupted" in stopped.out
    assert "go on with: dspex study resume" in stopped.err


def test_the_third_signal_leaves_even_when_a_metric_blocks(tmp_path: Path) -> None:
    source = Path("bot.py").read_text()
    blocked = (
        '    import sys, threading\n    print("judging", file=sys.stderr, flush=True)\n    threading.Event().wait()\n'
    )
    Path("bot.py").write_text(source.replace("-> bool:\n", f"-> bool:\n{blocked}"))
    with ServerProcess(answer="tests.cli.commands:capital") as server:
        process = spawn(*OPTIMIZE, *LM, "--json", settings=using(server))
        read_until(process, "judging")
        process.send_signal(signal.SIGINT)
        read_until(process, "stopping")
        process.send_signal(signal.SIGTERM)
        read_until(process, "cancelling")
        process.send_signal(signal.SIGINT)
        stopped = ended(process, 20)
    assert stopped.code == 130
    assert stopped.json["status"] == "interrupted"
    assert stopped.json["study"] is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run(tmp_path: Path, number: signal.Signals) -> None:
    with ServerProcess(faults=[Fault("hang")], ledger=tmp_path / "ledger") as server:
        process = spawn("run", "bot:QABot", "hi", "--lm", "openai/mock", "--json", settings=using(server))
        wait_while(process, lambda: not server.ledger())
        process.send_signal(number)
        stopped = ended(process, 30)
    assert stopped.code == 130, stopped.err
    assert stopped.json["status"] == "interrupted"
