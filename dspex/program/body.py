"""What a program's class body declares: its Variables, and the modules that its instances copy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from dspex.errors import ProgramError
from dspex.program.declare import Declared
from dspex.program.rules import Rule
from dspex.program.tree import found
from dspex.program.variables import Var, place

if TYPE_CHECKING:
    from dspex.program.program import Program

__all__ = ["read_body"]


def read_body(
    cls: type[Program[Any, Any]], root: type[Program[Any, Any]]
) -> tuple[Mapping[str, Var[Any]], tuple[str, ...]]:
    """The Variables of `cls` by name, bases first, and the names of its attributes that hold programs.

    Args:
        cls: A class whose body has just been executed.
        root: `Program`, whose own names no Variable may take.

    Raises:
        ProgramError: For a name that is taken, a Variable under two names or replaced by a plain value, an
            annotation that disagrees with its default, a rule that is none.
    """
    declared: dict[str, Var[Any]] = {}
    templates: dict[str, None] = {}
    reserved = {name for name in vars(root) if not name.startswith("_")} - {"rules", "lm"}
    for base in reversed(cls.__mro__):
        if not issubclass(base, root) or base is root:
            continue
        for name, value in cast("Mapping[str, object]", vars(cast(type, base))).items():
            if name.startswith("__"):
                continue
            if isinstance(value, Var):
                if name in reserved:
                    raise ProgramError(
                        "DX1206",
                        f"a Variable of {cls.__name__} is named {name!r}, as is a part of dx.Program",
                        where=place(value.at, name),
                        fix="give it another name",
                    )
                if value.name != name:
                    raise ProgramError(
                        "DX1205",
                        f"the Variable {value.name!r} is assigned to {cls.__name__}.{name}",
                        where=place(value.at, name),
                        fix=f"a Variable has one name: call both {name!r}, or declare a second Variable",
                    )
                declared[name] = value
                templates.pop(name, None)
            elif name in declared:
                raise ProgramError(
                    "DX1211",
                    f"{base.__name__}.{name} replaces a Variable by {value!r}, and rules and modules that name it hang",
                    where=place(declared[name].at, name),
                    fix=f"{cls.__name__}().bind({name}=...) fixes its value; a dx.var of one choice fixes it for good",
                )
            elif any(True for _ in found(value, name)):
                if name in reserved:
                    raise ProgramError(
                        "DX1206",
                        f"a module of {cls.__name__} is named {name!r}, as is a part of dx.Program",
                        fix="give it another name",
                    )
                templates[name] = None
            else:
                templates.pop(name, None)
    for rule in cls.rules:
        if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
            from dspex.program.program import not_a_rule

            raise not_a_rule(cls.__name__, rule)
    _settle(cls)
    return declared, tuple(templates)


def _settle(cls: type) -> None:
    """Give the class's own Variables their kinds now, while the names around the class are still at hand."""
    own = [cast("Declared[Any]", value) for value in vars(cls).values() if isinstance(value, Declared)]
    if not own:
        return
    around = _names_around(cls)
    for variable in own:
        try:
            variable.settled(around)
        except ProgramError as error:
            # A name that does not exist yet may exist at the first use; everything else is wrong for good.
            if error.code != "DX1203":
                raise


def _names_around(cls: type) -> Mapping[str, object] | None:
    """Local names of the function whose body holds the class statement; None at module level."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_globals.get("__name__") != cls.__module__:
        frame = frame.f_back
    if frame is None or frame.f_locals is frame.f_globals:
        return None
    return dict(frame.f_locals)
