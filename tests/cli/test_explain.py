"""`dspex explain`: forms, files, passes, estimates and differences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Invoke
from tests.cli.test_check import BOT, SCHEMAS, UNREAD, write


@pytest.fixture(autouse=True)
def _project() -> None:  # pyright: ignore[reportUnusedFunction]
    write("schemas.py", SCHEMAS)
    write("bot.py", BOT)
    write("other.py", UNREAD.replace("return await self.ask(x)", "return await self.ask(Ask(question=x.question))"))


def test_text_is_what_a_person_reads(dspex: Invoke) -> None:
    out = dspex("explain", "bot:Bot").out
    assert "program Bot : Ask -> Answer {" in out
    assert "Cost of one run" in out
    assert "Prompt of ask" in out


def test_every_form_is_written(dspex: Invoke) -> None:
    assert dspex("explain", "bot:Bot", "--format", "text").out == dspex("explain", "bot:Bot").out
    assert json.loads(dspex("explain", "bot:Bot", "--format", "json").out)["name"] == "Bot"
    assert dspex("explain", "bot:Bot", "--format", "mermaid").out.startswith("flowchart TD\n")
    assert dspex("explain", "bot:Bot", "--format", "html").out.startswith("<!doctype html>")
    assert dspex("explain", "bot:Bot", "--format", "pdf").code == 2


def test_a_file_is_written(dspex: Invoke) -> None:
    ended = dspex("explain", "bot:Bot", "--format", "html", "-o", "bot.html")
    assert (ended.code, ended.out) == (0, "")
    assert "<svg" in Path("bot.html").read_text(encoding="utf-8")
    dspex("explain", "bot:Bot", "-o", "nowhere/bot.html", "--json").refused(2, "DX8309")


def test_json_is_the_explanation(dspex: Invoke) -> None:
    found = dspex("explain", "bot:Bot", "--json").json["explanation"]
    assert found["signature"] == "Ask -> Answer"
    assert found["estimates"]["run"]["calls"] == {"low": 1, "high": 1, "expected": 1}
    assert found["diagnostics"] == []


def test_the_graph_after_a_pass(dspex: Invoke) -> None:
    read = dspex("explain", "bot:pipeline", "--after", "read").out
    assert read.startswith("program ")
    inlined = dspex("explain", "bot:pipeline", "--after", "inline").out
    assert inlined.startswith("program ")
    assert " prefix [" in dspex("explain", "bot:pipeline", "--after", "order").out
    assert " estimate " in dspex("explain", "bot:pipeline", "--after", "estimate", "--lm", "local/smollm2").out
    lowered = dspex("explain", "bot:pipeline", "--after", "lower").out
    assert not lowered.startswith("program ")
    assert "instruction" in lowered
    message = dspex("explain", "bot:pipeline", "--after", "inlin", "--json").refused(2, "DX8330")
    assert "inline" in message


def test_every_pass_is_printed(dspex: Invoke) -> None:
    out = dspex("explain", "bot:Bot", "--print-between-passes").out
    places = [out.index(f"# {name}\n") for name in ("read", "inline", "dead", "schedule", "order", "estimate", "lower")]
    assert places == sorted(places)
    stages = dspex("explain", "bot:Bot", "--print-between-passes", "--json").json["stages"]
    names = list(stages)
    assert (names[0], names[-1]) == ("read", "lower")


def test_an_artifact_without_its_program_has_no_earlier_stages(dspex: Invoke) -> None:
    assert dspex("compile", "bot:Bot", "-o", "bot.dspex").code == 0
    assert "Prompt of ask" in dspex("explain", "bot.dspex").out
    ended = dspex("explain", "bot.dspex", "--after", "read", "--json")
    if ended.code != 0:
        ended.refused(2, "DX8331")


def test_estimates_use_a_model_and_a_data_set(dspex: Invoke) -> None:
    write("data.jsonl", '{"question": "Where?", "answer": "There."}\n{"question": "Who?", "answer": "She."}\n')
    found = dspex("explain", "bot:Bot", "--lm", "local/smollm2", "--data", "data.jsonl", "--json").json
    estimates = found["explanation"]["estimates"]
    assert estimates["models"] == ["local/smollm2"]
    assert len(estimates["runs"]) == 2
    assert estimates["guessed"] == []
    assert estimates["run"]["usd"]["high"] == 0
    dspex("explain", "bot:Bot", "--data", "nowhere.jsonl", "--json").refused(2, "DX5101")


def test_two_programs_are_compared(dspex: Invoke) -> None:
    assert dspex("explain", "--diff", "bot:Bot", "bot:Bot").out == "no difference\n"
    different = dspex("explain", "bot:Bot", "--diff", "other:Bot").out
    assert different.strip()
    assert dspex("explain", "--diff", "bot:Bot", "other:Bot", "--json").json["diff"]["graph"]
    assert dspex("explain", "--diff", "bot:Bot").code == 2
    assert dspex("explain", "bot:Bot", "other:Bot").code == 2


def test_bound_values_are_compared(dspex: Invoke) -> None:
    Path("values.json").write_text('{"ask.format": "completion"}', encoding="utf-8")
    assert dspex("compile", "bot:Bot", "-o", "one.dspex").code == 0
    assert dspex("compile", "bot:Bot", "--config", "values.json", "-o", "two.dspex").code == 0
    assert (
        dspex("explain", "--diff", "one.dspex", "two.dspex", "--import", "bot").out
        == "~ $ask.format chat -> completion\n"
    )
