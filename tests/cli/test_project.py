"""`new`, `explain`, `compile` and `run`, on the project that `new` makes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from dspex.testing import MockServer
from tests.cli.commands import Invoke, ended, spawn


@pytest.fixture
def project(dspex: Invoke, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project that `dspex new` makes, which is the working directory then."""
    assert dspex("new", "mybot").code == 0
    folder = Path("mybot").resolve()
    monkeypatch.chdir(folder)
    return folder


def test_new_tells_what_it_made(dspex: Invoke) -> None:
    made = dspex("new", "mybot", "--json")
    assert made.code == 0
    assert made.json["files"] == ["README.md", "bot.py", "train.jsonl"]
    assert sorted(p.name for p in Path("mybot").iterdir()) == made.json["files"]
    assert "dspex run bot:QABot" in Path("mybot/README.md").read_text()


def test_new_never_overwrites(dspex: Invoke) -> None:
    Path("mybot").mkdir()
    dspex("new", "mybot").refused(2, "DX8305")
    dspex("new", "../out", "--json").refused(2, "DX8304")
    assert list(Path("mybot").iterdir()) == []


def test_a_new_project_explains_itself(dspex: Invoke, project: Path) -> None:
    told = dspex("explain", "bot:QABot")
    assert told.code == 0
    assert "program QABot : Ask -> Answer" in told.out
    assert "{question}" in told.out
    found = dspex("explain", "bot.py:QABot", "--json").json["explanation"]
    assert found["signature"] == "Ask -> Answer"


def test_run_prints_the_output(dspex: Invoke, project: Path, server: MockServer) -> None:
    plain = dspex("run", "bot:QABot", "What is the capital of France?")
    assert plain.code == 0
    assert set(json.loads(plain.out)) == {"answer"}
    given = dspex("run", "bot:QABot", '{"question": "What is the capital of Italy?"}', "--json")
    assert given.json["output"] == {"answer": "Rome"} or given.json["output"] == {"answer": "nowhere"}
    assert given.json["spent"]["settled"]["calls"] == 1
    assert given.json["trace"]


def test_run_reads_standard_input(
    dspex: Invoke, project: Path, server: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is the capital of Spain?\n"))
    assert dspex("run", "bot:QABot", "--json").json["status"] == "complete"
    assert "capital of Spain" in server.requests[-1].text
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    dspex("run", "bot:QABot", "--json").refused(2, "DX8301")


def test_plain_text_stays_text(dspex: Invoke, project: Path, server: MockServer) -> None:
    assert dspex("run", "bot:QABot", "42").code == 0
    assert server.requests[-1].text.rstrip().endswith("42")


def test_run_names_the_wrong_field(dspex: Invoke, project: Path, server: MockServer) -> None:
    wrong = dspex("run", "bot:QABot", '{"query": "?"}', "--json")
    wrong.refused(2, "DX8302")
    assert wrong.json["error"]["where"] in ("question", "query")
    Path("two.py").write_text(
        "import dspex as dx\nclass A(dx.Schema):\n    x: str\n    y: int\nclass B(dx.Schema):\n    z: str\n"
        "@dx.program\nasync def both(a: A) -> B:\n    '''Add.'''\n    dx.infer()\n"
    )
    assert "x, y" in dspex("run", "two:both", "plain text").refused(2, "DX8301")
    assert server.requests == []


def test_compile_writes_what_run_and_explain_read(dspex: Invoke, project: Path, server: MockServer) -> None:
    Path("config.json").write_text('{"style": "exact"}')
    made = dspex("compile", "bot:QABot", "-o", "bot.dspex", "--config", "config.json", "--json")
    assert made.code == 0, made.err
    assert made.json["artifact"] == "bot.dspex"
    assert "program QABot" in made.json["graph"]
    assert "Give a exact answer" in dspex("explain", "bot.dspex").out
    assert dspex("run", "bot.dspex", "What is the capital of Peru?").code == 0
    assert "Give a exact answer" in server.requests[-1].text


def test_compile_refuses_what_it_cannot_bind_or_write(dspex: Invoke, project: Path) -> None:
    Path("config.json").write_text("[1]")
    dspex("compile", "bot:QABot", "--config", "config.json", "--json").refused(2, "DX8303")
    Path("config.json").write_text('{"style": "loud"}')
    assert dspex("compile", "bot:QABot", "--config", "config.json", "--json").code == 5
    dspex("compile", "bot:QABot", "-o", "no/such/folder/x.dspex").refused(2, "DX8309")
    assert dspex("explain", "absent.dspex", "--json").json["error"]["code"] == "DX2201"


def test_an_artifact_runs_from_another_folder(
    dspex: Invoke, project: Path, server: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dspex("compile", "bot:QABot", "-o", "bot.dspex").code == 0
    monkeypatch.chdir(project.parent)
    assert dspex("run", "mybot/bot.dspex", "What is the capital of Peru?").code == 0


def test_stdout_holds_the_object_alone(project: Path, server: MockServer) -> None:
    noisy = "import os, sys, warnings, logging\nprint('loud')\nos.write(1, b'louder\\n')\nwarnings.warn('careful')\n"
    noisy += "logging.getLogger('x').warning('logged')\n"
    Path("loud.py").write_text(noisy + Path("bot.py").read_text().replace("from __future__ import annotations", ""))
    done = ended(spawn("run", "loud:QABot", "What is the capital of Peru?", "--json"))
    assert done.code == 0, done.err
    assert done.json["status"] == "complete"
    assert "loud" in done.err
    assert "louder" in done.err


def test_results_without_json_keep_what_programs_print(dspex: Invoke, project: Path, server: MockServer) -> None:
    Path("loud.py").write_text(Path("bot.py").read_text() + "\nprint('loud')\n")
    assert dspex("run", "loud:QABot", "What is the capital of Peru?").out.startswith("loud\n")
