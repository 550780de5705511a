"""Everything that a command line can be wrong about ends with its exit code, one message and one JSON object."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspex.cli import output
from dspex.errors import (
    BudgetExceeded,
    CompileError,
    ConnectError,
    CoreError,
    DataError,
    DspexError,
    LocalModelError,
    MetricError,
    NoLMError,
    OutputError,
    ProgramError,
    ResumeRefused,
    StudyError,
    UsageError,
)
from dspex.testing import MockServer
from tests.cli.commands import Invoke, capital

BOT = """
import dspex as dx

class Ask(dx.Schema):
    question: str

class Answer(dx.Schema):
    answer: str

class Bot(dx.Program[Ask, Answer]):
    answer = dx.Predict(Ask, Answer, lm={lm})

    async def __call__(self, x: Ask, /) -> Answer:
        {body}
        return await self.answer(x)

def accuracy(got, want):
    return got.answer == want.answer

def broken(got, want):
    raise LookupError("no such score")

def nan(got, want):
    return float("nan")

NUMBER = 3
"""


def write_bot(lm: str = "None", body: str = "pass") -> None:
    Path("bot.py").write_text(BOT.format(lm=lm, body=body))


def write_rows(count: int = 60) -> None:
    lines = [f'{{"question": "What is the capital of France, {n}?", "answer": "Paris"}}' for n in range(count)]
    Path("train.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("DX8001", "x"), 2),
        (NoLMError("DX4001", "x"), 2),
        (DataError("DX5103", "x"), 2),
        (DataError("DX5403", "x"), 5),
        (StudyError("DX6203", "x"), 2),
        (StudyError("DX6201", "x"), 2),
        (BudgetExceeded("DX4502", "x"), 3),
        (ConnectError("DX4201", "x"), 4),
        (OutputError("DX4301", "x"), 4),
        (LocalModelError("DX7001", "x"), 4),
        (StudyError("DX6211", "x"), 4),
        (StudyError("DX6214", "none of the first 8 gave a score; the first ended with DX4301 not JSON"), 4),
        (StudyError("DX6214", "none of the first 8 gave a score; the first ended with DX5403 raised"), 5),
        (StudyError("DX6213", "an evaluation failed: DX5401 raised"), 5),
        (StudyError("DX6212", "x"), 5),
        (MetricError("DX5401", "x"), 5),
        (ProgramError("DX1401", "x"), 5),
        (CompileError("DX2104", "x"), 5),
        (ResumeRefused("DX6202", "x"), 6),
        (StudyError("DX6105", "x"), 6),
        (StudyError("DX6101", "x"), 1),
        (CoreError("DX3001", "x"), 1),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert output.exit_code(error) == code


def test_command_lines_that_are_wrong(dspex: Invoke) -> None:
    for arguments in (["nothing"], ["run"], ["optimize", "a:b", "c", "--seed", "x"], ["study", "show"], ["--nope"]):
        plain = dspex(*arguments)
        assert (plain.code, plain.out) == (2, "")
        assert plain.err
        dspex(*arguments, "--json").refused(2, "DX8001")
    assert "Did you mean 'optimize'" in dspex("optimise").err


def test_help_names_every_command_and_exit_code(dspex: Invoke) -> None:
    shown = dspex("--help")
    assert shown.code == 0
    for name in ("demo", "new", "run", "optimize", "compile", "explain", "check", "model", "study", "cache", "doctor"):
        assert f"\n  {name} " in shown.out
        assert dspex(name, "--help").code == 0
    assert "130" in shown.out
    assert dspex("--version").out.startswith("dspex")


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("bot", "DX8221"),
        ("bot:", "DX8221"),
        ("absent:Bot", "DX8222"),
        ("absent.py:Bot", "DX8222"),
        ("bot.deep:Bot", "DX8222"),
        ("../up:Bot", "DX8222"),
        ("bot:Bat", "DX8223"),
        ("bot:Ask", "DX8224"),
        ("bot:NUMBER", "DX8224"),
        ("two-words.py:Bot", "DX8226"),
        ("json.py:Bot", "DX8226"),
    ],
)
def test_targets_that_name_no_program(dspex: Invoke, target: str, code: str) -> None:
    write_bot()
    for name in ("two-words.py", "json.py"):
        Path(name).write_text("Bot = 1\n")
    dspex("explain", target, "--json").refused(2, code)
    assert dspex("explain", target).out == ""


def test_a_near_name_is_offered(dspex: Invoke) -> None:
    write_bot()
    assert "did you mean Bot" in dspex("explain", "bot:Bott").err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f():\n    return 1 / 0\nf()\n", "ZeroDivisionError"),
        ("def (\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("import a_package_that_is_not_there\n", "a_package_that_is_not_there"),
    ],
)
def test_a_module_that_raises(dspex: Invoke, source: str, said: str) -> None:
    Path("bad.py").write_text(source)
    ended = dspex("explain", "bad:Bot", "--json")
    assert said in ended.refused(5, "DX1701")
    assert "bad.py" in ended.json["error"]["where"]
    if "SyntaxError" not in said:
        assert "Traceback" in ended.err
    assert "importlib" not in ended.err
    assert "dspex/cli" not in ended.err


def test_a_program_that_raises(dspex: Invoke, server: MockServer) -> None:
    write_bot(body="raise KeyError('here')")
    ended = dspex("run", "bot:Bot", "hi", "--json")
    assert "KeyError" in ended.refused(5, "DX1701")
    assert 'bot.py", line' in ended.err


def test_no_model_is_chosen(dspex: Invoke) -> None:
    write_bot()
    write_rows()
    assert "local/smollm2" in dspex("run", "bot:Bot", "hi").refused(2, "DX4001")
    study = dspex("optimize", "bot:Bot", "train.jsonl", "--metric", "bot:accuracy", "--budget-calls", "200", "--json")
    study.refused(2, "DX4001")


def test_the_server_is_down(dspex: Invoke, server: MockServer) -> None:
    server.stop()
    write_bot(lm=f"dx.LM('openai/mock', base_url={server.url!r}, api_key='x', retries=0)")
    write_rows()
    ended = dspex("run", "bot:Bot", "hi", "--json")
    assert ended.code == 4
    assert ended.json["error"]["code"].startswith("DX4")
    study = dspex("optimize", "bot:Bot", "train.jsonl", "--metric", "bot:accuracy", "--budget-calls", "200", "--json")
    assert study.code == 4, study.err
    assert study.json["study"] is not None
    assert study.json["seed"] == 0
    shown = dspex("study", "show", study.json["study"], "--json")
    assert shown.json["status"] == "failed"
    assert shown.json["error"]["code"] == study.json["error"]["code"]


def test_a_study_that_fails_midway_says_what_it_spent(dspex: Invoke) -> None:
    with MockServer(capital) as server:
        write_bot(lm=f"dx.LM('openai/mock', base_url={server.url!r}, api_key='x', retries=0)")
        write_rows()
        # One at a time: what else were in the air when the metric fails would be spent perhaps.
        options = ["--budget-calls", "200", "--concurrency", "1", "--json"]
        ended = dspex("optimize", "bot:Bot", "train.jsonl", "--metric", "bot:broken", *options)
    assert "no such score" in ended.refused(5, "DX6212")
    assert ended.json["spent"]["settled"]["calls"] == len(server.answered) > 0
    assert ended.json["study"] is not None


@pytest.mark.parametrize(("metric", "code", "error"), [("nan", 5, "DX6212"), ("NUMBER", 2, "DX8225")])
def test_a_metric_that_is_none(dspex: Invoke, server: MockServer, metric: str, code: int, error: str) -> None:
    write_bot()
    write_rows()
    command = ["optimize", "bot:Bot", "train.jsonl", "--metric", f"bot:{metric}", "--budget-calls", "200", "--json"]
    dspex(*command).refused(code, error)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": "a"}\n', "train.jsonl:2 field answer"),
        ('{"question": "a", "answer": 3}\n', "train.jsonl:1 field answer"),
        ('{"question": "a", "answer": "b"}\nnot json\n', "train.jsonl:2"),
        ("", "train.jsonl"),
    ],
)
def test_data_that_are_wrong(dspex: Invoke, text: str, where: str) -> None:
    write_bot()
    Path("train.jsonl").write_text(text)
    command = ["optimize", "bot:Bot", "train.jsonl", "--metric", "bot:accuracy", "--budget-calls", "200", "--json"]
    ended = dspex(*command)
    assert ended.code == 2
    assert ended.json["error"]["code"].startswith("DX5")
    assert where in str(ended.json["error"]["where"])


def test_budgets_that_are_none(dspex: Invoke, server: MockServer) -> None:
    write_bot()
    write_rows()
    command = ["optimize", "bot:Bot", "train.jsonl", "--metric", "bot:accuracy", "--json"]
    dspex(*command).refused(2, "DX8306")
    dspex(*command, "--budget-calls", "0").refused(2, "DX8001")
    dspex(*command, "--budget-wall", "soon").refused(2, "DX4501")
    assert "take" in dspex(*command, "--budget-calls", "5").refused(2, "DX6203")
    assert dspex(*command, "--budget-calls", "5").json["seed"] == 0
    assert server.requests == []
    assert dspex("study", "list", "--json").json["studies"] == []


def test_results_that_cannot_be_written_are_refused_before_anything_is_spent(dspex: Invoke, server: MockServer) -> None:
    write_bot()
    write_rows()
    command = ["optimize", "bot:Bot", "train.jsonl", "--metric", "bot:accuracy", "--budget-calls", "200", "--json"]
    dspex(*command, "-o", "absent/best.dspex").refused(2, "DX8309")
    dspex(*command, "--html", "absent/page.html").refused(2, "DX8309")
    assert server.requests == []


def test_studies_that_are_not_there(dspex: Invoke) -> None:
    for name in ("show", "resume", "delete"):
        dspex("study", name, "nothing", "--json").refused(2, "DX6201")


def test_an_unexpected_error_is_one_object_too(dspex: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise() -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("dspex.stores.cache.default_cache", surprise)
    ended = dspex("cache", "show", "--json")
    ended.refused(1, "DX8901")
    assert "Traceback" in ended.err


def test_an_interruption_outside_of_a_study(dspex: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dspex.stores.cache.default_cache", interrupt)
    ended = dspex("cache", "show", "--json")
    assert ended.code == 130
    assert ended.json["status"] == "interrupted"


def test_errors_keep_their_shape_in_json() -> None:
    error = DspexError("DX8001", "rule", where="place", fix="do")
    assert output.error_document(error) == {"code": "DX8001", "message": "rule", "where": "place", "fix": "do"}


def test_numbers_that_json_has_not_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"a": [float("nan"), float("inf"), 1.5], "b": {"c": "é"}})
    assert "".join(capsys.readouterr().out.split()) == '{"a":[null,null,1.5],"b":{"c":"\\u00e9"}}'
