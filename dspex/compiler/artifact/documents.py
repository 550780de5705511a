"""Schemas as documents: JSON Schema that a person and a model can read, exact enough to rebuild the schema from.

What JSON Schema cannot say stands under ``x-dspex``. Whether a document carries all of its schema is not argued but
tested: the schema is rebuilt from it, and the two are compared in everything that pydantic does with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast, get_args
from weakref import WeakKeyDictionary

from pydantic import BaseModel, SecretStr, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypeAliasType

from dspex.compiler.artifact.keywords import CONFIG, EXTRA, FACTORIES, LIMITS, TEXT_OPTIONS
from dspex.compiler.artifact.schemas import place_of, rebuilt
from dspex.errors import CompileError
from dspex.program.schema import OneOf, Schema, VariableMark

__all__ = ["code_in", "is_described", "schema_document"]

_KEYWORDS: Final = {option: keyword for keyword, option in reversed(LIMITS.items())}
_CACHE: WeakKeyDictionary[type[BaseModel], Mapping[str, object]] = WeakKeyDictionary()
"""Documents of classes; an empty one for a class that is not all in its document."""


class _Documents(GenerateJsonSchema):
    """pydantic's JSON Schema with what it leaves out under ``x-dspex``."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().model_schema(schema)
        # Types inside refer to definitions, which only the finished document may do: `_complete` writes them.
        made[EXTRA] = {"class": place_of(schema["cls"])}
        return made

    def enum_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().enum_schema(schema)
        cls = cast("type[Enum]", schema["cls"])
        mixin = next((kind.__name__ for kind in (str, int, float) if issubclass(cls, kind)), None)
        made[EXTRA] = {
            "name": cls.__name__,
            "class": place_of(cls),
            "enum": {"members": [member.name for member in cls], "mixin": mixin},
        }
        return made

    def str_schema(self, schema: Any) -> JsonSchemaValue:
        return _with(super().str_schema(schema), schema, ("strict", *TEXT_OPTIONS))

    def int_schema(self, schema: Any) -> JsonSchemaValue:
        return _with(super().int_schema(schema), schema, ("strict",))

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return _with(super().float_schema(schema), schema, ("strict", "allow_inf_nan"))

    def bool_schema(self, schema: Any) -> JsonSchemaValue:
        return _with(super().bool_schema(schema), schema, ("strict",))

    def frozenset_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().frozenset_schema(schema)
        made[EXTRA] = {"type": "frozenset"}
        return made

    def tuple_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().tuple_schema(schema)
        if "variadic_item_index" in schema and "prefixItems" not in made:
            made[EXTRA] = {"type": "tuple"}
        return made

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        if schema.get("keys_schema", {"type": "any"})["type"] == "any":
            made[EXTRA] = {"type": "dict"}
        return made

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().decimal_schema(schema)
        limits = {
            name: str(value) if isinstance(value := schema[name], Decimal) else value
            for name in ("ge", "gt", "le", "lt", "multiple_of", "max_digits", "decimal_places")
            if name in schema
        }
        made[EXTRA] = {"type": "decimal", **limits}
        return made


def _complete(document: JsonSchemaValue, cls: type[BaseModel]) -> None:
    """Puts what JSON Schema does not say into each definition of a record."""
    classes = {place_of(kind): kind for kind in _records(cls, {})}
    for definition in (document, *document.get("$defs", {}).values()):
        about = definition.get(EXTRA)
        if isinstance(about, dict) and "enum" not in about and "class" in about:
            found = classes.get(cast("str", about["class"]))
            if found is not None:
                definition[EXTRA] = _about(found)


def _records(annotation: object, seen: dict[object, None]) -> list[type[BaseModel]]:
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel) and part not in seen:
            seen[part] = None
            part.model_rebuild()
            for info in part.model_fields.values():
                _records(info.annotation, seen)
        elif isinstance(part, TypeAliasType):
            _records(part.__value__, seen)
    return cast("list[type[BaseModel]]", list(seen))


def _with(made: JsonSchemaValue, schema: Mapping[str, object], options: tuple[str, ...]) -> JsonSchemaValue:
    said = {option: schema[option] for option in options if option in schema}
    if said:
        made[EXTRA] = said
    return made


def _about(cls: type[BaseModel]) -> dict[str, object]:
    """What JSON Schema does not say of a model."""
    record = issubclass(cls, Schema)
    base = (Schema if record else BaseModel).model_config
    config = {
        name: value
        for name, value in cls.model_config.items()
        if base.get(name) != value and name in CONFIG and (value is None or isinstance(value, str | int))
    }
    fields = {name: said for name, info in cls.model_fields.items() if (said := _field(info))}
    about: dict[str, object] = {"name": cls.__name__, "class": place_of(cls), "schema": record}
    if config:
        about["config"] = config
    if fields:
        about["fields"] = fields
    return about


def _field(info: FieldInfo) -> dict[str, object]:
    said: dict[str, object] = {}
    for entry in cast("list[object]", info.metadata):
        if isinstance(entry, OneOf) and all(v is None or isinstance(v, str | int | float) for v in entry.values):
            said["choices"] = list(entry.values)
        elif isinstance(entry, VariableMark):
            said["variable"] = True
    factory = cast("object", info.default_factory)
    for name, known in FACTORIES.items():
        if factory is known:
            said["factory"] = name
    secrets = {kind for kind in _parts(info.annotation) if isinstance(kind, type) and issubclass(kind, SecretStr)}
    if secrets and secrets <= {SecretStr}:
        said["secret"] = "SecretStr"
    limits = _limits(info)
    if limits and get_args(info.annotation):
        # In a union pydantic writes the field's own limits into the members, where they no longer tell whose they are.
        said["type"] = TypeAdapter[object](cast("type[object]", info.annotation)).json_schema(
            schema_generator=_Documents
        )
        cast("dict[str, object]", said["type"]).pop("$defs", None)
        said["limits"] = limits
    return said


def _limits(info: FieldInfo) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in cast("list[object]", info.metadata):
        for option, keyword in _KEYWORDS.items():
            value = getattr(entry, option, None)
            if value is not None and isinstance(value, str | int | float):
                found[keyword] = value
    return found


def _parts(annotation: object) -> Iterator[object]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def schema_document(name: str, cls: type[BaseModel]) -> dict[str, object]:
    """The document of `cls`.

    Raises:
        CompileError: DX2208 when a field's type has no JSON Schema.
    """
    try:
        made = cls.model_json_schema(schema_generator=_Documents)
    except PydanticUserError as error:
        raise CompileError(
            "DX2208",
            f"the schema {name} has no JSON Schema: {error.message}",
            fix="use field types that JSON can hold, or give the type a JSON Schema",
        ) from error
    except KeyError as error:
        # pydantic takes a '$ref' anywhere for a reference, in a default too.
        raise CompileError(
            "DX2208",
            f"the schema {name} has no JSON Schema: a value in it refers to {error}, which is nowhere",
            fix="leave '$ref' out of defaults and examples",
        ) from error
    _complete(made, cls)
    return made


def code_in(documents: Mapping[str, object], schemas: Mapping[str, type[BaseModel]]) -> dict[str, tuple[str, ...]]:
    """By name of a schema, what of it is code or otherwise not in its document; schemas without such are left out."""
    reasons = {name: tuple(dict.fromkeys(_code(cls))) for name, cls in schemas.items()}
    plain = {name: document for name, document in documents.items() if not reasons[name]}
    try:
        again = dict(rebuilt(plain))
    except CompileError:
        again = {}
        for name in plain:
            try:
                again[name] = rebuilt({name: plain[name]})[name]
            except CompileError as error:
                reasons[name] = (error.message.partition(": ")[2],)
        if all(not reasons[name] for name in plain):
            # Each can be rebuilt alone: two of them have one name.
            for name in plain:
                reasons[name] = ("another schema of the program has the same name",)
    for name, made in again.items():
        difference = _difference(schemas[name], made)
        if difference and not reasons[name]:
            reasons[name] = (difference,)
    for name, cls in schemas.items():
        # A class with validators is more than its document, and an artifact that says nothing of them had none.
        _CACHE[cls] = {} if reasons[name] else cast("Mapping[str, object]", documents[name])
    return {name: found for name, found in reasons.items() if found}


def _difference(before: type[BaseModel], after: type[BaseModel]) -> str | None:
    """Where the rebuilt class differs; None when pydantic does the same with both."""
    if before.model_json_schema() != after.model_json_schema():
        return "its JSON Schema does not say all of it"
    for cls in (before, after):
        cls.model_rebuild()
    first, second = (_Fingerprint(cls).text for cls in (before, after))
    if first != second:
        at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
        return f"a type or option that its JSON Schema does not say, at {first[max(0, at - 40) : at + 40]!r}"
    for name, info in before.model_fields.items():
        other = after.model_fields[name]
        if _seen(info) != _seen(other):
            return f"the type of its field {name!r}"
    return None


def _seen(info: FieldInfo) -> object:
    """What prompts say of a field."""
    adapter = TypeAdapter[object](cast("type[object]", info.annotation))
    return (adapter.json_schema(), info.description, _shape(info.annotation), _field(info).get("choices"))


def _shape(annotation: object) -> object:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel | Enum):
        return annotation.__name__
    found = cast("Any", annotation)
    if hasattr(found, "__metadata__"):
        return _shape(get_args(found)[0])
    parts: tuple[Any, ...] = (Any,) if found is list else (Any, Any) if found is dict else get_args(found)
    return [_shape(part) for part in parts] if parts else str(found)


_OWN: Final = frozenset(
    {"__module__", "__doc__", "__qualname__", "__annotations__", "__dict__", "__weakref__", "__slots__"}
)


def _code(cls: type[BaseModel], seen: set[type] | None = None) -> Iterator[str]:
    """Names of what is code in a model and the models inside it."""
    seen = set() if seen is None else seen
    if cls in seen:
        return
    seen.add(cls)
    place = place_of(cls)
    decorators = cls.__pydantic_decorators__
    for kind in (
        "field_validators",
        "model_validators",
        "validators",
        "root_validators",
        "field_serializers",
        "model_serializers",
        "computed_fields",
    ):
        for name in getattr(decorators, kind):
            yield f"{place}.{name}"
    for base in cls.__mro__:
        if base in (Schema, BaseModel, object) or not issubclass(base, BaseModel):
            continue
        if base.__module__.startswith("pydantic."):
            continue
        for name, member in vars(base).items():
            if str(getattr(member, "__module__", "")).startswith("pydantic."):
                continue
            if name in _OWN or name.startswith(
                ("__pydantic", "__private", "__class_vars", "__signature__", "__abstract")
            ):
                continue
            if (callable(member) or isinstance(member, classmethod | staticmethod | property)) and (
                hasattr(BaseModel, name)
            ):
                yield f"{base.__module__}:{base.__qualname__}.{name}"
    if cls.__private_attributes__:
        yield f"{place}: private attributes"
    for name, info in cls.model_fields.items():
        if info.alias is not None or info.validation_alias is not None or info.serialization_alias is not None:
            yield f"{place}.{name}: an alias"
        factory = cast("object", info.default_factory)
        if factory is not None and not any(factory is known for known in FACTORIES.values()):
            yield f"{place}.{name}: a default factory"
        if any(isinstance(part, type) and issubclass(part, SecretStr) for part in _parts(info.annotation)) and (
            info.default is not None and not info.is_required()
        ):
            yield f"{place}.{name}: a secret as a default, which is never saved"
        for part in _parts(info.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _code(part, seen)


class _Fingerprint:
    """What pydantic does with a class, as text: its core schema without names of places and identities."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self._definitions: dict[str, object] = {}
        self._seen: dict[str, int] = {}
        self.text = json.dumps(self._plain(cls.__pydantic_core_schema__), sort_keys=True, default=repr)

    def _plain(self, value: object) -> object:
        if isinstance(value, dict):
            entries = cast("dict[str, object]", value)
            if entries.get("type") == "definitions":
                for definition in cast("list[dict[str, object]]", entries["definitions"]):
                    self._definitions[cast("str", definition["ref"])] = definition
                return self._plain(entries["schema"])
            if entries.get("type") == "definition-ref":
                return self._named(cast("str", entries["schema_ref"]))
            if isinstance(ref := entries.get("ref"), str):
                self._seen.setdefault(ref, len(self._seen))
            found = {
                name: self._plain(item)
                for name, item in entries.items()
                if name not in ("metadata", "ref", "serialization")
            }
            if "serialization" in entries:
                found["serialization"] = self._plain(entries["serialization"])
            if entries.get("type") in ("list", "set", "frozenset"):
                found.setdefault("items_schema", {"type": "any"})
            return found
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in cast("list[object]", value)]
        return self._leaf(value)

    def _named(self, ref: str) -> object:
        if ref in self._seen:
            return {"again": self._seen[ref]}
        return self._plain(self._definitions[ref])

    def _leaf(self, value: object) -> object:
        if isinstance(value, type):
            if issubclass(value, Enum):
                return ["enum", value.__name__, [[m.name, repr(m.value)] for m in value]]
            if issubclass(value, BaseModel):
                return ["model", value.__name__]
            return ["type", value.__module__, value.__qualname__]
        if isinstance(value, Enum):
            return ["member", type(value).__name__, value.name]
        if isinstance(value, BaseModel):
            return ["instance", type(value).__name__, value.model_dump_json()]
        if value is None or isinstance(value, bool | str | int | float):
            return value if value is None or isinstance(value, bool | str) else [type(value).__name__, repr(value)]
        if isinstance(value, set | frozenset):
            members = cast("set[object]", value)
            return [type(members).__name__, sorted(repr(item) for item in members)]
        if callable(value):
            owner = getattr(value, "__self__", None)
            cells = getattr(value, "__closure__", None) or ()
            name = getattr(value, "__qualname__", repr(value))
            inner: list[object] = []
            if name.startswith(OneOf.__name__):
                inner = [repr(cell.cell_contents) for cell in cells]
            about = owner.__name__ if isinstance(owner, type) else None
            return ["code", getattr(value, "__module__", None), name, about, *inner]
        try:
            return [type(value).__name__, to_jsonable_python(value)]
        except PydanticSerializationError:
            return ["object", repr(value)]


def is_described(cls: type[BaseModel], key: str, found: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether `found`, definitions by key, say of `cls` and what it is made of exactly what its own document says."""
    document = _CACHE.get(cls)
    if document is None:
        try:
            document = schema_document(key, cls)
        except CompileError:
            return False
        code_in({key: document}, {key: cls})
        document = _CACHE[cls]
    if not document:
        return False
    whole = dict(document)
    inner = cast("dict[str, object]", whole.pop("$defs", {}))
    own = inner if "$ref" in whole else {**inner, key: whole}
    return all(found.get(name) == definition for name, definition in own.items())
