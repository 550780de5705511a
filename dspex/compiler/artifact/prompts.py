"""Prompts as Markdown: for a person to read, and to edit where an instruction is a Variable."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dspex.compiler.ir.nodes import Constant, Lm, Variable
from dspex.errors import CompileError, LMError
from dspex.lm.types import Capabilities, LMRequest
from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.schema import secret_fields
from dspex.program.tree import join
from dspex.program.variables import Text

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.program.modules import ModuleSettings

__all__ = [
    "edited_instruction",
    "instruction_of",
    "prompt_markdown",
    "prompt_request",
    "request_text",
    "shown_demos",
]

_EVERYTHING = Capabilities(raw_prompt=True, json_schema=True, choices=True, score_choices=True, tools=True)
_SHOWN = 3
_INSTRUCTION = re.compile(r"^## Instruction\n\n(`{4,})text\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def instruction_of(compiled: Compiled[Any, Any], module: str) -> tuple[str, str | None]:
    """A module's instruction with its placeholders, and the Text Variable that it is a value of, if it is one."""
    node = compiled.plan.calls.get(module)
    name: str | None = join(module, "instruction")
    if isinstance(node, Lm):
        value = next((s.value for s in node.settings if s.name == "instruction"), Constant.of(""))
        if isinstance(value, Constant):
            return str(value.value or ""), None
        name = value.name if isinstance(value, Variable) else None
    found = None if name is None else compiled.space.variables.get(name)
    if name is None or found is None:
        return compiled.settings[module].instruction, None
    return str(compiled.config[name]), name if isinstance(found, Text) else None


def prompt_request(
    settings: ModuleSettings[Any, Any], capabilities: Capabilities = _EVERYTHING
) -> tuple[LMRequest | None, str | None]:
    """The request of a module with ``{field}`` where inputs come, and what is to be said about it."""
    from dspex.compiler.render import prepare

    note = None
    if isinstance(settings.demos, Nearest):
        k = min(settings.demos.k, len(settings.demos.pool), _SHOWN)
        note = f"the {settings.demos.k} demonstrations nearest to each input; shown with the first {k} of the pool"
        settings = replace(settings, demos=DemoSet(settings.demos.pool[:k]))
    given = settings.input
    hidden = secret_fields(given)
    sample = given.model_construct(**{name: f"{{{name}}}" for name in given.model_fields if name not in hidden})
    try:
        return prepare(settings).request(sample, capabilities=capabilities), note
    except LMError as error:
        return None, error.message


def request_text(request: LMRequest) -> str:
    """A request as text, turn by turn."""
    if request.prompt is not None:
        return request.prompt
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in request.messages)


def shown_demos(settings: ModuleSettings[Any, Any]) -> tuple[Demo, ...]:
    """The demonstrations that stand in the prompt; of a nearest-neighbour source, its whole pool."""
    source = settings.demos
    if isinstance(source, Nearest):
        return source.pool
    k = settings.demos_k
    return source.demos if k is None else source.demos[-k:] if k > 0 else ()


def _source(source: DemoSet | Nearest) -> str:
    named = f" ({source.name})" if source.name else ""
    if isinstance(source, Nearest):
        return f"the {source.k} nearest of {len(source.pool)}{named}"
    return f"{len(source)} demonstrations{named}"


def prompt_markdown(compiled: Compiled[Any, Any], module: str) -> str:
    """One module's prompt and settings as Markdown for a person."""
    settings = compiled.settings[module]
    instruction, variable = instruction_of(compiled, module)
    request, note = prompt_request(settings)
    prompt = "" if request is None else request_text(request)
    rows = {
        "input": settings.input.__name__,
        "output": settings.output.__name__,
        "format": settings.format,
        "scoring": settings.scoring,
        "answers": settings.answers,
        "repairs": settings.repairs,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "reasoning": settings.reasoning,
        "demonstrations": _source(settings.demos),
        "demos_k": settings.demos_k,
        "instruction": "fixed" if variable is None else f"${variable}",
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items() if value is not None)
    fence = "````"
    while fence in prompt or fence in instruction:
        fence += "`"
    about = f"\n{note}\n" if note else ""
    return (
        f"# {module}\n\n| setting | value |\n| --- | --- |\n{table}\n## Instruction\n\n{fence}text\n"
        f"{instruction}\n{fence}\n\n## Prompt\n{about}\n{fence}text\n{prompt}\n{fence}\n"
    )


def edited_instruction(before: str, after: str, place: str) -> str | None:
    """The new instruction in an edited page; None when the page is as it was.

    Raises:
        CompileError: DX2214 when something else than the instruction changed.
    """
    after = after.replace("\r\n", "\n")
    if before == after:
        return None
    old, new = _INSTRUCTION.search(before), _INSTRUCTION.search(after)
    if old is not None and new is not None:
        around = (before[: old.start(2)], before[old.end(2) :])
        if around == (after[: new.start(2)], after[new.end(2) :]):
            return new[2].removesuffix("\n")
    raise CompileError(
        "DX2214",
        "only the text between the fences under `## Instruction` can be edited",
        where=place,
        fix="unpack again, edit the instruction alone, and bind other values with dspex compile --config",
    )
