"""Artifacts on the command line: compile, run, export, unpack, pack, sign, verify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspex.compiler.artifact.archive import read_archive
from dspex.program.context import using
from dspex.testing import ScriptedLM
from tests.cli.commands import CAPITALS, Invoke

BOT = '''
import dspex as dx

class Ask(dx.Schema):
    """A question."""
    question: str

class Answer(dx.Schema):
    """A short answer."""
    answer: str

def shout(text: str) -> str:
    return text.upper()

class QABot(dx.Program[Ask, Answer]):
    style: dx.Var[str] = dx.var("terse", choices=["terse", "friendly"])
    solve = dx.Predict(Ask, Answer, instruction="Answer in a {style} way.")

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.solve(x)

class Loud(dx.Program[Ask, Answer]):
    solve = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        y = await self.solve(x)
        return Answer(answer=shout(y.answer))
'''


@pytest.fixture
def bot(dspex: Invoke) -> Path:
    Path("bot.py").write_text(BOT)
    assert dspex("compile", "bot:QABot", "-o", "bot.dspex").code == 0
    assert dspex("compile", "bot:Loud", "-o", "loud.dspex").code == 0
    Path("bot.py").rename("gone.py")
    import sys

    del sys.modules["bot"]
    return Path("bot.dspex")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    return lambda: using(lm=ScriptedLM(lambda _: "paris"))


def test_artifact_runs_without_its_source(bot: Path, dspex: Invoke, scripted: Callable[..., Any]) -> None:
    with scripted():
        for given in ('{"question": "Capital of France?"}', "Capital of France?"):
            done = dspex("run", "bot.dspex", given, "--json")
            assert done.code == 0, done.err
            assert done.json["output"] == {"answer": "paris"}
    assert "question" in dspex("run", "bot.dspex", '{"x": 1}').refused(2, "DX8302")


def test_code_is_imported_only_when_it_is_allowed(bot: Path, dspex: Invoke, scripted: Callable[..., Any]) -> None:
    Path("gone.py").rename("bot.py")
    with scripted():
        said = dspex("run", "loud.dspex", "Capital of France?").refused(5, "DX2205")
        assert "--import bot" in said
        done = dspex("run", "loud.dspex", "Capital of France?", "--import", "bot", "--json")
        assert done.json["output"] == {"answer": "PARIS"}
    Path("bot.py").write_text("raise RuntimeError('broken')")


def test_export_gives_prompts_and_requests(bot: Path, dspex: Invoke) -> None:
    text = dspex("export", "bot.dspex").out
    assert "# solve" in text
    assert "Answer in a {style} way." in text
    assert "Answer in a terse way." in text
    bodies = json.loads(dspex("export", "bot.dspex", "--format", "openai").out)
    assert [message["role"] for message in bodies["solve"]["messages"]] == ["system", "user"]
    assert bodies["solve"]["messages"][-1]["content"] == "{question}"
    assert bodies["solve"]["max_completion_tokens"] == 512
    whole = dspex("export", "bot.dspex", "--format", "json", "-o", "all.json", "--json").json["content"]
    assert whole == json.loads(Path("all.json").read_text())
    assert whole["modules"]["solve"]["instruction_variable"] == "solve.instruction"
    assert whole["configuration"]["style"] == "terse"
    assert whole["schemas"]["Ask"]["properties"]["question"]["type"] == "string"
    assert dspex("export", "bot.dspex", "-o", "none/x.md").code == 2


def test_module_that_scores_is_no_chat_completion(dspex: Invoke) -> None:
    Path("choice.py").write_text(
        "from typing import Literal\nimport dspex as dx\n"
        "class Ask(dx.Schema):\n    q: str\n"
        "class Out(dx.Schema):\n    a: Literal['x', 'y']\n"
        "bot = dx.Predict(Ask, Out, scoring='logprob')\n"
    )
    assert dspex("export", "choice:bot", "--format", "openai").refused(2, "DX8313")


def test_instructions_are_edited_in_an_unpacked_folder(bot: Path, dspex: Invoke, scripted: Callable[..., Any]) -> None:
    assert dspex("unpack", "bot.dspex", "parts", "--json").json["files"][0] == "configuration.json"
    assert dspex("unpack", "bot.dspex", "parts").refused(5, "DX2217")
    assert dspex("pack", "parts", "-o", "same.dspex", "--json").json["edited"] == []
    assert Path("same.dspex").read_bytes() == bot.read_bytes()
    page = Path("parts/prompts/solve.md")
    before = page.read_text()
    page.write_text(before.replace("Answer in a {style} way.\n", "Say it in a {style} way.\nIn one line.\n"))
    assert dspex("pack", "parts", "-o", "new.dspex", "--json").json["edited"] == ["solve"]
    document = json.loads(dspex("export", "new.dspex", "--format", "json").out)
    assert document["modules"]["solve"]["instruction"] == "Say it in a {style} way.\nIn one line."
    assert document["configuration"]["solve.instruction"] == "Say it in a {style} way.\nIn one line."
    assert document["provenance"]["edited"] == ["solve"]
    assert "Say it in a terse way.\nIn one line." in document["modules"]["solve"]["prompt"]
    page.write_text(before.replace("\n", "\r\n").replace("Answer in", "Reply in", 1), newline="")
    assert dspex("pack", "parts", "-o", "new.dspex", "--json").json["edited"] == ["solve"]
    page.write_text(before.replace("| format | chat |", "| format | completion |"))
    assert dspex("pack", "parts", "-o", "x.dspex").refused(5, "DX2214")
    page.write_text(before)
    for change in (
        lambda: Path("parts/configuration.json").write_text("{}"),
        lambda: Path("parts/more.txt").write_text("x"),
        lambda: Path("parts/graph.txt").unlink(),
    ):
        change()
        assert dspex("pack", "parts", "-o", "x.dspex").refused(5, "DX2214")
    assert dspex("pack", ".", "-o", "x.dspex").refused(5, "DX2217")
    assert not Path("x.dspex").exists()


def test_fixed_instructions_cannot_be_edited(dspex: Invoke) -> None:
    Path("fixed.py").write_text(
        "import dspex as dx\n"
        "class Ask(dx.Schema):\n    q: str\n"
        "class Out(dx.Schema):\n    a: str\n"
        "class Bot(dx.Program[Ask, Out]):\n"
        "    text: dx.Var[str] = dx.var('Do it.', choices=['Do it.', 'Do.'])\n"
        "    solve = dx.Predict(Ask, Out, instruction=text)\n"
        "    async def __call__(self, x: Ask, /) -> Out:\n        return await self.solve(x)\n"
    )
    assert dspex("compile", "fixed:Bot", "-o", "f.dspex").code == 0
    assert dspex("unpack", "f.dspex", "parts").code == 0
    page = Path("parts/prompts/solve.md")
    page.write_text(page.read_text().replace("Do it.", "Do that.", 1))
    assert dspex("pack", "parts", "-o", "x.dspex").refused(5, "DX2219")


def test_artifacts_are_signed_and_verified(bot: Path, dspex: Invoke, scripted: Callable[..., Any]) -> None:
    name = dspex("keygen", "mine", "--json").json["fingerprint"]
    assert dspex("keygen", "other").code == 0
    assert dspex("keygen", "mine").refused(5, "DX2212")
    plain = dspex("verify", "bot.dspex", "--json").json
    assert (plain["signer"], plain["verified"], plain["needs"]) == (None, False, [])
    assert dspex("verify", "bot.dspex", "--key", "mine.pub").refused(5, "DX2209")
    signed = dspex("sign", "bot.dspex", "--key", "mine.pem")
    assert signed.code == 0
    assert name in signed.out
    assert "PRIVATE" not in signed.out + signed.err
    assert dspex("verify", "bot.dspex", "--key", "mine.pub", "--json").json["signer"] == name
    assert name in dspex("verify", "bot.dspex").out
    assert dspex("verify", "bot.dspex", "--key", "other.pub").refused(5, "DX2211")
    assert "needs python bot:shout" in dspex("verify", "loud.dspex").out
    with scripted():
        assert dspex("run", "bot.dspex", "x", "--key", "mine.pub").code == 0
        assert dspex("run", "bot.dspex", "x", "--key", "other.pub").refused(5, "DX2211")
        assert dspex("run", "loud.dspex", "x", "--key", "mine.pub", "--import", "bot").refused(5, "DX2209")


def test_compile_signs_and_binds(dspex: Invoke) -> None:
    Path("bot.py").write_text(BOT)
    Path("c.json").write_text('{"style": "friendly"}')
    assert dspex("keygen", "mine").code == 0
    done = dspex("compile", "bot:QABot", "--config", "c.json", "--sign", "mine.pem", "-o", "s.dspex")
    assert done.code == 0, done.err
    assert read_archive("s.dspex").signature is not None
    assert dspex("verify", "s.dspex", "--key", "mine.pub").code == 0
    assert dspex("compile", "bot:QABot", "--sign", "mine.pem").refused(2, "DX8312")
    assert dspex("run", "bot:QABot", "x", "--key", "mine.pub").refused(2, "DX8312")
    assert dspex("compile", "bot:QABot", "--study", "none").refused(2, "DX6201")


def test_compile_binds_what_a_study_found(dspex: Invoke, server: Any) -> None:
    Path("bot.py").write_text(BOT + "\n\ndef right(got, want):\n    return float(got.answer == want.answer)\n")
    rows = [{"question": f"What is the capital of {c}?", "answer": a} for c, a in CAPITALS.items()]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = dspex(
        "optimize",
        "bot:QABot",
        "train.jsonl",
        "--metric",
        "bot:right",
        "--budget-calls",
        "150",
        "-o",
        "a.dspex",
        "--json",
    )
    assert done.code in (0, 3), done.err
    study = done.json["study"]
    compiled = dspex("compile", "bot:QABot", "--study", study, "-o", "b.dspex")
    assert compiled.code == 0, compiled.err
    first, second = (read_archive(name) for name in ("a.dspex", "b.dspex"))
    assert (
        json.loads(first.members["configuration.json"]).keys()
        == json.loads(second.members["configuration.json"]).keys()
    )
    found = [json.loads(dspex("export", name, "--format", "json").out) for name in ("a.dspex", "b.dspex")]
    assert found[0]["configuration"] == found[1]["configuration"]
    assert second.manifest["provenance"] == first.manifest["provenance"]


NAMED = """
import dspex as dx
from bot import Answer, Ask, Loud

def polite(x: Ask) -> bool:
    return "please" in x.question

def made(prefix: str) -> type[dx.Program[Ask, Answer]]:
    class Made(dx.Program[Ask, Answer]):
        solve = dx.Predict(Ask, Answer)

        async def __call__(self, x: Ask, /) -> Answer:
            y = await self.solve(x)
            return Answer(answer=y.answer + str(polite(x)))

    return Made

chosen = dx.when(polite, dx.Predict(Ask, Answer), Loud())
Quick = made("quick")
"""


def test_what_has_a_name_only_is_saved_under_the_name_on_the_command_line(dspex: Invoke) -> None:
    Path("bot.py").write_text(BOT)
    Path("named.py").write_text(NAMED)
    for target, path in (("named:chosen", "named:chosen"), ("named.py:Quick", "named:Quick")):
        assert dspex("compile", target, "-o", "named.dspex").code == 0
        program = read_archive(Path("named.dspex")).manifest["program"]
        assert isinstance(program, dict)
        assert program["path"] == path
        assert dspex("explain", "named.dspex").code == 0


def test_an_instruction_that_is_bound_names_known_variables(dspex: Invoke) -> None:
    Path("bot.py").write_text(BOT)
    Path("config.json").write_text(json.dumps({"solve.instruction": "Be {stile}."}))
    assert "{stile}" in dspex("compile", "bot:QABot", "--config", "config.json").refused(5, "DX1506")
    assert dspex("compile", "bot:QABot", "-o", "bot.dspex").code == 0
    assert dspex("unpack", "bot.dspex", "parts").code == 0
    page = Path("parts/prompts/solve.md")
    for text, code in (("Be {stile}.", 5), ("Be {style} {{and}} {}.", 0)):
        dspex("unpack", "bot.dspex", f"parts{code}")
        page = Path(f"parts{code}/prompts/solve.md")
        page.write_text(page.read_text().replace("Answer in a {style} way.", text))
        ended = dspex("pack", f"parts{code}", "-o", "new.dspex")
        assert ended.code == code, ended.err
