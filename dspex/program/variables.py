"""Variables: every parameter that an optimizer may set, with its domain.

The named forms (`Float`, `Int`, `Bool`, `Choice`, `Text`, `Demos`, and `Branch` for module selection)
are the whole vocabulary; `declare.var` returns one of them once its annotation is known. A Variable in
a class body is a non-data descriptor: on the class it is the Variable, on an instance the plain value.
"""

from __future__ import annotations

import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from enum import Enum
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast, overload

from dspex.errors import ProgramError
from dspex.program.demos import DemoSource, is_demo_source, source_from_json
from dspex.program.rules import All, Arith, Compare, Const, Operand, Ref, Rule, as_expr, refuse_deep, same

__all__ = [
    "Bool",
    "Branch",
    "Choice",
    "Demos",
    "Float",
    "Int",
    "Kind",
    "Text",
    "Var",
    "definition",
    "from_document",
    "place",
    "written_at",
]

Kind = Literal["float", "int", "bool", "choice", "text", "demos", "module", "computed"]
T = TypeVar("T")

Definition = tuple[str, int]

_LOG_FIX = "raise lo, or drop log"
_MOST_STEPS = 2.0**53


def definition() -> Definition:
    """File and line of the innermost frame outside this package: where the user wrote it."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", ""))
        # `abc` stands between a class statement and what its metaclass calls.
        if not module.startswith("dspex.program") and module != "abc":
            break
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno)


def written_at() -> Definition | None:
    """File and line of the innermost frame outside dspex; None when that is no code of a user's."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        top, _, rest = str(frame.f_globals.get("__name__", "")).partition(".")
        if top == "dspex" and rest.startswith("cli"):
            return None
        if top not in ("dspex", "abc"):
            return None if top in sys.stdlib_module_names else (frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def place(at: Definition | None, name: str = "") -> str | None:
    """`file:line  name` as errors print it."""
    if at is None:
        return name or None
    file = os.path.relpath(at[0]) if at[0].startswith(os.getcwd() + os.sep) else at[0]
    return f"{file}:{at[1]}" + (f"  {name}" if name else "")


class Var(ABC, Generic[T]):
    """A parameter of type T that an optimizer may set.

    Attributes:
        kind: Which domain it has.
        name: Its name; a dotted path once it belongs to a program's space.
        default: The value that it has until something is bound.
        when: The rule under which it is active; None when it always is.
    """

    kind: ClassVar[Kind]
    __dx_named__ = True

    name: str
    default: T
    when: Rule | None
    at: Definition | None
    # Module, qualified name and place of the classes whose bodies hold it.
    owners: tuple[tuple[str, str, Definition], ...] = ()

    def _describe(self, name: str, when: Rule | None) -> None:
        self.name = name
        if when is not None and not isinstance(when, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ProgramError(
                "DX1302",
                f"when= is a rule, got {when!r}",
                where=place(written_at(), name),
                fix='write when=style.is_("detailed")',
            )
        if when is not None:
            refuse_deep(when)
        self.when = when
        self.at = definition()

    # --- the descriptor -------------------------------------------------------------------------

    def __set_name__(self, owner: type, name: str) -> None:
        # Errors are left to the class's own check: one raised here would arrive wrapped in a RuntimeError.
        if not self.name:
            self.name = name
        self._note_owner(owner)

    def _note_owner(self, owner: type) -> None:
        key = (owner.__module__, owner.__qualname__)
        if all(known[:2] != key for known in self.owners):
            self.owners = (*self.owners, (*key, definition()))

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> T: ...
    def __get__(self, instance: object | None, owner: type | None = None, /) -> Self | T:
        # A bound program keeps the value in its own __dict__, which is found before this is.
        return self if instance is None else self.default

    # --- rules ----------------------------------------------------------------------------------

    def is_(self, value: T) -> Rule:
        """Holds when this Variable has `value`."""
        return Compare("==", Ref(self), Const(self._member(value)))

    def is_not(self, value: T) -> Rule:
        """Holds when this Variable has another value than `value`."""
        return Compare("!=", Ref(self), Const(self._member(value)))

    def __le__(self, other: Operand) -> Rule:
        return Compare("<=", self._numeric(), as_expr(other))

    def __lt__(self, other: Operand) -> Rule:
        return Compare("<", self._numeric(), as_expr(other))

    def __ge__(self, other: Operand) -> Rule:
        return Compare(">=", self._numeric(), as_expr(other))

    def __gt__(self, other: Operand) -> Rule:
        return Compare(">", self._numeric(), as_expr(other))

    def __add__(self, other: Operand) -> Arith:
        return Arith("+", self._numeric(), as_expr(other))

    def __radd__(self, other: float) -> Arith:
        return Arith("+", Const(other), self._numeric())

    def __sub__(self, other: Operand) -> Arith:
        return Arith("-", self._numeric(), as_expr(other))

    def __rsub__(self, other: float) -> Arith:
        return Arith("-", Const(other), self._numeric())

    def __mul__(self, other: Operand) -> Arith:
        return Arith("*", self._numeric(), as_expr(other))

    def __rmul__(self, other: float) -> Arith:
        return Arith("*", Const(other), self._numeric())

    def _numeric(self) -> Ref:
        if not self.is_numeric():
            raise ProgramError(
                "DX1305",
                f"Variable {self.name!r} with the default {self.default!r:.60} has no order and no arithmetic",
                where=place(self.at, self.name),
                fix="compare it with .is_() and .is_not()",
            )
        return Ref(self)

    def _member(self, value: T) -> T:
        """`value` checked for a rule; a value outside the domain would make the rule constant by mistake."""
        return self.canonical(value)

    # --- the domain -----------------------------------------------------------------------------

    def is_numeric(self) -> bool:
        """Whether its values can be ordered and added."""
        return False

    @property
    @abstractmethod
    def domain(self) -> str:
        """The domain in words, for errors and reports."""

    @property
    def options(self) -> tuple[object, ...]:
        """The members of a categorical domain, in encoding order; empty for numbers."""
        return ()

    @abstractmethod
    def canonical(self, value: object) -> T:
        """`value` as this Variable stores it.

        Raises:
            ProgramError: DX1402 when it is outside the domain.
        """

    def to_json(self, value: T) -> object:
        """`value` as plain JSON data; `from_json` is the inverse."""
        return value

    def from_json(self, data: object) -> T:
        """The value that `to_json` wrote, checked against the domain."""
        return self.canonical(data)

    def to_document(self) -> dict[str, object]:
        """Everything that it is, as plain JSON data; `from_document` is the inverse.

        Raises:
            ProgramError: DX1408, when a value of its domain is no JSON value, or a function computes it.
        """
        from dspex.program.documents import document

        return document(self)

    def renamed(self, name: str, rename: Callable[[str], str] | None = None, gate: Rule | None = None) -> Self:
        """A copy under `name`; `rename` maps the names in `when`, and `gate` must hold as well."""
        if name == self.name and gate is None and (rename is None or self.when is None):
            return self
        other = copy(self)
        other.name = name
        when = self.when if self.when is None or rename is None else self.when.renamed(rename)
        other.when = gate if when is None else when if gate is None else All((gate, when))
        return other

    def fixed(self, value: T) -> Var[T]:
        """A copy whose only value is `value`, which is in the domain."""
        other = copy(self)
        other.default = value
        other._narrow(value)
        return other

    def _narrow(self, value: T) -> None:
        """Reduce the domain to `value`; a domain that has no smaller form stays as it is."""

    def signature(self) -> str:
        """The domain, default and condition as stable text, for content hashes."""
        return f"{self.kind} {self.name}: {self.domain} = {self.to_json(self.default)!r} when {self.when}"

    def refuse(self, value: object, why: str = "") -> ProgramError:
        """The error for a `value` outside the domain."""
        return ProgramError(
            "DX1402",
            f"Variable {self.name!r} takes {self.domain}, got {value!r}" + (f": {why}" if why else ""),
            where=place(self.at, self.name),
            fix="bind a value inside the domain, or widen the domain where the Variable is defined",
        )

    def _check_default(self, value: object) -> T:
        try:
            return self.canonical(value)
        except ProgramError as error:
            raise ProgramError(
                "DX1204",
                f"the default of Variable {self.name!r} is outside its domain: {error.message}",
                where=place(self.at, self.name),
                fix="change the default or widen the domain",
            ) from None

    def _unsound(self, code: str, why: str, fix: str | None = None) -> ProgramError:
        return ProgramError(code, f"Variable {self.name!r}: {why}", where=place(self.at, self.name), fix=fix)

    def __repr__(self) -> str:
        condition = "" if self.when is None else f", when {self.when}"
        return f"<{type(self).__name__} {self.name}: {self.domain}, default {self.default!r}{condition}>"


def _number(value: object) -> float | None:
    """`value` as a finite number; None for anything else, bool included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        # An integer beyond every float.
        return None


class Float(Var[float]):
    """A number in [lo, hi], on a logarithmic scale with `log`, on the grid lo + n·step with `step`."""

    kind = "float"

    def __init__(
        self,
        name: str,
        lo: float,
        hi: float,
        *,
        default: float | None = None,
        log: bool = False,
        step: float | None = None,
        when: Rule | None = None,
    ) -> None:
        self._describe(name, when)
        bounds = [_number(lo), _number(hi)]
        if bounds[0] is None or bounds[1] is None or lo > hi:
            raise self._unsound("DX1207", f"bounds are finite numbers with lo <= hi, got lo={lo!r}, hi={hi!r}")
        if log and lo <= 0:
            raise self._unsound("DX1207", f"a logarithmic scale needs lo > 0, got lo={lo!r}", _LOG_FIX)
        if log and step is not None:
            raise self._unsound("DX1207", "log and step cannot be combined", "drop one of them")
        if step is not None and (_number(step) is None or step <= 0):
            raise self._unsound("DX1207", f"step is a finite number above 0, got {step!r}")
        if step is not None and (float(hi) - float(lo)) / float(step) > _MOST_STEPS:
            raise self._unsound("DX1207", f"the grid has more than 2**53 steps: from {lo!r} to {hi!r} by {step!r}")
        self.lo, self.hi, self.log = float(lo), float(hi), log
        self.step = None if step is None else float(step)
        if default is None:
            middle = math.sqrt(self.lo * self.hi) if log else self.lo + (self.hi - self.lo) / 2
            self.default = self._snapped(min(max(middle, self.lo), self.hi))
        else:
            self.default = self._check_default(default)

    def is_numeric(self) -> bool:
        return True

    def _narrow(self, value: float) -> None:
        self.lo = self.hi = value

    @property
    def domain(self) -> str:
        return (
            f"a float in [{self.lo!r}, {self.hi!r}]"
            + (" log" if self.log else "")
            + ("" if self.step is None else f" in steps of {self.step!r}")
        )

    def _member(self, value: float) -> float:
        # A rule may compare with any number: `k.is_(9)` outside the bounds is simply never true.
        if _number(value) is None:
            raise self.refuse(value)
        return value

    def _snapped(self, value: float) -> float:
        if self.step is None:
            return value
        # The largest grid point is at or below hi; the guard absorbs the rounding of (hi - lo) / step.
        last = math.floor((self.hi - self.lo) / self.step + 1e-9)
        return min(self.lo + min(round((value - self.lo) / self.step), last) * self.step, self.hi)

    def canonical(self, value: object) -> float:
        if type(value) is float and self.step is None and self.lo <= value <= self.hi:
            return value
        number = _number(value)
        if number is None or not self.lo <= number <= self.hi:
            raise self.refuse(value)
        snapped = self._snapped(float(number))
        if self.step is not None and abs(snapped - number) > 1e-9 * max(abs(number), self.step):
            raise self.refuse(value, f"the nearest step is {snapped!r}")
        return snapped


class Int(Var[int]):
    """A whole number in [lo, hi], on a logarithmic scale with `log`, on the grid lo + n·step with `step`."""

    kind = "int"

    def __init__(
        self,
        name: str,
        lo: int,
        hi: int,
        *,
        default: int | None = None,
        log: bool = False,
        step: int | None = None,
        when: Rule | None = None,
    ) -> None:
        self._describe(name, when)
        low, high = _whole(lo), _whole(hi)
        if low is None or high is None or low > high:
            raise self._unsound("DX1207", f"bounds are whole numbers with lo <= hi, got lo={lo!r}, hi={hi!r}")
        if max(abs(low), abs(high)) > _MOST_STEPS:
            raise self._unsound("DX1207", "bounds are between -2**53 and 2**53, where floats hold every whole number")
        if log and low < 1:
            raise self._unsound("DX1207", f"a logarithmic scale needs lo >= 1, got lo={lo!r}", _LOG_FIX)
        if log and step is not None:
            raise self._unsound("DX1207", "log and step cannot be combined", "drop one of them")
        pace = None if step is None else _whole(step)
        if step is not None and (pace is None or pace < 1):
            raise self._unsound("DX1207", f"step is a whole number above 0, got {step!r}")
        self.lo, self.hi, self.log, self.step = low, high, log, pace
        if default is None:
            middle = round(math.sqrt(low * high)) if log else (low + high) // 2
            middle = min(max(middle, low), high)
            self.default = middle if pace is None else low + (middle - low) // pace * pace
        else:
            self.default = self._check_default(default)

    def is_numeric(self) -> bool:
        return True

    def _narrow(self, value: int) -> None:
        self.lo = self.hi = value

    @property
    def domain(self) -> str:
        return (
            f"an int in [{self.lo}, {self.hi}]"
            + (" log" if self.log else "")
            + ("" if self.step is None else f" in steps of {self.step}")
        )

    def _member(self, value: int) -> int:
        if _number(value) is None:
            raise self.refuse(value)
        return value

    def canonical(self, value: object) -> int:
        if type(value) is int and self.step is None and self.lo <= value <= self.hi:
            return value
        whole = _whole(value)
        if whole is None or not self.lo <= whole <= self.hi:
            raise self.refuse(value)
        if self.step is not None and (whole - self.lo) % self.step:
            raise self.refuse(value, "it lies between two steps")
        return whole


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value


class Bool(Var[bool]):
    """True or False."""

    kind = "bool"

    def __init__(self, name: str, *, default: bool = False, when: Rule | None = None) -> None:
        self._describe(name, when)
        self.default = self._check_default(default)

    def fixed(self, value: bool) -> Var[bool]:
        # Bool has both values by definition; what is left of it is a choice of one.
        other = Choice[bool](self.name, (value,), when=self.when)
        other.at = self.at
        return other

    @property
    def domain(self) -> str:
        return "True or False"

    @property
    def options(self) -> tuple[bool, ...]:
        return (False, True)

    def canonical(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise self.refuse(value)
        return value


class Choice(Var[T]):
    """One of `values`; `weights` say how often sampling draws each of them."""

    kind = "choice"

    def __init__(
        self,
        name: str,
        values: Sequence[T],
        *,
        default: T | None = None,
        weights: Sequence[float] | None = None,
        when: Rule | None = None,
    ) -> None:
        self._describe(name, when)
        if isinstance(values, str):
            raise self._unsound("DX1208", f"values is a sequence of values, got the text {values!r}", "write a tuple")
        self.values: tuple[T, ...] = tuple(values)
        if not self.values:
            raise self._unsound("DX1208", "a choice needs at least one value")
        repeated = _repeated(self.values)
        if repeated is not None:
            raise self._unsound("DX1208", f"the value {self.values[repeated]!r} is given twice")
        self.weights: tuple[float, ...] | None = None
        if weights is not None:
            self.weights = tuple(float(weight) for weight in weights)
            sound = all(math.isfinite(weight) and weight > 0 for weight in self.weights)
            if len(self.weights) != len(self.values) or not sound:
                raise self._unsound(
                    "DX1209", f"weights are finite and above 0, one a value ({len(self.values)}), got {weights!r}"
                )
        self.default = self.values[0] if default is None and None not in self.values else self._check_default(default)

    def is_numeric(self) -> bool:
        return all(_number(value) is not None for value in self.values)

    def _narrow(self, value: T) -> None:
        self.values, self.weights = (value,), None

    @property
    def domain(self) -> str:
        return "one of " + ", ".join(repr(_plain(value)) for value in self.values)

    @property
    def options(self) -> tuple[T, ...]:
        return self.values

    def canonical(self, value: object) -> T:
        for member in self.values:
            if member is value:
                return member
        for member in self.values:
            if same(member, value):
                return member
        # A configuration read from JSON names an enumeration's member by its value.
        for member in self.values:
            if isinstance(member, Enum) and same(member.value, value):
                return member
        raise self.refuse(value)

    def to_json(self, value: T) -> object:
        return _plain(value)


def _repeated(values: Sequence[object]) -> int | None:
    """The index of the first value that stood before; None when there is none."""
    try:
        seen: set[object] = set()
        for index, value in enumerate(values):
            key = (isinstance(value, bool), value)
            if key in seen:
                return index
            seen.add(key)
    except TypeError:
        # Values without a hash are compared one by one.
        for index, value in enumerate(values):
            if any(same(value, other) for other in values[:index]):
                return index
    return None


def _plain(value: object) -> object:
    return cast(object, value.value) if isinstance(value, Enum) else value


class Text(Var[str]):
    """A text out of an open pool: proposers add members while a study runs."""

    kind = "text"

    def __init__(self, name: str, pool: Sequence[str], *, when: Rule | None = None) -> None:
        self._describe(name, when)
        if isinstance(pool, str):
            raise self._unsound("DX1208", "pool is a sequence of texts, got one text", "write a tuple: (text,)")
        self.pool: tuple[str, ...] = tuple(pool)
        if not self.pool or not all(isinstance(text, str) for text in self.pool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self._unsound("DX1208", "a pool has at least one member, and all are texts")
        if len(set(self.pool)) < len(self.pool):
            raise self._unsound("DX1208", "the pool holds a text twice")
        self.default = self.pool[0]

    def _narrow(self, value: str) -> None:
        self.pool = (value,)

    @property
    def domain(self) -> str:
        return f"one of a pool of {len(self.pool)} text{'s' if len(self.pool) > 1 else ''}"

    @property
    def options(self) -> tuple[str, ...]:
        return self.pool

    def canonical(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.pool:
            raise self.refuse(value)
        return value

    def grown(self, *members: str) -> Text:
        """A copy whose pool ends with those of `members` that are new; nothing is renumbered."""
        fresh: list[str] = []
        for member in members:
            if not isinstance(member, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise self.refuse(member, "a Text pool holds texts")
            if member not in self.pool and member not in fresh:
                fresh.append(member)
        if not fresh:
            return self
        other = copy(self)
        other.pool = (*self.pool, *fresh)
        return other

    def signature(self) -> str:
        return f"{super().signature()} pool {self.pool!r}"


class Demos(Var[DemoSource]):
    """Which demonstrations go into a prompt: one source out of an open pool."""

    kind = "demos"

    def __init__(self, name: str, pool: Sequence[DemoSource], *, when: Rule | None = None) -> None:
        self._describe(name, when)
        self.pool: tuple[DemoSource, ...] = tuple(pool)
        if not self.pool or not all(is_demo_source(source) for source in self.pool):
            raise self._unsound("DX1208", "a pool has at least one member, and all are DemoSet or Nearest")
        if len({source.hash for source in self.pool}) < len(self.pool):
            raise self._unsound("DX1208", "the pool holds a source twice")
        self.default = self.pool[0]

    def _narrow(self, value: DemoSource) -> None:
        self.pool = (value,)

    @property
    def domain(self) -> str:
        return f"one of a pool of {len(self.pool)} demonstration source{'s' if len(self.pool) > 1 else ''}"

    @property
    def options(self) -> tuple[DemoSource, ...]:
        return self.pool

    def canonical(self, value: object) -> DemoSource:
        if is_demo_source(value):
            for member in self.pool:
                if member is value or member.hash == value.hash:
                    return member
        raise self.refuse(value)

    def grown(self, *members: DemoSource) -> Demos:
        """A copy whose pool ends with those of `members` that are new; nothing is renumbered."""
        known = {source.hash for source in self.pool}
        fresh: list[DemoSource] = []
        for member in members:
            if not is_demo_source(member):
                raise self.refuse(member, "a Demos pool holds DemoSet and Nearest")
            if member.hash not in known:
                known.add(member.hash)
                fresh.append(member)
        if not fresh:
            return self
        other = copy(self)
        other.pool = (*self.pool, *fresh)
        return other

    def to_json(self, value: DemoSource) -> object:
        return value.to_json()

    def from_json(self, data: object) -> DemoSource:
        return self.canonical(source_from_json(data))

    def signature(self) -> str:
        pool = [source.hash for source in self.pool]
        return f"demos {self.name}: {self.domain} = {self.default.hash} when {self.when} pool {pool!r}"


class Prior(Var["tuple[float, ...] | None"]):
    """How probable a prompt makes each choice before it sees an input; None until somebody measures it.

    A study measures it, see `dspex.study.calibration`; no optimizer sets it. For the core it is a choice of one.

    Args:
        choices: How many choices the output has.
    """

    kind = "choice"

    def __init__(self, name: str, choices: int, *, when: Rule | None = None) -> None:
        self._describe(name, when)
        self.choices = choices
        self.default = None

    @property
    def domain(self) -> str:
        return f"None or {self.choices} log-probabilities, one a choice"

    @property
    def options(self) -> tuple[object, ...]:
        return (None,)

    def canonical(self, value: object) -> tuple[float, ...] | None:
        if value is None:
            return None
        items = () if isinstance(value, str) or not isinstance(value, Sequence) else cast("Sequence[object]", value)
        numbers = tuple(float(number) for item in items if (number := _number(item)) is not None)
        if len(items) != self.choices or len(numbers) != self.choices:
            raise self.refuse(cast(object, value))
        return numbers

    def to_json(self, value: tuple[float, ...] | None) -> object:
        return None if value is None else list(value)


class Branch(Var[str]):
    """Which branch of a module selection runs; the values are the branches' names."""

    kind = "module"

    def __init__(
        self, name: str, branches: Sequence[str], *, default: str | None = None, when: Rule | None = None
    ) -> None:
        self._describe(name, when)
        self.branches: tuple[str, ...] = tuple(branches)
        if not self.branches or len(set(self.branches)) < len(self.branches):
            raise self._unsound("DX1208", f"a selection has at least one branch, each name once, got {self.branches!r}")
        self.default = self.branches[0] if default is None else self._check_default(default)

    def _narrow(self, value: str) -> None:
        self.branches = (value,)

    @property
    def domain(self) -> str:
        return "one of the branches " + ", ".join(self.branches)

    @property
    def options(self) -> tuple[str, ...]:
        return self.branches

    def canonical(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.branches:
            raise self.refuse(value)
        return value


def from_document(data: object) -> Var[Any]:
    """The Variable that `Var.to_document` wrote.

    Raises:
        ProgramError: DX1407 for data of another shape; the codes of the constructors for an unsound domain.
    """
    from dspex.program.documents import read

    return read(data)
