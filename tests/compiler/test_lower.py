"""Lowering: round trips, conditions, rules, and every coded refusal."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower import feasible
from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.abi import Kind
from dspex.core.kernels import encode
from dspex.errors import CompileError, ProgramError
from dspex.program.demos import Demo, DemoSet
from dspex.program.rules import All, Compare, Const, Ref, one_of
from dspex.program.space import Space
from dspex.program.variables import Bool, Branch, Choice, Demos, Float, Int, Text, Var
from tests.core.spaces import SEEDS, UNHURRIED, drawn, spaces

MANY = settings(max_examples=80, deadline=None, suppress_health_check=UNHURRIED)


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


def refused(code: str, variables: list[Var[Any]], *rules: Any) -> CompileError:
    with pytest.raises(CompileError) as caught:
        lower(variables, rules)
    assert caught.value.code == code
    assert caught.value.fix
    return caught.value


# --- round trips ------------------------------------------------------------------------------------


@MANY
@given(spaces(), SEEDS)
def test_columns_and_configurations_are_inverse(lowered: Lowered, seed: int) -> None:
    population = drawn(lowered, 6, seed)
    encode.settle(lowered.table, population)
    for column in population.T:
        config = lowered.decode(np.ascontiguousarray(column))
        again = lowered.encode(config)
        assert lowered.decode(again) == config
        assert np.array_equal(again, column, equal_nan=True)


@MANY
@given(spaces(), SEEDS)
def test_decoded_values_are_legal_and_conditions_agree_with_the_space(lowered: Lowered, seed: int) -> None:
    space = Space(lowered.variables, lowered.rules)
    for config in lowered.sample(6, seed):
        assert space.validate(config) == config
        assert lowered.active(config) == space.active(config)
        column = lowered.encode(config)
        assert {lowered.names[row] for row in np.flatnonzero(~np.isnan(column))} == space.active(config)


@MANY
@given(spaces())
def test_the_default_comes_back_as_it_was_written(lowered: Lowered) -> None:
    assert lowered.decode(lowered.default) == lowered.defaults


def test_awkward_defaults_and_bounds_come_back_exactly() -> None:
    variables: list[Var[Any]] = [
        Float("third", 1e-5, 1e-1, log=True, default=1 / 300),
        Float("pi", 3.141592653589793e-3, 1.0, log=True, default=3.141592653589793e-3),
        Float("tenth", 0.0, 1.0, step=0.1, default=0.3),
        Int("big", -(2**52), 2**52, default=2**52 - 1),
    ]
    lowered = lower(variables)
    assert lowered.decode(lowered.default) == lowered.defaults
    assert lowered.decode(lowered.encode({"big": -(2**52)}))["big"] == -(2**52)


def test_every_kind_is_lowered() -> None:
    demos = (DemoSet(()), DemoSet((Demo({"q": 1}, {"a": 2}),)))
    lowered = lower(
        [
            Float("f", 0, 1),
            Int("i", 1, 8, log=True),
            Bool("b", default=True),
            Choice("c", (Size.SMALL, Size.LARGE, None)),
            Text("t", ("one", "two")),
            Demos("d", demos),
            Branch("m", ("predict", "cot")),
        ]
    )
    assert lowered.table.kind.tolist() == [
        Kind.FLOAT,
        Kind.INT,
        Kind.BOOL,
        Kind.CHOICE,
        Kind.TEXT,
        Kind.DEMOS,
        Kind.MODULE,
    ]
    config = {"f": 0.25, "i": 3, "b": False, "c": None, "t": "two", "d": demos[1], "m": "cot"}
    assert lowered.decode(lowered.encode(config)) == config


def test_growing_a_pool_keeps_the_numbers_of_its_members() -> None:
    text, after = Text("t", ("one", "two")), Choice("c", ("x", "y"))
    before = lower([text, after])
    grown = lower([text.grown("three"), after])
    column = before.encode({"t": "two", "c": "y"})
    assert np.array_equal(grown.encode({"t": "two", "c": "y"}), column)
    assert grown.decode(column) == {"t": "two", "c": "y"}


@MANY
@given(st.data())
def test_growing_pools_renumbers_nothing(data: st.DataObject) -> None:
    sources = [DemoSet((Demo({"q": index}, {"a": index}),)) for index in range(6)]
    texts = [f"text {index}" for index in range(6)]
    known: list[Var[Any]] = [
        Text("t", tuple(texts[: data.draw(st.integers(1, 3))])),
        Demos("d", tuple(sources[: data.draw(st.integers(1, 3))])),
        Choice("c", ("x", "y")),
    ]
    known.append(Text("inner", ("one", "two"), when=known[2].is_("y")))
    before = lower(known)
    columns = before.sampler.sample(5, data.draw(SEEDS)).T
    grown: list[Var[Any]] = list(known)
    for _ in range(data.draw(st.integers(1, 3))):
        for row, variable in enumerate(grown):
            if isinstance(variable, Text):
                grown[row] = variable.grown(*data.draw(st.lists(st.sampled_from(texts), max_size=3)))
            elif isinstance(variable, Demos):
                grown[row] = variable.grown(*data.draw(st.lists(st.sampled_from(sources), max_size=3)))
    after = lower(grown)
    for column in columns:
        config = before.decode(column)
        assert after.decode(column) == config
        assert np.array_equal(after.encode(config), before.encode(config), equal_nan=True)


# --- conditions -------------------------------------------------------------------------------------


def test_parents_come_before_children_and_otherwise_the_order_is_kept() -> None:
    mode = Choice("mode", ("a", "b"))
    child = Int("child", 0, 3, when=mode.is_("b"))
    grandchild = Float("grandchild", 0, 1, when=child >= 2)
    lowered = lower([Bool("first"), grandchild, child, mode])
    assert lowered.names == ("first", "mode", "child", "grandchild")
    assert (lowered.table.parent[2], lowered.table.parent_val[2], lowered.table.cond_pc[2]) == (1, 1, -1)
    assert lowered.table.parent[3] == -1
    assert lowered.table.cond_pc[3] >= 0
    assert lowered.active({"mode": "a", "child": 3}) == {"first", "mode"}
    assert lowered.active({"mode": "b", "child": 3}) == {"first", "mode", "child", "grandchild"}


def test_inactive_variables_do_not_count_in_a_column() -> None:
    mode = Choice("mode", ("a", "b"))
    lowered = lower([mode, Int("k", 1, 9, when=mode.is_("b"))])
    one, other = lowered.encode({"mode": "a", "k": 2}), lowered.encode({"mode": "a", "k": 7})
    assert one.tobytes() == other.tobytes()


def test_a_long_chain_of_conditions_is_lowered() -> None:
    links = [Compare("==", Ref(f"v{index}"), Const(True)) for index in range(1499)]
    chain: list[Var[Any]] = [Bool("v0"), *(Bool(f"v{index + 1}", when=link) for index, link in enumerate(links))]
    lowered = lower(chain[::-1])
    assert lowered.names[:3] == ("v0", "v1", "v2")
    assert np.count_nonzero(~np.isnan(lowered.sampler.sample(1, 0))) >= 1


def test_ten_thousand_variables_are_lowered() -> None:
    mode = Choice("mode", ("a", "b"))
    variables: list[Var[Any]] = [mode, Bool("b0", when=mode.is_("b"))]
    for index in range(1, 9_999):
        link = Compare("==", Ref(f"b{index - 1}"), Const(True))
        variables.append(
            Bool(f"b{index}", when=link) if index % 2 else Choice(f"b{index}", (True, "x"), default="x", when=link)
        )
    rules = [Compare("==", Ref(f"b{index}"), Ref(f"b{index + 1}")) for index in range(0, 9_990, 3)]
    lowered = lower(variables[::-1], rules)
    assert len(lowered.variables) == 10_000
    assert lowered.active({"mode": "b", "b0": True}) == {"mode", "b0", "b1"}


def test_a_cycle_of_conditions_is_printed() -> None:
    a = Bool("a", when=Compare("==", Ref("c"), Const(True)))
    b = Bool("b", when=Compare("==", Ref("a"), Const(True)))
    c = Bool("c", when=Compare("==", Ref("b"), Const(True)))
    error = refused("DX2103", [a, b, c])
    assert "a -> c -> b -> a" in error.message
    assert error.where is not None
    assert "test_lower.py" in error.where


# --- rules ------------------------------------------------------------------------------------------


def test_numeric_choices_compute_and_compare() -> None:
    m, k = Choice("m", (1, 2, 8)), Int("k", 1, 8)
    lowered = lower([m, k], [Compare("<=", m * k, Const(16))])
    assert all(config["m"] * config["k"] <= 16 for config in lowered.sample(200, 0))


def test_categories_of_two_variables_compare_by_value() -> None:
    a, b = Choice("a", ("x", "y")), Choice("b", ("y", "z", "x"), default="x")
    lowered = lower([a, b], [Compare("==", Ref("a"), Ref("b"))])
    assert {(config["a"], config["b"]) for config in lowered.sample(60, 0)} == {("x", "x"), ("y", "y")}


def test_true_is_not_one() -> None:
    c = Choice("c", (0, 1, True, False), default=True)
    lowered = lower([c], [c.is_(True)])
    assert {type(config["c"]) for config in lowered.sample(20, 0)} == {bool}


def test_one_of_and_long_conjunctions_fit_the_stack() -> None:
    flags = [Bool(f"b{index}", default=index == 0) for index in range(20)]
    lowered = lower(flags, [one_of(*(flag.is_(True) for flag in flags))])
    assert all(sum(config.values()) == 1 for config in lowered.sample(30, 0))


def test_a_rule_whose_conclusion_is_impossible_is_refused() -> None:
    style, k = Choice("style", ("detailed", "terse")), Int("k", 5, 8)
    error = refused("DX2104", [style, k], style.is_("terse").implies(k <= 4))
    assert error.message.startswith("rule can never hold: k <= 4 while k is in [5, 8]")
    assert error.where is not None
    assert "test_lower.py" in error.where
    assert error.fix == "widen the bounds of k or drop the rule"


@pytest.mark.parametrize("rule", ["above", "sum", "equal", "choice", "both"])
def test_intervals_find_impossible_comparisons(rule: str) -> None:
    x, y, c = Float("x", 0, 1), Int("y", 2, 4), Choice("c", ("a", "b"))
    impossible = {
        "above": x > 1,
        "sum": x + y * 2 >= 9.5,
        "equal": y.is_(7),
        "choice": Compare("==", Ref("c"), Const("z")),
        "both": (x < 0) | (y > 4),
    }[rule]
    refused("DX2104", [x, y, c], impossible)


def test_rules_that_conflict_are_named_and_the_others_are_not() -> None:
    k, m, b = Int("k", 1, 9), Int("m", 1, 9), Bool("b", default=True)
    error = refused("DX2105", [k, m, b], k < m, b.is_(True), m < k)
    assert "k < m" in error.message
    assert "m < k" in error.message
    assert "True" not in error.message


def test_conflicts_of_floats_are_found_by_sampling() -> None:
    x, y = Float("x", 0, 1), Float("y", 0, 1)
    refused("DX2105", [x, y], x > y, y > x)


def test_a_default_that_breaks_a_rule_is_refused_with_its_values() -> None:
    k, m = Int("k", 1, 9, default=9), Int("m", 1, 9, default=2)
    error = refused("DX2106", [k, m], k <= m)
    assert "k = 9, m = 2" in error.message


def test_a_conditional_contradiction_only_silences_its_variable() -> None:
    mode = Choice("mode", ("a", "b"))
    k = Int("k", 5, 8, when=mode.is_("b"))
    lowered = lower([mode, k], [All((mode.is_("a"), mode.is_not("b")))])
    assert {config["mode"] for config in lowered.sample(20, 0)} == {"a"}


@MANY
@given(spaces())
def test_interval_analysis_never_refuses_what_can_hold(lowered: Lowered) -> None:
    by_name = {variable.name: variable for variable in lowered.variables}
    for rule in lowered.rules:
        assert feasible.dead_part(rule, by_name) is None  # the default obeys it


# --- other refusals ---------------------------------------------------------------------------------


def test_names_are_checked() -> None:
    k = Int("k", 1, 4)
    refused("DX2101", [k], Compare("<=", Ref("q"), Const(3)))
    refused("DX2101", [Int("j", 0, 1, when=Compare("<=", Ref("q"), Const(3)))])
    refused("DX2102", [k, Bool("k")])
    with pytest.raises(CompileError, match="DX2111"):
        lower([k]).encode({"kk": 3})
    with pytest.raises(ProgramError, match="DX1402"):
        lower([k]).encode({"k": 30})


def test_what_the_core_cannot_hold_is_refused() -> None:
    refused("DX2107", [Int("k", -(2**53), 2**53)])
    deep: Any = Const(0)
    x = Float("x", 0, 1)
    for _ in range(40):
        deep = Ref("x") - deep
    refused("DX2108", [x], Compare("<=", deep, Const(3)))
    refused("DX2107", [Float("tiny", 1e-310, 1.0, log=True)])
    refused("DX2107", [Float("wide", -1e305, 1.0)])
    c = Choice("c", ("a", 3))
    refused("DX2110", [c, x], Compare("<=", Ref("x"), Ref("c")))
    k = Int("k", 1, 8)
    said = refused("DX2110", [k], k <= "x")  # type: ignore[operator]  # pyright: ignore
    assert said.message == 'in the rule k <= "x", "x" has no order and no arithmetic'
    assert "test_lower.py:" in str(said.where)
    assert said.fix == "k is a number: compare it with one, k <= 4"


def test_lowering_and_its_default_check_need_no_compiled_code() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom dspex.compiler.lower.lowering import lower\nfrom dspex.program.variables import Int\n"
        "k = Int('k', 1, 8)\nlower([k], [k <= 6])\nassert 'numba' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
