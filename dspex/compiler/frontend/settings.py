"""What feeds each setting of a module: a Variable by its full name, or a constant."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from dspex.compiler.ir.nodes import Constant, Setting, Variable
from dspex.program.modules import Module
from dspex.program.tree import join
from dspex.program.variables import Var

__all__ = ["module_settings"]

_PLACEHOLDER: Final = re.compile(r"(?<!\{)\{([A-Za-z_]\w*)\}(?!\})")


def module_settings(module: Module[Any, Any]) -> tuple[Setting, ...]:
    """The settings of an LM node, in the order of the module's arguments."""
    path = module.dx_node.path
    own = module.dx_variables()
    result: list[Setting] = []
    for name, given in module.arguments.items():
        if isinstance(given, Var):
            variable = cast("Var[Any]", given)
            result.append(Setting(name, Variable(module.dx_full_name(variable.name))))
        elif name in own:
            result.append(Setting(name, Variable(join(path, name))))
        elif given is not None and name != "lm":
            result.append(Setting(name, Constant.of(given)))
        if name == "instruction":
            result += _placeholders(module, own)
    result += [Setting(name, Variable(join(path, name))) for name in own if name.startswith("input.")]
    if module.reasons:
        result.append(Setting("reasoning", Constant.of(True)))
    return tuple(result)


def _placeholders(module: Module[Any, Any], own: dict[str, Var[Any]]) -> list[Setting]:
    """The Variables of the owning program that the instruction's texts name."""
    owner = module.owner()
    given = module.arguments["instruction"]
    variable = own.get("instruction") if not isinstance(given, Var) else cast("Var[Any]", given)
    if owner is None or variable is None:
        return []
    known = owner.dx_variables()
    texts = [text for text in variable.options if isinstance(text, str)]
    names = dict.fromkeys(name for text in texts for name in _PLACEHOLDER.findall(text) if name in known)
    return [Setting(f"instruction.{name}", Variable(join(owner.dx_node.path, name))) for name in names]
