"""What domains decide is folded out of the code, computed Variables are written out, and no rule changes meaning."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from dspex.compiler.lower import feasible
from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core.abi import Op
from dspex.errors import CompileError
from dspex.program.computed import Computed, computed
from dspex.program.demos import Demo, DemoSet
from dspex.program.rules import All, Any_, Compare, Const, Not, Ref, Rule
from dspex.program.space import Space
from dspex.program.variables import Bool, Branch, Choice, Demos, Float, Int, Text, Var
from tests.core import spaces
from tests.core.library import lowered as library
from tests.core.spaces import SEEDS, UNHURRIED, drawn

MANY = settings(max_examples=150, deadline=None, suppress_health_check=UNHURRIED)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


def refused(code: str, variables: list[Var[Any]], *rules: Any) -> CompileError:
    with pytest.raises(CompileError) as caught:
        lower(variables, rules)
    assert caught.value.code == code
    assert caught.value.fix
    return caught.value


def code(lowered: Lowered) -> list[str]:
    return [Op(op).name for op in lowered.table.op]


# --- the oracle -------------------------------------------------------------------------------------


@st.composite
def mixed(draw: st.DrawFn) -> tuple[list[Var[Any]], list[Rule]]:
    """Variables of every kind, computed ones among them, some conditional, with rules over them."""
    known: list[Var[Any]] = []
    for index in range(draw(st.integers(1, 6))):
        when = draw(spaces.rules(known, 1)) if known and draw(st.booleans()) else None
        form, name = draw(st.integers(0, 5)), f"v{index}"
        if form == 0:
            known.append(Branch(name, ("predict", "cot")[: draw(st.integers(1, 2))], when=when))
        elif form == 1:
            pool = (DemoSet(()), DemoSet((Demo({"q": 1}, {"a": 2}),)))
            known.append(Demos(name, pool[: draw(st.integers(1, 2))], when=when))
        elif form == 2:
            values = (Level.LOW, 3, True, None, "x", 2.5)
            known.append(Choice(name, tuple(dict.fromkeys(draw(st.permutations(values))))[:3], when=when))
        elif form == 3 and any(variable.is_numeric() for variable in known):
            variable = draw(st.sampled_from([each for each in known if each.is_numeric()]))
            found = computed(variable * draw(st.integers(-2, 3)) + draw(st.integers(-3, 3)), name=name)
            known.append(found if when is None else found.renamed(name, gate=when))
        else:
            known.append(draw(spaces.variables(name, when)))
    return known, draw(st.lists(spaces.rules(known) | equalities(known), max_size=4))


@st.composite
def equalities(draw: st.DrawFn, known: list[Var[Any]]) -> Rule:
    sides = [Ref(draw(st.sampled_from(known)).name) for _ in range(2)]
    right = draw(st.sampled_from([sides[1], Const(3), Const(True), Const("x"), Const("a")]))
    return Compare(draw(st.sampled_from(("==", "!="))), sides[0], right)


@MANY
@given(mixed(), SEEDS)
def test_code_decides_what_the_rules_say(given_: tuple[list[Var[Any]], list[Rule]], seed: int) -> None:
    variables, rules = given_
    space = Space(variables, rules)
    try:
        lowered = lower(variables, rules)
    except CompileError as error:
        if error.code not in {"DX2104", "DX2105", "DX2106", "DX2110"}:
            raise
        reject()
    assert sorted(map(str, (*lowered.rules, *lowered.settled))) == sorted(map(str, rules))
    for column in drawn(lowered, 8, seed).T:
        config = lowered.decode(np.ascontiguousarray(column))
        active = space.active(config)
        assert lowered.active(config) == active
        again = lowered.encode(config)
        assert {name for name, row in lowered.rows.items() if not np.isnan(again[row])} == active & set(lowered.rows)
        values = {name: config[name] for name in active}
        held = lowered.sampler.holds(again[:, np.newaxis])[:, 0]
        assert held.tolist() == [rule.holds(values) for rule in lowered.rules]
        assert all(rule.holds(values) for rule in lowered.settled)


@MANY
@given(mixed(), SEEDS)
def test_a_rule_that_is_refused_holds_nowhere(given_: tuple[list[Var[Any]], list[Rule]], seed: int) -> None:
    variables, rules = given_
    free = lower(variables)
    by_name = {variable.name: variable for variable in free.variables}
    for rule in rules:
        if rule.names() <= by_name.keys() and feasible.fold(rule, by_name) is False:
            for column in drawn(free, 8, seed).T:
                config = free.decode(np.ascontiguousarray(column))
                values = {name: config[name] for name in free.active(config)}
                assert not rule.names() <= values.keys() or not rule.holds(values)


# --- folding ----------------------------------------------------------------------------------------


def test_a_rule_that_always_holds_is_a_note_and_has_no_code() -> None:
    k, m = Int("k", 1, 8), Int("m", 1, 8)
    lowered = lower([k, m], [k <= 8, k <= m + 5, k + m <= 16])
    assert [str(rule) for rule in lowered.rules] == ["k <= (m + 5)"]
    assert [str(rule) for rule in lowered.settled] == ["k <= 8", "(k + m) <= 16"]
    assert lowered.sampler.rules == ("k <= (m + 5)",)
    assert [note.code for note in lowered.notes] == ["DX2114", "DX2114"]
    assert lowered.notes[0].message == "rule always holds: k <= 8 while k is in [1, 8]"
    assert "test_folding.py" in str(lowered.notes[0])


def test_decided_comparisons_are_folded_out_of_a_rule() -> None:
    k, m, style = Int("k", 1, 8, default=2), Int("m", 1, 8), Choice("style", ("a", "b"))
    plain = lower([k, m, style], [k <= 3])
    for rule in (
        (k <= 3) & (m <= 9),
        (k <= 3) | (m > 8),
        (m >= 1).implies(k <= 3),
        ~((m > 0) & ~(k <= 3)),
        All(((style.is_("a") | style.is_("b")), k <= 3)),
        Compare("<=", Ref("k"), Const(1) + Const(2)),
        (k <= 3) & m.is_not(3.5),  # type: ignore[arg-type]
    ):
        found = lower([k, m, style], [rule])
        assert code(found) == code(plain)
        assert np.array_equal(found.table.const, plain.table.const)


def test_a_folded_part_still_makes_its_rule_vacuous_where_it_is_inactive() -> None:
    mode = Choice("mode", ("a", "b"))
    k, m = Int("k", 1, 8, when=mode.is_("b")), Int("m", 1, 8, default=2)
    lowered = lower([mode, k, m], [(k <= 9) & (m <= 3)])
    holds = [
        lowered.sampler.holds(lowered.encode({"mode": value, "m": 8})[:, np.newaxis]).item() for value in ("a", "b")
    ]
    assert holds == [1, 0]


def test_a_fixed_variable_is_a_constant_and_gives_no_notes() -> None:
    k, m = Int("k", 1, 8, default=4), Int("m", 1, 8)
    space = Space([k, m], [k + m <= 12, k <= 6, (m >= 7).implies(k >= 5)]).freeze(k=4)
    lowered = lower(tuple(space.variables.values()), space.rules)
    assert lowered.notes == ()
    assert [str(rule) for rule in lowered.settled] == [
        "((k + m)) <= 12".replace("((", "(").replace("))", ")"),
        "k <= 6",
    ]
    assert {config["m"] for config in lowered.sample(200, 0)} == {1, 2, 3, 4, 5, 6}


def test_pools_that_grow_decide_nothing_by_mistake() -> None:
    text = Text("t", ("one",))
    lowered = lower([text], [text.is_("one")])
    assert lowered.notes == ()
    grown = lower([text.grown("two")], [text.is_("one")])
    assert len(grown.rules) == 1


def test_conditions_are_folded() -> None:
    k, mode = Int("k", 1, 8), Choice("mode", ("a", "b"))
    inner = Int("inner", 1, 8, when=mode.is_("b"))
    lowered = lower(
        [k, mode, inner, Bool("always", when=k >= 1), Bool("never", when=k > 8), Bool("with_inner", when=inner >= 1)]
    )
    assert lowered.conditions is not None
    assert set(lowered.conditions) == {"inner", "never", "with_inner"}
    assert lowered.active({"mode": "a"}) == {"k", "mode", "always"}
    assert lowered.active({"mode": "b"}) == {"k", "mode", "always", "inner", "with_inner"}
    (note,) = lowered.notes
    assert note.code == "DX2116"
    assert note.message == "Variable 'never' is never active: its condition k > 8 never holds while k is in [1, 8]"
    assert "condition with_inner: inner >= 1\n  active inner\n" in str(lowered)


def test_categories_compare_by_value_across_types() -> None:
    a, b = Choice("a", (Level.LOW, Level.HIGH)), Choice("b", (3, 1, True, "1"), default=1)
    lowered = lower([a, b], [Compare("==", Ref("a"), Ref("b")) | b.is_("1")])
    seen = {(config["a"], config["b"]) for config in lowered.sample(300, 0)}
    assert seen == {(Level.LOW, 1), (Level.HIGH, 3), (Level.LOW, "1"), (Level.HIGH, "1")}
    ordered = lower([Choice("a", (Level.LOW, Level.HIGH))], [Compare("<=", Ref("a"), Const(2))])
    assert {config["a"] for config in ordered.sample(20, 0)} == {Level.LOW}


@pytest.mark.parametrize("form", ["negation", "conjunction", "text", "truth", "grid"])
def test_rules_that_the_domains_refute_are_refused(form: str) -> None:
    k, c, even = Int("k", 1, 8), Choice("c", ("a", "b")), Int("even", 0, 8, step=2)
    rule = {
        "negation": ~(k <= 8),
        "conjunction": Not(Any_((k <= 8, c.is_("a")))),
        "text": Compare("==", Ref("k"), Const("1")),
        "truth": Compare("==", Ref("k"), Const(True)),
        "grid": even.is_(3),
    }[form]
    error = refused("DX2104", [k, c, even], rule)
    assert f"rule can never hold: {rule} while " in error.message


def test_a_value_equals_itself_unless_it_may_overflow() -> None:
    x, wide = Float("x", 0, 1), Float("wide", 0, 1e300)
    assert lower([x], [x <= x, (x + 1).is_(x + 1)]).rules == ()
    refused("DX2104", [x], x < x)
    assert len(lower([wide], [(wide * wide).is_(wide * wide)]).rules) == 1


def test_numbers_that_are_not_finite_are_refused_or_decided() -> None:
    x = Float("x", 0, 1)
    refused("DX2115", [x], Compare("<=", Ref("x"), Const(float("nan"))))
    refused("DX2115", [x], Compare("<=", x + float("inf"), Const(1)))
    assert lower([x], [Compare("<=", Ref("x"), Const(float("inf")))]).rules == ()
    refused("DX2104", [x], Compare(">", Ref("x"), Const(10**400)))


def test_what_no_stack_and_no_reader_holds_is_refused() -> None:
    x = Float("x", 0, 1)
    rule: Rule = x <= 0.5
    for _ in range(400):
        rule = Not(rule)
    refused("DX2108", [x], rule)
    total: Any = Const(0)
    for _ in range(250):
        total = total + x
    assert len(lower([x], [Compare("<=", total, Const(240))]).rules) == 1


def test_a_conflict_in_one_corner_of_a_large_space_is_found() -> None:
    flags = [Bool(f"b{index}") for index in range(2_000)]
    k, m = Int("k", 1, 9), Int("m", 1, 9)
    rules = [flag.is_(False) for flag in flags]
    error = refused("DX2105", [*flags, k, m], *rules, k < m, m < k)
    assert error.message == "no configuration obeys these rules together: k < m; m < k"
    refused("DX2106", [*flags, k, m], *rules, k < m)
    # Thousands of broken rules, each of which can hold.
    error = refused("DX2106", [*flags], *(flag.is_(True) for flag in flags))
    assert error.message == "the default configuration breaks the rule b0 == True: b0 = False"


# --- computed Variables -----------------------------------------------------------------------------


def budget() -> tuple[Int, Choice[Any], Computed[Any], Computed[Any]]:
    k, style = Int("k", 1, 8), Choice("style", ("plain", "terse"))
    tokens = computed(k * 100, name="tokens")
    label = computed(lambda k, tokens: f"{k}:{tokens}", k, tokens, name="label")
    return k, style, tokens, label


def test_computed_variables_have_no_row_and_are_filled() -> None:
    k, style, tokens, label = budget()
    lowered = lower([label, tokens, style, k])
    assert lowered.names == ("k", "style")
    assert [variable.name for variable in lowered.computed] == ["tokens", "label"]
    assert lowered.defaults == {"style": "plain", "k": 4, "tokens": 400, "label": "4:400"}
    assert lowered.decode(lowered.encode({"k": 2})) == {"k": 2, "style": "plain", "tokens": 200, "label": "2:200"}
    assert all(config["label"] == f"{config['k']}:{config['k'] * 100}" for config in lowered.sample(9, 0))
    # A full configuration goes back in: computed values follow from the others.
    assert np.array_equal(lowered.encode(lowered.defaults), lowered.default)


def test_arithmetic_is_written_out_in_rules_and_conditions() -> None:
    k, style, tokens, _ = budget()
    double = computed(tokens * 2, name="double")
    depth = Int("depth", 1, 4, when=double >= 1000)
    lowered = lower([k, style, tokens, double, depth], [tokens <= 700, style.is_("terse").implies(double <= 400)])
    assert {config["k"] for config in lowered.sample(200, 0)} == {1, 2, 3, 4, 5, 6, 7}
    assert all(config["k"] <= 2 for config in lowered.sample(100, 1) if config["style"] == "terse")
    assert lowered.active({"k": 5}) - lowered.active({"k": 4}) == {"depth"}
    error = refused("DX2104", [k, tokens], tokens <= 50)
    assert "(k * 100) <= 50" in error.message or "tokens <= 50" in error.message


def test_a_rule_over_a_computed_variable_whose_source_is_inactive_holds() -> None:
    mode = Choice("mode", ("a", "b"))
    k = Int("k", 1, 8, when=mode.is_("b"))
    tokens = computed(k * 100, name="tokens")
    gated = computed(Ref("m") + 1, name="gated").renamed("gated", gate=mode.is_("b"))
    m = Int("m", 1, 8, default=1)
    lowered = lower([mode, k, m, tokens, gated], [tokens <= 300, gated <= 4])
    space = Space([mode, k, m, tokens, gated], [tokens <= 300, gated <= 4])
    for config in ({"mode": "a", "k": 8, "m": 8}, {"mode": "b", "k": 8, "m": 1}, {"mode": "b", "k": 1, "m": 8}):
        full = lowered.decode(lowered.encode(config))
        held = lowered.sampler.holds(lowered.encode(config)[:, np.newaxis])[:, 0].tolist()
        values = {name: full[name] for name in space.active(full)}
        assert held == [rule.holds(values) for rule in lowered.rules]
        assert lowered.active(full) == space.active(full)
    assert lowered.active({"mode": "a"}) == {"mode", "m"}


def test_functions_in_rules_and_cycles_are_refused() -> None:
    k, style, tokens, label = budget()
    error = refused("DX2118", [k, style, tokens, label], label.is_("4:400"))
    assert "'label'" in error.message
    refused("DX2118", [k, tokens, label, Bool("b", when=label.is_("4:400"))])
    loop = [computed(Ref("b") + 1, name="a"), computed(Ref("a") + 1, name="b")]
    assert "a -> b -> a" in refused("DX2117", [*loop]).message
    refused("DX2101", [computed(Ref("q") + 1, name="a")])


def test_computed_variables_that_double_their_size_are_refused() -> None:
    chain: list[Var[Any]] = [Int("c0", 0, 1)]
    for _ in range(40):
        chain.append(computed(chain[-1] + chain[-1], name=f"c{len(chain)}"))
    assert len(lower(chain).computed) == 40
    refused("DX2108", chain, chain[-1] <= 5)


# --- text -------------------------------------------------------------------------------------------

GOLDEN = """\
table 11 rows, 6 rules, 82 instructions
  0 solver: module {'predict', 'cot'} = 'predict'
  1 style: choice {'plain': 0.6, 'terse': 0.2, None: 0.2} = None
  2 k: int [1, 8] = 2
  3 wide: int [1, 1000] log = 10 when solver == "cot"
  4 rate: float [0.001, 1.0] log = 0.1
  5 share: float [0.0, 1.0] step 0.25 = 0.25 when (k >= 2 & style != "terse")
  6 number: choice {1, 2, 8} = 1
  7 other: choice {'terse', 'plain'} = 'plain'
  8 flag: bool {False, True} = False when wide <= 100
  9 text: text pool of 2 = 0 when solver == "predict"
  10 demos: demos pool of 2 = 0
rule 0: (k * number) <= 16
  load k, load number, lookup {1, 2, 8}, mul, const 16, le
rule 1: (style == "terse" implies k < 4)
  load style, const 1, eq, not, load k, const 4, lt, or
rule 2: (share + rate) >= 0.1
  load share, load rate, add, const 0.1, ge, active share, not, or
rule 3: (style == other | k > 1)
  load style, lookup {#0, #1, #2}, load other, lookup {#1, #0}, eq, load k, const 1, gt, or
rule 4: ((flag == True | wide < 900) & ~((flag == True & wide < 900)))
  load flag, const 1, eq, load wide, const 900, lt, or, load flag, const 1, eq, load wide, const 900, lt, and, not, \
and, active flag, not, or, active wide, not, or
rule 5: ~((rate - share) > 0.9)
  load rate, load share, sub, const 0.9, gt, not, active share, not, or
condition share: (k >= 2 & style != "terse")
  load k, const 2, ge, load style, const 1, ne, and
condition flag: wide <= 100
  load wide, const 100, le, active wide, and
"""


def test_the_table_prints_as_canonical_text() -> None:
    assert str(library()) == GOLDEN


def test_what_is_settled_and_computed_is_printed_too() -> None:
    k = Int("k", 1, 8)
    lowered = lower([k, computed(k * 100, name="tokens"), Choice("größe\n", ("a\nb",))], [k <= 9])
    assert str(lowered) == (
        "table 2 rows, 0 rules, 0 instructions\n"
        "  0 k: int [1, 8] = 4\n"
        "  1 'größe\\n': choice {'a\\nb'} = 'a\\nb'\n"
        "always: k <= 9\n"
        "computed tokens = (k * 100)\n"
    )
