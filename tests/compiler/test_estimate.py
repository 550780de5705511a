"""Estimates: against what the real local model used, and what they say where something cannot be told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dspex as dx
from benchmarks.estimates import USAGE, Case, cases, compared
from dspex.compiler.estimate.amounts import FREE_TEXT, Amount, Items, Known, Many, Sized, amount_of, at, of_schema
from dspex.compiler.estimate.estimating import estimate, estimated
from dspex.compiler.estimate.tokens import VOCABULARIES, vocabulary_of
from dspex.testing import ScriptedLM

MEASURED: dict[str, list[dict[str, Any]]] = {}
for line in USAGE.read_text(encoding="utf-8").splitlines():
    row: dict[str, Any] = json.loads(line)
    MEASURED.setdefault(row["case"], []).append(row)

PRICE = dx.Price(input=1.0, output=4.0, cached=0.25)


@pytest.fixture(scope="module")
def known() -> Mapping[str, Case]:
    return {case.name: case for case in cases()}


# --- against what the real model used -----------------------------------------------------------


@pytest.mark.parametrize("name", MEASURED)
def test_estimate_is_near_what_the_real_model_used(name: str, known: Mapping[str, Case]) -> None:
    found = compared(known[name], MEASURED[name])
    assert abs(found.error) <= 0.15, found
    assert found.input >= 0.9, found
    assert found.output >= 0.9, found
    assert found.usd >= 0.9, found


def test_input_tokens_of_single_runs_are_within_15_percent(known: Mapping[str, Case]) -> None:
    straight = [compared(known[name], rows) for name, rows in MEASURED.items() if name.startswith("router")]
    assert min(found.near for found in straight) >= 0.9


def test_every_case_is_recorded(known: Mapping[str, Case]) -> None:
    assert set(known) == set(MEASURED)
    assert all(len(known[name].inputs) == len(rows) for name, rows in MEASURED.items())


# --- small programs -----------------------------------------------------------------------------


class Ask(dx.Schema):
    question: str


class Short(dx.Schema):
    question: str = dx.field(max_length=80)


class Answer(dx.Schema):
    answer: str


class Kind(dx.Schema):
    kind: Literal["place", "person"]


class Many_(dx.Schema):
    questions: list[str]


class Answers(dx.Schema):
    answers: list[str]


class Two(dx.Program[Ask, Answer]):
    """Two calls, one after another."""

    first = dx.Predict(Ask, Ask, max_tokens=50)
    second = dx.Predict(Ask, Answer, max_tokens=20)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.second(await self.first(x))


class Parted(dx.Program[Ask, Answer]):
    """One of two branches, by an answer."""

    sort = dx.Predict(Ask, Kind)
    place = dx.Predict(Ask, Answer, max_tokens=20)
    person = dx.Predict(Ask, Answer, max_tokens=40) >> dx.Predict(Answer, Answer, max_tokens=40)

    async def __call__(self, x: Ask, /) -> Answer:
        kind = await self.sort(x)
        return await dx.cond(kind.kind == "place", self.place, self.person, x)


class Mapped(dx.Program[Many_, Answers]):
    """A call for each item."""

    one = dx.Predict(Ask, Answer, max_tokens=10)

    async def __call__(self, x: Many_, /) -> Answers:
        found = await dx.map(self.one, [Ask(question=question) for question in x.questions])
        return Answers(answers=[each.answer for each in found])


class Hidden(dx.Program[Ask, Answer]):
    """Not understood."""

    ask = dx.Predict(Ask, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        answer = Answer(answer="")
        while not answer.answer:
            answer = await self.ask(x)
        return answer


QUESTION = Ask(question="Where is the tower?")


def test_a_chain_waits_for_each_call_and_feeds_what_it_expects() -> None:
    found = dx.compile(Two()).estimate([QUESTION], model="local/smollm2")
    assert found.run.calls == Amount(2, 2, 2)
    assert found.run.depth == Amount(2, 2, 2)
    first, second = found.nodes
    assert second.input.high is not None
    assert second.input.high > 50
    assert first.output.high == 50
    assert found.guessed == ("first.question", "second.answer")


def test_expected_outputs_of_modules_replace_guesses() -> None:
    compiled = dx.compile(Two())
    long = Ask(question="word " * 40)
    found = compiled.estimate([QUESTION], model="local/smollm2", expected={"first": [long]})
    plain = compiled.estimate([QUESTION], model="local/smollm2")
    assert found.guessed == ("second.answer",)
    assert found.nodes[1].input.point is not None
    assert plain.nodes[1].input.point is not None
    assert found.nodes[1].input.point > plain.nodes[1].input.point


def test_expected_outputs_of_the_program_reach_the_call_that_gives_them() -> None:
    compiled = dx.compile(Two())
    found = compiled.estimate([QUESTION], model="local/smollm2", expected=[Answer(answer="Paris")])
    assert found.guessed == ("first.question",)


def test_a_branch_that_a_run_decides_is_a_range_over_both() -> None:
    compiled = dx.compile(Parted())
    found = compiled.estimate([QUESTION], model="local/smollm2")
    assert (found.run.calls.low, found.run.calls.high) == (2, 3)
    assert (found.run.depth.low, found.run.depth.high) == (2, 3)
    assert {node.module for node in found.nodes} == {"sort", "place", "person.step1", "person.step2"}


def test_a_branch_that_an_expected_answer_decides_is_expected_and_not_certain() -> None:
    compiled = dx.compile(Parted())
    found = compiled.estimate([QUESTION], model="local/smollm2", expected={"sort": [Kind(kind="person")]})
    assert found.run.calls == Amount(2, 3, 3)
    chances = {node.module: node.calls.point for node in found.nodes}
    assert chances == {"sort": 1, "place": 0, "person.step1": 1, "person.step2": 1}


def test_a_branch_that_the_input_decides_is_the_only_one() -> None:
    class Long(Parted):
        async def __call__(self, x: Ask, /) -> Answer:
            return await dx.cond(len(x.question) > 5, self.place, self.person, x)

    found = dx.compile(Long()).estimate([QUESTION], model="local/smollm2")
    assert [node.module for node in found.nodes] == ["place"]


def test_a_map_needs_examples_for_the_number_of_its_items() -> None:
    compiled = dx.compile(Mapped())
    unknown = compiled.estimate(model="local/smollm2")
    assert unknown.lower_bound
    assert unknown.run.calls.high is None
    assert "how many items" in unknown.unknown[0]
    found = compiled.estimate([Many_(questions=["a", "b", "c"])], model="local/smollm2")
    assert not found.lower_bound
    assert found.run.calls == Amount(3, 3, 3)
    assert found.run.depth == Amount(1, 1, 1)


def test_what_is_opaque_is_unknown_and_flagged() -> None:
    found = dx.compile(Hidden()).estimate([QUESTION], model=dx.LM("openai/gpt-4.1-mini", price=PRICE))
    assert found.lower_bound
    assert "opaque" in found.unknown[0]
    assert "ask" in found.unknown[0]
    assert found.run.calls == Amount(0, None, None)
    assert found.run.usd == Amount(0, None, None)
    assert "lower bound" in str(found)


def test_only_the_bound_branch_of_a_selection_counts() -> None:
    class Selected(dx.Program[Ask, Answer]):
        solver = dx.select(short=dx.Predict(Ask, Answer, max_tokens=5), long=dx.ChainOfThought(Ask, Answer))

        async def __call__(self, x: Ask, /) -> Answer:
            return await self.solver(x)

    compiled = dx.compile(Selected())
    assert [node.module for node in compiled.estimate([QUESTION]).nodes] == ["solver.short"]
    bound = compiled.bind(solver="long")
    assert [node.module for node in bound.estimate([QUESTION]).nodes] == ["solver.long"]


def test_fallback_counts_the_first_and_allows_for_the_rest() -> None:
    program = dx.fallback(dx.Predict(Ask, Answer, max_tokens=5), dx.Predict(Ask, Answer, max_tokens=7))
    run = dx.compile(program).estimate([QUESTION], model="local/smollm2").run
    assert run.calls == Amount(1, 2, 1)
    assert (run.output.low, run.output.high) == (1, 12)
    assert (run.depth.low, run.depth.high) == (1, 2)


def test_race_counts_all() -> None:
    program = dx.race(dx.Predict(Ask, Answer, max_tokens=5), dx.Predict(Ask, Answer, max_tokens=7))
    run = dx.compile(program).estimate([QUESTION], model="local/smollm2").run
    assert run.calls == Amount(1, 2, 2)
    assert run.depth == Amount(1, 1, 1)


def test_acting_branches_that_run_together_count_at_once() -> None:
    class Noted(dx.Program[Ask, Answer]):
        solve = dx.Predict(Ask, Answer, max_tokens=5)

        async def __call__(self, x: Ask, /) -> Answer:
            print(x.question)
            return await self.solve(x)

    compiled = dx.compile(dx.vote(Noted(), Noted(), Noted()))
    assert "together {" in str(compiled.graph)
    run = compiled.estimate([QUESTION], model="local/smollm2").run
    assert run.calls == Amount(3, 3, 3)
    assert run.depth == Amount(1, 1, 1)


# --- prices -------------------------------------------------------------------------------------


def test_without_a_price_there_are_no_dollars() -> None:
    found = dx.compile(Two()).estimate([QUESTION], model=dx.LM("openai/nobody-knows", base_url="http://localhost:9/v1"))
    assert found.run.usd is None
    assert "no known price" in found.unpriced[0]
    assert "unknown" in str(found)
    assert found.as_json()["run"]["usd"] is None  # type: ignore[index]


def test_without_a_model_there_are_no_dollars(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("DSPEX_LM", raising=False)
    monkeypatch.chdir(tmp_path)
    found = dx.compile(Two()).estimate([QUESTION])
    assert found.run.usd is None
    assert found.unpriced == ("no model is chosen",)


def test_dollars_need_no_key_and_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = dx.compile(Two()).estimate([QUESTION], model=dx.LM("openai/gpt-4.1-mini", price=PRICE))
    usd, run = found.run.usd, found.run
    assert usd is not None
    assert usd.point is not None
    assert run.input.point is not None
    assert run.output.point is not None
    assert usd.point == pytest.approx((run.input.point + 4 * run.output.point) / 1e6)
    assert usd.low < (run.input.low + 4 * run.output.low) / 1e6, "a prompt cache may serve what is static"


def priced(price: dx.Price) -> tuple[list[Amount], Amount]:
    """The input tokens of the two calls of `Two`, and dollars of a run."""
    found = dx.compile(Two()).estimate([QUESTION], model=dx.LM("openai/gpt-4.1-mini", price=price))
    assert found.run.usd is not None
    return [node.input for node in found.nodes], found.run.usd


def test_each_call_is_charged_by_the_length_of_its_own_prompt() -> None:
    sent, plain = priced(PRICE)
    dear = PRICE.scaled(3.0)
    points = [amount.point for amount in sent if amount.point is not None]
    assert len(points) == 2
    assert plain.point is not None
    assert plain.high is not None

    def tiered(start: float) -> Amount:
        return priced(replace(PRICE, above=((math.ceil(start), dear),)))[1]

    # Together the prompts are longer than that, but no call is.
    assert tiered(max(points)).point == plain.point
    assert tiered(min(points) - 2).point == pytest.approx(3 * plain.point)
    assert tiered(max(amount.high or 0 for amount in sent) + 1) == plain
    assert tiered(min(amount.low for amount in sent) - 2).low == pytest.approx(3 * plain.low)
    one = tiered(max(points) - 2)
    assert one.point is not None
    assert plain.point < one.point < 3 * plain.point
    assert one.high is not None
    assert one.high > plain.high


def test_a_repair_is_charged_by_its_own_longer_prompt() -> None:
    compiled = dx.compile(dx.Predict(Ask, Answers, max_tokens=50))
    flat = dx.LM("openai/gpt-4.1-mini", price=dx.Price(1.0, 1.0))
    (node,) = compiled.estimate([QUESTION], model=flat).nodes
    assert node.calls == Amount(1, 2, 1)
    assert node.input.point is not None
    assert node.input.high is not None
    # Longer than the first prompt can be, shorter than the one that shows an answer that did not fit.
    start = math.ceil(node.input.point * 1.5)
    assert node.input.high - start > start
    dear = dx.LM("openai/gpt-4.1-mini", price=dx.Price(1.0, 1.0, above=((start, dx.Price(9.0, 9.0)),)))
    usd, plain = compiled.estimate([QUESTION], model=dear).run.usd, node.usd
    assert usd is not None
    assert plain is not None
    assert (usd.low, usd.point) == (plain.low, plain.point)
    assert usd.high is not None
    assert plain.high is not None
    assert plain.high + 8 * start / 1e6 < usd.high < 9 * plain.high


def test_written_prompts_are_in_the_highest_cost() -> None:
    _, plain = priced(PRICE)
    _, written = priced(replace(PRICE, written=2.0))
    assert (plain.low, plain.point) == (written.low, written.point)
    assert plain.high is not None
    assert written.high is not None
    assert plain.high < written.high


def test_a_free_model_costs_nothing() -> None:
    usd = dx.compile(Two()).estimate(model="local/smollm2").run.usd
    assert usd is not None
    assert usd.high == 0


def test_scripted_models_count_words_exactly() -> None:
    lm = ScriptedLM(lambda request: "Paris it is")
    compiled = dx.compile(dx.Predict(Ask, Answer))
    with dx.using(lm=lm), dx.trace() as trace:
        compiled.run(QUESTION)
        found = compiled.estimate([QUESTION])
    assert found.run.input.point == trace.usage.input_tokens


# --- what is asked wrongly ----------------------------------------------------------------------


def test_one_input_is_no_list() -> None:
    compiled = dx.compile(dx.Predict(Ask, Answer))
    wrong: Any = QUESTION
    with pytest.raises(dx.CompileError, match=r"DX2401[\s\S]*pass a list: estimate\(\[x\]\)"):
        compiled.estimate(wrong)
    with pytest.raises(dx.CompileError, match=r"DX2401[\s\S]*pass a list: expected=\[y\]"):
        compiled.estimate([QUESTION], expected=wrong)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([], None),
        ([Answer(answer="x")], None),
        ([QUESTION], [Answer(answer="x"), Answer(answer="y")]),
        (None, [Answer(answer="x")]),
        ([QUESTION], {"nowhere": [Answer(answer="x")]}),
        ([QUESTION], {"second": [QUESTION]}),
    ],
)
def test_examples_that_do_not_fit_are_refused(inputs: Any, expected: Any) -> None:
    with pytest.raises(dx.CompileError) as refused:
        dx.compile(Two()).estimate(inputs, expected=expected)
    assert refused.value.code == "DX2401"


# --- sizes from schemas -------------------------------------------------------------------------


def test_sizes_come_from_schemas_without_examples() -> None:
    bounded = dx.compile(dx.Predict(Short, Answer)).estimate(model="local/smollm2").run.input
    assert bounded.high is not None
    unbounded = dx.compile(dx.Predict(Ask, Answer)).estimate(model="local/smollm2").run.input
    assert unbounded.high is None
    assert unbounded.point is None


def test_graph_carries_the_estimates_of_its_calls() -> None:
    compiled = dx.compile(Two())
    text = str(estimated(compiled, model="local/smollm2"))
    assert " estimate " in text
    assert compiled.graph.hash == estimated(compiled).hash


def test_values_by_size() -> None:
    def count(text: str) -> float:
        return float(len(text))

    record = of_schema(Many_, count, Amount(0, None, FREE_TEXT))
    assert isinstance(record.fields["questions"], Many)
    assert at(Known(Many_(questions=["a", "b"])), ("questions", 1)) == Known("b")
    assert at(Known({"a": 1}), ("a",)) == Known(1)
    assert at(Items((Known("a"),)), (0,)) == Known("a")
    assert isinstance(at(Known(3), ("nothing",)), Sized)
    assert amount_of(Items((Known("abc"), Known("d"))), count) == Amount.exactly(7)


def ordered(low: float, more: float, share: float) -> Amount:
    return Amount(low, low + more, low + more * share)


amounts = st.builds(ordered, st.floats(0, 100), st.floats(0, 100), st.floats(0, 1))


@given(amounts, amounts)
@settings(deadline=None)
def test_amounts_stay_in_order(a: Amount, b: Amount) -> None:
    for made in (a + b, a.times(b), a.either(b), a.at_most(50), a.widened(0.2)):
        assert made.high is not None
        assert made.point is not None
        assert made.low <= made.point + 1e-9 <= made.high + 2e-9


# --- counting tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openai/gpt-4.1-mini", "o200k"),
        ("openai/gpt-4o", "o200k"),
        ("openai/o4-mini", "o200k"),
        ("openai/gpt-4-turbo", "cl100k"),
        ("openai/gpt-3.5-turbo", "cl100k"),
        ("openai/meta-llama/Llama-3.1-8B", "llama3"),
        ("openai/claude-sonnet-4", "claude"),
        ("local/smollm2", "smollm2"),
        ("scripted/lm", "words"),
        ("openai/some-model", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_models_name_says_how_it_counts(model: str | None, name: str) -> None:
    assert vocabulary_of(model).name == name


@pytest.mark.parametrize(
    ("text", "o200k", "smollm2"),
    [
        # Counted with the vocabularies themselves.
        ("Can we get quarterly invoices rather than monthly? Approving twelve of these a year is mad.", 19, 20),
        ('{"id": "t001", "team": "billing", "score": 0.75}', 21, 25),
        ("def accuracy(got: Route, want: Route) -> bool:\n    return got.team == want.team\n", 22, 24),
    ],
)
def test_texts_are_counted_about_as_the_vocabularies_do(text: str, o200k: int, smollm2: int) -> None:
    assert VOCABULARIES["o200k"].count(text) == pytest.approx(o200k, rel=0.2)
    assert VOCABULARIES["smollm2"].count(text) == pytest.approx(smollm2, rel=0.2)


@given(st.text(max_size=200), st.text(max_size=200))
@settings(deadline=None)
def test_counts_are_of_any_text_and_grow_with_it(one: str, other: str) -> None:
    for vocabulary in VOCABULARIES.values():
        count = vocabulary.count(one)
        assert 0 <= count <= 8 * len(one.encode(errors="surrogatepass")) + 1
        assert vocabulary.count(f"{one}\n\n{other}") >= count - 3


def test_estimating_reads_no_model_and_makes_no_call() -> None:
    lm = ScriptedLM(lambda request: "x")
    with dx.using(lm=lm):
        estimate(dx.compile(Parted()), [QUESTION])
    assert lm.calls == 0
