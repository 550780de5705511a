"""From a program to its graph, its parameter table, its prompts and its artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.compiler.artifact.loading import load_artifact
    from dspex.compiler.compiled import Compiled, compile
    from dspex.compiler.explain import Explanation, explain_code
    from dspex.compiler.ir.parser import parse

__all__ = ["Compiled", "Explanation", "compile", "explain_code", "load_artifact", "parse"]

# Lazy, because rendering and parsing live below this package and are loaded for every call without the rest.
_PLACES = {
    "Compiled": "compiled",
    "compile": "compiled",
    "Explanation": "explain",
    "explain_code": "explain",
    "load_artifact": "artifact",
    "parse": "ir.parser",
}


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{place}"), name)
