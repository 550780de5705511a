"""`computed`: a Variable whose value follows from other Variables; nobody sets it.

Computed Variables form a directed acyclic graph with the Variables that they are computed from, and are evaluated in
its order: at construction, at every `bind`, and wherever a space completes a configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from enum import Enum
from typing import Any, Self, TypeVar, cast, overload

from dspex.errors import ProgramError
from dspex.program.rules import Arith, Expr, Named, Ref, Rule, as_expr, is_json_scalar, refuse_deep
from dspex.program.variables import Var, definition, place

__all__ = ["Computed", "computed", "cycle_of_computed", "fill", "sorted_by_need", "spelled"]

_LISTED = 20

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


class Computed(Var[T]):
    """A Variable that is computed from others. Built by `computed`.

    Its `default` is None: what it has by default follows from the defaults of the others.

    Attributes:
        expr: The arithmetic that gives it; None when a function does.
        function: The function that gives it from the values of the Variables `of`, in their order; None for arithmetic.
    """

    kind = "computed"
    expr: Expr | None
    function: Callable[..., T] | None

    def __init__(
        self, name: str, expr: Expr | None, function: Callable[..., T] | None, sources: tuple[Ref, ...]
    ) -> None:
        self._describe(name, None)
        self.default = cast(T, None)
        self.expr = expr
        self.function = function
        self._sources = sources
        self._text = ""

    @property
    def of(self) -> tuple[str, ...]:
        """Names of the Variables that it is computed from."""
        if self.expr is not None:
            return tuple(sorted(self.expr.names()))
        return tuple(source.name for source in self._sources)

    def value(self, config: Mapping[str, object]) -> T:
        """Its value under `config`, which has every name in `of`.

        Raises:
            ProgramError: DX1218, when the function raises.
        """
        if self.expr is not None:
            return cast(T, self.expr.value(config))
        try:
            return cast("Callable[..., T]", self.function)(*(config[name] for name in self.of))
        except ProgramError:
            raise
        except Exception as error:
            values = ", ".join(f"{name}={config[name]!r}" for name in self.of)
            raise self._unsound(
                "DX1218",
                f"its function raised {type(error).__name__}: {error}, with {values}",
                "make the function defined for every value of the Variables that it is given",
            ) from error

    def is_numeric(self) -> bool:
        # What a function gives is known when it has run; comparing something without an order is an error then.
        return True

    def _member(self, value: T) -> T:
        return value

    @property
    def domain(self) -> str:
        return f"{self.expr}" if self.expr is not None else f"{_title(self.function)}({', '.join(self.of)})"

    def canonical(self, value: object) -> T:
        raise self.refused(value)

    def refused(self, value: object) -> ProgramError:
        """The error for setting it."""
        return ProgramError(
            "DX1406",
            f"Variable {self.name!r} is computed from {', '.join(self.of)} and cannot be set, got {value!r:.80}",
            where=place(self.at, self.name),
            fix=f"set {' or '.join(self.of)}, and leave {self.name} out",
        )

    def to_json(self, value: T) -> object:
        """`value` as plain JSON data, for people: a repr where JSON has no such value. Nothing reads it back."""
        plain = cast(object, value.value) if isinstance(value, Enum) else value
        return plain if is_json_scalar(plain) else repr(plain)

    def renamed(self, name: str, rename: Callable[[str], str] | None = None, gate: Rule | None = None) -> Self:
        other = super().renamed(name, rename, gate)
        if rename is None:
            return other
        other = copy(other)
        if other.expr is not None:
            other.expr = other.expr.renamed(rename)
        other._sources = tuple(source.renamed(rename) for source in other._sources)
        return other

    def fixed(self, value: T) -> Var[T]:
        raise self.refused(value)

    def signature(self) -> str:
        if not self._text and self.function is not None:
            from dspex.program.identity import behaviour_hash

            self._text = behaviour_hash(self.function)
        return f"computed {self.name}: {self.domain} {self._text} when {self.when}"

    def __repr__(self) -> str:
        return f"<Computed {self.name}: {self.domain}>"


@overload
def computed(expression: Arith | Expr | Var[Any], /, *, name: str = "") -> Computed[Any]: ...
@overload
def computed(function: Callable[[A], T], a: Var[A], /, *, name: str = "") -> Computed[T]: ...
@overload
def computed(function: Callable[[A, B], T], a: Var[A], b: Var[B], /, *, name: str = "") -> Computed[T]: ...
@overload
def computed(function: Callable[..., T], /, *of: Var[Any] | Named | str, name: str = "") -> Computed[T]: ...
def computed(rule: Any, /, *of: Var[Any] | Named | str, name: str = "") -> Computed[Any]:
    """A Variable that follows from others: `dx.computed(k * 100)`, or `dx.computed(function, k, style)`.

    It is part of `config` like any other Variable, may be given to modules and named in instructions, and is never
    set.

    Args:
        rule: Arithmetic over Variables, or a function of their values that gives equal results for equal values.
        of: The Variables whose values the function takes, in the order of its parameters; a name stands for the
            Variable that has it.
        name: Its name, where it is no class attribute.

    Raises:
        ProgramError: DX1219, when it is neither arithmetic nor a function with its Variables.
    """
    at = definition()

    def wrong(why: str, fix: str) -> ProgramError:
        return ProgramError("DX1219", f"computed: {why}", where=place(at, name), fix=fix)

    if isinstance(rule, Var | Expr):
        if of:
            raise wrong("arithmetic names its Variables itself, and takes no others", "drop the other arguments")
        expr = as_expr(cast(object, rule))
        refuse_deep(expr)
        if not expr.names() and not isinstance(expr, Arith | Ref):
            raise wrong(f"{expr} depends on no Variable", "write a plain value instead")
        return Computed(name, expr, None, ())
    if not callable(rule):
        raise wrong(f"got {rule!r:.100}", "write dx.computed(k * 100), or dx.computed(function, k)")
    if not of:
        raise wrong(f"{_title(rule)} gets no Variable", "name them: dx.computed(function, k, style)")
    sources: list[Ref] = []
    for source in cast("tuple[Named | str, ...]", of):
        if isinstance(source, str) or hasattr(type(source), "__dx_named__"):
            sources.append(Ref(source))
        else:
            raise wrong(f"{source!r:.100} is no Variable", "the function gets the values of Variables only")
    return Computed(name, None, rule, tuple(sources))


def fill(computed: Iterable[Computed[Any]], config: dict[str, object]) -> None:
    """Put the values of `computed`, which stand in the order of need, into `config`."""
    for variable in computed:
        config[variable.name] = variable.value(config)


def sorted_by_need(needs: Mapping[str, Iterable[str]], cycle: Callable[[list[str]], ProgramError]) -> list[str]:
    """The names in `needs`, each after those that it needs, otherwise in their order.

    Args:
        needs: What every name needs; names without an entry of their own are taken as given.
        cycle: Makes the error for names that need each other, the first repeated at the end.
    """
    done: dict[str, None] = {}
    for root in needs:
        if root in done:
            continue
        # Written without recursion: a chain of Variables may be longer than Python's stack.
        path: dict[str, None] = {root: None}
        stack = [(root, iter(needs[root]))]
        while stack:
            name, rest = stack[-1]
            for other in rest:
                if other in done or other not in needs:
                    continue
                if other in path:
                    names = list(path)
                    raise cycle([*names[names.index(other) :], other])
                path[other] = None
                stack.append((other, iter(needs[other])))
                break
            else:
                stack.pop()
                del path[name]
                done[name] = None
    return list(done)


def cycle_of_computed(cycle: list[str], at: Mapping[str, Var[Any]]) -> ProgramError:
    """The error for computed Variables that need each other."""
    first = at.get(cycle[0])
    return ProgramError(
        "DX1216",
        f"computed Variables depend on each other in a cycle: {spelled(cycle)}",
        where=None if first is None else place(first.at, cycle[0]),
        fix="compute one of them from other Variables",
    )


def spelled(cycle: list[str]) -> str:
    """The names of a cycle, a long one without its middle."""
    if len(cycle) > _LISTED:
        half = _LISTED // 2
        cycle = [*cycle[:half], f"… ({len(cycle) - 1 - 2 * half} more)", *cycle[-half - 1 :]]
    return " -> ".join(cycle)


def _title(function: object) -> str:
    return getattr(function, "__name__", None) or type(function).__name__
