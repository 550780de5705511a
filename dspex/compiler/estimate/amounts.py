"""Values whose text is not known, by how long it will be: what an estimate computes with in place of answers.

A value is known (an example's own), or a record, a list, or a text of so many tokens. Sizes come from JSON Schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel

from dspex.compiler.render.values import value_text

__all__ = [
    "FREE_TEXT",
    "NOTHING",
    "ONE",
    "UNBOUNDED",
    "Amount",
    "Guess",
    "Items",
    "Known",
    "Many",
    "Record",
    "Sized",
    "amount_of",
    "at",
    "certain",
    "of_schema",
    "plain",
]

FREE_TEXT: Final = 32.0
"""Tokens that a text field of an answer is taken to have where nothing says more: two short sentences."""

_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Amount:
    """A number that is not known exactly.

    Attributes:
        low: Never less.
        high: Never more; None when there is no bound.
        point: What to expect; None when nothing says it.
    """

    low: float
    high: float | None
    point: float | None

    @classmethod
    def exactly(cls, number: float) -> Amount:
        return cls(number, number, number)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.low + other.low, _sum(self.high, other.high), _sum(self.point, other.point))

    def times(self, other: Amount) -> Amount:
        """So much, so many times."""
        # Without a single item there is nothing, however long one could be.
        high = 0.0 if other.high == 0 or self.high == 0 else _product(self.high, other.high)
        return Amount(self.low * other.low, high, _product(self.point, other.point))

    def either(self, other: Amount) -> Amount:
        """One of the two; expected is the mean."""
        high = None if self.high is None or other.high is None else max(self.high, other.high)
        total = _sum(self.point, other.point)
        return Amount(min(self.low, other.low), high, None if total is None else total / 2)

    def at_most(self, bound: float | None) -> Amount:
        """The same with an upper bound."""
        if bound is None:
            return self
        high = bound if self.high is None else min(self.high, bound)
        return Amount(min(self.low, bound), high, None if self.point is None else min(self.point, bound))

    def widened(self, margin: float) -> Amount:
        """The same with a relative error in both directions."""
        high = None if self.high is None else self.high * (1 + margin)
        return Amount(self.low * (1 - margin), high, self.point)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _product(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b


NOTHING: Final = Amount.exactly(0.0)
ONE: Final = Amount.exactly(1.0)
UNBOUNDED: Final = Amount(0.0, None, None)

Guess = Callable[[str], float]
"""Tokens of a text."""


@dataclass(frozen=True, slots=True)
class Known:
    """A value at hand.

    Attributes:
        value: What it is.
        certain: Whether a run has just this value; one that an example expects of a model may come out otherwise.
    """

    value: object
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Sized:
    """A text, or something written as one, of so many tokens."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class Record:
    """Fields by name."""

    fields: Mapping[str, Symbolic]


@dataclass(frozen=True, slots=True)
class Items:
    """A list of known length."""

    items: tuple[Symbolic, ...]


@dataclass(frozen=True, slots=True)
class Many:
    """A list of unknown length.

    Attributes:
        item: Each of its items.
        count: How many.
        most: Tokens that the whole of it has at most, where something bounds it.
    """

    item: Symbolic
    count: Amount
    most: float | None = None


Symbolic: TypeAlias = Known | Sized | Record | Items | Many


def plain(value: Symbolic) -> tuple[bool, object]:
    """Whether `value` is known altogether, and then what it is; records of known fields stay records."""
    match value:
        case Known():
            return True, value.value
        case Items():
            parts = [plain(item) for item in value.items]
            return all(known for known, _ in parts), [part for _, part in parts]
        case _:
            return False, None


def certain(value: Symbolic) -> bool:
    """Whether every value in `value` that is at hand is the run's own."""
    match value:
        case Known():
            return value.certain
        case Items():
            return all(map(certain, value.items))
        case _:
            return True


def at(value: Symbolic, path: tuple[str | int, ...]) -> Symbolic:
    """A field or an item of `value`."""
    return reduce(_step, path, value)


def _step(value: Symbolic, key: str | int) -> Symbolic:
    match value:
        case Known():
            held: Any = value.value
            try:
                by_key = isinstance(key, int) or isinstance(value.value, Mapping)
                found: object = held[key] if by_key else getattr(held, str(key))
            except (AttributeError, LookupError, TypeError):
                return Sized(UNBOUNDED)
            return Known(found, value.certain)
        case Record() if isinstance(key, str) and key in value.fields:
            return value.fields[key]
        case Items() if isinstance(key, int) and -len(value.items) <= key < len(value.items):
            return value.items[key]
        case Many():
            return value.item
        case Sized():
            return Sized(Amount(0.0, value.amount.high, value.amount.point))
        case _:
            return Sized(UNBOUNDED)


def amount_of(value: Symbolic, count: Guess) -> Amount:
    """Tokens of `value` as it stands in a prompt."""
    match value:
        case Known():
            return Amount.exactly(count(value_text(value.value)))
        case Sized():
            return value.amount
        case Record():
            # {"name": value, ...}: quotes, colon and comma beside the name itself.
            parts = [Amount.exactly(count(name) + 3) + amount_of(part, count) for name, part in value.fields.items()]
            return sum(parts, Amount.exactly(2))
        case Items():
            return sum((ONE + amount_of(item, count) for item in value.items), ONE)
        case Many():
            return (ONE + (ONE + amount_of(value.item, count)).times(value.count)).at_most(value.most)


def of_schema(schema: type[BaseModel], count: Guess, text: Amount) -> Record:
    """An instance of `schema` that is not known.

    Args:
        schema: Its class.
        count: Tokens of a text.
        text: How long a text is of which the schema says nothing.
    """
    whole = schema.model_json_schema()
    sizes = _Sizes(cast("dict[str, Any]", whole.get("$defs", {})), count, text)
    fields = cast("dict[str, Any]", whole.get("properties", {}))
    names = {info.alias or name: name for name, info in schema.model_fields.items()}
    return Record({names.get(name, name): sizes.of(part, _DEPTH) for name, part in fields.items()})


@dataclass(frozen=True, slots=True)
class _Sizes:
    definitions: Mapping[str, Any]
    count: Guess
    text: Amount

    def of(self, schema: Mapping[str, Any], depth: int) -> Symbolic:
        if depth == 0:
            return Sized(self.text)
        if "$ref" in schema:
            name = str(schema["$ref"]).rpartition("/")[2]
            return self.of(cast("Mapping[str, Any]", self.definitions.get(name, {})), depth - 1)
        if "const" in schema:
            return Known(schema["const"])
        if "enum" in schema:
            return Sized(self._one_of([Amount.exactly(self.count(value_text(v))) for v in schema["enum"]]))
        for union in ("anyOf", "oneOf", "allOf"):
            if union in schema:
                members = [self.of(cast("Mapping[str, Any]", part), depth - 1) for part in schema[union]]
                if len(members) == 1:
                    return members[0]
                return Sized(self._one_of([amount_of(member, self.count) for member in members]))
        match schema.get("type"):
            case "object" if "properties" in schema:
                return Record({name: self.of(part, depth - 1) for name, part in schema["properties"].items()})
            case "array":
                items = self.of(cast("Mapping[str, Any]", schema.get("items", {})), depth - 1)
                low, high = float(schema.get("minItems", 0)), schema.get("maxItems")
                expected = max(low, 3.0) if high is None else (low + high) / 2
                point = None if self.text.point is None else expected
                return Many(items, Amount(low, None if high is None else float(high), point))
            case "string":
                return Sized(self._string(schema))
            case "integer" | "number" as kind:
                return Sized(_number(schema, kind == "number"))
            case "boolean" | "null":
                return Sized(ONE)
            case _:
                return Sized(self.text)

    def _one_of(self, amounts: list[Amount]) -> Amount:
        if not amounts:
            return NOTHING
        highs = [amount.high for amount in amounts]
        points = [amount.point for amount in amounts]
        return Amount(
            min(amount.low for amount in amounts),
            None if any(high is None for high in highs) else max(cast("list[float]", highs)),
            None if any(point is None for point in points) else sum(cast("list[float]", points)) / len(points),
        )

    def _string(self, schema: Mapping[str, Any]) -> Amount:
        longest, shortest = schema.get("maxLength"), schema.get("minLength", 0)
        # No token is shorter than a byte; of ordinary text four characters are one.
        text = self.text.at_most(None if longest is None else float(longest) * 4)
        point = text.point
        if longest is not None and point is not None:
            point = min(point, longest / 4)
        return Amount(max(text.low, shortest / 16), text.high, point)


def _number(schema: Mapping[str, Any], fraction: bool) -> Amount:
    bounds = [schema.get(name) for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")]
    digits = [len(str(bound)) for bound in bounds if bound is not None]
    if len(digits) < 2:
        return Amount(1.0, 24.0, 3.0 if fraction else 2.0)
    high = 20.0 if fraction else float(max(digits))
    return Amount(1.0, high, min(3.0, high) if fraction else min(2.0, high))
