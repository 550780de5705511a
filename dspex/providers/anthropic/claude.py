"""What is known of Claude models by their names, and the JSON Schema dialect that they enforce.

Anthropic's own API and Bedrock serve the same models, so both read this. A Claude whose name says no version known
here is taken for a new one: what the newest models refuse is not sent to it.

Source: Anthropic, "Models overview", "Thinking", "Effort", "Structured outputs" and the models' migration guides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from pydantic_core import from_json, to_json

from dspex.lm.types import Capabilities, Effort, LMRequest
from dspex.providers.asking import choice_object

_NAME = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_OLD_NAME = re.compile(r"claude-(?:v|instant-v?)?(\d)(?:[-.](\d))?(?!\d)")
_NEWEST: tuple[int, int] = (99, 0)

# Shares of max_tokens that models without efforts of their own may spend on thinking, and the least they accept.
_SHARES: dict[str, float] = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8}
_LEAST_BUDGET = 1024


@dataclass(frozen=True, slots=True)
class Claude:
    """What one Claude model takes.

    Attributes:
        sampling: Takes a temperature and top_p; the models after 4.6 refuse both.
        schemas: Enforces a JSON schema of its answer.
        thinking: How thinking is asked for: not at all, by a budget in tokens, by an effort (it adapts), or by either.
        off: The type of ``thinking`` that switches it off.
        context_tokens: Size of its context window.
    """

    sampling: bool
    schemas: bool
    thinking: Literal["none", "budget", "both", "effort"]
    off: Literal["disabled", "between_tools"]
    context_tokens: int

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            json_schema=self.schemas,
            choices=self.schemas,
            context_tokens=self.context_tokens,
            tools=True,
            tool_choice=True,
            media=("image", "file"),
            reasoning=self.thinking != "none",
        )

    def thinking_fields(self, reasoning: Effort | int | None, max_tokens: int) -> dict[str, object] | None:
        """``thinking`` and ``output_config`` of a request; None where the model has no such bound in tokens.

        An effort becomes a share of `max_tokens` for models that know budgets alone: 0.1 for ``minimal``, 0.2 for
        ``low``, 0.5 for ``medium`` and 0.8 for ``high``, at least 1024 tokens.
        """
        if reasoning is None or (reasoning == "none" and self.thinking == "none"):
            return {}
        if reasoning == "none":
            return {"thinking": {"type": self.off}}
        if isinstance(reasoning, int):
            if self.thinking == "effort":
                return None
            return {"thinking": {"type": "enabled", "budget_tokens": reasoning}}
        if self.thinking == "budget":
            budget = max(_LEAST_BUDGET, int(_SHARES[reasoning] * max_tokens))
            return {"thinking": {"type": "enabled", "budget_tokens": budget}}
        effort = "low" if reasoning == "minimal" else reasoning
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}


OTHER_MODEL = Claude(sampling=True, schemas=False, thinking="both", off="disabled", context_tokens=0)
"""A model that is no Claude behind the same protocol: all that the protocol has is tried."""


@lru_cache(maxsize=256)
def claude(model: str) -> Claude | None:
    """What is known of `model`, under any platform's name of it; None for a model that is no Claude."""
    name = model.lower()
    if "claude" not in name:
        return None
    family, version = "", _NEWEST
    thinking: Literal["none", "budget", "both", "effort"]
    if found := _NAME.search(name):
        family, version = found[1], (int(found[2]), int(found[3] or 0))
    elif found := _OLD_NAME.search(name):
        version = (int(found[1]), int(found[2] or 0))
    if version < (3, 7):
        thinking = "none"
    elif version < (4, 6):
        thinking = "budget"
    else:
        thinking = "both" if version == (4, 6) else "effort"
    return Claude(
        sampling=version <= (4, 6) and family not in ("fable", "mythos"),
        schemas=version >= (4, 5) or (family == "opus" and version == (4, 1)),
        thinking=thinking,
        off="between_tools" if family == "sonnet" and version >= (5, 5) else "disabled",
        context_tokens=1_000_000 if version >= (4, 6) else 200_000,
    )


def sampling(request: LMRequest, known: Claude | None, thinks: bool) -> dict[str, float]:
    """``temperature`` and ``top_p`` of a request, as far as the model takes them.

    Claude models take one of the two from 4.1 on, so the one that changes nothing is left out: top_p at temperature
    0, a temperature of 1 beside top_p. While thinking no Claude takes either.
    """
    if known is not None and (thinks or not known.sampling):
        return {}
    if request.top_p is None or request.temperature == 0.0:
        return {"temperature": request.temperature}
    if request.temperature == 1.0:
        return {"top_p": request.top_p}
    return {"temperature": request.temperature, "top_p": request.top_p}


def blank_stops(stops: tuple[str, ...]) -> tuple[str, ...]:
    """Those of nothing but blanks and line ends, which Claude's servers refuse."""
    return tuple(stop for stop in stops if not stop.strip())


# --------------------------------------------------------------------------- enforced answers

_KEPT = frozenset({"type", "enum", "const", "$ref", "required", "description"})
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_TOLD = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minItems",
    "maxItems",
    "uniqueItems",
)
_MOST_INTEGERS = 64
_SAYS_WHAT = ("type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf")
_UNSAYABLE = ("patternProperties", "prefixItems", "not", "if")


@lru_cache(maxsize=512)
def answer_schema(json_schema: str | None, choices: tuple[str, ...]) -> dict[str, object] | None:
    """The schema that enforces `choices` or else `json_schema`; None for none, or for one that cannot be enforced."""
    if choices:
        return choice_object(choices)
    return None if json_schema is None else closed_schema(cast("dict[str, object]", from_json(json_schema)))


@lru_cache(maxsize=512)
def answer_schema_text(json_schema: str | None, choices: tuple[str, ...]) -> str | None:
    """`answer_schema` as JSON text."""
    schema = answer_schema(json_schema, choices)
    return None if schema is None else to_json(schema).decode()


def closed_schema(schema: Mapping[str, object]) -> dict[str, object] | None:
    """`schema` in the dialect that Claude enforces, or None when it cannot be said there.

    Objects are closed. A short range of integers becomes the list of them; other bounds, on numbers, lengths and
    patterns, have no form there and go into the description, as answers are validated afterwards anyway. Free keys,
    values of any type and recursion cannot be said.
    """
    try:
        _check_recursion(schema)
        return _closed(schema)
    except ValueError:
        return None


def _closed(node: object) -> dict[str, object]:
    if not isinstance(node, Mapping):
        raise ValueError("a schema that is true or false")
    fields = cast("Mapping[str, object]", node)
    if not any(key in fields for key in _SAYS_WHAT) or any(key in fields for key in _UNSAYABLE):
        raise ValueError("a value of any type")
    out: dict[str, object] = {key: fields[key] for key in fields if key in _KEPT}
    for key in ("$defs", "definitions", "properties"):
        if key in fields:
            inner = cast("Mapping[str, object]", fields[key])
            out[key] = {name: _closed(value) for name, value in inner.items()}
    for key in ("anyOf", "oneOf", "allOf"):
        if key in fields:
            out["anyOf" if key == "oneOf" else key] = [_closed(value) for value in cast("list[object]", fields[key])]
    if "items" in fields:
        out["items"] = _closed(fields["items"])
    told = {key: fields[key] for key in _TOLD if key in fields}
    if told.get("minItems") in (0, 1):
        out["minItems"] = told.pop("minItems")
    if told.get("format") in _FORMATS:
        out["format"] = told.pop("format")
    listed = _integers(fields)
    if listed:
        out["enum"] = listed
    elif told:
        words = ", ".join(f"{key}: {to_json(value).decode()}" for key, value in told.items())
        out["description"] = f"{fields.get('description', '')} ({words})".strip()
    if fields.get("type") == "object" or "properties" in fields:
        if fields.get("additionalProperties") not in (None, False) or "properties" not in fields:
            raise ValueError("free keys")
        out["additionalProperties"] = False
    return out


def _integers(fields: Mapping[str, object]) -> list[int]:
    """All integers that a schema allows, where its bounds leave few; else none."""
    low, high = fields.get("minimum"), fields.get("maximum")
    others = [key for key in _TOLD if key in fields and key not in ("minimum", "maximum")]
    if fields.get("type") != "integer" or "enum" in fields or others:
        return []
    if not isinstance(low, int) or not isinstance(high, int) or high - low >= _MOST_INTEGERS:
        return []
    return list(range(low, high + 1))


def _check_recursion(schema: Mapping[str, object]) -> None:
    definitions = {
        f"#/{key}/{name}": value
        for key in ("$defs", "definitions")
        for name, value in cast("Mapping[str, object]", schema.get(key, {})).items()
    }
    done: set[str] = set()

    def visit(node: object, open_refs: tuple[str, ...]) -> None:
        if isinstance(node, list):
            for item in cast("list[object]", node):
                visit(item, open_refs)
        elif isinstance(node, Mapping):
            fields = cast("Mapping[str, object]", node)
            ref = fields.get("$ref")
            if isinstance(ref, str) and ref not in done:
                if ref in open_refs or ref not in definitions:
                    raise ValueError("recursion, or a reference to elsewhere")
                visit(definitions[ref], (*open_refs, ref))
                done.add(ref)
            for key, value in fields.items():
                if key not in ("$defs", "definitions"):
                    visit(value, open_refs)

    visit(schema, ())
