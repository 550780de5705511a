"""Read a model's text as an answer of a known shape."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import cast

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from dspex.compiler.answers.lenient import json_object, json_value, unfenced
from dspex.compiler.answers.partial import BareReader, LabelReader, ObjectReader, PartialReader
from dspex.compiler.answers.shape import OutputShape, field_choices, plain_annotation
from dspex.errors import OutputError
from dspex.lm.types import LMResponse
from dspex.program.schema import Schema

_SHOWN = 200
_WRAPPING = " \t\r\n\"'`*_.,;:!()[]“”‘’"


class AnswerParser:
    """Parses the answers of one module.

    Args:
        shape: What an answer looks like.
        labels: Where answers are written line by line, the label of each answer field; else empty.
        continued: Whether the prompt ended with the first label, so that answers begin behind it.
        where: The module's path, for errors.
    """

    def __init__(
        self, shape: OutputShape, *, labels: tuple[str, ...] = (), continued: bool = True, where: str = ""
    ) -> None:
        self._shape = shape
        self._continued = continued
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
                r"^(?:#+[ \t]*|\*+|_+)?(" + "|".join(map(re.escape, labels)) + r")[*_]*:[*_]*[ \t]*",
                re.IGNORECASE | re.MULTILINE,
            )
            if labels
            else None
        )

    def partial(self) -> PartialReader:
        """Reads one answer while it is written."""
        shape = self._shape
        if self._single is not None and shape.bare:
            return BareReader(self._single, text=self._single in self._texts)
        if self._label_line is not None:
            return LabelReader(self._label_line, self._labels, self._texts, continued=self._continued)
        return ObjectReader(shape.answer_fields)

    def parse(self, response: LMResponse) -> tuple[Schema, str | None]:
        """The validated output and the reasoning, where the answer has one.

        Raises:
            OutputError: DX4601 when the text does not fit the output schema, DX4602 when it ends too early, DX4606
                when a filter of the provider ended it.
        """
        shape, text = self._shape, response.text
        if response.stop == "content_filter":
            raise OutputError(
                "DX4606",
                f"the provider's content filter ended the answer: {_shown(text)}",
                where=self._where or None,
                fix="change the input or the instruction, or ask the provider for another policy",
                sent="yes",
            )
        try:
            if response.tool_calls:
                if len(response.tool_calls) > 1:
                    raise _Unreadable(f"it is given {len(response.tool_calls)} times")
                text = answer_text(response)
            if shape.choices:
                known = self._chosen.get(text)
                if known is not None:
                    return known, None
                return self._choice(text), None
            if shape.bare:
                return self._bare(text), None
            return self._record(text, response.stop == "length")
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
        text = unfenced(text).strip()
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
        inner = unfenced(stripped).strip()
        prefix = f"{name}:"
        if inner.casefold().startswith(prefix.casefold()):
            inner = inner[len(prefix) :].strip()
        try:
            return self._validator.validate_json(to_json({name: from_json(inner)}))
        except ValueError:
            # Not JSON, or JSON of another type ("1e3" for a text): the words themselves may fit.
            return self._validator.validate_json(to_json({name: inner.strip(_WRAPPING) or inner}))

    def _record(self, text: str, cut: bool) -> tuple[Schema, str | None]:
        if not (self._shape.reasoning or self._label_line):
            try:
                return self._validator.validate_json(text), None
            except ValidationError as error:
                if error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid":
                    inner = self._field_alone(text, cut)
                    if inner is None:
                        raise
                    return inner, None
        # Where labels are asked for, a value may hold an object, and so they go first.
        fields = self._labelled(text, cut) if self._label_line else None
        if fields is None:
            fields = json_object(text, self._shape.answer_fields, whole=cut)
        if fields is None:
            inner = self._field_alone(text, cut)
            if inner is None:
                raise _Unreadable(f"it holds no JSON object with the fields {', '.join(self._shape.answer_fields)}")
            return inner, None
        reasoning: str | None = None
        if self._shape.reasoning:
            fields = dict(fields)
            given = fields.pop("reasoning", None)
            reasoning = given if given is None or isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return self._validator.validate_json(to_json(fields)), reasoning

    def _field_alone(self, text: str, cut: bool) -> Schema | None:
        """A single JSON field (a list, a record) that the model gave without the object around it."""
        if self._single is None or self._shape.reasoning:
            return None
        try:
            return self._validator.validate_json(to_json({self._single: json_value(text.strip(), whole=cut)}))
        except ValueError:
            return None

    def _field_of_object(self, text: str) -> object:
        name = cast(str, self._single)
        fields = _object_alone(text) if self._shape.text else json_object(text, (name,), whole=True)
        if fields is None or name not in fields:
            return _MISSING
        # Models like to say why, asked or not; any other field means that another record was answered.
        if others := sorted(set(fields) - {name, "reasoning"}):
            raise _Unreadable(f"it holds {', '.join(others)} beside {name}")
        return fields[name]

    def _labelled(self, text: str, cut: bool) -> dict[str, object] | None:
        """Fields of ``Label: value`` lines; the first label may be missing. None where no line has a label."""
        if self._label_line is None:
            return None
        order = self._shape.answer_fields
        found: dict[str, object] = {}
        marks = list(self._label_line.finditer(text))
        first = text[: marks[0].start()] if marks else text
        if first.strip() and (self._continued or not any(self._named(mark) == order[0] for mark in marks)):
            if not marks and json_object(text, order, whole=cut) is not None:
                return None
            found[order[0]] = _plain(first)
        for index, mark in enumerate(marks):
            end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
            found.setdefault(self._named(mark), _plain(text[mark.end() : end]))
        if not found:
            return None
        return {name: self._typed(name, cast(str, value), cut) for name, value in found.items()}

    def _named(self, mark: re.Match[str]) -> str:
        return self._labels[mark[1].casefold()]

    def _typed(self, name: str, value: str, cut: bool) -> object:
        """Text of one labelled field as the JSON value that it stands for."""
        if name in self._texts:
            return value
        try:
            return json_value(value, whole=cut)
        except ValueError:
            return value


def answer_text(response: LMResponse) -> str:
    """What is to be read of a response: its text, or the arguments of the tool call that holds the answer."""
    return response.tool_calls[0].arguments if response.tool_calls else response.text


class _Unreadable(Exception):
    """The text has no answer in it; the message says what was expected."""


_MISSING = object()


def _json_value(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _choice_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)


def _object_alone(text: str) -> dict[str, object] | None:
    """The JSON object that is all of `text`: one that stands inside of a text belongs to the text."""
    try:
        value = json_value(text, whole=True)
    except ValueError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def _plain(text: str) -> str:
    """A labelled value without the indentation that marks its continuation lines, where all of them have it."""
    first, *rest = text.strip().split("\n")
    if all(line.startswith("  ") or not line.strip() for line in rest):
        rest = [line[2:] for line in rest]
    return "\n".join([first, *rest])


def _reason(error: ValueError | _Unreadable) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    details = error.errors(include_url=False, include_context=False)
    said = [f"{'.'.join(str(part) for part in detail['loc']) or 'answer'}: {detail['msg']}" for detail in details[:3]]
    more = f" (and {len(details) - 3} more)" if len(details) > 3 else ""
    return "; ".join(said) + more


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
