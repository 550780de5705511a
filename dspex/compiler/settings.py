"""From a node and a configuration to what is sent: the one place where a plan reads its modules' settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import BaseModel

from dspex.compiler.ir.nodes import Constant, Lm, Value, Variable
from dspex.errors import CompileError, ProgramError
from dspex.program.demos import DemoSet, DemoSource
from dspex.program.modules import Answers, Format, ModuleSettings, Scoring
from dspex.program.modules.module import argument_problem
from dspex.program.schema import Schema, closed_choice
from dspex.program.tree import join

if TYPE_CHECKING:
    from dspex.lm.model import LMLike
    from dspex.program.space import Space

__all__ = ["PLACEHOLDER", "named", "settings_of"]

# {{name}} stands for a literal {name}, as in the modules themselves.
PLACEHOLDER: Final = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")

_ARGUMENTS: Final = frozenset(
    (
        "instruction",
        "demos",
        "demos_k",
        "temperature",
        "max_tokens",
        "format",
        "scoring",
        "lm",
        "prior",
        "answers",
        "repairs",
    )
)
_ABSENT: Final[Mapping[str, object]] = {
    "temperature": 0.0,
    "max_tokens": 512,
    "format": "chat",
    "scoring": "generate",
    "answers": "auto",
    "repairs": 1,
}


def settings_of(
    node: Lm,
    schemas: Mapping[str, type[BaseModel]],
    space: Space,
    config: Mapping[str, object],
    models: Mapping[str, Mapping[str, LMLike]],
) -> ModuleSettings[Any, Any]:
    """What the module of `node` asks of a model under `config`; equal to `Module.settings` of the bound program.

    Args:
        node: One call of the module.
        schemas: The classes behind the graph's names.
        space: The Variables; their kinds say what a placeholder may name.
        config: The value of every Variable.
        models: As in `Code.models`.

    Raises:
        ProgramError: DX1509 when a Variable gives an argument a value that it does not take.
        CompileError: DX2302 when a schema of the node is not known.
    """
    given, output = (_schema(node, str(kind), schemas) for kind in (node.input, node.type))
    reasoning = False
    values: dict[str, object] = {}
    inputs: dict[str, object] = {}
    filled: dict[str, object] = {}
    for setting in node.settings:
        head, _, rest = setting.name.partition(".")
        if head == "input" and rest:
            inputs[rest] = _value(setting.value, config)
        elif head == "instruction" and rest:
            filled[rest] = _value(setting.value, config)
        elif head == "reasoning":
            reasoning = bool(_value(setting.value, config))
        elif not rest:
            value = _value(setting.value, config)
            values[head] = value.value if isinstance(value, Enum) else value
    closed = None if reasoning else closed_choice(output)
    count = None if closed is None else len(closed)
    for name, value in values.items():
        problem = argument_problem(name, value, count, output.__name__, reasons=reasoning)
        if problem is not None:
            raise ProgramError("DX1509", f"{node.module}: {problem[0]}", where=node.module, fix=problem[1])
    get = {**_ABSENT, **values}.get
    text = get("instruction")
    prior = get("prior")
    return ModuleSettings(
        path=node.module,
        input=given,
        output=output,
        instruction=_filled(node, text if isinstance(text, str) else "", filled, space, config),
        demos=cast("DemoSource", values.get("demos", DemoSet())),
        demos_k=cast("int | None", get("demos_k")),
        temperature=float(cast("float", get("temperature"))),
        max_tokens=cast("int", get("max_tokens")),
        format=cast("Format", get("format")),
        scoring=cast("Scoring", get("scoring")) if closed is not None else "generate",
        reasoning=reasoning,
        lm=_model(get("lm"), models.get(node.module, {})),
        prior=None if prior is None else tuple(cast("list[float]", prior)),
        answers=cast("Answers", get("answers")),
        repairs=cast("int", get("repairs")),
        input_values=inputs,
    )


def _schema(node: Lm, name: str, schemas: Mapping[str, type[BaseModel]]) -> type[Schema]:
    found = schemas.get(name)
    if found is None:
        raise CompileError(
            "DX2302",
            f"the graph names the schema {name}, which is not known",
            where=node.module,
            fix="compile the program again, or load the artifact that the graph came with",
        )
    return cast("type[Schema]", found)


def _value(value: Value, config: Mapping[str, object]) -> object:
    return config[value.name] if isinstance(value, Variable) else cast("Constant", value).value


def _model(chosen: object, models: Mapping[str, LMLike]) -> LMLike | None:
    if chosen is None:
        return models.get("")
    return models.get(chosen, chosen) if isinstance(chosen, str) else cast("LMLike", chosen)


def _filled(node: Lm, text: str, known: Mapping[str, object], space: Space, config: Mapping[str, object]) -> str:
    if "{" not in text:
        return text

    def replacement(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        if escaped is not None:
            return "{" + escaped + "}"
        if name in known:
            value = known[name]
        else:
            full = named(node, name, space)
            # A text that a proposer wrote may hold any braces; the author's own texts were checked.
            if full is None:
                return match.group()
            value = config[full]
        return str(cast("object", value.value) if isinstance(value, Enum) else value)

    return PLACEHOLDER.sub(replacement, text)


def named(node: Lm, name: str, space: Space) -> str | None:
    """Full name of the Variable that ``{name}`` stands for in an instruction of `node`; None when it is none.

    A Variable that was given to the module itself goes before one of the program around it.
    """
    if name not in _ARGUMENTS:
        own = join(node.module, name)
        if own in space.variables:
            return own
    around = join(node.scope, name)
    variable = space.variables.get(around)
    # A selection's Variable belongs to the selection, which gives no names to the texts beside it.
    return None if variable is None or variable.kind == "module" else around
