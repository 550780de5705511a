"""The help desk: one meaning in three forms, what runs together, and sound data."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dspex as dx
from dspex.compiler import Compiled, compile, load_artifact, parse
from dspex.lm.types import LMRequest
from dspex.providers.local import open_local
from dspex.testing import ScriptedLM
from tests.providers.conftest import model_directory

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "help_desk"
FAULT = "My battery became very hot while charging and looks thicker than before!"


@pytest.fixture(scope="module")
def desk() -> Generator[ModuleType]:
    spec = importlib.util.spec_from_file_location("desk", FOLDER / "desk.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["desk"] = made
    spec.loader.exec_module(made)
    yield made
    del sys.modules["desk"]


def answer(request: LMRequest) -> dict[str, object] | str:
    """A fault where the text is loud, otherwise terms; every other field repeats the end of what it was asked."""
    text = (request.prompt or "") + "".join(message.content for message in request.messages)
    kind = "fault" if "!" in text else "terms"
    if request.choices:
        return kind
    words = " ".join(text.split()[-6:])
    every: dict[str, object] = {"kind": kind, "facts": [words], "question": words}
    return {name: every.get(name, words) for name in request.output_fields}


@pytest.fixture
def compiled(desk: ModuleType) -> Compiled[Any, Any]:
    return compile(desk.HelpDesk())


def test_everything_is_understood(compiled: Compiled[Any, Any]) -> None:
    kinds = Counter(node.kind for node in compiled.graph.nodes)
    assert compiled.graph.opaque == ()
    assert {"lm", "select", "cond", "map", "python", "join"} <= {*kinds}


def test_direct_call_plan_and_artifact_agree_on_every_question(
    desk: ModuleType, compiled: Compiled[Any, Any], tmp_path: Path
) -> None:
    compiled.save(tmp_path / "desk.dspex")
    loaded = load_artifact(tmp_path / "desk.dspex", program=desk.HelpDesk)
    program = desk.HelpDesk()
    with dx.using(lm=ScriptedLM(answer)):
        for row in desk.load("questions.jsonl"):
            x = desk.Question(text=row["text"])
            got = program.run(x)
            assert got == compiled.run(x) == loaded.run(x)
            assert got.kind == ("fault" if "!" in x.text else "terms")
            assert len(got.pages) == 3


@pytest.mark.parametrize(("text", "calls"), [("Is it open?", 7), (FAULT, 8)])
def test_a_fault_takes_the_longer_way(desk: ModuleType, compiled: Compiled[Any, Any], text: str, calls: int) -> None:
    lm = ScriptedLM(answer)
    with dx.using(lm=lm):
        compiled.run(desk.Question(text=text))
    assert lm.calls == calls


def test_pages_are_read_while_the_votes_are_cast(desk: ModuleType, compiled: Compiled[Any, Any]) -> None:
    """Three pages and three votes are in flight at once: the first answer waits for the sixth question."""

    async def run() -> None:
        begun = 0
        all_begun = asyncio.Event()

        async def together(request: LMRequest) -> dict[str, object] | str:
            nonlocal begun
            begun += 1
            if begun == 6:
                all_begun.set()
            async with asyncio.timeout(30):
                await all_begun.wait()
            return answer(request)

        with dx.using(lm=ScriptedLM(together)):
            await compiled(desk.Question(text="Is it open?"))

    asyncio.run(run())


def test_the_readme_shows_the_graph(compiled: Compiled[Any, Any]) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```graph\n(.*?)^```$", text, re.M | re.S)
    assert parse(shown) == compiled.graph


def test_the_data_are_sound(desk: ModuleType) -> None:
    titles = [article["title"] for article in desk.ARTICLES]
    rows = desk.load("questions.jsonl")
    assert len(titles) == len(set(titles)) == 14
    assert len(rows) == len({row["text"] for row in rows}) == 16
    assert {row["article"] for row in rows} <= {*titles}
    assert Counter(row["kind"] for row in rows).keys() == {"howto", "terms", "fault"}
    found = [row["article"] in [page.title for page in desk.look_up(row["text"], 3)] for row in rows]
    assert sum(found) == 13
    for name in ("articles.jsonl", "questions.jsonl"):
        for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
            assert all(isinstance(value, str) and value.strip() == value for value in json.loads(line).values())


@pytest.mark.model
@pytest.mark.slow
def test_it_runs_with_the_real_model(desk: ModuleType, compiled: Compiled[Any, Any]) -> None:
    async def run() -> tuple[Any, dx.Trace]:
        model = open_local(dx.LM("local/smollm2"))
        try:
            with dx.using(lm=model), dx.trace() as taken:
                return await compiled(desk.Question(text=FAULT)), taken
        finally:
            await model.aclose()

    with model_directory():
        reply, t = asyncio.run(run())
    assert reply.kind in ("howto", "terms", "fault")
    assert reply.answer.strip()
    assert len(t.calls) >= 7
    assert t.usd == 0.0
