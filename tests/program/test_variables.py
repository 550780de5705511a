from __future__ import annotations

import math
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspex as dx
from dspex.program.declare import MISSING, settle


class Tone(Enum):
    WARM = "warm"
    COLD = "cold"


def settled(annotation: object, default: object, **options: object) -> dx.Var[Any]:
    return settle("v", annotation, default, options, None, None)


@pytest.mark.parametrize(
    ("annotation", "default", "options", "kind"),
    [
        (Literal["a", "b"], "b", {}, "choice"),
        (Tone, Tone.COLD, {}, "choice"),
        (MISSING, Tone.COLD, {}, "choice"),
        (bool, True, {}, "bool"),
        (MISSING, True, {}, "bool"),
        (int, 4, {"lo": 1, "hi": 8}, "int"),
        (MISSING, 4, {"lo": 1, "hi": 8}, "int"),
        (float, 1, {"lo": 0, "hi": 1}, "float"),
        (MISSING, 0.5, {"lo": 0, "hi": 1}, "float"),
        (Annotated[float, *dx.Probability.__metadata__], 0.5, {}, "float"),  # type: ignore[attr-defined]
        (dx.Probability, 0.5, {}, "float"),
        (str, "a", {"choices": ("a", "b")}, "choice"),
        (str, "a", {}, "text"),
        (MISSING, "a", {}, "text"),
        (MISSING, dx.DemoSet(), {}, "demos"),
        (dx.DemoSet, dx.DemoSet(), {}, "demos"),
    ],
)
def test_the_kind_follows_the_annotation_else_the_default(
    annotation: object, default: object, options: dict[str, object], kind: str
) -> None:
    variable = settled(annotation, default, **options)
    assert variable.kind == kind
    assert variable.default == default
    assert type(variable.default) is (float if kind == "float" else type(default))


@pytest.mark.parametrize(
    ("annotation", "default", "options", "code"),
    [
        (Literal["a", "b"], "c", {}, "DX1202"),
        (int, 0.5, {"lo": 0, "hi": 1}, "DX1202"),
        (int, True, {"lo": 0, "hi": 1}, "DX1202"),
        (bool, 1, {}, "DX1202"),
        (str, 3, {}, "DX1202"),
        (int, 3, {"choices": ("a", 3)}, "DX1202"),
        (list, [], {}, "DX1202"),
        (int, 4, {"lo": 1}, "DX1201"),
        (float, 0.5, {}, "DX1201"),
        (int, 9, {"lo": 1, "hi": 8}, "DX1204"),
        (float, 0.3, {"lo": 0, "hi": 1, "step": 0.25}, "DX1204"),
        (MISSING, "c", {"choices": ("a", "b")}, "DX1204"),
        (Literal["a", "b"], "a", {"lo": 1}, "DX1210"),
        (bool, True, {"log": True}, "DX1210"),
        (float, 1.0, {"lo": 0, "hi": 1, "log": True}, "DX1207"),
        (float, 1.0, {"lo": 2, "hi": 1}, "DX1207"),
        (float, 1.0, {"lo": 0, "hi": math.inf}, "DX1207"),
        (int, 1, {"lo": 0.5, "hi": 2}, "DX1207"),
        (str, "a", {"choices": ("a", "a")}, "DX1208"),
        (str, "a", {"choices": ("a", "b"), "weights": (1.0,)}, "DX1209"),
        (str, "a", {"choices": ("a", "b"), "weights": (1.0, 0.0)}, "DX1209"),
    ],
)
def test_disagreements_are_coded_errors_that_name_the_variable(
    annotation: object, default: object, options: dict[str, object], code: str
) -> None:
    with pytest.raises(dx.ProgramError) as caught:
        settled(annotation, default, **options)
    assert caught.value.code == code
    assert "'v'" in str(caught.value)


@given(st.floats(-1e6, 1e6), st.floats(0.001, 1e6), st.one_of(st.none(), st.floats(0.001, 1e3)), st.floats(0, 1))
def test_canonical_floats_are_idempotent_and_inside(lo: float, width: float, step: float | None, at: float) -> None:
    variable = dx.Float("x", lo, lo + width, step=step)
    assert variable.canonical(variable.default) == variable.default
    value = lo + at * width
    if step is not None:
        value = lo + math.floor((min(value, lo + width) - lo) / step) * step
    if lo <= value <= lo + width:
        once = variable.canonical(value)
        assert lo <= once <= lo + width
        assert variable.canonical(once) == once
        assert abs(once - value) <= 1e-6 * max(1.0, abs(value))


@given(st.integers(-50, 50), st.integers(0, 60), st.one_of(st.none(), st.integers(1, 9)), st.integers(-200, 200))
def test_ints_accept_exactly_their_grid(lo: int, width: int, step: int | None, value: int) -> None:
    variable = dx.Int("k", lo, lo + width, step=step)
    inside = value in range(lo, lo + width + 1, step or 1)
    assert variable.canonical(variable.default) == variable.default
    if inside:
        assert variable.canonical(value) == value
    else:
        with pytest.raises(dx.ProgramError, match="DX1402"):
            variable.canonical(value)


@pytest.mark.parametrize("value", [True, 2.0, "3", None, math.nan])
def test_ints_refuse_what_is_no_int(value: object) -> None:
    with pytest.raises(dx.ProgramError, match="DX1402"):
        dx.Int("k", 1, 8).canonical(value)


def test_errors_name_variable_value_domain_and_place() -> None:
    variable = dx.Float("lr", 0.1, 1.0)
    with pytest.raises(dx.ProgramError) as caught:
        variable.canonical(7)
    text = str(caught.value)
    assert "'lr'" in text
    assert "7" in text
    assert "[0.1, 1.0]" in text
    assert "test_variables.py:" in text


def test_choices_go_through_json_and_keep_their_type() -> None:
    tone = dx.Choice("tone", tuple(Tone))
    assert tone.to_json(Tone.COLD) == "cold"
    assert tone.from_json("cold") is Tone.COLD
    mixed = dx.Choice[object]("mixed", (1, True, "1"))
    assert [mixed.canonical(value) for value in (1, True, "1")] == [1, True, "1"]
    assert mixed.canonical(True) is True


@given(st.lists(st.text(max_size=3), max_size=6))
def test_growing_a_pool_appends_and_never_renumbers(members: list[str]) -> None:
    text = dx.Text("t", ("a", "b"))
    grown = text.grown(*members)
    assert grown.pool[:2] == ("a", "b")
    assert len(set(grown.pool)) == len(grown.pool)
    assert set(grown.pool) == {"a", "b", *members}
    assert grown.grown(*members).pool == grown.pool
    assert text.pool == ("a", "b")


def test_a_demos_pool_tells_sources_apart_by_content() -> None:
    one = dx.Demo(input={"q": "a"}, output={"a": "b"})
    pool = dx.Demos("d", (dx.DemoSet(),)).grown(dx.DemoSet((one,), "x"), dx.DemoSet((one,), "y"), dx.Nearest((one,), 1))
    assert [type(source).__name__ for source in pool.pool] == ["DemoSet", "DemoSet", "Nearest"]
    for source in pool.pool:
        assert pool.from_json(pool.to_json(source)) is source


def test_a_rule_that_orders_a_category_is_refused_before_its_class_is_complete() -> None:
    with pytest.raises(dx.ProgramError, match="DX1305"):

        class _Router(dx.Program[dx.Schema, dx.Schema]):  # pyright: ignore[reportUnusedClass]
            style: dx.Var[Literal["terse", "detailed"]] = dx.var("terse")
            rules = [style <= 4]


def test_a_variable_without_a_domain_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        dx.Var()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
