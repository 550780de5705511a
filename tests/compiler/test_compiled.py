"""`Compiled`: binding, calling and explaining."""

from __future__ import annotations

import asyncio
import json
from html.parser import HTMLParser
from typing import Any

import pytest

import dspex as dx
from dspex.catalogue import CATALOGUE
from dspex.compiler import compile, explain_code
from dspex.compiler.code import Code
from dspex.compiler.compiled import Compiled, stages
from dspex.compiler.passes import PASS_NAMES
from dspex.errors import CompileError, ProgramError, UsageError
from dspex.lm.types import LMRequest
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


def test_bind_grows_a_pool_by_demonstrations() -> None:
    bound = compile(Router()).bind({"solver.cot.demos": FRIENDLY})
    assert bound.settings["solver.cot"].demos == FRIENDLY
    assert bound.bind({"solver.cot.demos": NEAREST}).space.variables["solver.cot.demos"].options[1:] == (
        FRIENDLY,
        NEAREST,
    )


def test_bindings_share_prepared_prompts_where_their_settings_agree() -> None:
    compiled = compile(Router())
    with dx.using(lm=ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "delivery"))):
        one, two, other = compiled.bind(heat=0.25), compiled.bind(heat=0.75), compiled.bind(style="detailed")
        for bound in (one, two, other):
            bound.run(Ticket(text="?"))
    assert one.binding.ready["solver.predict"] is two.binding.ready["solver.predict"]
    assert one.binding.ready["solver.predict"] is not other.binding.ready["solver.predict"]


class Spelled(dx.Program[Ticket, Route]):
    mark = dx.Choice("mark", [1, True, 1.5])
    heat = dx.Float("heat", -1, 1, default=0.0)
    solve = dx.Predict(Ticket, Route, instruction="Mark {mark}, heat {heat}.")

    async def __call__(self, x: Ticket, /) -> Route:
        return await self.solve(x)


def test_bindings_of_equal_values_that_are_written_differently_share_no_prompt() -> None:
    sent: list[str] = []

    def answer(request: LMRequest) -> dict[str, str]:
        sent.append(request.messages[0].content.split(".\n")[0])
        return {"queue": "delivery"}

    program = Spelled()
    compiled = compile(program)
    with dx.using(lm=ScriptedLM(answer, fingerprint="spelled")):
        for values in ({"mark": 1}, {"mark": True}, {"heat": 0.0}, {"heat": -0.0}):
            compiled.bind(values).run(Ticket(text="?"))
            program.bind(values).run(Ticket(text="?"))
    assert sent[::2] == sent[1::2]
    assert sent[::2] == ["Mark 1, heat 0.0", "Mark True, heat 0.0", "Mark 1, heat 0.0", "Mark 1, heat -0.0"]


def test_growing_a_pool_before_the_first_call_shares_what_runs() -> None:
    compiled = compile(Router())
    lm = ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "delivery"))
    grown = [compiled.bind({"solver.cot.instruction": text}) for text in ("One.", "Two.")]
    with dx.using(lm=lm):
        for bound in grown:
            bound.run(Ticket(text="?"))
    assert grown[0].plan.executable is grown[1].plan.executable is compiled.plan.executable is not None


def test_growing_a_pool_keeps_what_was_prepared_for_other_modules() -> None:
    compiled = compile(Router())
    with dx.using(lm=ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "delivery"))):
        compiled.run(Ticket(text="?"))
        grown = compiled.bind({"solver.cot.instruction": "Think first."})
        grown.run(Ticket(text="?"))
    assert grown.binding.ready["solver.predict"] is compiled.binding.ready["solver.predict"]
    assert grown.plan.executable is compiled.plan.executable


def test_prepared_prompts_are_kept_for_the_latest_bindings_only() -> None:
    compiled = compile(Router())
    lm = ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "delivery"))
    with dx.using(lm=lm):
        for number in range(70):
            compiled.bind({"solver.predict.instruction": f"Route it, {number}."}).run(Ticket(text="?"))
        again = compiled.bind({"solver.predict.instruction": "Route it, 0."})
        assert again.run(Ticket(text="?")) == Route(queue="delivery")


def test_whole_configuration_of_another_binding_can_be_bound() -> None:
    compiled = compile(Router())
    other = compiled.bind(solver="cot", k=3)
    assert compiled.bind(other.config).config == other.config


def test_artifact_without_source_says_so_when_its_program_is_asked_for() -> None:
    compiled = compile(Router())
    loaded: Compiled[Any, Any] = Compiled(
        compiled.graph, compiled.space, compiled.schemas, compiled.config, Code(models=compiled.code.models)
    )
    with dx.using(lm=ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "delivery"))):
        assert loaded.bind(solver="cot").run(Ticket(text="?")) == Route(queue="delivery")
    with pytest.raises(CompileError) as refused:
        _ = loaded.program
    assert refused.value.code == "DX2301"


def test_stages_are_the_graph_as_read_and_after_each_pass() -> None:
    seen = list(stages(Router()))
    assert [name for name, _ in seen] == ["read", *PASS_NAMES]
    assert str(seen[-1][1]) == str(compile(Router()).graph)


def test_compile_refuses_rules_that_cannot_hold() -> None:
    class Never(dx.Program[Ticket, Route]):
        k: dx.Var[int] = dx.var(1, lo=1, hi=4)
        rules = [k <= 0]
        solve = dx.Predict(Ticket, Route)

        async def __call__(self, x: Ticket, /) -> Route:
            return await self.solve(x)

    with pytest.raises(CompileError) as refused:
        compile(Never())
    assert refused.value.code == "DX2104"


def test_printing_gives_the_canonical_text() -> None:
    compiled = compile(Router())
    assert str(compiled) == str(compiled.graph)
    assert str(compiled).startswith("program Router : Ticket -> Route {\n  params $style, ")
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
    assert "because: a `while` loop" in text
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
