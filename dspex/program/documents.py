"""Variables as plain JSON data and back: what an artifact keeps of a space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from dspex.errors import ProgramError
from dspex.program import rules
from dspex.program.computed import Computed
from dspex.program.declare import Declared
from dspex.program.demos import DemoSource, source_from_json
from dspex.program.rules import Rule, is_json_scalar, shown
from dspex.program.variables import Bool, Branch, Choice, Demos, Float, Int, Prior, Text, Var, place

__all__ = ["document", "read"]

Record = Mapping[str, object]
V = TypeVar("V")


def document(variable: Var[Any]) -> dict[str, object]:
    """Everything that `variable` is, as plain JSON data; `read` is the inverse.

    Raises:
        ProgramError: DX1408, when a value of its domain is no JSON value, or a function computes it.
    """
    if isinstance(variable, Declared):
        variable = variable.settled()
    when = None if variable.when is None else rules.to_json(variable.when)
    common: dict[str, object] = {"name": variable.name, "when": when}
    if isinstance(variable, Float | Int):
        bounds = {"lo": variable.lo, "hi": variable.hi, "log": variable.log, "step": variable.step}
        return {"kind": variable.kind, **common, "default": variable.default, **bounds}
    if isinstance(variable, Bool):
        return {"kind": "bool", **common, "default": variable.default}
    if isinstance(variable, Choice):
        for value in variable.values:
            if not is_json_scalar(value):
                raise _unkept(variable, f"its value {value!r:.80} is no JSON value", "choose between texts or numbers")
        weights = None if variable.weights is None else list(variable.weights)
        values = list(variable.values)
        return {"kind": "choice", **common, "default": variable.default, "values": values, "weights": weights}
    if isinstance(variable, Text):
        for text in variable.pool:
            if not is_json_scalar(text):
                raise _unkept(variable, f"its text {text!r:.80} is no Unicode text", "remove the lone surrogates")
        return {"kind": "text", **common, "pool": list(variable.pool)}
    if isinstance(variable, Demos):
        return {"kind": "demos", **common, "pool": [source.to_json() for source in variable.pool]}
    if isinstance(variable, Prior):
        return {"kind": "prior", **common, "choices": variable.choices}
    if isinstance(variable, Branch):
        return {"kind": "module", **common, "default": variable.default, "branches": list(variable.branches)}
    if isinstance(variable, Computed):
        if variable.expr is None:
            raise _unkept(variable, "a function computes it", "compute it by arithmetic, or load with the source")
        return {"kind": "computed", **common, "expr": rules.to_json(variable.expr)}
    raise _unkept(
        variable, f"{type(variable).__name__} is no kind of Variable that can be stored", "use one of dspex's"
    )


def read(data: object) -> Var[Any]:
    """The Variable that `document` wrote.

    Raises:
        ProgramError: DX1407 for data of another shape; the codes of the constructors for an unsound domain.
    """
    if not isinstance(data, dict):
        raise _malformed(data, "it is no record")
    record = cast("dict[str, object]", data)
    kind = record.get("kind")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise _malformed(record, f"its kind is {shown(kind)}")
    make, fields = reader
    if record.keys() != {"kind", "name", "when", *fields}:
        raise _malformed(record, f"a record of kind {kind} has the fields name, when, {', '.join(fields)}")
    name = record["name"]
    if not isinstance(name, str) or not name or not is_json_scalar(name):
        raise _malformed(record, f"its name is {shown(name)}")
    when = None if record["when"] is None else rules.from_json(record["when"])
    try:
        variable = make(record, name, when)
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise _malformed(record, f"{type(error).__name__}: {error}") from None
    variable.at = None
    return variable


def _float(record: Record, name: str, when: Rule | None) -> Var[Any]:
    lo, hi, default, step = (_number(record, field) for field in ("lo", "hi", "default", "step"))
    log = _of(record, "log", bool)
    return Float(name, cast(float, lo), cast(float, hi), default=_given(record, default), log=log, step=step, when=when)


def _int(record: Record, name: str, when: Rule | None) -> Var[Any]:
    lo, hi, default, step = (_number(record, field) for field in ("lo", "hi", "default", "step"))
    log = _of(record, "log", bool)
    whole = cast("tuple[int, int, int, int | None]", (lo, hi, _given(record, default), step))
    return Int(name, whole[0], whole[1], default=whole[2], log=log, step=whole[3], when=when)


def _bool(record: Record, name: str, when: Rule | None) -> Var[Any]:
    return Bool(name, default=_of(record, "default", bool), when=when)


def _choice(record: Record, name: str, when: Rule | None) -> Var[Any]:
    values = _list(record, "values")
    if not all(is_json_scalar(value) for value in values):
        raise _malformed(record, "its values are texts, finite numbers, bools or None")
    weights = None if record["weights"] is None else cast("list[float]", _list(record, "weights"))
    if weights is not None and any(isinstance(w, bool) or not isinstance(w, int | float) for w in weights):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _malformed(record, "its weights are numbers")
    default = record["default"]
    if default is None and None not in values:
        raise _malformed(record, "its default is none of its values")
    return Choice[Any](name, values, default=default, weights=weights, when=when)


def _text(record: Record, name: str, when: Rule | None) -> Var[Any]:
    return Text(name, _texts(record, "pool"), when=when)


def _demos(record: Record, name: str, when: Rule | None) -> Var[Any]:
    pool: list[DemoSource] = [source_from_json(item) for item in _list(record, "pool")]
    return Demos(name, pool, when=when)


def _prior(record: Record, name: str, when: Rule | None) -> Var[Any]:
    choices = _of(record, "choices", int)
    if choices < 1:
        raise _malformed(record, f"it has {choices} choices")
    return Prior(name, choices, when=when)


def _module(record: Record, name: str, when: Rule | None) -> Var[Any]:
    return Branch(name, _texts(record, "branches"), default=_of(record, "default", str), when=when)


def _computed(record: Record, name: str, when: Rule | None) -> Var[Any]:
    variable = Computed[Any](name, rules.expression_from_json(record["expr"]), None, ())
    variable.when = when
    return variable


_READERS: dict[str, tuple[Callable[[Record, str, Rule | None], Var[Any]], tuple[str, ...]]] = {
    "float": (_float, ("default", "lo", "hi", "log", "step")),
    "int": (_int, ("default", "lo", "hi", "log", "step")),
    "bool": (_bool, ("default",)),
    "choice": (_choice, ("default", "values", "weights")),
    "text": (_text, ("pool",)),
    "demos": (_demos, ("pool",)),
    "prior": (_prior, ("choices",)),
    "module": (_module, ("default", "branches")),
    "computed": (_computed, ("expr",)),
}


def _of(record: Record, field: str, kind: type[V]) -> V:
    value = record[field]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _malformed(record, f"its {field} is {shown(value)}")
    return value


def _number(record: Record, field: str) -> float | None:
    value = record[field]
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not is_json_scalar(value)
    ):
        raise _malformed(record, f"its {field} is {shown(value)}")
    return value


def _given(record: Record, default: float | None) -> float:
    if default is None:
        raise _malformed(record, "it has no default")
    return default


def _list(record: Record, field: str) -> list[object]:
    return cast("list[object]", _of(record, field, list))


def _texts(record: Record, field: str) -> list[str]:
    texts = _list(record, field)
    if not all(isinstance(text, str) and is_json_scalar(text) for text in texts):
        raise _malformed(record, f"its {field} is a list of texts")
    return cast("list[str]", texts)


def _malformed(data: object, why: str) -> ProgramError:
    return ProgramError(
        "DX1407",
        f"not a stored Variable: {why}: {shown(data)}",
        fix="it comes from a damaged or edited file, or from a newer version",
    )


def _unkept(variable: Var[Any], why: str, fix: str) -> ProgramError:
    return ProgramError(
        "DX1408",
        f"Variable {variable.name!r} cannot be stored: {why}",
        where=place(variable.at, variable.name),
        fix=fix,
    )
