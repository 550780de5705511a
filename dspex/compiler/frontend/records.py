"""Schemas that a body constructs and copies."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel

from dspex.compiler.frontend.annotations import schema_named
from dspex.compiler.frontend.symbols import Symbolic, class_of
from dspex.compiler.ir.nodes import Argument, Join
from dspex.errors import CompileError

if TYPE_CHECKING:
    from dspex.compiler.frontend.interpret import Interpreter

__all__ = ["constructed", "copied"]


def constructed(body: Interpreter, schema: type[BaseModel], call: ast.Call) -> Symbolic | None:
    """A schema construction as a record; None when it has ``**``."""
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    names = [cast("str", keyword.arg) for keyword in call.keywords]
    fields = schema.model_fields
    known = [alias for name, info in fields.items() for alias in (name, info.alias, info.validation_alias)]

    def where() -> str:
        return f"{body.location(call)}  {ast.unparse(call)}"

    if call.args:
        raise CompileError(
            "DX2004",
            f"{schema.__name__} takes its fields by name, got {len(call.args)} positional values",
            where=where(),
            fix=f"write {schema.__name__}({', '.join(f'{name}=...' for name in fields)})",
        )
    if schema.model_config.get("extra") != "allow":
        for name in names:
            if name not in known:
                near = schema_named(name, tuple(fields))
                raise CompileError(
                    "DX2004",
                    f"{schema.__name__} has no field {name!r}; it has {', '.join(fields) or 'none'}",
                    where=where(),
                    fix=f"did you mean {near!r}?" if near else f"drop {name!r}, or add it to the schema",
                )
    aliased = {name for name, info in fields.items() if info.alias in names or info.validation_alias in names}
    absent = [n for n, info in fields.items() if info.is_required() and n not in names and n not in aliased]
    if absent:
        raise CompileError(
            "DX2004",
            f"{schema.__name__} is constructed without its required {', '.join(absent)}",
            where=where(),
            fix=f"give {', '.join(f'{name}=...' for name in absent)}, or give the field a default in the schema",
        )
    args = tuple(Argument(n, body.value(k.value).value) for n, k in zip(names, call.keywords, strict=True))
    return body.emit(Join(body.reader.fresh(), "record", args, body.reader.type(schema)), call, schema)


def copied(body: Interpreter, func: ast.Attribute, call: ast.Call) -> Symbolic | None:
    """`x.model_copy(update={...})` of a schema; None when only Python can say."""
    base = body.evaluate(func.value)
    if not isinstance(base, Symbolic) or not _is_schema(base.type) or call.args:
        return None
    args = [Argument(None, base.value)]
    for keyword in call.keywords:
        update = keyword.value
        if keyword.arg != "update" or not isinstance(update, ast.Dict):
            return None
        for key, value in zip(update.keys, update.values, strict=True):
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                return None
            schema = cast("type[BaseModel]", base.type)
            if key.value not in schema.model_fields:
                near = schema_named(key.value, tuple(schema.model_fields))
                raise CompileError(
                    "DX2004",
                    f"{schema.__name__} has no field {key.value!r}; it has {', '.join(schema.model_fields)}",
                    where=f"{body.location(call)}  {ast.unparse(call)}",
                    fix=f"did you mean {near!r}?" if near else f"drop {key.value!r}, or add it to the schema",
                )
            args.append(Argument(key.value, body.value(value).value))
    if len({a.name for a in args}) != len(args):
        return None
    made = Join(body.reader.fresh(), "copy", tuple(args), body.reader.type(base.type))
    return body.emit(made, call, base.type)


def _is_schema(kind: object) -> bool:
    found = class_of(kind)
    return found is not None and issubclass(found, BaseModel)
