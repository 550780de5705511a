"""Metrics that most tasks begin with: each is a plain function of what a program gave and what was wanted."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from dspex.program.schema import Schema

__all__ = ["accuracy", "exact_match", "f1"]

_WORD = re.compile(r"\w+")


def accuracy(got: Schema, want: Schema) -> float:
    """1.0 when every field of the output equals the wanted one exactly, else 0.0."""
    return float(_values(got) == _values(want))


def exact_match(got: Schema, want: Schema) -> float:
    """1.0 when every field equals the wanted one, texts up to case, blanks and Unicode form, else 0.0."""
    first, second = _values(got), _values(want)
    return float(first.keys() == second.keys() and all(_same(first[name], second[name]) for name in first))


def f1(got: Schema, want: Schema) -> float:
    """Mean over the wanted fields of the word-level F1 of texts; other fields count 1.0 when equal, else 0.0.

    Words are runs of letters and digits without case. Two texts without words are equal.

    Source: Rajpurkar et al. (2016), §6.1, without their removal of articles, which is for English only.
    """
    first, second = _values(got), _values(want)
    scores = [_field_f1(first.get(name), value) for name, value in second.items()]
    return sum(scores) / len(scores) if scores else 1.0


def _field_f1(got: object, want: object) -> float:
    if not isinstance(got, str) or not isinstance(want, str):
        return float(got == want)
    first, second = Counter(_WORD.findall(_fold(got))), Counter(_WORD.findall(_fold(want)))
    if not first or not second:
        return float(first == second)
    common = (first & second).total()
    return 2 * common / (first.total() + second.total())


def _same(got: object, want: object) -> bool:
    if isinstance(got, str) and isinstance(want, str):
        return _fold(got) == _fold(want)
    return got == want


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _values(schema: Schema) -> dict[str, object]:
    return {name: getattr(schema, name) for name in type(schema).model_fields}
