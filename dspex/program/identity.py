"""Content hashes of programs and functions: what a study compares before it resumes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from textwrap import dedent
from types import CodeType
from typing import TYPE_CHECKING, Any, cast

from dspex.program.demos import canonical_json, content_hash
from dspex.program.schema import Schema
from dspex.program.tree import walk

if TYPE_CHECKING:
    from dspex.program.modules import Module
    from dspex.program.program import Program

__all__ = ["behaviour_hash", "constant_text", "function_hash", "identity", "schema_text", "source_text"]


def identity(program: Program[Any, Any]) -> str:
    """Content hash over the sources, schemas, Variables, rules and values of a tree of programs."""
    from dspex.program.flow import Combinator
    from dspex.program.modules import Module

    parts: list[str] = []
    for below in walk(program):
        parts += [
            below.dx_node.path,
            *_sources(below),
            schema_text(below.input_schema),
            schema_text(below.output_schema),
        ]
        if isinstance(below, Module):
            parts.append(_module_text(below))
        elif isinstance(below, Combinator):
            parts.append(below.dx_text())
        elif below.is_scope():
            parts.append(_plain_attributes(below))
        parts.append(_model_text(below.lm))
    variables = program.variables()
    config = program.config
    for name, variable in variables.items():
        value = config[name]
        parts.append(variable.signature())
        if variable.kind == "computed":
            # What it depends on counts already.
            continue
        parts.append(getattr(value, "hash", None) or canonical_json(variable.to_json(value)))
    parts += [str(rule) for rule in program.all_rules()]
    return content_hash(*parts)


def schema_text(schema: type[Schema]) -> str:
    """The schema's JSON Schema as canonical JSON text."""
    return canonical_json(schema.model_json_schema())


def function_hash(function: Callable[..., object]) -> str:
    """Content hash of a function's source, or of its code where there is no source."""
    return content_hash(getattr(function, "__qualname__", type(function).__qualname__), source_text(function))


def behaviour_hash(function: Callable[..., object]) -> str:
    """Content hash of a function's source and of the plain values that it captured or has as defaults."""
    from inspect import getclosurevars, isfunction

    if not isfunction(function):
        return function_hash(function)
    found: dict[str, object] = {**getclosurevars(function).nonlocals, **(function.__kwdefaults__ or {})}
    found |= {f"default {number}": value for number, value in enumerate(function.__defaults__ or ())}
    return content_hash(
        function_hash(function),
        *(f"{name}={constant_text(value)}" for name, value in sorted(found.items()) if _is_plain(value)),
    )


def _is_plain(value: object) -> bool:
    """Whether the repr of `value` is the same in every process."""
    if isinstance(value, tuple | frozenset):
        return all(map(_is_plain, cast("tuple[object, ...] | frozenset[object]", value)))
    return value is None or isinstance(value, str | int | float)


def _sources(program: Program[Any, Any]) -> list[str]:
    """Sources of the program's own classes, most derived first; dspex's own count by name."""
    from dspex.program.function import FunctionProgram

    if isinstance(program, FunctionProgram):
        return [program.source[1], program.text()]
    texts: list[str] = []
    for cls in type(program).__mro__:
        if cls.__module__.partition(".")[0] in ("builtins", "typing", "abc"):
            continue
        texts.append(cls.__qualname__)
        if not cls.__module__.startswith("dspex."):
            texts.append(source_text(cls))
    return texts


def source_text(thing: Any) -> str:
    """The source of a class or function, or a rendering of its code where there is no source.

    A partial counts with its arguments, and an object that can be called with its class and its plain attributes.
    """
    if isinstance(thing, partial):
        bound = cast("partial[object]", thing)
        given = [constant_text(item) for item in bound.args] + [
            f"{name}={constant_text(value)}" for name, value in sorted(bound.keywords.items())
        ]
        return f"{source_text(bound.func)}({', '.join(given)})"
    if not (isinstance(thing, type) or inspect.isroutine(thing) or inspect.iscode(thing)):
        attributes = cast("dict[str, object]", getattr(thing, "__dict__", {}))
        plain = [
            f"{name}={constant_text(cast(object, value))}"
            for name, value in sorted(attributes.items())
            if isinstance(value, str | int | float | tuple | frozenset)
        ]
        return f"{source_text(type(cast(object, thing)))}({', '.join(plain)})"
    try:
        return dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        if isinstance(thing, type):
            return "\n".join(
                f"{name}:{_code(member.__code__)}" for name, member in vars(thing).items() if inspect.isfunction(member)
            )
        code = getattr(thing, "__code__", None)
        return _code(code) if isinstance(code, CodeType) else str(cast(object, type(thing)))


def _code(code: CodeType) -> str:
    """The code object as text that is the same in every process (the repr of one holds an address)."""
    constants = [_code(entry) if isinstance(entry, CodeType) else constant_text(entry) for entry in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names!r} {constants!r}"


def constant_text(constant: object) -> str:
    """The repr of a code object's constant, the same in every process: a frozenset's order follows the hash seed."""
    if isinstance(constant, frozenset):
        return f"frozenset({sorted(constant_text(item) for item in cast('frozenset[object]', constant))})"
    if isinstance(constant, tuple):
        return f"({', '.join(constant_text(item) for item in cast('tuple[object, ...]', constant))})"
    return repr(constant)


def _module_text(module: Module[Any, Any]) -> str:
    plain = {
        name: value
        for name, value in module.arguments.items()
        if isinstance(value, str | int | float) and name not in ("instruction", "lm")
    }
    named = {name: getattr(value, "name", "") for name, value in module.arguments.items() if _is_variable(value)}
    models = [_model_text(model) for model in (*module.models.values(), module.arguments["lm"])]
    return canonical_json([type(module).__name__, plain, named, models])


def _is_variable(value: object) -> bool:
    from dspex.program.variables import Var

    return isinstance(value, Var)


def _model_text(model: object) -> str:
    """Name and address of a model given in the program; never its key."""
    if model is None or isinstance(model, str):
        return model or ""
    name = getattr(model, "model", None) or getattr(model, "name", "")
    return f"{name} {getattr(model, 'base_url', None) or ''}"


def _plain_attributes(program: Program[Any, Any]) -> str:
    """Attributes that `__init__` set to plain values or tools: they change what the program does."""
    from dspex.program.tools import Tool

    return canonical_json(
        {
            name: value
            for name, value in sorted(program.__dict__.items())
            if isinstance(value, str | int | float | bool) and name not in program.dx_node.values
        }
        | {
            name: function_hash(cast("Tool[..., Any]", value).function)
            for name, value in sorted(program.__dict__.items())
            if isinstance(value, Tool)
        }
    )
