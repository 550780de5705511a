from __future__ import annotations

import json
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspex as dx
from dspex.program import rules, variables
from dspex.program.rules import All, Any_, Arith, Compare, Const, Expr, Not, Ref, Rule
from dspex.program.variables import Branch, Prior, Var

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.floats(-1e9, 1e9) | st.integers(-(10**20), 10**20)
scalars = st.none() | st.booleans() | numbers | texts
leaves = names.map(Ref) | scalars.map(Const)
exprs: st.SearchStrategy[Expr] = st.recursive(
    leaves, lambda inner: st.builds(Arith, st.sampled_from(["+", "-", "*"]), inner, inner), max_leaves=4
)
compares = st.builds(Compare, st.sampled_from(["<=", "<", ">=", ">", "==", "!="]), exprs, exprs)
any_rule: st.SearchStrategy[Rule] = st.recursive(
    compares,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda items: All(tuple(items)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda items: Any_(tuple(items)))
        | st.builds(Not, inner)
    ),
    max_leaves=5,
)
conditions = st.none() | any_rule
demos = st.builds(
    dx.Demo,
    st.dictionaries(names, scalars, min_size=1, max_size=2),
    st.dictionaries(names, scalars, min_size=1, max_size=2),
    st.none() | texts,
    st.booleans(),
)
sources = st.builds(dx.DemoSet, st.lists(demos, max_size=2), texts) | st.builds(
    dx.Nearest, st.lists(demos, max_size=2), st.integers(1, 3), texts, st.booleans()
)


def by_kind(value: object) -> object:
    return (isinstance(value, bool), value)


@st.composite
def any_variable(draw: st.DrawFn) -> Var[Any]:
    name, when = draw(names), draw(conditions)
    kind = draw(st.sampled_from(["float", "int", "bool", "choice", "text", "demos", "prior", "module", "computed"]))
    if kind == "float":
        lo, hi = sorted((draw(st.floats(-1e6, 1e6)), draw(st.floats(-1e6, 1e6))))
        step = draw(st.none() | st.floats(1e-3, 1e3))
        log = lo > 0 and step is None and draw(st.booleans())
        default = None if step is not None else draw(st.none() | st.floats(lo, hi))
        return dx.Float(name, lo, hi, default=default, log=log, step=step, when=when)
    if kind == "int":
        lo, hi = sorted((draw(st.integers(-50, 10**6)), draw(st.integers(-50, 10**6))))
        step = draw(st.none() | st.integers(1, 7))
        return dx.Int(name, lo, hi, log=lo > 0 and step is None and draw(st.booleans()), step=step, when=when)
    if kind == "bool":
        return dx.Bool(name, default=draw(st.booleans()), when=when)
    if kind == "choice":
        values: list[Any] = draw(
            st.lists(scalars, min_size=1, max_size=4, unique_by=lambda v: (isinstance(v, bool), v))
        )
        weights = draw(st.none() | st.lists(st.floats(0.1, 9), min_size=len(values), max_size=len(values)))
        return dx.Choice[Any](name, values, default=draw(st.sampled_from(values)), weights=weights, when=when)
    if kind == "text":
        return dx.Text(name, draw(st.lists(texts, min_size=1, max_size=3, unique=True)), when=when)
    if kind == "demos":
        return dx.Demos(name, draw(st.lists(sources, min_size=1, max_size=2, unique_by=lambda s: s.hash)), when=when)
    if kind == "prior":
        return Prior(name, draw(st.integers(1, 5)), when=when)
    if kind == "module":
        branches = draw(st.lists(names, min_size=1, max_size=3, unique=True))
        return Branch(name, branches, default=draw(st.sampled_from(branches)), when=when)
    return dx.computed(draw(exprs.filter(lambda expr: bool(expr.names()))), name=name)


@given(any_rule)
def test_rules_survive_json(rule: Rule) -> None:
    back = rules.from_json(json.loads(json.dumps(rules.to_json(rule))))
    assert back == rule
    assert str(back) == str(rule)


@given(any_variable())
def test_variables_survive_json(variable: Var[Any]) -> None:
    document = variable.to_document()
    back = variables.from_document(json.loads(json.dumps(document)))
    assert type(back) is type(variable)
    assert back.to_document() == document
    assert back.signature() == variable.signature()
    assert (back.name, back.when, back.default) == (variable.name, variable.when, variable.default)
    if variable.kind != "computed":
        fixed = variable.fixed(variable.default)
        assert variables.from_document(fixed.to_document()).to_document() == fixed.to_document()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A sound document with something else at one place."""
    document = json.loads(json.dumps(draw(any_variable()).to_document()))
    place: Any = document
    while True:
        record = type(place) is dict
        keys: list[Any] = list(place if record else range(len(place)))
        key = draw(st.sampled_from(keys))
        inner: Any = place[key]
        if type(inner) in (dict, list) and inner and draw(st.booleans()):
            place = inner
            continue
        how = draw(st.sampled_from(["replace", "drop", "add"]))
        if how == "replace" or not record:
            place[key] = draw(json_values | st.sampled_from([10**400, -(10**400), 1e308, -1e308, "\ud800", "float"]))
        elif how == "drop":
            del place[key]
        else:
            place[draw(st.text(max_size=4))] = draw(json_values)
        return document


@given(json_values | damaged())
def test_hostile_documents_give_coded_errors_only(data: Any) -> None:
    try:
        variable = variables.from_document(data)
    except dx.DspexError:
        return
    # What was accepted is sound.
    assert variables.from_document(variable.to_document()).signature() == variable.signature()
    if variable.kind != "computed":
        assert variable.canonical(variable.default) == variable.default


@given(json_values)
def test_hostile_rules_give_coded_errors_only(data: Any) -> None:
    with pytest.raises(dx.ProgramError, match="DX1407"):
        rules.from_json(data)


def test_deep_and_huge_documents_are_refused() -> None:
    deep: Any = {"op": "==", "left": {"ref": "a"}, "right": {"const": 1}}
    for _ in range(100_000):
        deep = {"not": deep}
    with pytest.raises(dx.ProgramError, match="DX1407"):
        rules.from_json(deep)
    with pytest.raises(dx.ProgramError, match="DX1407"):
        variables.from_document({"kind": "bool", "name": "a", "default": True, "when": deep})
    wide: Any = {"kind": "int", "name": "a", "when": None, "default": 1, "lo": 1, "hi": 9, "log": True, "step": None}
    assert variables.from_document(wide).kind == "int"

    def with_demo(value: Any) -> dict[str, Any]:
        source = {"kind": "set", "demos": [{"input": {"a": value}, "output": {"b": 1}}]}
        return {"kind": "demos", "name": "d", "when": None, "pool": [source]}

    assert variables.from_document(with_demo("text")).kind == "demos"
    broken: tuple[dict[str, Any], ...] = (
        {**wide, "kind": "float"} | {"hi": 10**9000},
        {**wide, "hi": 10**9000},
        {**wide, "hi": 2**60},
        {**wide, "name": ""},
        {**wide, "name": "\ud800"},
        {**wide, "when": {"ref": "a"}},
        {**wide, "when": {"op": "==", "left": {"ref": "b"}, "right": {"const": 10**9000}}},
        {**wide, "default": None},
        {**wide, "more": 1},
        {"kind": "demos", "name": "d", "when": None, "pool": [deep]},
        with_demo("\ud800"),
        with_demo(deep),
        {"kind": "choice", "name": "c", "when": None, "default": None, "values": ["a"], "weights": None},
    )
    for document in broken:
        with pytest.raises(dx.ProgramError, match="DX1"):
            variables.from_document(document)
    many = {"kind": "choice", "name": "c", "when": None, "default": 0, "values": list(range(100_000)), "weights": None}
    assert len(variables.from_document(many).options) == 100_000


def test_what_json_cannot_carry_is_a_coded_error() -> None:
    class Style(Enum):
        TERSE = "terse"
        LONG = "long"

    k = dx.Int("k", 1, 8)
    for variable in (
        dx.Choice("style", tuple(Style)),
        dx.Choice("pair", ((1, 2), (3, 4))),
        dx.Choice("limit", (1.0, float("inf"))),
        dx.Text("t", ("\ud800",)),
        dx.computed(lambda k: k, k, name="c"),
        dx.Bool("b", when=dx.Choice("style", tuple(Style)).is_(Style.LONG)),
    ):
        with pytest.raises(dx.ProgramError, match="DX1408"):
            variable.to_document()
    rule = k <= 1
    for _ in range(300):
        rule = ~rule
    with pytest.raises(dx.ProgramError, match="DX1408"):
        rules.to_json(rule)


def test_a_space_is_rebuilt_from_documents() -> None:
    style, k = dx.Choice("style", ("terse", "detailed")), dx.Int("k", 1, 8)
    double = dx.computed(k * 2, name="double")
    space = dx.Space([double, style, k, dx.Bool("extra", when=style.is_("detailed"))], [double <= 8])
    back = dx.Space(
        [variables.from_document(variable.to_document()) for variable in space.variables.values()],
        [rules.from_json(rules.to_json(rule)) for rule in space.rules],
    )
    assert str(back) == str(space)
    assert back.default() == space.default()
    assert back.identity(back.default()) == space.identity(space.default())


def test_documents_of_declared_variables_are_those_of_their_kind() -> None:
    class Holder:
        k: dx.Var[int] = dx.var(4, lo=1, hi=8)

    assert vars(Holder)["k"].to_document() == Holder.k.to_document()  # type: ignore[attr-defined]
    assert variables.from_document(vars(Holder)["k"].to_document()).kind == "int"
