"""`Compiled`: binding, calling and explaining."""

from __future__ import annotations

import asyncio
import json
from html.parser import HTMLParser

import pytest

import dspex as dx
from dspex.catalogue import CATALOGUE
from dspex.compiler import compile, explain_code
from dspex.errors import ProgramError, UsageError
from dspex.testing import ScriptedLM
from tests.compiler.library import FRIENDLY, NEAREST, Loops, Route, Router, Ticket


def test_call_gives_what_the_program_gives() -> None:
    lm = ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "delivery"))
    program = Router()
    compiled = compile(program)
    with dx.using(lm=lm):
        x = Ticket(text="Where is it?")
        assert compiled.run(x) == asyncio.run(compiled(x)) == program.run(x) == Route(queue="delivery")


def test_bind_gives_a_new_one_and_keeps_graph_and_table() -> None:
    compiled = compile(Router())
    bound = compiled.bind({"solver": "cot"}, style="detailed", k=8)
    assert bound.config["k"] == 8
    assert bound.config["solver"] == "cot"
    assert compiled.config["k"] == 4
    assert bound.graph is compiled.graph
    assert bound.params is compiled.params
    assert bound.params.decode(bound.params.encode(bound.config)) == bound.config


def test_bind_grows_the_table_when_a_text_is_new() -> None:
    compiled = compile(Router())
    bound = compiled.bind({"solver.cot.instruction": "Think first."})
    before, after = (
        int(item.params.table.ncat[item.params.rows["solver.cot.instruction"]]) for item in (compiled, bound)
    )
    assert after == before + 1


@pytest.mark.parametrize(
    ("config", "code"), [({"kk": 1}, "DX1401"), ({"k": 99}, "DX1402"), ({"style": "terse", "k": 8}, "DX1403")]
)
def test_bind_is_refused_when_a_value_is_wrong(config: dict[str, object], code: str) -> None:
    with pytest.raises(ProgramError) as refused:
        compile(Router()).bind(config)
    assert refused.value.code == code


def test_printing_gives_the_canonical_text() -> None:
    compiled = compile(Router())
    assert str(compiled) == str(compiled.graph)
    assert str(compiled).startswith("program Router : Ticket -> Route {\n  %0 = input : Ticket\n")
    assert repr(compiled) == "<Compiled Router: Ticket -> Route>"


def test_explanation_says_everything_that_is_known_before_a_call() -> None:
    compiled = compile(Router()).bind({"solver": "cot", "solver.cot.demos": NEAREST, "solver.predict.demos": FRIENDLY})
    text = str(compiled.explain())
    assert "%1 = select $solver {" in text
    assert "k                           an int in [1, 8] = 4" in text
    assert "solver                      one of the branches predict, cot = cot" in text
    assert "(inactive)" in text
    assert "Rules (1)" in text
    # The prompt as it will be sent: the placeholder is filled, fields stand as themselves.
    assert "Route in a terse way." in text
    assert "{text}" in text
    assert "My card was charged twice ✓" in text
    assert "the 1 demonstrations nearest to each input" in text


def test_explanation_names_line_and_remedy_of_what_is_opaque() -> None:
    text = str(compile(Loops()).explain())
    assert "because: a `for` loop" in text
    assert "tests/compiler/library.py:" in text
    assert "remedy:" in text
    assert "modules: solve" in text


def test_explanation_is_json_data() -> None:
    data = compile(Loops()).bind({"solve.demos": FRIENDLY}).explain().as_json()
    assert json.loads(json.dumps(data)) == data
    assert data["schema_version"] == 1
    assert data["signature"] == "Ticket -> Route"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        assert not any(name in ("src", "href") for name, _ in attrs)


def test_page_is_self_contained_and_escaped() -> None:
    html = compile(Router()).bind({"solver.predict.instruction": "<script>alert(1)</script>"}).explain().as_html()
    page = _Page()
    page.feed(html)
    assert "script" not in page.found
    assert {"table", "pre", "h1"} <= page.found
    assert "&lt;script&gt;" in html


def test_prompt_is_shown_when_scoring_needs_what_a_model_may_lack() -> None:
    explained = compile(Router()).bind({"solver.predict.scoring": "calibrated"}).explain()
    assert "Route in a terse way." in explained.prompts[0].text


def test_code_is_explained_when_it_exists() -> None:
    assert explain_code("dx2001").startswith("DX2001 schemas do not fit\n\n")
    for code in CATALOGUE:
        assert CATALOGUE[code].text in explain_code(code)


def test_code_is_refused_when_it_does_not_exist() -> None:
    with pytest.raises(UsageError) as refused:
        explain_code("DX2999")
    assert refused.value.code == "DX8308"
