"""What a program's class body declares: its Variables, and the modules that its instances copy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from dspex.errors import ProgramError
from dspex.program.computed import Computed, cycle_of_computed, sorted_by_need
from dspex.program.declare import Declared
from dspex.program.rules import Rule
from dspex.program.tree import found
from dspex.program.variables import Var, place

if TYPE_CHECKING:
    from dspex.program.program import Program

__all__ = ["read_body"]


def read_body(
    cls: type[Program[Any, Any]], root: type[Program[Any, Any]]
) -> tuple[Mapping[str, Var[Any]], tuple[str, ...], tuple[str, ...]]:
    """What the body of `cls` declares.

    Returns:
        The Variables by name, bases first; the names of the attributes that hold programs; the names of the computed
        Variables, in the order in which they are computed.

    Args:
        cls: A class whose body has just been executed.
        root: `Program`, whose own names no Variable may take.

    Raises:
        ProgramError: For a name that is taken, a Variable under two names or replaced by a plain value, an
            annotation that disagrees with its default, a rule that is none, a Variable of another program,
            computed Variables that form a cycle or mention an unknown name.
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
                _check_owners(cast("Var[Any]", value), cls)
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
    return declared, tuple(templates), _computed(cls, declared, templates)


def _check_owners(variable: Var[Any], cls: type) -> None:
    """Raise DX1217 when the bodies of two classes hold `variable` and neither inherits it from the other."""
    line = {(base.__module__, base.__qualname__) for base in cls.__mro__}
    for module, name, at in variable.owners:
        if (module, name) not in line:
            mine = [known[2] for known in variable.owners if (known[0], known[1]) in line]
            # The class is not made: it does not count the next time.
            made = (cls.__module__, cls.__qualname__)
            variable.owners = tuple(known for known in variable.owners if known[:2] != made)
            raise ProgramError(
                "DX1217",
                f"the Variable {variable.name!r} stands in two programs: {name} at {place(at)}, and {cls.__name__}"
                + (f" at {place(mine[0])}" if mine else ""),
                where=place(variable.at, variable.name),
                fix="declare one in each, or let a program hold both and share its own",
            )


def _computed(cls: type, declared: Mapping[str, Var[Any]], templates: Mapping[str, None]) -> tuple[str, ...]:
    from dspex.program.select import Select

    needs = {name: variable.of for name, variable in declared.items() if isinstance(variable, Computed)}
    if not needs:
        return ()
    selections = {name for name in templates if isinstance(getattr(cls, name), Select)}
    for name, of in needs.items():
        for other in of:
            if other not in declared and other not in selections:
                from dspex.program.space import unknown_mention

                raise unknown_mention(other, declared, f"computed Variable {name!r}", declared[name].domain)
    return tuple(sorted_by_need(needs, lambda cycle: cycle_of_computed(cycle, declared)))


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
