from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspex as dx
from dspex.program.checks import prepared
from dspex.program.rules import All, Any_, Arith, Compare, Const, Expr, Not, Ref, Rule
from dspex.program.variables import Branch
from tests.growth import LINEAR, steps

STYLE = dx.Choice("style", ("terse", "detailed"))
SOLVER = Branch("solver", ("predict", "cot"))
K = dx.Int("k", 1, 8, default=4)
DEPTH = dx.Int("depth", 1, 3, when=SOLVER.is_("cot"))
EXTRA = dx.Bool("extra", when=(DEPTH >= 2) & STYLE.is_("detailed"))
RULES = [STYLE.is_("terse").implies(K <= 4), EXTRA.is_(True).implies(K >= 5)]
SPACE = dx.Space([STYLE, EXTRA, SOLVER, K, DEPTH], RULES)

values = st.fixed_dictionaries(
    {
        "style": st.sampled_from(STYLE.values),
        "solver": st.sampled_from(SOLVER.branches),
        "k": st.integers(1, 8),
        "depth": st.integers(1, 3),
        "extra": st.booleans(),
    }
)


def oracle_active(config: dict[str, object]) -> set[str]:
    active = {"style", "solver", "k"}
    if config["solver"] == "cot":
        active.add("depth")
        if config["depth"] >= 2 and config["style"] == "detailed":  # type: ignore[operator]
            active.add("extra")
    return active


@given(values)
def test_active_follows_chains_of_conditions(config: dict[str, object]) -> None:
    assert SPACE.active(config) == oracle_active(config)


@given(values)
def test_validate_accepts_exactly_what_keeps_the_rules(config: dict[str, object]) -> None:
    active = oracle_active(config)
    broken = (config["style"] == "terse" and config["k"] > 4) or (  # type: ignore[operator]
        "extra" in active and config["extra"] and config["k"] < 5  # type: ignore[operator]
    )
    if broken:
        with pytest.raises(dx.ProgramError, match="DX1403"):
            SPACE.validate(config)
    else:
        assert SPACE.validate(config) == config


@given(values, values)
def test_identity_counts_active_values_only(a: dict[str, object], b: dict[str, object]) -> None:
    def meaning(config: dict[str, object]) -> dict[str, object]:
        return {name: config[name] for name in oracle_active(config)}

    assert (SPACE.identity(a) == SPACE.identity(b)) == (meaning(a) == meaning(b))


@given(values, st.sampled_from(["style", "solver", "k", "extra"]))
def test_freezing_keeps_the_meaning_of_rules_and_conditions(config: dict[str, object], name: str) -> None:
    frozen = SPACE.freeze({name: config[name]})
    assert frozen.active(config) == SPACE.active(config)
    assert bool(frozen.broken(config)) == bool(SPACE.broken(config))
    assert frozen.default()[name] == config[name]


def test_defaults_complete_a_partial_configuration() -> None:
    assert SPACE.validate({"k": 2}) == {**SPACE.default(), "k": 2}
    assert len(SPACE) == 5


def test_unknown_names_are_errors_with_a_suggestion() -> None:
    with pytest.raises(dx.ProgramError, match=r"DX1401[\s\S]*did you mean style"):
        SPACE.validate({"styel": "terse"})


def test_a_cycle_of_conditions_is_printed() -> None:
    a = dx.Bool("a", when=Compare("==", Ref("b"), Const(True)))
    b = dx.Bool("b", when=a.is_(True))
    with pytest.raises(dx.ProgramError, match=r"DX1306.*a -> b -> a"):
        dx.Space([a, b])


def test_a_rule_over_an_unknown_variable_is_refused() -> None:
    with pytest.raises(dx.ProgramError, match="DX1303"):
        dx.Space([STYLE], [K <= 4])
    with pytest.raises(dx.ProgramError, match="DX1405"):
        dx.Space([K, K])


@given(values, values, st.sets(st.sampled_from(["style", "solver", "k", "depth", "extra"])))
def test_rebinding_is_validating_the_whole(base: dict[str, object], other: dict[str, object], names: set[str]) -> None:
    changes = {name: other[name] for name in sorted(names)}
    try:
        expected = SPACE.validate({**base, **changes})
    except dx.ProgramError as error:
        with pytest.raises(dx.ProgramError, match=error.code):
            SPACE.rebound(base, changes)
    else:
        assert SPACE.rebound(base, changes) == expected


def test_a_space_pickles_and_takes_grown_pools_after_it_was_used() -> None:
    note = dx.Text("note", ("a",))
    space = dx.Space([*SPACE.variables.values(), note], RULES)
    assert space.broken(space.rebound(space.default(), {"note": "a"})) == ()
    back = pickle.loads(pickle.dumps(space))
    assert back.validate({"k": 2}) == space.validate({"k": 2})
    grown = space.replaced({"note": note.grown("b")})
    assert grown.rebound(space.default(), {"note": "b"})["note"] == "b"
    for use in (space, back):
        with pytest.raises(dx.ProgramError, match="DX1402"):
            use.rebound(space.default(), {"note": "b"})


def test_rebinding_refuses_what_binding_refuses() -> None:
    base = SPACE.default()
    wrong: list[tuple[dict[str, object], str]] = [
        ({"kk": 1}, "DX1401"),
        ({"k": 9}, "DX1402"),
        ({"k": True}, "DX1402"),
        ({"k": 8}, "DX1403"),
    ]
    for changes, code in wrong:
        with pytest.raises(dx.ProgramError, match=code):
            SPACE.rebound(base, changes)
    assert SPACE.rebound(base, {}) == base


POOL: tuple[dx.Var[Any], ...] = (
    dx.Int("a", -3, 3),
    dx.Float("b", -3, 3),
    dx.Choice[Any]("c", (1, 2.0, True, "x", None)),
    dx.Choice[Any]("d", (0, 1, 2)),
    dx.Bool("e"),
)
OF_POOL = {variable.name: variable for variable in POOL}
operands = st.sampled_from(sorted(OF_POOL)).map(Ref) | st.sampled_from([0, 1, 1.0, 2, True, False, "x", None]).map(
    Const
)
sums: st.SearchStrategy[Expr] = st.recursive(
    operands, lambda inner: st.builds(Arith, st.sampled_from(["+", "-", "*"]), inner, inner), max_leaves=3
)
comparisons = st.builds(Compare, st.sampled_from(["<=", "<", ">=", ">", "==", "!="]), sums, sums)
pool_rules: st.SearchStrategy[Rule] = st.recursive(
    comparisons,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda items: All(tuple(items)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda items: Any_(tuple(items)))
        | st.builds(Not, inner)
    ),
    max_leaves=4,
)
pool_values = st.fixed_dictionaries(
    {
        "a": st.integers(-3, 3),
        "b": st.floats(-3, 3),
        "c": st.sampled_from([1, 2.0, True, "x", None]),
        "d": st.integers(0, 2),
        "e": st.booleans(),
    }
)


@given(pool_rules, pool_values)
def test_prepared_rules_decide_as_the_rules_do(rule: Rule, config: dict[str, object]) -> None:
    test = prepared(rule, OF_POOL)
    try:
        expected = rule.test(config)
    except dx.ProgramError as error:
        with pytest.raises(dx.ProgramError, match=error.code):
            test(config)
    else:
        assert test(config) == expected


def test_a_space_describes_itself() -> None:
    described = json.loads(json.dumps(SPACE.describe()))
    assert [entry["name"] for entry in described["variables"]] == ["style", "extra", "solver", "k", "depth"]
    k = described["variables"][3]
    assert (k["kind"], k["domain"], k["default"], k["lo"], k["hi"]) == ("int", "an int in [1, 8]", 4, 1, 8)
    assert described["variables"][4]["when"] == 'solver == "cot"'
    assert described["variables"][0]["options"] == ["terse", "detailed"]
    assert "test_space.py:" in k["at"]
    assert described["rules"] == [str(rule) for rule in RULES]
    odd = dx.Space(
        [
            dx.Choice[Any]("odd", ((1, 2), float("inf"))),
            dx.Demos("shots", (dx.DemoSet(),)),
            dx.computed(dx.Int("n", 1, 2) * 2, name="double"),
            dx.Int("n", 1, 2),
        ]
    )
    variables = json.loads(json.dumps(odd.describe(), allow_nan=False))["variables"]
    assert variables[0]["options"] == ["(1, 2)", "inf"]
    assert variables[1]["pool"] == [dx.DemoSet().hash]
    assert variables[2]["of"] == ["n"]


def test_a_space_prints_its_variables_and_rules() -> None:
    assert str(SPACE).splitlines() == [
        "5 Variables, 2 rules",
        "  style   one of 'terse', 'detailed', by default terse",
        '  extra   True or False, by default False, when (depth >= 2 & style == "detailed")',
        "  solver  one of the branches predict, cot, by default predict",
        "  k       an int in [1, 8], by default 4",
        '  depth   an int in [1, 3], by default 2, when solver == "cot"',
        '  rule (style == "terse" implies k <= 4)',
        "  rule (extra == True implies k >= 5)",
    ]
    assert repr(SPACE) == "Space(style, extra, solver, k, depth; 2 rules)"
    assert str(dx.Space([])) == "0 Variables, 0 rules"


def test_two_variables_of_one_name_are_refused_with_both_places() -> None:
    one = dx.Int("k", 1, 8)
    two = dx.Bool("k")
    with pytest.raises(dx.ProgramError, match="DX1405") as caught:
        dx.Space([one, two])
    assert one.at is not None
    assert two.at is not None
    assert f"test_space.py:{one.at[1]}" in caught.value.message
    assert f"test_space.py:{two.at[1]}  k" in str(caught.value.where)


def chain(n: int) -> dx.Space:
    """`n` Variables, each active only with the one before, and a rule for every tenth."""
    variables = [dx.Float(f"x{number}", 0, 1) for number in range(n)]
    for before, variable in pairwise(variables):
        variable.when = before <= 1
    return dx.Space(variables[::-1], [a <= b for a, b in list(pairwise(variables))[::10]])


def used(n: int) -> None:
    """Make a chain of `n` Variables and do with it whatever goes through all of them."""
    space = chain(n)
    config = space.validate(space.default())
    assert len(space.active(config)) == n
    space.identity(config)
    space.describe()
    str(space)
    space.freeze(x0=0.5)


def test_work_grows_linearly_when_a_chain_of_conditions_grows() -> None:
    """Counted in steps of Python: what a search through a list would cost inside C does not show here."""
    used(10)
    assert steps(lambda: used(1_000)) < LINEAR * steps(lambda: used(250))


def test_ten_thousand_variables_in_one_chain_of_conditions_are_no_trouble() -> None:
    used(10_000)
    looped = [dx.Float(f"x{number}", 0, 1) for number in range(10_000)]
    for number, variable in enumerate(looped):
        variable.when = looped[number - 1] <= 1
    with pytest.raises(dx.ProgramError, match=r"DX1306.*x0 -> x9999 -> .* \(9980 more\) -> .* -> x0") as caught:
        dx.Space(looped)
    assert len(str(caught.value)) < 1_000
    with pytest.raises(dx.ProgramError, match="DX1401") as caught:
        chain(10_000).validate({"nothing like it": 1})
    assert len(str(caught.value)) < 1_000


def mixed(times: int) -> dx.Space:
    """Eight conditional Variables, 32 others for each of `times`, and four rules."""
    style = dx.Choice("style", ("terse", "detailed"))
    variables: list[dx.Var[Any]] = [style]
    variables += [dx.Float(f"f{n}", 0, 1) for n in range(12 * times - 1)]
    variables += [dx.Int(f"i{n}", 1, 8, default=2) for n in range(12 * times)]
    variables += [dx.Choice(f"c{n}", ("a", "b", "c")) for n in range(8 * times)]
    variables += [dx.Float(f"w{n}", 0, 1, when=style.is_("detailed")) for n in range(8)]
    named = {variable.name: variable for variable in variables}
    i0, i1, f0, w0 = (named[name] for name in ("i0", "i1", "f0", "w0"))
    return dx.Space(
        variables, [style.is_("terse").implies(i0 <= 8), i0 + i1 <= 16, w0 <= f0 + 1, dx.not_both(i0 <= 1, i1 >= 9)]
    )


def test_binding_is_the_same_work_when_variables_are_added_that_do_not_change() -> None:
    """Changes, rules and conditions are gone through; the other Variables are copied at once, inside C."""
    changes = {"style": "detailed", "i0": 3, "f0": 0.25}
    taken: list[int] = []
    for times in (1, 4):
        space = mixed(times)
        base = space.default()
        assert len(base) == 8 + 32 * times
        assert space.rebound(base, changes) == space.validate({**base, **changes})
        taken.append(steps(lambda space=space, base=base: space.rebound(base, changes)))
    assert taken[0] == taken[1]


def test_binding_is_linear_work_when_all_variables_are_given() -> None:
    taken: list[int] = []
    for times in (1, 4):
        space = mixed(times)
        base = space.default()
        space.rebound(base, base)
        taken.append(steps(lambda space=space, base=base: space.rebound(base, base)))
    assert taken[1] < LINEAR * taken[0]


def _deep(form: str, k: Any) -> Any:
    item: Any = k + 0 if form == "sum" else k >= 0
    for place in range(3000):
        if form == "sum":
            item = item + 1
        elif form == "not":
            item = ~item
        else:
            item = item & (k <= 9) if place % 2 else item | (k >= 5)
    return item >= 0 if form == "sum" else item


@pytest.mark.parametrize("form", ["sum", "not", "mixed"])
@pytest.mark.parametrize("place", ["rule", "condition", "computed", "program"])
def test_rule_that_is_nested_too_deeply_is_refused(form: str, place: str) -> None:
    k = dx.Int("k", 0, 9)
    rule = _deep(form, k)

    class Asked(dx.Schema):
        text: str

    class Bot(dx.Program[Asked, Asked]):
        k = dx.Int("k", 0, 9)
        rules = (rule,)

        async def __call__(self, x: Asked, /) -> Asked:
            return x

    given: dict[str, Callable[[], object]] = {
        "rule": lambda: dx.Space([k], [rule]),
        "condition": lambda: dx.Bool("b", when=rule),
        "computed": lambda: dx.computed(_deep("sum", k).left),
        "program": lambda: Bot().space.default(),
    }
    with pytest.raises(dx.CompileError) as refused:
        given[place]()
    assert refused.value.code == "DX2108"
