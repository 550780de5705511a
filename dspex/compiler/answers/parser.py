"""Read a model's text as an answer of a known shape."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import cast

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from dspex.compiler.answers.shape import OutputShape, field_choices, plain_annotation
from dspex.errors import OutputError
from dspex.lm.types import LMResponse
from dspex.program.schema import Schema

_FENCE = re.compile(r"```[A-Za-z]*[ \t]*\n?(.*?)```", re.DOTALL)
_SHOWN = 200
_WRAPPING = " \t\r\n\"'`*_.,;:!()[]“”‘’"


class AnswerParser:
    """Parses the answers of one module.

    Args:
        shape: What an answer looks like.
        labels: For the completion format, the label of each answer field; else empty.
        where: The module's path, for errors.
    """

    def __init__(self, shape: OutputShape, *, labels: tuple[str, ...] = (), where: str = "") -> None:
        self._shape = shape
        self._where = where
        # Schemas build their validator at their first use; what is kept here has to be the real one.
        shape.output.model_rebuild()
        self._validator = shape.output.__pydantic_validator__
        self._chosen: dict[str, Schema] = {}
        self._folded = {text.casefold(): text for text in shape.choices}
        if len(self._folded) < len(shape.choices):
            # Choices that differ by case alone are matched exactly.
            self._folded = {}
        self._single = shape.names[0] if len(shape.names) == 1 else None
        self._texts = {"reasoning"} if shape.reasoning else set[str]()
        for name, info in shape.output.model_fields.items():
            annotation = plain_annotation(info.annotation)
            choices = field_choices(shape.output, name)
            if annotation is str or (choices and all(isinstance(_json_value(value), str) for _, value in choices)):
                self._texts.add(name)
        self._labels = dict(zip((label.casefold() for label in labels), shape.answer_fields, strict=False))
        self._label_line = (
            re.compile(
                "^(" + "|".join(re.escape(label) for label in labels) + r"):[ \t]*", re.IGNORECASE | re.MULTILINE
            )
            if labels
            else None
        )

    def parse(self, response: LMResponse) -> tuple[Schema, str | None]:
        """The validated output and the reasoning, where the answer has one.

        Raises:
            OutputError: DX4601 when the text does not fit the output schema, DX4602 when it ends too early.
        """
        shape, text = self._shape, response.text
        try:
            if shape.choices:
                known = self._chosen.get(text)
                if known is not None:
                    return known, None
                return self._choice(text), None
            if shape.bare:
                return self._bare(text), None
            return self._record(text)
        except (ValueError, _Unreadable) as error:
            if response.stop == "length":
                raise OutputError(
                    "DX4602",
                    f"the answer was cut off at the token limit before it was complete: {_shown(text)}",
                    where=self._where or None,
                    fix="raise max_tokens on the module",
                    sent="yes",
                ) from None
            raise OutputError(
                "DX4601",
                f"the answer does not fit {shape.output.__name__}: {_reason(error)}; the model said {_shown(text)}",
                where=self._where or None,
                fix="make the instruction clearer, widen the schema, or use a model that enforces the format",
                sent="yes",
            ) from None

    def _choice(self, text: str) -> Schema:
        found = self._match(text)
        if found is None:
            value = self._field_of_object(text)
            found = self._match(_choice_of(value)) if value is not _MISSING else None
        if found is None:
            raise _Unreadable(f"{self._single} is exactly one of {', '.join(self._shape.choices)}")
        known = self._chosen.get(found)
        if known is None:
            value = self._shape.values[self._shape.choices.index(found)]
            # Outputs are frozen and a choice is one of few: each is validated once and shared.
            known = self._chosen[found] = self._validator.validate_python({self._single: value})
        if text == found:
            self._chosen[text] = known
        return known

    def _match(self, text: str) -> str | None:
        """The choice that `text` names: itself, or but for wrapping, case, its label or an explanation after it."""
        choices = self._shape.choices
        if text in choices:
            return text
        text = _unfenced(text).strip()
        if text in choices:
            return text
        bare = text.strip(_WRAPPING)
        if bare in choices:
            return bare
        if not self._folded:
            return None
        folded = bare.casefold()
        if folded in self._folded:
            return self._folded[folded]
        name = cast(str, self._single)
        for label in (name.casefold(), name.replace("_", " ").casefold()):
            if folded.startswith(label + ":"):
                folded = folded[len(label) + 1 :].strip(_WRAPPING)
                break
        if folded in self._folded:
            return self._folded[folded]
        line = folded.split("\n", 1)[0].strip(_WRAPPING)
        if line in self._folded:
            return self._folded[line]
        starts = [key for key in self._folded if line.startswith(key) and not line[len(key) :][:1].isalnum()]
        # "refund" and "refund request" may both begin the line: the longest says more.
        longest = max(starts, key=len, default=None)
        if longest is None or any(other in line[len(longest) :] for other in self._folded):
            return None
        return self._folded[longest]

    def _bare(self, text: str) -> Schema:
        name = cast(str, self._single)
        stripped = text.strip()
        if stripped.startswith(("{", "```")):
            value = self._field_of_object(stripped)
            if value is not _MISSING:
                return self._validator.validate_json(to_json({name: value}))
        if self._shape.text:
            if not stripped:
                raise _Unreadable("it is empty")
            return self._validator.validate_python({name: stripped})
        inner = _unfenced(stripped).strip()
        prefix = f"{name}:"
        if inner.casefold().startswith(prefix.casefold()):
            inner = inner[len(prefix) :].strip()
        try:
            return self._validator.validate_json(to_json({name: from_json(inner)}))
        except ValueError:
            # Not JSON, or JSON of another type ("1e3" for a text): the words themselves may fit.
            return self._validator.validate_json(to_json({name: inner.strip(_WRAPPING) or inner}))

    def _record(self, text: str) -> tuple[Schema, str | None]:
        if not self._shape.reasoning:
            try:
                return self._validator.validate_json(text), None
            except ValidationError as error:
                if error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid":
                    inner = self._field_alone(text)
                    if inner is None:
                        raise
                    return inner, None
        fields = _json_object(text)
        if fields is None:
            fields = self._labelled(text)
        if fields is None:
            inner = self._field_alone(text)
            if inner is None:
                raise _Unreadable(f"it holds no JSON object with the fields {', '.join(self._shape.answer_fields)}")
            return inner, None
        reasoning: str | None = None
        if self._shape.reasoning:
            fields = dict(fields)
            given = fields.pop("reasoning", None)
            reasoning = given if given is None or isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return self._validator.validate_json(to_json(fields)), reasoning

    def _field_alone(self, text: str) -> Schema | None:
        """A single JSON field (a list, a record) that the model gave without the object around it."""
        if self._single is None or self._shape.reasoning:
            return None
        try:
            return self._validator.validate_json(to_json({self._single: from_json(_unfenced(text).strip())}))
        except ValueError:
            return None

    def _field_of_object(self, text: str) -> object:
        name = cast(str, self._single)
        fields = _json_object(text)
        if fields is None or name not in fields:
            return _MISSING
        # Models like to say why, asked or not; any other field means that another record was answered.
        if others := sorted(set(fields) - {name, "reasoning"}):
            raise _Unreadable(f"it holds {', '.join(others)} beside {name}")
        return fields[name]

    def _labelled(self, text: str) -> dict[str, object] | None:
        """Fields of the completion format: ``Label: value`` lines; the first label may be missing."""
        if self._label_line is None:
            return None
        order = self._shape.answer_fields
        found: dict[str, object] = {}
        marks = list(self._label_line.finditer(text))
        first = text[: marks[0].start()] if marks else text
        if first.strip():
            found[order[0]] = _plain(first)
        for index, mark in enumerate(marks):
            end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
            name = self._labels[mark[1].casefold()]
            if name not in found:
                found[name] = _plain(text[mark.end() : end])
        if not found:
            return None
        return {name: self._typed(name, cast(str, value)) for name, value in found.items()}

    def _typed(self, name: str, value: str) -> object:
        """Text of one labelled field as the JSON value that it stands for."""
        if name in self._texts:
            return value
        try:
            return from_json(value)
        except ValueError:
            return value


class _Unreadable(Exception):
    """The text has no answer in it; the message says what was expected."""


_MISSING = object()


def _json_value(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _choice_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)


def _unfenced(text: str) -> str:
    if "```" not in text:
        return text
    fence = _FENCE.search(text)
    return fence[1] if fence else text


def _plain(text: str) -> str:
    """A labelled value without the indentation that marks its continuation lines."""
    return "\n".join(line[2:] if line.startswith("  ") else line for line in text.strip().split("\n"))


def _json_object(text: str) -> dict[str, object] | None:
    """The JSON object that `text` is, fences, or holds; None when there is none."""
    for candidate in (text, _unfenced(text)):
        try:
            value: object = from_json(candidate)
        except ValueError:
            continue
        return cast("dict[str, object]", value) if isinstance(value, dict) else None
    decoder = json.JSONDecoder()
    at = text.find("{")
    tries = 0
    while at != -1 and tries < 50:
        try:
            value = decoder.raw_decode(text, at)[0]
        except (ValueError, RecursionError):
            at, tries = text.find("{", at + 1), tries + 1
            continue
        return cast("dict[str, object]", value)
    return None


def _reason(error: ValueError | _Unreadable) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    details = error.errors(include_url=False, include_context=False)
    said = [f"{'.'.join(str(part) for part in detail['loc']) or 'answer'}: {detail['msg']}" for detail in details[:3]]
    more = f" (and {len(details) - 3} more)" if len(details) > 3 else ""
    return "; ".join(said) + more


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
