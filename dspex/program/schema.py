"""Schemas: the typed records that go into a program and come out of it."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    cast,
    get_args,
    get_origin,
    overload,
)

from pydantic import BaseModel, ConfigDict, Field

from dspex.errors import ProgramError

if TYPE_CHECKING:
    from dspex.program.variables import Var

__all__ = ["Schema", "choices_of", "closed_choice", "field", "field_variables", "secret_fields"]

T = TypeVar("T")


class VariableMark:
    """Says in a field's metadata that the field is a Variable; pydantic passes over it."""

    __slots__ = ()


class OneOf:
    """Closed set of values for a field whose type does not list them."""

    __slots__ = ("values",)

    def __init__(self, values: Sequence[object]) -> None:
        self.values = tuple(values)

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[object], Any]) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        values = self.values
        listed = ", ".join(map(repr, values))

        def check(value: object) -> object:
            if value not in values:
                raise PydanticCustomError("one_of", "Input should be one of {choices}", {"choices": listed})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(core), "enum": list(self.values)}


@overload
def field(
    *,
    description: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    choices: Sequence[object] | None = None,
) -> Any: ...
@overload
def field(
    default: T,
    *,
    description: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    choices: Sequence[object] | None = None,
    variable: bool = False,
) -> T: ...
def field(
    default: object = ...,
    *,
    description: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    choices: Sequence[object] | None = None,
    variable: bool = False,
) -> Any:
    """A field of a `Schema`.

    Args:
        default: Its value when the caller gives none; without it the field is required.
        description: What the field holds, as the model reads it.
        ge: Smallest value.
        gt: Bound below all values.
        le: Largest value.
        lt: Bound above all values.
        min_length: Smallest length of a text or list.
        max_length: Largest length of a text or list.
        choices: Closed set of values, for types that do not list theirs; a Literal annotation says the same statically.
        variable: An optimizer may set it. A value that the caller sets wins.
    """
    limits = {
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "min_length": min_length,
        "max_length": max_length,
        "description": description,
    }
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    if default is not ...:
        given["default"] = default
    elif variable:
        raise ProgramError(
            "DX1101", "a field with variable=True needs a default", fix="dx.field(default, variable=True)"
        )
    info = Field(**given)
    if choices is not None:
        if not choices or (default is not ... and default not in choices):
            raise ProgramError("DX1102", f"choices has at least one value and holds the default, got {choices!r}")
        info.metadata.append(OneOf(choices))
    if variable:
        info.metadata.append(VariableMark())
    return info


class Schema(BaseModel):
    """A typed record: the input or the output of a program. Instances are immutable; unknown fields are errors.

    The docstring of a subclass describes the record to the model.
    """

    # Building a validator takes pydantic twice as long as everything else at import: the first use does it.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def choices_of(annotation: object) -> tuple[object, ...] | None:
    """The values of a closed set (Literal, Enum or bool), in order; None for any other type."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation is bool:
        return (True, False)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(annotation)
    if get_origin(annotation) in (types.UnionType, _UNION):
        parts = [choices_of(part) for part in get_args(annotation)]
        if all(part is not None for part in parts):
            return tuple(value for part in parts if part is not None for value in part)
    return None


_UNION = get_origin(Literal[1] | None)


def closed_choice(schema: type[Schema]) -> tuple[object, ...] | None:
    """The values of a schema that has one field, and that field a closed set; None for any other schema."""
    fields = list(schema.model_fields.values())
    if len(fields) != 1:
        return None
    for entry in cast("list[object]", fields[0].metadata):
        if isinstance(entry, OneOf):
            return entry.values
    return choices_of(fields[0].annotation)


def field_variables(schema: type[Schema]) -> dict[str, Var[Any]]:
    """The Variables behind the fields of `schema` that say ``variable=True``, by field name.

    Raises:
        ProgramError: DX1101 when such a field's type has no domain.
    """
    found: dict[str, Var[Any]] = {}
    for name, info in schema.model_fields.items():
        metadata = cast("list[object]", info.metadata)
        if not any(isinstance(entry, VariableMark) for entry in metadata):
            continue
        from dspex.program.declare import settle

        options: Mapping[str, object] = {}
        for entry in metadata:
            if isinstance(entry, OneOf):
                options = {"choices": entry.values}
            for bound, option in (("ge", "lo"), ("le", "hi")):
                limit = getattr(entry, bound, None)
                if limit is not None:
                    options = {**options, option: limit}
        try:
            found[name] = settle(name, info.annotation, info.default, options, None, None)
        except ProgramError as error:
            raise ProgramError(
                "DX1101",
                f"the field {schema.__name__}.{name} says variable=True, but has no domain: {error.message}",
                where=f"{schema.__name__}.{name}",
                fix="give it a Literal, Enum or bool type, choices=, or numbers with ge= and le=",
            ) from error
    return found


def secret_fields(schema: type[Schema]) -> frozenset[str]:
    """Names of the fields that hold secrets: never shown to a model, logged, traced or saved."""
    return frozenset(name for name, info in schema.model_fields.items() if _holds_secret(info.annotation))


def _holds_secret(annotation: object) -> bool:
    """Whether a value of this type is, or may hold, a secret: ``ApiKey``, ``ApiKey | None``, ``list[ApiKey]``."""
    from pydantic import SecretStr

    if isinstance(annotation, type) and issubclass(annotation, SecretStr):
        return True
    return any(_holds_secret(part) for part in get_args(annotation))
