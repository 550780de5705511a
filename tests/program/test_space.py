from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspex as dx
from dspex.program.rules import Compare, Const, Ref
from dspex.program.variables import Branch

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
