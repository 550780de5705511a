"""`optimize` and `study`: the report's keys, the list, resuming and deleting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dspex.testing import MockServer
from tests.cli.commands import Ended, Invoke, ended, spawn

OPTIMIZE = ["optimize", "bot:QABot", "train.jsonl", "--metric", "bot:accuracy", "--budget-calls", "150"]


pytestmark = pytest.mark.usefixtures("project")


def check_report(done: Ended) -> dict[str, Any]:
    found = done.json
    for part in ("before", "after"):
        assert set(found["held_out"][part]) == {"mean", "low", "high", "n"}
    assert set(found["gain"]) == {"mean", "low", "high", "p_value"}
    assert {"calls", "tokens", "usd", "seconds", "artifact", "report"} <= set(found)
    assert found["error"] is None
    return found


def test_optimize_reports_and_writes_what_was_asked_for(dspex: Invoke, server: MockServer) -> None:
    done = dspex(*OPTIMIZE, "--seed", "3", "-o", "best.dspex", "--html", "page.html", "--json")
    assert done.code == 0, done.err
    found = check_report(done)
    assert (found["status"], found["seed"]) == ("complete", 3)
    assert found["calls"] == found["spent"]["settled"]["calls"] == len(server.answered)
    assert (found["artifact"], found["report"]) == ("best.dspex", "page.html")
    assert Path("page.html").read_text().startswith("<!")
    assert dspex("run", "best.dspex", "What is the capital of Peru?").code == 0

    listed = dspex("study", "list", "--json").json["studies"]
    assert [(s["study"], s["status"], s["seed"]) for s in listed] == [(found["study"], "complete", 3)]
    assert found["study"] in dspex("study", "list").out
    shown = dspex("study", "show", found["study"], "--json").json
    assert shown["held_out"] == found["held_out"]
    assert "held-out" in dspex("study", "show", found["study"]).out

    sent = len(server.requests)
    again = dspex("study", "resume", found["study"], "--json")
    assert again.code == 0, again.err
    assert check_report(again)["held_out"] == found["held_out"]
    assert again.json["artifact"] == os.path.abspath("best.dspex")
    assert len(server.requests) == sent

    assert dspex("study", "delete", found["study"], "--json").json["deleted_events"] > 100
    assert dspex("study", "list", "--json").json["studies"] == []
    assert "no studies yet" in dspex("study", "list").out


def test_the_text_report_and_its_progress(dspex: Invoke, server: MockServer) -> None:
    done = dspex(*OPTIMIZE)
    assert done.code == 0
    assert "gain, paired" in done.out
    progress = [line for line in done.err.splitlines() if " evaluations" in line]
    assert any(line.startswith("search") for line in progress)
    assert any(line.startswith("held-out") for line in progress)
    # A line for each phase and message, not one for each of the evaluations.
    assert len(progress) < 30
    for said in ("best ", "spent ", "left ", "to go"):
        assert any(said in line for line in progress), said


def test_resume_is_refused_when_the_metric_changed(dspex: Invoke, server: MockServer) -> None:
    found = dspex(*OPTIMIZE, "--json").json
    source = Path("bot.py").read_text()
    Path("bot.py").write_text(source.replace("return got.answer.strip()", "return 'x' + got.answer.strip()"))
    forget("bot")
    refused = dspex("study", "resume", found["study"], "--json")
    assert "metric" in refused.refused(6, "DX6202")
    assert refused.json["study"] == found["study"]


def test_a_study_in_the_hands_of_another_is_refused(dspex: Invoke, server: MockServer) -> None:
    from dspex.stores.sqlite import SqliteEventStore

    found = dspex(*OPTIMIZE, "--json").json
    with SqliteEventStore() as store, store.lock(found["study"]):
        dspex("study", "resume", found["study"], "--json").refused(6, "DX6105")


def test_a_study_from_python_cannot_be_resumed_here(dspex: Invoke, server: MockServer) -> None:
    from dspex.cli.targets import load_callable, load_program
    from dspex.evaluation.dataset import load
    from dspex.lm.spend import Budget
    from dspex.study.loop import optimize

    program = load_program("bot:QABot")
    rows = load("train.jsonl", program.input_schema, program.output_schema)
    best = optimize(program, rows, load_callable("bot:accuracy"), budget=Budget(calls=100))
    dspex("study", "resume", best.study.id, "--json").refused(2, "DX6209")


def test_cache_show_check_and_clear(dspex: Invoke, server: MockServer) -> None:
    for _ in range(2):
        assert ended(spawn("run", "bot:QABot", "What is the capital of Peru?")).code == 0
    assert len(server.requests) == 1
    shown = dspex("cache", "show", "--json").json
    assert (shown["entries"], shown["path"]) == (1, os.path.join(os.environ["DSPEX_CACHE_DIR"], "responses.db"))
    assert "1 answers" in dspex("cache", "show").out
    checked = dspex("cache", "check", "--json").json
    assert (checked["sound"], checked["dropped"], checked["aside"]) == (1, 0, None)
    assert "1 answers are sound" in dspex("cache", "check").out
    Path(shown["path"]).write_bytes(b"no database " * 1000)
    assert "set aside" in dspex("cache", "check").out
    dspex("cache", "clear")
    assert ended(spawn("run", "bot:QABot", "What is the capital of Peru?")).code == 0
    assert dspex("cache", "clear", "--json").json["deleted"] == 1
    assert dspex("cache", "show", "--json").json["entries"] == 0
    assert "deleted 0" in dspex("cache", "clear").out


def test_contents_are_kept_as_asked_for(dspex: Invoke, server: MockServer) -> None:
    found = dspex(*OPTIMIZE, "--content", "off", "--json").json
    kept = dspex("study", "show", found["study"], "--json").json
    assert kept["prompts"] == []
    assert kept["held_out"] == found["held_out"]


def test_held_out_data_of_ones_own(dspex: Invoke, server: MockServer) -> None:
    lines = Path("train.jsonl").read_text().splitlines()
    Path("train.jsonl").write_text("\n".join(lines[:30]))
    Path("mine.jsonl").write_text("\n".join(lines[30:]))
    found = dspex(*OPTIMIZE, "--held-out", "mine.jsonl", "--json").json
    assert found["held_out"]["after"]["n"] == len(lines) - 30
    Path("mine.jsonl").write_text("\n".join(lines[29:]))
    shared = dspex(*OPTIMIZE, "--held-out", "mine.jsonl", "--json")
    assert shared.code == 2
    assert shared.json["error"]["code"].startswith("DX5")


def forget(module: str) -> None:
    """Make Python read a changed file again."""
    import importlib
    import linecache
    import sys

    del sys.modules[module]
    importlib.invalidate_caches()
    linecache.clearcache()
    for cached in Path("__pycache__").glob(f"{module}.*"):
        cached.unlink()


def test_results_are_json_that_any_reader_takes(dspex: Invoke) -> None:
    text = dspex("study", "list", "--json").out
    assert text.isascii()
    assert json.loads(text)["studies"] == []
