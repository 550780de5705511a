"""What the keywords of a schema's document mean in Python, each checked before pydantic sees it.

Every function raises `Misfit` for what no document of dspex holds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, Literal, Union, cast, get_args, get_origin

__all__ = [
    "ABOUT",
    "CLASS_NAME",
    "CONFIG",
    "EXTRA",
    "FACTORIES",
    "LIMITS",
    "MAX_DEPTH",
    "MAX_NODES",
    "MAX_PATTERN",
    "MAX_TEXT",
    "NOTHING",
    "SIZES",
    "TEXT_OPTIONS",
    "UNPLAIN",
    "Misfit",
    "as_list",
    "as_object",
    "as_text",
    "check_value",
    "config_of",
    "decimal_of",
    "default_of",
    "enum_of",
    "limits_of",
    "literal_of",
    "string_of",
    "target_of",
]

EXTRA: Final = "x-dspex"
"""The keyword of what JSON Schema cannot say."""

MAX_DEPTH: Final = 48
MAX_NODES: Final = 100_000
MAX_TEXT: Final = 1 << 20
MAX_PATTERN: Final = 2_000

LIMITS: Final = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "minProperties": "min_length",
    "maxProperties": "max_length",
    "pattern": "pattern",
}
TEXT_OPTIONS: Final = ("strip_whitespace", "to_lower", "to_upper")
CONFIG: Final = frozenset(
    {
        "title",
        "frozen",
        "extra",
        "str_strip_whitespace",
        "str_to_lower",
        "str_to_upper",
        "str_min_length",
        "str_max_length",
        "use_enum_values",
        "validate_default",
        "validate_assignment",
        "allow_inf_nan",
        "strict",
        "coerce_numbers_to_str",
        "hide_input_in_errors",
        "revalidate_instances",
        "ser_json_timedelta",
        "ser_json_bytes",
        "ser_json_inf_nan",
        "val_json_bytes",
        "use_attribute_docstrings",
    }
)
"""Options of a model's configuration that a document may carry."""
FACTORIES: Final[Mapping[str, Callable[[], object]]] = {
    "list": list,
    "dict": dict,
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "str": str,
}

UNPLAIN: Final = re.compile(r"[^a-zA-Z0-9.\-_]")
CLASS_NAME: Final = re.compile(r"[^\W\d]\w*(?:\[[^\x00-\x1f]*\])?")
_NUMERIC: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
ABOUT: Final = ("description", "title", "examples", "deprecated")
SIZES: Final = {
    "string": ("minLength", "maxLength", "pattern"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
    "integer": tuple(sorted(_NUMERIC)),
    "number": tuple(sorted(_NUMERIC)),
}
_MIXINS: Final[Mapping[str, type]] = {"str": str, "int": int, "float": float}


class Misfit(Exception):
    """A document that cannot be read; the message says why."""


def string_of(body: dict[str, object], limits: dict[str, object], secret: object, where: str) -> object:
    form = body.pop("format", None)
    if form is None:
        return str
    if form == "password":
        body.pop("writeOnly", None)
        return _secret(secret)
    import datetime
    import uuid

    found: dict[object, object] = {
        "date-time": datetime.datetime,
        "date": datetime.date,
        "time": datetime.time,
        "duration": datetime.timedelta,
        "uuid": uuid.UUID,
        "binary": bytes,
    }
    if form in found:
        return found[form]
    import pydantic

    if form in ("uuid1", "uuid3", "uuid4", "uuid5"):
        return cast(object, getattr(pydantic, cast(str, form).upper()))
    if form == "path":
        import pathlib

        return pathlib.Path
    if form == "uri":
        web = limits.pop("maxLength", None) is not None
        limits.pop("minLength", None)
        return pydantic.HttpUrl if web else pydantic.AnyUrl
    if form in ("ipv4", "ipv6"):
        import ipaddress

        return ipaddress.IPv4Address if form == "ipv4" else ipaddress.IPv6Address
    raise Misfit(f"{where}: the format {form!r} is not known")


def decimal_of(about: Mapping[str, object], given: dict[str, Any], where: str) -> object:
    from decimal import Decimal, InvalidOperation

    for option in ("ge", "gt", "le", "lt", "multiple_of"):
        if option in about:
            value = about[option]
            try:
                given[option] = Decimal(value) if isinstance(value, str) and len(value) < 100 else _number(value, where)
            except InvalidOperation:
                raise Misfit(f"{where}: {value!r:.100} is no number") from None
    for option in ("max_digits", "decimal_places"):
        if option in about:
            given[option] = _size(about[option], where)
    return Decimal


def limits_of(limits: Mapping[str, object], where: str, kind: str | None) -> dict[str, Any]:
    """Keywords of size and range as pydantic calls them."""
    made: dict[str, Any] = {}
    for keyword, value in limits.items():
        option = LIMITS.get(keyword)
        if option is None:
            raise Misfit(f"{where}: {keyword!r} is not understood")
        if keyword == "pattern":
            text = as_text(value, where)
            if len(text) > MAX_PATTERN:
                raise Misfit(f"{where}: its pattern is longer than {MAX_PATTERN} characters")
            made[option] = text
        elif keyword in _NUMERIC:
            number = _number(value, where)
            if keyword == "multipleOf" and number <= 0:
                raise Misfit(f"{where}: multipleOf is above 0")
            made[option] = number
        else:
            made[option] = _size(value, where)
    return made


def literal_of(values: list[object], where: str) -> object:
    if not 1 <= len(values) <= 10_000:
        raise Misfit(f"{where}: an enumeration has 1 to 10000 values")
    for value in values:
        if value is not None and not isinstance(value, str | int):
            raise Misfit(f"{where}: {value!r:.100} is no literal")
    return Literal.__getitem__(tuple(values))  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]


def enum_of(key: str, document: Mapping[str, object], about: Mapping[str, object]) -> object:
    described = as_object(about.get("enum"), f"{key}: enum")
    names = [as_text(name, key) for name in as_list(described.get("members"), key)]
    values = as_list(document.get("enum", [document["const"]] if "const" in document else []), key)
    if len(names) != len(values) or len(set(names)) != len(names) or not 1 <= len(names) <= 10_000:
        raise Misfit(f"{key}: an enumeration has one name for each value")
    for name, value in zip(names, values, strict=True):
        if not name.isidentifier() or name.startswith("_") or name in ("mro", "name", "value"):
            raise Misfit(f"{key}: {name!r} is no name of a member")
        if not isinstance(value, str | int | float):
            raise Misfit(f"{key}: {value!r:.100} is no value of a member")
    mixin = described.get("mixin")
    if mixin is not None and (mixin not in _MIXINS or not all(type(v) is _MIXINS[cast(str, mixin)] for v in values)):
        raise Misfit(f"{key}: its values are no {mixin!r:.50}")
    title = as_text(about.get("name", document.get("title", key)), key)
    if not title.isidentifier():
        raise Misfit(f"{key}: {title!r:.100} is no name of a class")
    kind = None if mixin is None else _MIXINS[cast(str, mixin)]
    pairs: Any = list(zip(names, values, strict=True))
    made: type[Enum] = Enum(title, pairs, module="dspex.rebuilt", type=kind)  # type: ignore[misc]
    description = document.get("description")
    made.__doc__ = None if description is None else as_text(description, key)
    return made


def config_of(key: str, given: object, document: Mapping[str, object]) -> dict[str, object]:
    config = as_object(given, f"{key}: config")
    for name, value in config.items():
        if name not in CONFIG or not (value is None or isinstance(value, str | int)):
            raise Misfit(f"{key}: the configuration {name!r} is not understood")
    found = dict(config)
    closed = document.get("additionalProperties")
    if not (closed is None or isinstance(closed, bool)):
        raise Misfit(f"{key}: records with further fields of a type are not understood")
    return found


def default_of(annotation: object, value: object, where: str) -> object:
    """A default as its field's type has it, from JSON."""
    check_value(value, where, 0)
    if value is None or (isinstance(value, str | int | float) and type(value) in _scalars(annotation)):
        return value
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return annotation(value)
    if value in ([], {}) and get_origin(annotation) in (list, dict):
        # Inside a type that is not finished, and good in any.
        return value
    from pydantic import TypeAdapter

    return TypeAdapter[object](cast("type[object]", annotation)).validate_json(json.dumps(value))


def _scalars(annotation: object) -> tuple[object, ...]:
    """The types of JSON scalars that are values of `annotation` as they are."""
    while hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation)
    if origin is Literal:
        return (str, int, bool)
    return get_args(annotation) if origin is Union else (annotation,)


def check_value(value: object, where: str, depth: int) -> None:
    """Refuses values that pydantic would take for a part of the schema when it writes it."""
    if depth > MAX_DEPTH:
        raise Misfit(f"{where}: a value is nested too deeply")
    if isinstance(value, dict):
        if "$ref" in value:
            raise Misfit(f"{where}: a value holds '$ref'")
        for item in cast("dict[str, object]", value).values():
            check_value(item, where, depth + 1)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            check_value(item, where, depth + 1)


def _secret(kind: object) -> type:
    if kind == "SecretStr":
        from pydantic import SecretStr

        return SecretStr
    from dspex.program.types import ApiKey

    return ApiKey


def target_of(value: object, where: str) -> str:
    text = as_text(value, where)
    if not text.startswith("#/$defs/"):
        raise Misfit(f"{where}: {text!r:.100} refers out of the document")
    return text[len("#/$defs/") :].replace("~1", "/").replace("~0", "~")


def as_object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Misfit(f"{where} is no object")
    return cast("dict[str, object]", value)


def as_list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise Misfit(f"{where}: a list is missing")
    return cast("list[object]", value)


def as_text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise Misfit(f"{where}: a text is missing, or is too long")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Misfit(f"{where}: {value!r:.100} is no number")
    return value


def _size(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise Misfit(f"{where}: {value!r:.100} is no size")
    return value


class _None:
    """What stands for a default that is not there."""


NOTHING: Final = _None()
