"""`dspex check`: what it finds in a project, where it says it is, and how it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.commands import Invoke

SCHEMAS = """\
import dspex as dx


class Ask(dx.Schema):
    question: str


class Answer(dx.Schema):
    answer: str
"""

BOT = """\
import dspex as dx
from schemas import Answer, Ask


class Bot(dx.Program[Ask, Answer]):
    ask = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.ask(x)


pipeline = dx.Predict(Ask, Ask) >> dx.Predict(Ask, Answer)
"""

UNREAD = BOT.replace("    ask =", "    k: dx.Var[int] = dx.var(2, lo=1, hi=4)\n    ask =", 1)
IMPOSSIBLE = UNREAD.replace("    ask =", "    rules = [k >= 9]\n    ask =", 1)
FIELD = BOT.replace("await self.ask(x)", "Answer(answer=x.asked)")
OPAQUE = BOT.replace("        return", "        while not x.question:\n            pass\n        return")
PENDING = BOT.replace("return await", "return")
NEEDS = BOT.replace("    ask =", "    def __init__(self, size: int) -> None: ...\n\n    ask =", 1)
PAIRED = BOT.replace("dx.Predict(Ask, Ask) >>", "dx.Predict(Ask, Answer) >>")


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _schemas() -> None:  # pyright: ignore[reportUnusedFunction]
    write("schemas.py", SCHEMAS)


def test_a_sound_project_ends_with_0(dspex: Invoke) -> None:
    write("bot.py", BOT)
    ended = dspex("check", ".")
    assert ended.code == 0
    assert ended.out == ""
    assert "2 programs in 2 files: 0 errors, 0 warnings, 0 info" in ended.err


@pytest.mark.parametrize(
    ("text", "line", "severity", "code"),
    [
        (IMPOSSIBLE, 6, "error", "DX2104"),
        (FIELD, 9, "error", "DX2002"),
        (PAIRED, 12, "error", "DX2001"),
        (UNREAD, 6, "warning", "DX2407"),
        (PENDING, 9, "error", "DX2011"),
        (OPAQUE, 9, "info", "DX2404"),
        (NEEDS, 5, "info", "DX2411"),
        ("import dspex\nraise ValueError('no')\nx = dict()\n", 2, "error", "DX1701"),
        ("import dspex\nimport sys\nsys.exit(0)\nx = dict()\n", 3, "error", "DX1701"),
        ("import dspex\nimport nowhere\nx = dict()\n", 2, "error", "DX1701"),
        ("import dspex\nclass X(\n", 2, "error", "DX2410"),
    ],
)
def test_findings_stand_at_their_line(dspex: Invoke, text: str, line: int, severity: str, code: str) -> None:
    write("bot.py", text)
    ended = dspex("check", "bot.py")
    assert f"bot.py:{line}: {severity} {code} " in ended.out
    assert ended.code == (1 if severity == "error" else 0)
    assert dspex("check", "bot.py", "--strict").code == (0 if severity == "info" else 1)


def test_json_holds_the_findings_and_the_counts(dspex: Invoke) -> None:
    write("bot.py", IMPOSSIBLE)
    ended = dspex("check", "bot.py", "--json")
    assert ended.code == 1
    found = ended.json
    assert found["status"] == "complete"
    assert found["counts"]["error"] == 1
    (finding, *_) = found["findings"]
    assert set(finding) == {"file", "line", "program", "severity", "code", "message", "where", "fix"}
    assert (finding["file"], finding["code"], finding["program"]) == ("bot.py", "DX2104", "Bot")


def test_what_a_file_prints_does_not_mix_with_the_findings(dspex: Invoke) -> None:
    write("bot.py", 'print("hello")\n' + BOT)
    ended = dspex("check", ".")
    assert ended.out == ""
    assert "hello" in ended.err


def test_order_is_that_of_files_and_lines(dspex: Invoke) -> None:
    write("b/bot.py", UNREAD.replace("from schemas", "from schemas_b"))
    write("b/schemas_b.py", SCHEMAS)
    write("a/bot.py", IMPOSSIBLE.replace("from schemas", "from schemas_a"))
    write("a/schemas_a.py", SCHEMAS)
    out = dspex("check", ".").out
    assert out == dspex("check", "b", ".", "a").out
    assert out.index("a/bot.py:6") < out.index("b/bot.py:6")


def test_two_files_of_one_name_are_both_checked_and_leave_nothing_imported(dspex: Invoke) -> None:
    write("a/bot.py", FIELD.replace("from schemas", "from schemas_a"))
    write("a/schemas_a.py", SCHEMAS)
    write("b/bot.py", FIELD.replace("from schemas", "from schemas_b"))
    write("b/schemas_b.py", SCHEMAS)
    before = set(sys.modules)
    out = dspex("check", ".").out
    assert "a/bot.py:9: error DX2002" in out
    assert "b/bot.py:9: error DX2002" in out
    assert not {"bot", "schemas_a", "schemas_b"} & (set(sys.modules) - before)


def test_packages_are_imported_by_their_dotted_name(dspex: Invoke) -> None:
    write("shop/__init__.py", "")
    write("shop/schemas.py", SCHEMAS)
    write("shop/bot.py", FIELD.replace("from schemas", "from .schemas"))
    assert "shop/bot.py:9: error DX2002" in dspex("check", "shop").out
    assert "shop/bot.py:9: error DX2002" in dspex("check", "shop.bot").out


def test_files_without_programs_and_tests_are_not_imported(dspex: Invoke) -> None:
    write("tool.py", "raise SystemExit(3)\n")
    write("run.py", "import dspex\nraise SystemExit(3)\n")
    write("test_bot.py", "import dspex\nx = dict()\nraise SystemExit(3)\n")
    write(".hidden/bot.py", "import dspex\nx = dict()\nraise SystemExit(3)\n")
    write("env/pyvenv.cfg", "")
    ended = dspex("check", ".")
    assert (ended.code, ended.out) == (0, "")


def test_a_name_of_pythons_own_is_told(dspex: Invoke) -> None:
    write("json.py", BOT)
    assert "json.py:1: error DX1701 json.py cannot be imported" in dspex("check", "json.py").out


def test_artifacts_are_checked(dspex: Invoke) -> None:
    write("bot.py", BOT)
    assert dspex("compile", "bot:Bot", "-o", "bot.dspex").code == 0
    assert dspex("check", "bot.dspex").code == 0
    whole = Path("bot.dspex").read_bytes()
    Path("bot.dspex").write_bytes(whole[: len(whole) // 2])
    ended = dspex("check", ".", "--json")
    assert ended.code == 1
    assert [(found["file"], found["code"]) for found in ended.json["findings"]] == [("bot.dspex", "DX2203")]


@pytest.mark.parametrize("path", ["nowhere", "nowhere.py", "no such", "notes.txt"])
def test_a_path_that_is_nothing_to_check_is_a_usage_error(dspex: Invoke, path: str) -> None:
    write("notes.txt", "")
    dspex("check", path).refused(2, "DX8332")
    dspex("check", path, "--json").refused(2, "DX8332")


def test_without_a_path_the_command_line_is_wrong(dspex: Invoke) -> None:
    assert dspex("check").code == 2


CALLS = (
    BOT
    + """

from dspex.testing import ScriptedLM

lm = ScriptedLM(lambda request: {"answer": "Paris"})
with dx.using(lm=lm):
    try:
        print(Bot().run(Ask(question="Where?"), budget=dx.Budget(calls=9)))
    finally:
        if lm.calls:
            raise RuntimeError("a call was made")
"""
)


def test_no_call_is_made_when_a_file_makes_one_at_its_top(dspex: Invoke) -> None:
    write("bot.py", CALLS)
    found = dspex("check", "bot.py", "--json")
    assert found.code == 1
    assert [finding["code"] for finding in found.json["findings"]] == ["DX2409"]


OPTIMIZES = (
    BOT
    + """

from pathlib import Path

from dspex.testing import ScriptedLM

lm = ScriptedLM(lambda request: {"answer": "Paris"})


def right(got: Answer, want: Answer) -> bool:
    return got.answer == want.answer


try:
    data = [(Ask(question=f"{number}?"), Answer(answer="Paris")) for number in range(40)]
    with dx.using(lm=lm):
        Bot().optimize(data, maximize=right, budget=dx.Budget(calls=90))
finally:
    Path("calls.txt").write_text(str(lm.calls))
"""
)


def test_no_study_buys_anything_when_a_file_optimizes_at_its_top(dspex: Invoke) -> None:
    write("bot.py", OPTIMIZES)
    found = dspex("check", "bot.py", "--json")
    assert found.code in (0, 1)
    assert Path("calls.txt").read_text(encoding="utf-8") == "0"
