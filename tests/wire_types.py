"""Arbitrary requests and responses: strategies made from the types themselves, so that no new field is left out."""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from dspex.lm.types import LMRequest, LMResponse

_HIGH = [chr(point) for point in range(0xD800, 0xDC00)]
_LOW = [chr(point) for point in range(0xDC00, 0xE000)]
# A high and a low surrogate side by side are one character in JSON, so a text has those of one kind.
TEXT = (
    st.text(max_size=12)
    | st.text(st.characters() | st.sampled_from(_HIGH), max_size=6)
    | st.text(st.characters() | st.sampled_from(_LOW), max_size=6)
)
_PLAIN: dict[object, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(2**70), 2**70),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    types.NoneType: st.none(),
}


def arbitrary(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type as the wire types use them; fields of a dataclass are often at their default."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([arbitrary(one) for one in arguments])
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(arbitrary(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(arbitrary, arguments))
    assert isinstance(kind, type), kind
    assert is_dataclass(kind), kind
    hints = get_type_hints(kind)
    given: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields(kind):
        given[field.name] = arbitrary(hints[field.name])
        if field.default is not MISSING:
            given[field.name] = st.just(field.default) | given[field.name]
    return st.builds(kind, **given)


REQUESTS: st.SearchStrategy[LMRequest] = arbitrary(LMRequest)
RESPONSES: st.SearchStrategy[LMResponse] = arbitrary(LMResponse)


def without_marks(request: LMRequest) -> LMRequest:
    """`request` without what no answer depends on."""
    return replace(request, messages=tuple(replace(message, cache_point=False) for message in request.messages))
