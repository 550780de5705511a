"""Rules between Variables: comparisons over arithmetic, joined by `&`, `|`, `~` and `implies`.

A rule names Variables; it holds no values. Rules are resolved by name against the program that owns
them, so overriding a Variable in a subclass rebinds every rule that mentions it.

**Inactive Variables.** A rule that mentions a Variable which is inactive under a configuration holds
under that configuration, whatever its other parts say: a rule speaks only about configurations in
which everything that it mentions exists.

The classes are written out rather than generated as dataclasses: they are on the import path of
every program, and six generated classes would cost several milliseconds there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Literal, Protocol, cast, final

from dspex.errors import CompileError, ProgramError

__all__ = [
    "All",
    "Any_",
    "Arith",
    "ArithOp",
    "Compare",
    "CompareOp",
    "Const",
    "Expr",
    "Named",
    "Not",
    "Operand",
    "Ref",
    "Rule",
    "expression_from_json",
    "from_json",
    "is_json_scalar",
    "not_both",
    "one_of",
    "refuse_deep",
    "shown",
    "to_json",
]

CompareOp = Literal["<=", "<", ">=", ">", "==", "!="]
ArithOp = Literal["+", "-", "*"]


class Named(Protocol):
    """Something whose name is known at the latest when its class is complete (a Variable, a selection)."""

    @property
    def name(self) -> str: ...


class _Record:
    """Value semantics over `__match_args__`: equality, hash, immutability, pickling."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Record) or type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self._key())

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._key()))})"


_set = object.__setattr__

_COMPARES: tuple[CompareOp, ...] = ("<=", "<", ">=", ">", "==", "!=")
_ARITHS: tuple[ArithOp, ...] = ("+", "-", "*")
_BITS = 1023
_DEEPEST_WALKED = 300
_DEEPEST = 200
"""How deeply stored rules may be nested: reading one from a file never exhausts the stack."""


class Expr(_Record, ABC):
    """A number or category that depends on Variables: `Ref`, `Const` or `Arith`."""

    __slots__ = ()

    @abstractmethod
    def names(self) -> frozenset[str]:
        """Names of the Variables that the expression mentions."""

    @abstractmethod
    def value(self, config: Mapping[str, object]) -> object:
        """The expression's value under `config`, which has every name in `names()`."""

    @abstractmethod
    def renamed(self, rename: Callable[[str], str]) -> Expr:
        """The same expression over renamed Variables."""

    def is_(self, value: object) -> Rule:
        return Compare("==", self, as_expr(value))

    def is_not(self, value: object) -> Rule:
        return Compare("!=", self, as_expr(value))

    def __le__(self, other: Operand) -> Rule:
        return Compare("<=", self, as_expr(other))

    def __lt__(self, other: Operand) -> Rule:
        return Compare("<", self, as_expr(other))

    def __ge__(self, other: Operand) -> Rule:
        return Compare(">=", self, as_expr(other))

    def __gt__(self, other: Operand) -> Rule:
        return Compare(">", self, as_expr(other))

    def __add__(self, other: Operand) -> Arith:
        return Arith("+", self, as_expr(other))

    def __radd__(self, other: float) -> Arith:
        return Arith("+", as_expr(other), self)

    def __sub__(self, other: Operand) -> Arith:
        return Arith("-", self, as_expr(other))

    def __rsub__(self, other: float) -> Arith:
        return Arith("-", as_expr(other), self)

    def __mul__(self, other: Operand) -> Arith:
        return Arith("*", self, as_expr(other))

    def __rmul__(self, other: float) -> Arith:
        return Arith("*", as_expr(other), self)


Operand = Expr | Named | float
"""What arithmetic and order comparisons accept."""


@final
class Ref(Expr):
    """A Variable, by name.

    Inside a class body a Variable has no name yet, so a reference may be built from the Variable
    itself; its name is read when it is needed.
    """

    __slots__ = ("target",)
    __match_args__ = ("name",)
    target: str | Named

    def __init__(self, name: str | Named) -> None:
        _set(self, "target", name)

    @property
    def name(self) -> str:
        target = self.target
        return target if isinstance(target, str) else target.name

    def names(self) -> frozenset[str]:
        return frozenset((self.name,))

    def value(self, config: Mapping[str, object]) -> object:
        return config[self.name]

    def renamed(self, rename: Callable[[str], str]) -> Ref:
        return Ref(rename(self.name))

    def __str__(self) -> str:
        return self.name or "(this Variable)"


@final
class Const(Expr):
    """A fixed number or category."""

    __slots__ = ("constant",)
    __match_args__ = ("constant",)
    constant: object

    def __init__(self, value: object) -> None:
        _set(self, "constant", value)

    def names(self) -> frozenset[str]:
        return frozenset()

    def value(self, config: Mapping[str, object]) -> object:
        return self.constant

    def renamed(self, rename: Callable[[str], str]) -> Const:
        return self

    def _key(self) -> tuple[object, ...]:
        # 1 == True == 1.0 in Python, but they are different constants.
        return (self.constant,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and type(other.constant) is type(self.constant) and super().__eq__(other)

    __hash__ = _Record.__hash__

    def __str__(self) -> str:
        constant = self.constant
        if isinstance(constant, Enum):
            return str(constant)
        if isinstance(constant, str):
            return f'"{constant}"'
        return repr(constant)


@final
class Arith(Expr):
    """Sum, difference or product of two numeric expressions."""

    __slots__ = ("left", "op", "right")
    __match_args__ = ("op", "left", "right")
    op: ArithOp
    left: Expr
    right: Expr

    def __init__(self, op: ArithOp, left: Expr, right: Expr) -> None:
        _set(self, "op", op)
        _set(self, "left", left)
        _set(self, "right", right)

    def names(self) -> frozenset[str]:
        return self.left.names() | self.right.names()

    def value(self, config: Mapping[str, object]) -> object:
        left = _number(self.left.value(config), self.left)
        right = _number(self.right.value(config), self.right)
        if self.op == "+":
            return left + right
        return left - right if self.op == "-" else left * right

    def renamed(self, rename: Callable[[str], str]) -> Arith:
        return Arith(self.op, self.left.renamed(rename), self.right.renamed(rename))

    def __str__(self) -> str:
        return f"({self.left} {self.op} {self.right})"


class Rule(_Record, ABC):
    """A condition on a configuration: `Compare`, `All`, `Any_` or `Not`."""

    __slots__ = ()

    @abstractmethod
    def names(self) -> frozenset[str]:
        """Names of the Variables that the rule mentions."""

    def holds(self, config: Mapping[str, object]) -> bool:
        """Whether the rule holds under the active values in `config`.

        A name that the rule mentions and `config` lacks is an inactive Variable: the rule then holds.
        """
        if not self.names() <= config.keys():
            return True
        return self.test(config)

    @abstractmethod
    def test(self, config: Mapping[str, object]) -> bool:
        """Whether the condition is true under `config`, which has every name in `names()`."""

    @abstractmethod
    def renamed(self, rename: Callable[[str], str]) -> Rule:
        """The same rule over renamed Variables."""

    def implies(self, other: Rule) -> Rule:
        """Holds unless this is true and `other` is not."""
        return Any_((Not(self), other))

    def __and__(self, other: Rule) -> Rule:
        return All((*_flat(All, self), *_flat(All, other)))

    def __or__(self, other: Rule) -> Rule:
        return Any_((*_flat(Any_, self), *_flat(Any_, other)))

    def __invert__(self) -> Rule:
        return Not(self)

    def __bool__(self) -> bool:
        from dspex.program.variables import definition, place

        raise ProgramError(
            "DX1301",
            f"a rule has no truth value before a configuration is known: {self}",
            where=place(definition()),
            fix="write (1 <= k) & (k <= 4) for 1 <= k <= 4, and use & | ~ for and, or, not",
        )


@final
class Compare(Rule):
    """One comparison of two expressions."""

    __slots__ = ("left", "op", "right")
    __match_args__ = ("op", "left", "right")
    op: CompareOp
    left: Expr
    right: Expr

    def __init__(self, op: CompareOp, left: Expr, right: Expr) -> None:
        _set(self, "op", op)
        _set(self, "left", left)
        _set(self, "right", right)

    def names(self) -> frozenset[str]:
        return self.left.names() | self.right.names()

    def test(self, config: Mapping[str, object]) -> bool:
        left, right = self.left.value(config), self.right.value(config)
        if self.op == "==":
            return same(left, right)
        if self.op == "!=":
            return not same(left, right)
        low, high = _number(left, self.left), _number(right, self.right)
        if self.op == "<=":
            return low <= high
        if self.op == "<":
            return low < high
        return low >= high if self.op == ">=" else low > high

    def renamed(self, rename: Callable[[str], str]) -> Compare:
        return Compare(self.op, self.left.renamed(rename), self.right.renamed(rename))

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right}"


@final
class All(Rule):
    """Every part is true."""

    __slots__ = ("items",)
    __match_args__ = ("items",)
    items: tuple[Rule, ...]

    def __init__(self, items: tuple[Rule, ...]) -> None:
        _set(self, "items", tuple(items))

    def names(self) -> frozenset[str]:
        return frozenset[str]().union(*(item.names() for item in self.items))

    def test(self, config: Mapping[str, object]) -> bool:
        return all(item.test(config) for item in self.items)

    def renamed(self, rename: Callable[[str], str]) -> All:
        return All(tuple(item.renamed(rename) for item in self.items))

    def __str__(self) -> str:
        return "(" + " & ".join(map(str, self.items)) + ")"


@final
class Any_(Rule):
    """At least one part is true."""

    __slots__ = ("items",)
    __match_args__ = ("items",)
    items: tuple[Rule, ...]

    def __init__(self, items: tuple[Rule, ...]) -> None:
        _set(self, "items", tuple(items))

    def names(self) -> frozenset[str]:
        return frozenset[str]().union(*(item.names() for item in self.items))

    def test(self, config: Mapping[str, object]) -> bool:
        return any(item.test(config) for item in self.items)

    def renamed(self, rename: Callable[[str], str]) -> Any_:
        return Any_(tuple(item.renamed(rename) for item in self.items))

    def __str__(self) -> str:
        if len(self.items) == 2 and isinstance(self.items[0], Not):
            return f"({self.items[0].item} implies {self.items[1]})"
        return "(" + " | ".join(map(str, self.items)) + ")"


@final
class Not(Rule):
    """The part is false."""

    __slots__ = ("item",)
    __match_args__ = ("item",)
    item: Rule

    def __init__(self, item: Rule) -> None:
        _set(self, "item", item)

    def names(self) -> frozenset[str]:
        return self.item.names()

    def test(self, config: Mapping[str, object]) -> bool:
        return not self.item.test(config)

    def renamed(self, rename: Callable[[str], str]) -> Not:
        return Not(self.item.renamed(rename))

    def __str__(self) -> str:
        return f"~({self.item})"


def not_both(a: Rule, b: Rule, /) -> Rule:
    """Holds unless both are true."""
    return Not(All((a, b)))


def one_of(*rules: Rule) -> Rule:
    """Holds when exactly one of `rules` is true."""
    if not rules:
        raise ProgramError("DX1304", "one_of() needs at least one rule")
    pairs = [Not(All((a, b))) for index, a in enumerate(rules) for b in rules[index + 1 :]]
    return All((Any_(rules), *pairs)) if pairs else rules[0]


def same(a: object, b: object) -> bool:
    """Equality of two values of a Variable, in which True is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def as_expr(operand: object) -> Expr:
    """`operand` as an expression: a Variable by reference, anything else as a constant."""
    if isinstance(operand, Expr):
        return operand
    if hasattr(type(operand), "__dx_named__"):
        return Ref(operand)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    if isinstance(operand, Rule):
        from dspex.program.variables import place, written_at

        raise ProgramError(
            "DX1302",
            f"a rule cannot be compared or computed with: {operand}",
            where=place(written_at()),
            fix="use & and |",
        )
    return Const(operand)


def refuse_deep(item: Rule | Expr) -> None:
    """Refuse what is nested so deeply that walking it could exhaust the stack.

    Raises:
        CompileError: DX2108.
    """
    level: list[object] = [item]
    for _ in range(_DEEPEST_WALKED):
        parts: dict[int, object] = {}
        for node in level:
            if isinstance(node, All | Any_):
                parts.update((id(part), part) for part in node.items)
            elif isinstance(node, Not):
                parts[id(node.item)] = node.item
            elif isinstance(node, Compare | Arith):
                parts[id(node.left)], parts[id(node.right)] = node.left, node.right
        if not parts:
            return
        level = list(parts.values())
    raise CompileError(
        "DX2108",
        f"a rule is nested more than {_DEEPEST_WALKED} deep",
        fix="split it into several rules, or add in groups: (a + b) + (c + d)",
    )


def to_json(item: Rule | Expr) -> dict[str, object]:
    """A rule or expression as plain JSON data; `from_json` is the inverse for rules.

    Raises:
        ProgramError: DX1408, when it compares with a value that is no JSON value, or is nested too deeply.
    """
    return _to_json(item, 0)


def from_json(data: object) -> Rule:
    """The rule that `to_json` wrote.

    Raises:
        ProgramError: DX1407 for data of another shape.
    """
    return _rule_of(data, 0)


def expression_from_json(data: object) -> Expr:
    """The expression that `to_json` wrote.

    Raises:
        ProgramError: DX1407 for data of another shape.
    """
    return _expr_of(data, 0)


def is_json_scalar(value: object) -> bool:
    """Whether `value` is None, a bool, a text that UTF-8 can carry, or a number that a float can hold."""
    if isinstance(value, Enum):
        return False
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and value.bit_length() <= _BITS)


def _to_json(item: Rule | Expr, depth: int) -> dict[str, object]:
    if depth > _DEEPEST:
        raise ProgramError("DX1408", f"the rule is nested more than {_DEEPEST} deep", fix="split it into several rules")
    down = depth + 1
    if isinstance(item, Ref):
        return {"ref": item.name}
    if isinstance(item, Const):
        if not is_json_scalar(item.constant):
            raise ProgramError(
                "DX1408",
                f"a rule compares with {item.constant!r:.80}, which is no JSON value",
                fix="use values that are texts, finite numbers, bools or None",
            )
        return {"const": item.constant}
    if isinstance(item, Arith | Compare):
        return {"op": item.op, "left": _to_json(item.left, down), "right": _to_json(item.right, down)}
    if isinstance(item, Not):
        return {"not": _to_json(item.item, down)}
    if isinstance(item, All | Any_):
        return {"all" if isinstance(item, All) else "any": [_to_json(part, down) for part in item.items]}
    raise ProgramError("DX1302", f"not a rule: {item!r}")


def shown(data: object) -> str:
    """The beginning of the repr of data from a file, which may be nested deeply or hold huge numbers."""
    from reprlib import repr as short

    try:
        return short(data)
    except (ValueError, RecursionError):
        return f"a {type(data).__name__}"


def _not_json(data: object, what: str) -> ProgramError:
    return ProgramError(
        "DX1407",
        f"not {what}: {shown(data)}",
        fix="it comes from a damaged or edited file, or from a newer version",
    )


def _rule_of(data: object, depth: int) -> Rule:
    record = cast("dict[object, object]", data) if isinstance(data, dict) else {}
    if not record or depth > _DEEPEST:
        raise _not_json(cast(object, data), "a stored rule")
    if record.keys() == {"op", "left", "right"}:
        for op in _COMPARES:
            if record["op"] == op:
                return Compare(op, _expr_of(record["left"], depth + 1), _expr_of(record["right"], depth + 1))
    if record.keys() == {"not"}:
        return Not(_rule_of(record["not"], depth + 1))
    for key, kind in (("all", All), ("any", Any_)):
        parts = record.get(key)
        if record.keys() == {key} and isinstance(parts, list) and parts:
            return kind(tuple(_rule_of(part, depth + 1) for part in cast("list[object]", parts)))
    raise _not_json(record, "a stored rule")


def _expr_of(data: object, depth: int) -> Expr:
    record = cast("dict[object, object]", data) if isinstance(data, dict) else {}
    if not record or depth > _DEEPEST:
        raise _not_json(cast(object, data), "a stored expression")
    if record.keys() == {"ref"}:
        name = record["ref"]
        if isinstance(name, str) and name and is_json_scalar(name):
            return Ref(name)
    if record.keys() == {"const"} and is_json_scalar(record["const"]):
        return Const(record["const"])
    if record.keys() == {"op", "left", "right"}:
        for op in _ARITHS:
            if record["op"] == op:
                return Arith(op, _expr_of(record["left"], depth + 1), _expr_of(record["right"], depth + 1))
    raise _not_json(record, "a stored expression")


def _flat(kind: type[All] | type[Any_], rule: Rule) -> Iterator[Rule]:
    # The "a implies b" form is kept whole so that it prints as it was written.
    if isinstance(rule, kind) and not (isinstance(rule, Any_) and isinstance(rule.items[0], Not)):
        yield from rule.items
    else:
        yield rule


def _number(value: object, expr: Expr) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ProgramError(
            "DX1305",
            f"{expr} is {value!r}, which has no order and no arithmetic",
            fix="compare categories with .is_() and .is_not()",
        )
    return value
