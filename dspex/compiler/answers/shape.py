"""What an answer looks like, derived once from an output schema."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from dspex.program.schema import OneOf, Schema, choices_of

_SCALARS: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class OutputShape:
    """The form of the answers of one module.

    Attributes:
        output: The schema that answers are validated against.
        reasoning: Whether a reasoning text comes before the fields.
        names: The output fields in order, without the reasoning.
        bare: Whether the answer is one scalar value by itself rather than a JSON object.
        text: Whether that value is a plain string, which is taken as it is.
        choices: The texts of a single closed-choice field, in the order of its definition, else ().
        values: What each of `choices` stands for.
    """

    output: type[Schema]
    reasoning: bool
    names: tuple[str, ...]
    bare: bool
    text: bool
    choices: tuple[str, ...]
    values: tuple[object, ...]

    @classmethod
    def of(cls, output: type[Schema], *, reasoning: bool, record: bool = False) -> OutputShape:
        """Derive the shape of `output`'s answers; with `record`, a single scalar has its field around it too."""
        fields = output.model_fields
        names = tuple(fields)
        bare = text = False
        pairs: tuple[tuple[str, object], ...] = ()
        if len(names) == 1 and not (reasoning or record):
            annotation = plain_annotation(fields[names[0]].annotation)
            pairs = field_choices(output, names[0])
            text = annotation is str and not pairs
            bare = bool(pairs) or _scalar(annotation)
        return cls(output, reasoning, names, bare, text, tuple(t for t, _ in pairs), tuple(v for _, v in pairs))

    @property
    def answer_fields(self) -> tuple[str, ...]:
        """The fields of an answer in order, the reasoning first where there is one."""
        return ("reasoning", *self.names) if self.reasoning else self.names

    def describe(self, labels: tuple[str, ...] = ()) -> str:
        """The sentence that tells a model what to answer with; `labels` are those of a record written line by line."""
        fields = self.output.model_fields
        if self.bare:
            name = self.names[0]
            label = name.replace("_", " ")
            about = f" ({fields[name].description})" if fields[name].description else ""
            if self.choices:
                return f"Answer with the {label}{about} only, exactly one of: {', '.join(self.choices)}."
            if self.text:
                return f"Answer with the {label}{about} only."
            return f"Answer with the {label}{about} only, {_type_words(self.output, name)}."
        words: list[str] = []
        if self.reasoning:
            words.append("(text: think step by step)")
        for name in self.names:
            about = f": {fields[name].description}" if fields[name].description else ""
            words.append(f"({_type_words(self.output, name)}{about})")
        if labels:
            lines = [f"{label}: {what}" for label, what in zip(labels, words, strict=True)]
            return "\n".join(["Answer in this form, each field after its label and nothing else:", *lines])
        parts = [f'"{name}" {what}' for name, what in zip(self.answer_fields, words, strict=True)]
        return f"Answer with one JSON object with the fields {', '.join(parts)}, in this order."

    def json_schema(self) -> str:
        """The JSON Schema of an answer as a JSON object, canonical text, properties in answer order."""
        schema = cast("dict[str, Any]", _without_titles(self.output.model_json_schema()))
        properties = cast("dict[str, Any]", schema.get("properties", {}))
        required = [name for name in properties if name in schema.get("required", ())]
        if self.reasoning:
            properties = {"reasoning": {"type": "string"}, **properties}
            required = ["reasoning", *required]
        whole: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
        if "$defs" in schema:
            whole["$defs"] = schema["$defs"]
        return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def plain_annotation(annotation: object) -> object:
    """`annotation` without ``Annotated`` and ``type`` aliases."""
    while True:
        alias = getattr(annotation, "__value__", None)
        if alias is not None and type(annotation).__name__ == "TypeAliasType":
            annotation = alias
        elif hasattr(annotation, "__metadata__"):
            annotation = get_args(annotation)[0]
        else:
            return annotation


def closed_choices(values: tuple[object, ...] | None) -> tuple[tuple[str, object], ...]:
    """(text, value) of each member of a closed set; () for none, and when two members are written alike."""
    if values is None:
        return ()
    pairs = tuple((choice_text(value), value) for value in values)
    return pairs if len({text for text, _ in pairs}) == len(pairs) else ()


def field_choices(schema: type[Schema], name: str) -> tuple[tuple[str, object], ...]:
    """(text, value) of each member of the field's closed set; () when it has none."""
    info = schema.model_fields[name]
    for entry in cast("list[object]", info.metadata):
        if isinstance(entry, OneOf):
            return closed_choices(entry.values)
    return closed_choices(choices_of(plain_annotation(info.annotation)))


def choice_text(value: object) -> str:
    """How a closed choice's member is written in prompts and answers."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)


def _scalar(annotation: object) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, (str, int, float, Enum))
    origin = get_origin(annotation)
    if origin is Literal:
        return True
    if origin is Union or origin is types.UnionType:
        return all(_scalar(plain_annotation(member)) for member in get_args(annotation) if member is not type(None))
    return False


def _type_words(schema: type[Schema], name: str) -> str:
    field = schema.model_fields[name]
    annotation = plain_annotation(field.annotation)
    choices = field_choices(schema, name)
    if choices and annotation is not bool:
        return f"exactly one of: {', '.join(text for text, _ in choices)}"
    if isinstance(annotation, type) and annotation in _SCALARS:
        return _SCALARS[annotation]
    whole = _without_titles(_field_schema(field, annotation))
    return f"JSON that fits {json.dumps(whole, ensure_ascii=False, separators=(',', ':'))}"


def _field_schema(field: FieldInfo, annotation: object) -> Mapping[str, object]:
    from pydantic import TypeAdapter

    adapter = TypeAdapter[object](cast("type[object]", field.annotation or annotation))
    return adapter.json_schema()


def _without_titles(schema: object, *, named: bool = False) -> object:
    """Drop pydantic's generated titles: they repeat the names and cost tokens. `named`: keys are field names."""
    if isinstance(schema, dict):
        entries = cast("dict[str, object]", schema)
        return {
            key: _without_titles(value, named=not named and key in ("properties", "$defs"))
            for key, value in entries.items()
            if named or key != "title" or not isinstance(value, str)
        }
    if isinstance(schema, list):
        return [_without_titles(item) for item in cast("list[object]", schema)]
    return schema
