"""What a plan calls that is not in the graph: functions, models that modules name, the program itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from dspex.program.program import Program
from dspex.program.variables import Var

if TYPE_CHECKING:
    from dspex.lm.model import LMLike

__all__ = ["Code", "models_of", "name_of"]

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Code:
    """What a plan calls beside language models, and which models its modules name.

    Attributes:
        functions: Callables by `Python.key` and by `Tool.target`.
        models: By module path, the models that its `lm` setting can name; under ``""`` the one that the module gets
            from itself or from the programs around it when it has no such setting.
        program: The program as it was compiled; None for an artifact that needs no source.
        rebuilt: The schemas were rebuilt from JSON Schema and are not the classes that the program was written with:
            inputs are then taken by their fields.
        origin: What an artifact says of where its program stands; empty for a program that was compiled here.
    """

    functions: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: _NONE)
    models: Mapping[str, Mapping[str, LMLike]] = field(default_factory=lambda: _NONE)
    program: Program[Any, Any] | None = None
    rebuilt: bool = False
    origin: Mapping[str, object] = field(default_factory=lambda: _NONE)


def models_of(program: Program[Any, Any]) -> dict[str, dict[str, LMLike]]:
    """The models that each module of `program` names, in the form of `Code.models`."""
    result: dict[str, dict[str, LMLike]] = {}
    for path, module in program.modules().items():
        known: dict[str, LMLike] = dict(module.models)
        given = module.arguments["lm"]
        if given is None:
            around = module.inherited_lm()
            if around is not None:
                known[""] = around
        elif not known and not isinstance(given, Var):
            known[name_of(cast("LMLike", given))] = cast("LMLike", given)
        if known:
            result[path] = known
    return result


def name_of(model: LMLike) -> str:
    """What a setting calls `model`: the text itself, the name of a configuration, the name of an object."""
    if isinstance(model, str):
        return model
    name = getattr(model, "model", None)
    return name if isinstance(name, str) else cast("str", getattr(model, "name", type(model).__name__))
