"""Schemas rebuilt from their documents: JSON Schema, with what JSON Schema cannot say under ``x-dspex``.

A document comes from a file that anyone may have written. Every keyword, name and number in it is checked before
pydantic sees it; nothing in it is evaluated; a keyword that is not understood is an error, never passed over.
`dspex.compiler.artifact.documents` writes documents and says which schemas a document cannot carry.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ForwardRef, Union, cast
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field, create_model

from dspex.compiler.artifact.keywords import (
    ABOUT,
    CLASS_NAME,
    EXTRA,
    FACTORIES,
    MAX_DEPTH,
    MAX_NODES,
    NOTHING,
    SIZES,
    TEXT_OPTIONS,
    UNPLAIN,
    Misfit,
    as_list,
    as_object,
    as_text,
    check_value,
    config_of,
    decimal_of,
    default_of,
    enum_of,
    limits_of,
    literal_of,
    string_of,
    target_of,
)
from dspex.errors import CompileError
from dspex.program.schema import OneOf, Schema, VariableMark

__all__ = ["auto_title", "definitions", "loaded_class", "place_of", "rebuilt"]


def unsound(why: str) -> CompileError:
    """The error for a document that no schema has."""
    return CompileError("DX2210", f"a schema of the artifact cannot be rebuilt: {why}", fix="compile and save it again")


def definitions(documents: Mapping[str, object]) -> tuple[dict[str, str], dict[str, Mapping[str, object]]]:
    """For each document the key of its own definition, and all definitions of all documents by key.

    Raises:
        CompileError: DX2210 when a document is none, or two say different things under one key.
    """
    roots: dict[str, str] = {}
    found: dict[str, Mapping[str, object]] = {}
    try:
        for name, document in documents.items():
            whole = dict(as_object(document, name))
            inner = as_object(whole.pop("$defs", {}), f"{name}: $defs")
            for key, definition in inner.items():
                _add(found, key, as_object(definition, f"{name}: {key}"))
            if "$ref" in whole:
                roots[name] = target_of(whole["$ref"], name)
            else:
                roots[name] = _key(whole, name)
                _add(found, roots[name], whole)
        for name, key in roots.items():
            if key not in found:
                raise Misfit(f"{name} refers to {key!r}, which is nowhere")
    except Misfit as error:
        raise unsound(str(error)) from None
    return roots, found


def _add(found: dict[str, Mapping[str, object]], key: str, definition: Mapping[str, object]) -> None:
    if key in found and found[key] != definition:
        raise Misfit(f"two different schemas are called {key!r}")
    found[key] = definition


def _key(document: Mapping[str, object], name: str) -> str:
    about = document.get(EXTRA)
    given = about.get("name") if isinstance(about, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    # As pydantic writes a class's name in references.
    return UNPLAIN.sub("_", given) if isinstance(given, str) else name


class Rebuilt(Mapping[str, type[BaseModel]]):
    """Model classes by the names of their documents.

    Their validators are built when the first of them is asked for: an artifact that is only read never needs them,
    and they are half the time that a process takes to load one.

    Attributes:
        fields: The same classes, with their fields alone.
    """

    def __init__(self, fields: dict[str, type[BaseModel]], finish: Callable[[], None]) -> None:
        self.fields = fields
        self._finish: Callable[[], None] | None = finish

    def __getitem__(self, name: str) -> type[BaseModel]:
        if self._finish is not None:
            with _refusing():
                self._finish()
            self._finish = None
        return self.fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


def rebuilt(
    documents: Mapping[str, object], live: Callable[[str, str], type[BaseModel] | None] | None = None
) -> Rebuilt:
    """The model classes of `documents`, by the documents' names.

    Args:
        documents: JSON Schemas by name.
        live: Finds the class of a definition when this process has it already: called with the definition's key and
            its class (``module:qualname``).

    Raises:
        CompileError: DX2210; for what only a validator can tell, when the first class is asked for.
    """
    roots, found = definitions(documents)
    builder = _Builder(found, live)
    with _refusing():
        return Rebuilt({name: builder.model(key) for name, key in roots.items()}, builder.finish)


@contextmanager
def _refusing() -> Generator[None]:
    """What a document is not fit for becomes a DX2210."""
    try:
        with warnings.catch_warnings():
            # Names that shadow a method were warned of where the schema was defined.
            warnings.simplefilter("ignore")
            yield
    except Misfit as error:
        raise unsound(str(error)) from None
    except RecursionError:
        raise unsound("it is nested too deeply") from None
    except Exception as error:
        # pydantic and its core raise errors of many kinds, for schemas that only a crafted document has.
        raise unsound(f"{type(error).__name__}: {str(error)[:300]}") from error


def auto_title(name: str) -> str:
    """The title that pydantic gives a field."""
    return name.title().replace("_", " ").strip()


_PLACES: WeakKeyDictionary[type, str] = WeakKeyDictionary()
"""Where the originals of rebuilt classes stand, so that saving a rebuilt schema writes the same document."""


def place_of(cls: type) -> str:
    """``module:qualname`` of a class, or of the class that it was rebuilt from."""
    return _PLACES.get(cls) or f"{cls.__module__}:{cls.__qualname__}"


def loaded_class(where: str) -> type[BaseModel] | None:
    """The model class ``module:qualname`` when this process has it already; nothing is imported."""
    module, _, name = where.partition(":")
    found: object = sys.modules.get(module)
    for step in name.split("."):
        found = cast("Mapping[str, object]", getattr(found, "__dict__", {})).get(step)
    if isinstance(found, type) and issubclass(found, BaseModel):
        return found
    # A class of a function's own is under no name, but schemas know their subclasses; the latest goes first.
    below = [cls for cls in _below(Schema) if cls.__module__ == module and cls.__qualname__ == name]
    return below[-1] if below else None


def _below(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for inner in cls.__subclasses__():
        yield inner
        yield from _below(inner)


class _Builder:
    def __init__(
        self,
        found: Mapping[str, Mapping[str, object]],
        live: Callable[[str, str], type[BaseModel] | None] | None,
    ) -> None:
        self._found = found
        self._live = live
        self._done: dict[str, object] = {}
        self._open: dict[str, str] = {}
        self._inside: set[str] = set()
        self._made: list[type[BaseModel]] = []
        self._space: dict[str, object] = {}
        self._nodes = 0
        self._secret: object = None

    def model(self, key: str) -> type[BaseModel]:
        made = self.named(key, 0)
        if not (isinstance(made, type) and issubclass(made, BaseModel)):
            raise Misfit(f"{key!r} is no record")
        return made

    def finish(self) -> None:
        """Build every validator."""
        for made in self._made:
            if not made.__pydantic_complete__:
                made.model_rebuild(_types_namespace=self._space)

    def named(self, key: str, depth: int) -> object:
        if key in self._done:
            return self._done[key]
        if key in self._open:
            # A record inside itself: the name is ours, so that nothing of the document is evaluated.
            self._inside.add(key)
            return ForwardRef(self._open[key])
        document = self._found.get(key)
        if document is None:
            raise Misfit(f"there is no definition {key!r}")
        about = as_object(document.get(EXTRA, {}), f"{key}: {EXTRA}")
        self._open[key] = f"S{len(self._open)}"
        made: object = None
        where = about.get("class")
        if self._live is not None and isinstance(where, str):
            made = self._live(key, where)
        if made is None:
            if "enum" in about:
                made = enum_of(key, document, about)
            elif "properties" in document or about.get("name") is not None:
                made = self._record(key, document, about, depth + 1)
            else:
                from typing_extensions import TypeAliasType

                if not key.isidentifier():
                    raise Misfit(f"{key!r} is no name of a type")
                made = TypeAliasType(key, self.type(document, key, depth + 1))  # pyright: ignore[reportGeneralTypeIssues]
            if isinstance(made, type) and isinstance(where, str):
                _PLACES[made] = where
        self._done[key] = self._space[self._open[key]] = made
        if key in self._inside:
            for waiting in self._made:
                if not waiting.__pydantic_complete__:
                    waiting.model_rebuild(raise_errors=False, _types_namespace=self._space)
        return made

    # --- records ------------------------------------------------------------------------------------

    def _record(
        self, key: str, document: Mapping[str, object], about: Mapping[str, object], depth: int
    ) -> type[BaseModel]:
        allowed = {"type", "title", "description", "properties", "required", "additionalProperties", EXTRA}
        if unknown := sorted(set(document) - allowed):
            raise Misfit(f"{key}: {unknown[0]!r} is not understood")
        name = as_text(about.get("name", document.get("title", key)), f"{key}: name")
        if len(name) > 200 or not CLASS_NAME.fullmatch(name):
            raise Misfit(f"{key}: {name!r} is no name of a class")
        if codes := about.get("code"):
            raise Misfit(f"{key} has parts that are code: {codes!r:.200}")
        properties = as_object(document.get("properties", {}), f"{key}: properties")
        required = document.get("required", [])
        if not isinstance(required, list) or not set(cast("list[object]", required)) <= set(properties):
            raise Misfit(f"{key}: required is not a list of its fields")
        options = as_object(about.get("fields", {}), f"{key}: fields")
        fields: dict[str, Any] = {}
        for field, described in properties.items():
            if not field.isidentifier() or field.startswith(("_", "model_")) or len(field) > 200:
                raise Misfit(f"{key}: {field!r} is no name of a field")
            extra = as_object(options.get(field, {}), f"{key}.{field}")
            fields[field] = self._field(
                f"{key}.{field}", field, as_object(described, f"{key}.{field}"), extra, field in required, depth
            )
        description = document.get("description")
        base: type[BaseModel] = Schema if about.get("schema") is True else BaseModel
        config = config_of(key, about.get("config", {}), document)
        if config:
            # A class of its own carries the configuration: create_model takes a base or a configuration, not both.
            space = {"model_config": config, "__module__": __name__}
            base = cast("type[BaseModel]", types.new_class(name, (base,), exec_body=lambda body: body.update(space)))
        made = create_model(
            name,
            __base__=base,
            __module__="dspex.rebuilt",
            __doc__=None if description is None else as_text(description, f"{key}: description"),
            **fields,
        )
        self._made.append(made)
        return made

    def _field(
        self,
        where: str,
        name: str,
        document: Mapping[str, object],
        extra: Mapping[str, object],
        required: bool,
        depth: int,
    ) -> tuple[object, Any]:
        given: dict[str, Any] = {}
        body = dict(document)
        default = body.pop("default", NOTHING)
        title = body.pop("title", None)
        if title is not None and title != auto_title(name):
            given["title"] = as_text(title, where)
        description = body.pop("description", None)
        if description is not None:
            given["description"] = as_text(description, where)
        if "examples" in body:
            given["examples"] = as_list(body.pop("examples"), where)
            check_value(given["examples"], where, 0)
        if "deprecated" in body:
            given["deprecated"] = body.pop("deprecated") is True
        previous, self._secret = self._secret, extra.get("secret")
        choices = extra.get("choices")
        if choices is not None:
            body.pop("enum", None)
        if "type" in extra:
            annotation = self.type(as_object(extra["type"], where), where, depth)
            given.update(limits_of(as_object(extra.get("limits", {}), where), where, None))
        else:
            annotation = self.type(body, where, depth)
        self._secret = previous
        factory = extra.get("factory")
        if factory is not None:
            if factory not in FACTORIES:
                raise Misfit(f"{where}: the default factory {factory!r} is not known")
            given["default_factory"] = FACTORIES[cast(str, factory)]
        elif default is not NOTHING:
            given["default"] = default_of(annotation, default, where)
        elif not required:
            raise Misfit(f"{where} is not required and has no default")
        info = Field(**given)
        if choices is not None:
            values = as_list(choices, where)
            if not all(value is None or isinstance(value, str | int | float) for value in values):
                raise Misfit(f"{where}: choices are texts and numbers")
            info.metadata.append(OneOf(values))
        if extra.get("variable") is True:
            info.metadata.append(VariableMark())
        return annotation, info

    # --- types --------------------------------------------------------------------------------------

    def type(self, document: object, where: str, depth: int) -> object:
        """The annotation that a JSON Schema stands for."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise Misfit(f"{where}: it is nested too deeply, or too large")
        if document is True:
            return Any
        body = dict(as_object(document, where))
        given: dict[str, Any] = {}
        for keyword in ABOUT:
            if keyword in body:
                value = body.pop(keyword)
                check_value(value, where, 0)
                given[keyword] = as_text(value, where) if keyword in ("description", "title") else value
        about = as_object(body.pop(EXTRA, {}), where)
        annotation = self._plain(body, about, given, where, depth + 1)
        if body:
            raise Misfit(f"{where}: {sorted(body)[0]!r} is not understood")
        for option in ("strict", "allow_inf_nan"):
            if option in about:
                given[option] = about[option] is True
        texts: dict[str, Any] = {option: True for option in TEXT_OPTIONS if about.get(option) is True}
        if texts:
            # pydantic's types take longer to import than an artifact to load, and most need none of them.
            from pydantic import StringConstraints

            annotation = Annotated[cast(Any, annotation), StringConstraints(**texts)]
        return Annotated[cast(Any, annotation), Field(**given)] if given else annotation

    def _plain(
        self, body: dict[str, object], about: Mapping[str, object], given: dict[str, Any], where: str, depth: int
    ) -> object:
        """The type without what is said about it; takes what it understands out of `body`."""
        if about.get("type") == "decimal":
            body.clear()
            return decimal_of(about, given, where)
        if "format" in body and "anyOf" in body:
            # pydantic's ways of reading one text: it is said of all of them what they are.
            del body["anyOf"]
            body["type"] = "string"
        if "$ref" in body:
            return self.named(target_of(body.pop("$ref"), where), depth)
        if "const" in body:
            body.pop("type", None)
            return literal_of([body.pop("const")], where)
        if "enum" in body:
            body.pop("type", None)
            return literal_of(as_list(body.pop("enum"), where), where)
        for keyword in ("anyOf", "oneOf"):
            if keyword in body:
                members = as_list(body.pop(keyword), where)
                if not 1 <= len(members) <= 1_000:
                    raise Misfit(f"{where}: a union has 1 to 1000 members")
                if keyword == "oneOf":
                    chosen = as_object(body.pop("discriminator", None), where)
                    given["discriminator"] = as_text(chosen.get("propertyName"), where)
                kinds = tuple(self.type(member, where, depth) for member in members)
                return Union[kinds]  # noqa: UP007 - the members are known only now
        kind = body.pop("type", None)
        if kind is None:
            if body:
                raise Misfit(f"{where}: {sorted(body)[0]!r} is not understood")
            return Any
        if not isinstance(kind, str):
            raise Misfit(f"{where}: its type is no text")
        limits = {keyword: body.pop(keyword) for keyword in SIZES.get(kind, ()) if keyword in body}
        match kind:
            case "null":
                return type(None)
            case "boolean":
                return bool
            case "integer":
                given.update(limits_of(limits, where, kind))
                return int
            case "number":
                given.update(limits_of(limits, where, kind))
                return float
            case "string":
                found = string_of(body, limits, self._secret, where)
                given.update(limits_of(limits, where, kind))
                return found
            case "array":
                return self._array(body, limits, about, given, where, depth)
            case "object":
                given.update(limits_of(limits, where, kind))
                body.setdefault("additionalProperties", True)
                value = self.type(body.pop("additionalProperties"), where, depth)
                key = self.type(body.pop("propertyNames"), where, depth) if "propertyNames" in body else str
                return dict[Any if about.get("type") == "dict" else cast(Any, key), cast(Any, value)]
            case _:
                raise Misfit(f"{where}: the type {kind!r} is not known")

    def _array(
        self,
        body: dict[str, object],
        limits: dict[str, object],
        about: Mapping[str, object],
        given: dict[str, Any],
        where: str,
        depth: int,
    ) -> object:
        if "prefixItems" in body:
            members = as_list(body.pop("prefixItems"), where)
            if limits.pop("minItems", 0) != len(members) or limits.pop("maxItems", None) != len(members):
                raise Misfit(f"{where}: a tuple has as many items as types")
            return tuple.__class_getitem__(tuple(cast(Any, self.type(item, where, depth)) for item in members))
        shape = about.get("type")
        if "items" not in body and shape is None and limits.get("maxItems") == 0:
            limits.clear()
            return tuple[()]
        given.update(limits_of(limits, where, "array"))
        item = cast(Any, self.type(body.pop("items", {}), where, depth))
        unique = body.pop("uniqueItems", False) is True
        if shape == "frozenset":
            return frozenset[item]
        if shape == "tuple":
            return tuple[item, ...]
        return set[item] if unique else list[item]
