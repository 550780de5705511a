"""Records behave as the frozen dataclasses that they are."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.lm.record import record
from dspex.lm.types import LMRequest, Message, Usage


def declared() -> Any:
    class Plain:
        a: int
        b: str = "b"
        c: tuple[int, ...] = ()
        d: float | None = field(default=None, compare=False, repr=False)

    return Plain


FROZEN, RECORD = dataclass(frozen=True, slots=True)(declared()), record(declared())

ARGUMENTS = st.tuples(
    st.lists(st.integers(), max_size=5),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), st.integers(), max_size=4),
)


@settings(deadline=None)
@given(ARGUMENTS)
def test_a_record_is_made_of_the_same_arguments_as_a_frozen_dataclass(given: tuple[list[int], dict[str, int]]) -> None:
    positional, named = given
    outcomes: list[tuple[object, ...]] = []
    for cls in (FROZEN, RECORD):
        try:
            one = cls(*positional, **named)
        except TypeError as error:
            outcomes.append((str(error),))
        else:
            outcomes.append((repr(one), asdict(one), hash(one), one.d, replace(one, b="c").b, one == cls(one.a)))
    assert outcomes[0] == outcomes[1]


def test_a_record_is_immutable_and_has_slots_alone() -> None:
    usage = Usage(1, 2)
    with pytest.raises(FrozenInstanceError):
        usage.input_tokens = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del usage.output_tokens  # type: ignore[misc]
    assert (usage, hasattr(usage, "__dict__")) == (Usage(1, 2), False)


def test_a_record_is_copied_and_pickled_by_its_fields() -> None:
    request = LMRequest((Message("user", "hello"),), max_tokens=7)
    for other in (copy.copy(request), copy.deepcopy(request), pickle.loads(pickle.dumps(request))):
        assert other == request
    assert [one.name for one in fields(request)][:2] == ["messages", "prompt"]


def made_by_a_factory() -> Any:
    class Made:
        a: list[int] = field(default_factory=list[int])

    return Made


def checked() -> Any:
    class Checked:
        a: int

        def __post_init__(self) -> None:
            """Would never be called."""

    return Checked


@pytest.mark.parametrize("declared", [made_by_a_factory, checked])
def test_what_a_record_would_leave_out_is_refused(declared: Any) -> None:
    with pytest.raises(AssertionError):
        record(declared())


def test_a_records_signature_names_its_fields_with_their_defaults() -> None:
    assert str(inspect.signature(RECORD)) == str(inspect.signature(FROZEN))
    assert list(inspect.signature(LMRequest).parameters) == [one.name for one in fields(LMRequest)]
