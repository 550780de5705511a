"""How values and field names are written in prompts."""

from __future__ import annotations

import json
from enum import Enum
from typing import cast

from pydantic import BaseModel
from pydantic_core import to_json


def value_text(value: object) -> str:
    """One field's value as prompt text: strings as they are, structures as JSON."""
    if type(value) is str:
        return value
    if isinstance(value, Enum):
        return value_text(value.value)
    if isinstance(value, str):
        return str(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return to_json(value).decode()


def json_text(fields: dict[str, object]) -> str:
    """A JSON object as a model would write it."""
    return json.dumps(fields, ensure_ascii=False, default=_jsonable)


def _jsonable(value: object) -> object:
    return cast(object, json.loads(to_json(value)))


def block_text(text: str) -> str:
    """`text` for a labelled line: its further lines are indented, so that none of them can pass for a label."""
    return text.replace("\n", "\n  ") if "\n" in text else text


def line_text(text: str) -> str:
    """`text` on one line, for answers that end at a line's end."""
    return " ".join(text.split()) if "\n" in text else text


def title(name: str) -> str:
    """``question_type`` → ``Question Type``."""
    return " ".join(word[:1].upper() + word[1:] for word in name.split("_") if word) or name
