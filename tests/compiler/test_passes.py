"""Passes over generated graphs: soundness, meaning, idempotence, linear work; and the pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dspex.compiler.ir.effects import acting
from dspex.compiler.ir.nodes import (
    Attempt,
    Call,
    Constant,
    Graph,
    Input,
    Map,
    Ref,
    Region,
    Select,
    Variable,
    operands,
    regions,
    walk,
)
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.printer import print_graph
from dspex.compiler.ir.verify import verify, violations
from dspex.compiler.passes import PASS_NAMES, Pass, pipeline, run_passes
from dspex.compiler.passes.dead import RemoveDead
from dspex.compiler.passes.estimate import EstimateTokens
from dspex.compiler.passes.fold import FoldFrozen
from dspex.compiler.passes.inline import Inline
from dspex.compiler.passes.layout import LayPrompts
from dspex.compiler.passes.merge import MergeEqual
from dspex.compiler.passes.order import OrderParameters
from dspex.compiler.passes.schedule import Schedule
from dspex.compiler.passes.types import InferTypes
from dspex.errors import CompileError
from dspex.program.schema import Schema
from tests.compiler.graphs import graphs, variables_in
from tests.compiler.meaning import Run
from tests.growth import LINEAR, steps

NESTED = """\
program p : Ask -> Answer {
  %0 = input : Ask
  %1 = call @inner Ask -> Draft (%0) {
    %2 = input : Ask
    %3 = lm Ask -> Draft (%2) @inner.m
    output %3
  }
  output %1
}
"""

PLAIN: tuple[Pass, ...] = (
    Inline(),
    RemoveDead(),
    MergeEqual({}),
    Schedule(),
    InferTypes({}),
    LayPrompts({}),
    EstimateTokens({}),
)
"""Passes that need no facts beyond the graph."""

any_graph = graphs() | graphs(alike=True)


def meaning(graph: Graph, seed: int, values: Mapping[str, Constant]) -> tuple[object, object]:
    run = Run(values, seed)
    return run.output(graph), run.acts


def well_typed(graph: Graph) -> bool:
    try:
        InferTypes({}).run(graph)
    except CompileError as error:
        return error.code not in ("DX2001", "DX2003", "DX2083")
    return True


@pytest.mark.parametrize("step", PLAIN, ids=lambda step: step.name)
@settings(max_examples=40, deadline=None)
@given(graph=any_graph, seed=st.integers(0, 3))
def test_pass_keeps_soundness_and_meaning_and_repeats_to_the_same(step: Pass, graph: Graph, seed: int) -> None:
    assume(well_typed(graph))
    result = step.run(graph)
    assert violations(result) == ()
    assert step.run(result) == result
    assert meaning(result, seed, {}) == meaning(graph, seed, {})
    assert parse(print_graph(result)) == result
    assert variables_in(result).keys() <= variables_in(graph).keys()


@settings(max_examples=40, deadline=None)
@given(any_graph, st.integers(0, 3), st.data())
def test_folding_keeps_meaning_when_variables_are_frozen(graph: Graph, seed: int, data: st.DataObject) -> None:
    branches: dict[str, set[str]] = {}
    for node in walk(graph.body):
        if isinstance(node, Select):
            names = {branch.name for branch in node.branches}
            branches[node.variable] = branches.get(node.variable, names) & names
    values: dict[str, Constant] = {}
    for name in sorted(variables_in(graph)):
        if data.draw(st.booleans()):
            options = sorted(branches.get(name, {"x"}))
            if options:
                values[name] = Constant.of(data.draw(st.sampled_from(options)))
    step = FoldFrozen(values)
    result = step.run(graph)
    assert violations(result) == ()
    assert step.run(result) == result
    assert meaning(result, seed, values) == meaning(graph, seed, values)
    left = [node for node in walk(result.body) if isinstance(node, Select | Attempt)]
    assert all(len(node.branches) > 1 for node in left if not isinstance(node, Attempt) or node.form != "together")
    assert not any(isinstance(node, Select) and node.variable in values for node in left)
    read = [value for node in walk(result.body) for value in operands(node)]
    assert not any(isinstance(value, Variable) and value.name in values for value in read)


@settings(max_examples=60, deadline=None)
@given(graphs(alike=True), st.integers(0, 3), st.booleans())
def test_merging_makes_no_call_that_was_not_made(graph: Graph, seed: int, one_model: bool) -> None:
    models = {"a": "the model", "b": "the model"} if one_model else {}
    before, after = Run({}, seed, models), Run({}, seed, models)
    assert before.output(graph) == after.output(MergeEqual(models).run(graph))
    assert before.acts == after.acts
    assert after.calls <= before.calls


@settings(max_examples=60, deadline=None)
@given(any_graph)
def test_acting_nodes_are_in_one_order_when_scheduled(graph: Graph) -> None:
    result = Schedule().run(graph)
    acts = acting(result.body)

    def check(region: Region) -> None:
        reached: dict[int, set[int]] = {}
        earlier: list[int] = []
        for node in region.nodes:
            waits = [value.node for value in operands(node) if isinstance(value, Ref)]
            waits += [] if isinstance(node, Input) else node.after
            reached[node.id] = {number for item in waits for number in (item, *reached.get(item, ()))}
            if node.id in acts:
                assert set(earlier) <= reached[node.id]
                earlier.append(node.id)
            if isinstance(node, Map) and node.ordered:
                assert node.id in acts
            for inner in regions(node):
                check(inner)

    check(result.body)


@settings(max_examples=40, deadline=None)
@given(any_graph, st.integers(0, 3))
def test_pipeline_keeps_meaning_and_repeats_to_the_same(graph: Graph, seed: int) -> None:
    assume(well_typed(Inline().run(graph)))
    graph = replace(graph, params=(), computed=())
    passes = pipeline(order=tuple(variables_in(graph)))
    result = run_passes(graph, passes)
    assert not any(isinstance(node, Call) for node in walk(result.body))
    assert meaning(result, seed, {}) == meaning(graph, seed, {})
    assert run_passes(result, passes) == result


def test_names_and_results_are_seen_when_the_pipeline_runs() -> None:
    seen: list[tuple[str, int]] = []
    run_passes(parse(NESTED), pipeline(), seen=lambda name, graph: seen.append((name, len(graph.nodes))))
    assert seen == [(name, 2) for name in PASS_NAMES]
    assert tuple(step.name for step in pipeline()) == PASS_NAMES


@dataclass(frozen=True)
class _Breaks:
    name: str = "breaks"

    def run(self, graph: Graph) -> Graph:
        return replace(graph, body=replace(graph.body, output=Ref(99)))


def test_pipeline_stops_when_a_pass_breaks_the_graph() -> None:
    with pytest.raises(CompileError, match="after the pass 'breaks'"):
        run_passes(parse(NESTED), (Inline(), _Breaks()))


def test_pipeline_stops_when_a_variable_is_no_parameter() -> None:
    text = NESTED.replace("@inner.m", "@inner.m instruction=$i temperature=$t")
    with pytest.raises(CompileError, match="reads \\$t, which is not among the parameters"):
        run_passes(parse(text), (OrderParameters(("i",)),))
    graph = run_passes(parse(text), (OrderParameters(("i",), computed=("t",)),))
    assert "  params $i\n  computed $t\n" in str(graph)


class Ask(Schema):
    """What nothing can change."""

    text: str
    items: tuple[str, ...] = ()
    more: str = ""


def long_program(count: int) -> str:
    """A program of about `count` nodes of every kind, each reading the one before."""
    lines = ["program big : Ask -> Ask {", "  %0 = input : Ask"]
    last = 0
    for at in range(1, count, 8):
        settings_of = f"instruction=$m{at}.instruction demos=$m{at}.demos temperature=0.0 max_tokens=512"
        lines += [
            f"  %{at} = lm Ask -> Ask (%{last}) @m{at} {settings_of}  # bot.py:{at}",
            f"  %{at + 1} = lm Ask -> Ask (%{last}) @m{at} {settings_of}",
            f"  %{at + 2} = python bot:log (%{at}.text, $k) : None",
            f"  %{at + 3} = python pure bot:tidy (%{at + 1}.text) : str",
            f"  %{at + 4} = join record (text=%{at + 3}, more=%{at}.items[0]) : Ask",
            f"  %{at + 5} = select $s{at} {{",
            f"    a: lm Ask -> Ask (%{at + 4}) @a{at}",
            f"    b: tool search bot:search (%{at + 4}.text) : Ask",
            "  } : Ask",
        ]
        last = at + 5
    return "\n".join([*lines, f"  output %{last}", "}"]) + "\n"


def passed(text: str, count: int) -> Graph:
    frozen = {f"s{at}": Constant.of("a") for at in range(1, count, 16)}
    return run_passes(verify(parse(text)), pipeline(schemas={"Ask": Ask}, frozen=frozen))


def test_work_grows_linearly_when_a_graph_grows() -> None:
    """Counted in steps of Python, so comparisons of nodes show; tuples copied inside C do not."""
    short, long = long_program(100), long_program(400)
    passed(short, 100)
    assert steps(lambda: passed(long, 400)) < LINEAR * steps(lambda: passed(short, 100))


def test_two_thousand_nodes_pass_the_pipeline() -> None:
    text = long_program(2000)
    assert len(parse(text).nodes) > 2000
    graph = passed(text, 2000)
    # Equal requests are merged into one, and every second selection is frozen.
    kinds = Counter(node.kind for node in graph.nodes)
    assert kinds == {"input": 1, "lm": 500, "python": 500, "join": 250, "select": 125, "tool": 125}
    verify(graph)


def test_long_chain_of_maps_and_calls_ends_soon_when_nested_to_the_limit() -> None:
    text = "lm A -> A (%0) @m"
    for depth in range(60):
        text = f"cond %0.c{depth} {{ %{depth + 1} = {text} output %{depth + 1} }} else {{ output %0 }} : A"
    graph = parse(f"program p : A -> A {{ %0 = input : A %99 = {text} output %99 }}")
    assert run_passes(graph, pipeline()).nodes[-1].kind == "lm"
