"""What feeds each setting of a module: a Variable by its full name, or a constant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dspex.compiler.code import name_of
from dspex.compiler.ir.nodes import Constant, Setting, Variable
from dspex.compiler.settings import PLACEHOLDER
from dspex.program.modules import Module
from dspex.program.tree import join
from dspex.program.variables import Var

if TYPE_CHECKING:
    from dspex.lm.model import LMLike

__all__ = ["module_scope", "module_settings"]


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
        elif given is not None:
            result.append(Setting(name, Constant.of(name_of(cast("LMLike", given)) if name == "lm" else given)))
        if name == "instruction":
            result += _placeholders(module, own)
    result += [Setting(name, Variable(join(path, name))) for name in own if name.startswith("input.")]
    if module.reasons:
        result.append(Setting("reasoning", Constant.of(True)))
    return tuple(result)


def module_scope(module: Module[Any, Any]) -> str:
    """Path of the program whose Variables the module's instruction may name."""
    owner = module.owner()
    return "" if owner is None else owner.dx_node.path


def _placeholders(module: Module[Any, Any], own: dict[str, Var[Any]]) -> list[Setting]:
    """The Variables of the owning program that the instruction's texts name."""
    owner = module.owner()
    if owner is None:
        return []
    given = module.arguments["instruction"]
    known = owner.dx_variables()
    if isinstance(given, Var):
        # The pool may have grown since the Variable was given to the module.
        name = cast("Var[Any]", given).name
        variable = known.get(name, own.get(name, cast("Var[Any]", given)))
    else:
        variable = own["instruction"]
    texts = [text for text in variable.options if isinstance(text, str)]
    found = (match.group(2) for text in texts for match in PLACEHOLDER.finditer(text))
    names = dict.fromkeys(name for name in found if name in known)
    return [Setting(f"instruction.{name}", Variable(join(owner.dx_node.path, name))) for name in names]
