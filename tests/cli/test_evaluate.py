"""`dspex evaluate`: the score, the rows, and batches that outlive the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dspex.testing import MockServer
from tests.cli.commands import Invoke, ended, read_until, spawn

EVALUATE = ["evaluate", "bot:QABot", "train.jsonl", "--metric", "bot:accuracy"]


pytestmark = pytest.mark.usefixtures("project")


def test_the_score_is_the_mean_of_the_rows(dspex: Invoke, server: MockServer) -> None:
    told = dspex(*EVALUATE, "--json", "-o", "rows.jsonl")
    assert told.code == 0, told.err
    found = told.json
    rows = found["rows"]
    assert [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()] == rows
    scores = [row["score"] for row in rows]
    assert found["score"]["mean"] == pytest.approx(sum(scores) / len(scores))
    assert 0 < sum(scores) < len(scores)
    assert found["spent"]["settled"]["calls"] == len(server.answered) == len(rows)
    assert f"{found['score']['mean']:.4g}" in dspex(*EVALUATE).out


def test_failed_rows_have_their_reason_and_if_all_fail_so_does_the_command(dspex: Invoke, server: MockServer) -> None:
    Path("judges.py").write_text("def strict(got, want):\n    raise ValueError('cannot judge')\n")
    told = dspex(*EVALUATE[:-1], "judges:strict", "--json")
    assert told.code == 5
    assert {row["error"]["code"] for row in told.json["rows"]} == {"DX5401"}
    assert (told.json["status"], told.json["error"]["code"]) == ("failed", "DX5401")
    told = dspex(*EVALUATE[:-1], "judges:strict", "--exclude-failures")
    assert (told.code, told.out.splitlines()[0][:8]) == (5, "no score")


def test_what_cannot_be_done_is_refused_before_anything_is_sent(dspex: Invoke, server: MockServer) -> None:
    assert dspex(*EVALUATE, "--budget-calls", "3", "--batch", "folder").refused(3, "DX4502")
    assert dspex(*EVALUATE, "--lm", "ollama/m", "--batch", "folder").refused(2, "DX4711")
    Path("judges.py").write_text("def lonely(got):\n    return 1.0\n")
    assert dspex(*EVALUATE[:-1], "judges:lonely", "--batch", "folder").refused(5, "DX1521")
    Path("file").write_text("")
    assert "another folder" in dspex(*EVALUATE, "--batch", "file/folder").refused(1, "DX6103")
    assert server.requests == []


def test_an_artifact_without_its_source_is_judged_by_a_metric_for_the_sources_schemas(
    dspex: Invoke, server: MockServer
) -> None:
    score = dspex(*EVALUATE, "--json").json["score"]
    assert dspex("compile", "bot:QABot", "-o", "bot.dspex").code == 0
    with spawn("evaluate", "bot.dspex", *EVALUATE[2:], "--json") as process:
        told = ended(process)
    assert told.code == 0, told.err
    assert told.json["score"] == score


def test_batches_are_gone_on_with_by_the_same_command(
    dspex: Invoke, server: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.batch_polls = 10**9
    batch = [*EVALUATE, "--batch", "folder", "--batch-interval", "0.01", "--json"]
    with spawn(*batch) as process:
        said = read_until(process, "the batches are kept in folder: after an interruption the same command goes on")
        assert "requests is handed in" in said
        assert server.wait_until(
            lambda s: any(f"/batches/{name}" in r.path for name in s.batches for r in s.requests), 60
        )
        process.terminate()
        assert ended(process).code == 130
    server.batch_polls = 0
    (waiting,) = server.batches.values()
    waiting.waits = 0
    told = dspex(*batch)
    found = told.json
    assert len(server.batches) == 1
    assert "requests is taken up" in told.err
    assert re.search(r"has ended: (\d+) of \1 answered", told.err)
    plain = dspex(*EVALUATE, "--json").json
    assert [row["score"] for row in found["rows"]] == [row["score"] for row in plain["rows"]]
    assert plain["spent"]["settled"]["calls"] == 0
