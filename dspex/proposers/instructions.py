"""Instructions: some that follow from schema and labels without any model, some that a model writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dspex.program.demos import Demo
from dspex.program.schema import OneOf, Schema, choices_of, field
from dspex.proposers.proposal import Proposal

if TYPE_CHECKING:
    from dspex.program.modules import Predict

MOST_CHARACTERS = 1_000
_PLACEHOLDER = re.compile(r"(?<!\{)\{([A-Za-z_]\w*)\}(?!\})")

TIPS = (
    "Be short and direct.",
    "Say exactly how to decide between answers that are easily confused.",
    "Describe who asks and what the answer is used for.",
)
"""What each written proposal is told to aim at. Source: the tips of MIPROv2 (Opsahl-Ong et al. 2024, appendix)."""


class InstructionRequest(Schema):
    """Write a better instruction for a language model that does the task shown."""

    current_instruction: str = field(description="the instruction in use")
    fields: str = field(description="what goes in and what comes out")
    examples: str = field(description="right answers for some inputs")
    tip: str = field(description="what to aim at")


class InstructionText(Schema):
    """A better instruction."""

    instruction: str = field(description="the new instruction: plain text, one short paragraph")


def writer() -> Predict[InstructionRequest, InstructionText]:
    """The program that writes instructions; one call a proposal."""
    from dspex.program.modules import Predict

    return Predict(InstructionRequest, InstructionText, temperature=0.0, max_tokens=160, format="chat")


def request(
    instruction: str, module_input: type[Schema], module_output: type[Schema], demos: Sequence[Demo], tip: str
) -> InstructionRequest:
    """What the writer is asked."""
    shown = "\n".join(f"{_pairs(demo.input)} => {_pairs(demo.output)}" for demo in demos[:3])
    return InstructionRequest(
        current_instruction=instruction,
        fields=f"input: {_fields(module_input)}; output: {_fields(module_output)}",
        examples=shown or "none",
        tip=tip,
    )


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {str(value)[:200]}" for name, value in values.items())


def _fields(schema: type[Schema]) -> str:
    parts: list[str] = []
    for name, info in schema.model_fields.items():
        listed = labels(schema, name)
        text = name + (f" ({info.description})" if info.description else "")
        parts.append(text + (f", one of {', '.join(listed)}" if listed else ""))
    return "; ".join(parts)


def labels(schema: type[Schema], name: str) -> tuple[str, ...]:
    """The texts of a closed field's values; empty for an open field."""
    info = schema.model_fields[name]
    found = choices_of(info.annotation)
    if not found:
        listed = [entry.values for entry in info.metadata if isinstance(entry, OneOf)]
        found = listed[0] if listed else ()
    return tuple(_label(value) for value in found)


def _label(value: object) -> str:
    plain = getattr(value, "value", value)
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def grounded(
    variable: str, instruction: str, module_input: type[Schema], module_output: type[Schema]
) -> list[Proposal]:
    """Instructions that name fields, labels and descriptions; written by rule, so they cost nothing."""
    closed = [(name, labels(module_output, name)) for name in module_output.model_fields]
    listing = [f"{_words(name)} is one of: {', '.join(values)}" for name, values in closed if values]
    notes = [
        f"{_words(name)}: {info.description}"
        for schema in (module_input, module_output)
        for name, info in schema.model_fields.items()
        if info.description
    ]
    texts: list[str] = []
    if listing:
        texts.append(f"{_sentence(instruction)} The {'; the '.join(listing)}.")
    if notes:
        texts.append(f"{_sentence(instruction)}\n" + "\n".join(f"- {note}" for note in notes))
    if listing and notes:
        texts.append(f"{_sentence(instruction)} The {'; the '.join(listing)}.\n" + "\n".join(f"- {n}" for n in notes))
    given = ", ".join(_words(name) for name in module_input.model_fields)
    wanted = ", ".join(_words(name) for name in module_output.model_fields)
    if not _PLACEHOLDER.search(instruction):
        ending = f" The {'; the '.join(listing)}." if listing else ""
        texts.append(f"Read the {given}. Answer with the {wanted} and nothing else.{ending}")
    found: list[Proposal] = []
    for text in texts:
        if refusal(text, instruction, [str(p.member) for p in found]) is None:
            found.append(Proposal(variable, text, "grounded"))
    return found


def refusal(text: str, instruction: str, known: Sequence[str]) -> str | None:
    """Why a proposed instruction cannot be used; None when it can."""
    if not text.strip():
        return "it is empty"
    if len(text) > MOST_CHARACTERS:
        return f"it has {len(text)} characters, more than {MOST_CHARACTERS}"
    missing = [name for name in _PLACEHOLDER.findall(instruction) if name not in _PLACEHOLDER.findall(text)]
    if missing:
        return f"it drops the placeholder {{{missing[0]}}}"
    if any(name not in _PLACEHOLDER.findall(instruction) for name in _PLACEHOLDER.findall(text)):
        return "it has a placeholder that the instruction in use does not have"
    if text.strip() == instruction.strip() or text in known:
        return "it says what another one says"
    return None


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sentence(text: str) -> str:
    clean = text.strip()
    return clean if clean.endswith((".", "!", "?", ":")) else clean + "."
