"""`var`: a Variable whose kind follows from its annotation, else from its default."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Generic,
    Literal,
    TypeVar,
    cast,
    get_args,
    get_origin,
    overload,
)

from dspex.errors import ProgramError
from dspex.program.demos import DemoSet, DemoSource, Nearest, is_demo_source
from dspex.program.rules import Rule
from dspex.program.variables import Bool, Choice, Definition, Demos, Float, Int, Text, Var, place

__all__ = ["MISSING", "Declared", "declared_type", "settle", "var"]

T = TypeVar("T")


class _Missing(Enum):
    MISSING = "missing"


MISSING = _Missing.MISSING

EXPLICIT = 'the explicit form needs no annotation: dx.Choice("style", ("terse", "detailed")), dx.Int("k", 1, 8), …'


class Declared(Var[T], Generic[T]):
    """What `var` returns until the class that it stands in is complete: the kind is not known yet.

    Reading it from its class gives the named form; so does everything in `Program`.
    """

    def __init__(self, default: T, options: Mapping[str, object], when: Rule | None) -> None:
        self._describe("", when)
        self.default = default
        self.choices = options
        self.owner: type | None = None
        self.names: Mapping[str, object] | None = None
        self._settled: Var[T] | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        if not self.name:
            self.name = name
            self.owner = owner
        self._note_owner(owner)

    @overload
    def __get__(self, instance: None, owner: type, /) -> Declared[T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> T: ...
    def __get__(self, instance: object | None, owner: type | None = None, /) -> Declared[T] | T:
        settled = self.settled()
        return cast("Declared[T]", settled) if instance is None else settled.default

    def settled(self, local_names: Mapping[str, object] | None = None) -> Var[T]:
        """The named form of this Variable.

        Args:
            local_names: Names around the class, for annotations that name something local to a function.

        Raises:
            ProgramError: DX1203 when the annotation names something that does not exist (yet).
        """
        if self._settled is None:
            if not self.name:
                raise ProgramError(
                    "DX1213",
                    "dx.var() takes its name from the class attribute that it is assigned to, and has none",
                    where=place(self.at),
                    fix='outside a class body give the name: dx.Float("temperature", 0.0, 1.0)',
                )
            if local_names is not None:
                self.names = local_names
            annotation = MISSING if self.owner is None else declared_type(self.owner, self.name, self.names, self.at)
            self._settled = cast(
                "Var[T]", settle(self.name, annotation, self.default, self.choices, self.when, self.at)
            )
            self._settled.owners = self.owners
            self.names = None
        return self._settled

    def is_numeric(self) -> bool:
        # Before the class is complete only the default is known; the settled form checks again.
        return isinstance(self.default, int | float) and not isinstance(self.default, bool)

    def canonical(self, value: object) -> T:
        return self.settled().canonical(value)

    def _member(self, value: T) -> T:
        return value

    def _narrow(self, value: T) -> None:
        self._settled = self.settled().fixed(value)

    @property
    def domain(self) -> str:
        return "a Variable whose class is not complete yet"

    def __getstate__(self) -> dict[str, object]:
        self.settled()
        return {**self.__dict__, "owner": None, "names": None}

    def __repr__(self) -> str:
        return f"<var {self.name or '(unnamed)'}, default {self.default!r}>"


def var(
    default: T,
    *,
    lo: float | None = None,
    hi: float | None = None,
    log: bool = False,
    step: float | None = None,
    choices: Sequence[T] | None = None,
    weights: Sequence[float] | None = None,
    when: Rule | None = None,
) -> Var[T]:
    """A Variable in a class body; its annotation says which kind it is, else its default does.

    Literal and Enum annotations are choices, `bool` is a Bool, `int` and `float` need `lo` and `hi`, `str` is a
    choice with `choices` and a Text pool without.

    Args:
        default: Its value until something is bound.
        lo: Smallest value of a number.
        hi: Largest value of a number.
        log: Search a number on a logarithmic scale.
        step: Grid of a number, counted from `lo`.
        choices: Values of a choice, when the annotation does not list them.
        weights: How often sampling draws each value of a choice.
        when: The Variable is active only while this rule holds.

    Raises:
        ProgramError: When annotation, default and options disagree; the class statement raises it.
    """
    given: dict[str, object] = {
        "lo": lo,
        "hi": hi,
        "log": log or None,
        "step": step,
        "choices": choices,
        "weights": weights,
    }
    options = {name: value for name, value in given.items() if value is not None}
    return Declared(default, options, when)


def declared_type(owner: type, name: str, local_names: Mapping[str, object] | None, at: Definition | None) -> object:
    """The T of the annotation `Var[T]` that `owner` or its nearest base gives `name`; MISSING without one."""
    for cls in owner.__mro__:
        annotation = _annotation(cls, name)
        if annotation is MISSING:
            continue
        if isinstance(annotation, ForwardRef):
            annotation = annotation.__forward_arg__
        if isinstance(annotation, str):
            module = sys.modules.get(cls.__module__)
            scope = {**(local_names or {}), **vars(cls)}
            try:
                annotation = eval(annotation, dict(vars(module)) if module else {}, scope)
            except Exception as error:
                raise _unresolved(name, annotation, error, at) from error
        return _inner(name, annotation, local_names, cls, at)
    return MISSING


def _unresolved(name: str, text: object, error: Exception, at: Definition | None) -> ProgramError:
    return ProgramError(
        "DX1203",
        f"the annotation {text!r} of Variable {name!r} cannot be resolved: {error}",
        where=place(at, name),
        fix=f"import the name at run time, or drop the annotation; {EXPLICIT}",
    )


def _annotation(cls: type, name: str) -> object:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF).get(name, MISSING)
    annotations: dict[str, object] = cls.__dict__.get("__annotations__", {})  # noqa: RUF063 - inspect would evaluate more
    return annotations.get(name, MISSING)


def _inner(
    name: str, annotation: object, local_names: Mapping[str, object] | None, cls: type, at: Definition | None
) -> object:
    origin = get_origin(annotation)
    if annotation is Var or not (isinstance(origin, type) and issubclass(origin, Var)):
        if isinstance(annotation, type) and issubclass(annotation, Var):
            return MISSING
        raise ProgramError(
            "DX1212",
            f"Variable {name!r} is annotated {annotation!r}, which is not dx.Var[...]",
            where=place(at, name),
            fix=f"write {name}: dx.Var[{getattr(cast(object, annotation), '__name__', 'T')}] = dx.var(...)",
        )
    inner = cast(object, get_args(annotation)[0])
    if isinstance(inner, ForwardRef):
        module = sys.modules.get(cls.__module__)
        try:
            return eval(
                inner.__forward_arg__, dict(vars(module)) if module else {}, {**(local_names or {}), **vars(cls)}
            )
        except Exception as error:
            raise _unresolved(name, inner.__forward_arg__, error, at) from error
    return inner


def settle(
    name: str,
    annotation: object,
    default: object,
    options: Mapping[str, object],
    when: Rule | None,
    at: Definition | None,
) -> Var[Any]:
    """The named form for `annotation` (MISSING for none), `default` and the options of `var`."""
    try:
        settled = _settle(name, annotation, default, dict(options), when, at)
    except ProgramError as error:
        # The constructor of the named form sees this call as its place, not the line of dx.var().
        error.where = place(at, name)
        raise
    settled.at = at
    return settled


def _settle(
    name: str,
    annotation: Any,
    default: object,
    options: dict[str, object],
    when: Rule | None,
    at: Definition | None,
) -> Var[Any]:
    def wrong(code: str, why: str, fix: str | None = None) -> ProgramError:
        return ProgramError(code, f"Variable {name!r}: {why}", where=place(at, name), fix=fix)

    def disagree(kind: str) -> ProgramError:
        return wrong(
            "DX1202",
            f"the annotation says {kind}, the default is {default!r}",
            "make the default and the annotation agree",
        )

    def only(*allowed: str) -> None:
        for option in options:
            if option not in allowed:
                raise wrong("DX1210", f"{option}= does not fit {_spoken(annotation, default)}", f"drop {option}=")

    while get_origin(annotation) is Annotated:
        annotation, *metadata = cast("tuple[object, ...]", get_args(annotation))
        for bound, key in (("ge", "lo"), ("le", "hi")):
            limits = [value for entry in metadata if (value := _limit(entry, bound)) is not None]
            if limits:
                options.setdefault(key, limits[0])

    values: tuple[object, ...] | None = None
    if get_origin(annotation) is Literal:
        values = get_args(annotation)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        values = tuple(annotation)
    elif annotation is MISSING and isinstance(default, Enum):
        values = tuple(type(default))
    if values is not None:
        only("weights", "choices")
        if "choices" in options:
            chosen = tuple(cast("Sequence[object]", options["choices"]))
            outside = [value for value in chosen if value not in values]
            if outside:
                raise wrong("DX1202", f"choices {outside!r} are not among the annotation's {values!r}")
            values = chosen
        if default not in values:
            raise wrong(
                "DX1202",
                f"the annotation allows {', '.join(map(repr, values))}, the default is {default!r}",
                "make the default one of the allowed values",
            )
        weights = cast("Sequence[float] | None", options.get("weights"))
        return Choice[object](name, values, default=default, weights=weights, when=when)

    if "choices" in options:
        only("weights", "choices")
        chosen = tuple(cast("Sequence[object]", options["choices"]))
        if isinstance(annotation, type) and not all(_fits(value, annotation) for value in (*chosen, default)):
            raise wrong("DX1202", f"the annotation says {annotation.__name__}, choices are {chosen!r}")
        weights = cast("Sequence[float] | None", options.get("weights"))
        return Choice[object](name, chosen, default=default, weights=weights, when=when)

    if _is_demos(annotation) or (annotation is MISSING and is_demo_source(default)):
        only()
        if not is_demo_source(default):
            raise disagree("demonstrations")
        return Demos(name, (default,), when=when)

    if annotation is MISSING:
        annotation = type(default)
    if annotation is bool:
        only()
        if not isinstance(default, bool):
            raise disagree("bool")
        return Bool(name, default=default, when=when)
    if annotation is int or annotation is float:
        only("lo", "hi", "log", "step")
        if isinstance(default, bool) or not isinstance(default, int if annotation is int else int | float):
            raise disagree(annotation.__name__)
        if "lo" not in options or "hi" not in options:
            raise wrong(
                "DX1201",
                f"{annotation.__name__} needs both bounds",
                f"write dx.var({default!r}, lo=..., hi=...)",
            )
        lo, hi = cast(float, options["lo"]), cast(float, options["hi"])
        log = bool(options.get("log", False))
        if annotation is float:
            step = cast("float | None", options.get("step"))
            return Float(name, lo, hi, default=default, log=log, step=step, when=when)
        whole = [
            int(bound) if isinstance(bound, float) and bound.is_integer() else cast(int, bound)
            for bound in (lo, hi, cast("float | None", options.get("step")))
        ]
        return Int(name, whole[0], whole[1], default=cast(int, default), log=log, step=whole[2], when=when)
    if annotation is str:
        only()
        if not isinstance(default, str):
            raise disagree("str")
        return Text(name, (default,), when=when)
    raise wrong("DX1202", f"no kind of Variable fits {_spoken(annotation, default)}", EXPLICIT)


def _spoken(annotation: Any, default: object) -> str:
    if annotation is MISSING:
        return f"the default {default!r}"
    return f"the annotation {getattr(annotation, '__name__', None) or annotation}"


def _fits(value: object, annotation: type) -> bool:
    if isinstance(value, bool):
        return annotation is bool or annotation is object
    return isinstance(value, annotation) or (annotation is float and isinstance(value, int))


def _is_demos(annotation: Any) -> bool:
    return annotation in (DemoSource, DemoSet, Nearest) or (
        get_origin(annotation) is types.UnionType and set(get_args(annotation)) <= {DemoSet, Nearest}
    )


def _limit(entry: object, bound: str) -> float | None:
    """`ge` or `le` of one piece of Annotated metadata: annotated_types.Ge or pydantic's Field(...)."""
    value = getattr(entry, bound, None)
    if value is None:
        for nested in cast("Sequence[object]", getattr(entry, "metadata", ())):
            value = getattr(nested, bound, None)
            if value is not None:
                break
    return cast(float, value) if isinstance(value, int | float) and not isinstance(value, bool) else None
