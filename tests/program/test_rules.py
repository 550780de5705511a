from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspex as dx
from dspex.program.rules import All, Any_, Arith, Compare, Const, Not, Ref, Rule

NAMES = ("a", "b", "c")
leaves = st.sampled_from(NAMES).map(Ref) | st.integers(-3, 3).map(Const)
exprs = st.recursive(
    leaves, lambda inner: st.builds(Arith, st.sampled_from(["+", "-", "*"]), inner, inner), max_leaves=4
)
compares = st.builds(Compare, st.sampled_from(["<=", "<", ">=", ">", "==", "!="]), exprs, exprs)
rules = st.recursive(
    compares,
    lambda inner: (
        st.builds(All, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(Any_, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(Not, inner)
    ),
    max_leaves=5,
)
configs = st.fixed_dictionaries({name: st.integers(-3, 3) for name in NAMES})


@given(rules, rules, configs)
def test_operators_mean_the_logic_of_their_parts(a: Rule, b: Rule, config: dict[str, int]) -> None:
    p, q = a.holds(config), b.holds(config)
    assert (a & b).holds(config) == (p and q)
    assert (a | b).holds(config) == (p or q)
    assert (~a).holds(config) == (not p)
    assert a.implies(b).holds(config) == ((not p) or q)
    assert dx.not_both(a, b).holds(config) == (not (p and q))
    assert dx.one_of(a, b, b).holds(config) == (p and not q)


@given(rules, configs)
def test_renaming_keeps_the_meaning_and_pickling_the_rule(rule: Rule, config: dict[str, int]) -> None:
    renamed = rule.renamed(lambda name: f"sub.{name}")
    assert renamed.names() == {f"sub.{name}" for name in rule.names()}
    assert renamed.holds({f"sub.{name}": value for name, value in config.items()}) == rule.holds(config)
    copy = pickle.loads(pickle.dumps(rule))
    assert copy == rule
    assert hash(copy) == hash(rule)
    assert str(copy) == str(rule)


@given(rules, configs, st.sampled_from(NAMES))
def test_a_rule_holds_when_a_variable_that_it_mentions_is_inactive(
    rule: Rule, config: dict[str, int], inactive: str
) -> None:
    active = {name: value for name, value in config.items() if name != inactive}
    assert rule.holds(active) == (inactive in rule.names() or rule.holds(config))


def test_a_rule_has_no_truth_value() -> None:
    k = dx.Int("k", 1, 8)
    for use in (lambda: 1 <= k <= 4, lambda: (k <= 4) and (k >= 1), lambda: not (k <= 4)):
        with pytest.raises(dx.ProgramError, match="DX1301") as caught:
            use()
        assert "(1 <= k) & (k <= 4)" in str(caught.value)
        assert "test_rules.py:" in str(caught.value.where)


def test_a_comparison_chain_in_a_class_body_is_refused_although_the_variable_has_no_name_yet() -> None:
    with pytest.raises(dx.ProgramError, match="DX1301") as caught:

        class Chained:  # pyright: ignore[reportUnusedClass]
            k: dx.Var[int] = dx.var(4, lo=1, hi=8)
            rules = [1 <= k <= 4]

    assert "(this Variable) >= 1" in caught.value.message


def test_rules_print_as_they_were_written() -> None:
    style, k = dx.Choice("style", ("terse", "detailed")), dx.Int("k", 1, 8)
    rule = style.is_("terse").implies(k + 1 <= 2 * k)
    assert str(rule) == '(style == "terse" implies (k + 1) <= (2 * k))'
    assert rule.names() == {"style", "k"}


def test_true_is_not_one() -> None:
    flag = dx.Bool("flag")
    assert not flag.is_(True).holds({"flag": 1})
    assert flag.is_(True).holds({"flag": True})


def test_categories_have_no_order() -> None:
    style = dx.Choice("style", ("terse", "detailed"))
    with pytest.raises(dx.ProgramError, match="DX1305"):
        _ = style <= 3
    with pytest.raises(dx.ProgramError, match="DX1402"):
        style.is_("brief")  # type: ignore[arg-type]  # pyright: ignore


def test_equality_of_variables_stays_identity_and_is_refused_as_a_rule() -> None:
    k = dx.Int("k", 1, 8)
    assert k == k
    assert {k: 1}[k] == 1
    with pytest.raises(dx.ProgramError, match=r"DX1302.*\n  at .*test_rules.py:\d+\n.*is_"):
        dx.Space([k], [k == 4])  # type: ignore[list-item]  # pyright: ignore
