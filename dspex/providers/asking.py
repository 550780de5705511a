"""What asking a model takes in every protocol: what it may be asked for, the user's own fields, an enforced choice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from dspex.errors import RequestRejected
from dspex.lm.types import Capabilities, LMRequest, Role
from dspex.telemetry.events import Json

CHOICE = "answer"
"""The one field of the object that carries an enforced choice."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a wire protocol has words for, whatever the model behind it can do.

    Attributes:
        can: Of what `Capabilities` name.
        media_in: Roles whose turns may hold attachments.
        one_call: Whether it can forbid several tool calls in one answer.
    """

    can: Capabilities
    media_in: tuple[Role, ...] = ("user",)
    one_call: bool = True


_ALL = Vocabulary(Capabilities(tool_choice=True))


class Refusing(Protocol):
    """Makes the error of a request that needs what a model cannot do: a `Client`, for one."""

    def incapable(self, what: str) -> RequestRejected: ...


def check_needs(request: LMRequest, can: Capabilities, client: Refusing, says: Vocabulary = _ALL) -> None:
    """Refuse a request that would mean something else to a model that can only do what `can` says.

    A schema and the JSON mode are no needs: who asks for them reads the answer and finds out.

    Args:
        request: What is asked.
        can: What the model can do, as far as its protocol has words for it.
        client: Makes the error.
        says: What else the protocol has words for.

    Raises:
        RequestRejected: DX4201.
    """
    if request.prompt is not None:
        if not can.raw_prompt:
            raise client.incapable("raw prompts")
        if request.tools or request.reasoning is not None:
            raise client.incapable("tools or reasoning settings with a raw prompt")
    if request.score_choices and not can.score_choices:
        raise client.incapable("scores of choices")
    if request.choices and not can.choices:
        raise client.incapable("enforced choices")
    if request.tools and request.tool_choice != "none":
        if not can.tools:
            raise client.incapable("tools")
        if request.tool_choice != "auto" and not says.can.tool_choice:
            raise client.incapable("a tool that must be called")
        if not request.parallel_tools and not says.one_call:
            raise client.incapable("one tool call at a time (parallel_tools=False)")
    if request.top_logprobs is not None and not can.logprobs:
        raise client.incapable("log-probabilities")
    if request.reasoning is not None and request.reasoning != "none" and not can.reasoning:
        raise client.incapable("reasoning settings")
    for message in request.messages:
        for attachment in message.attachments:
            if attachment.kind not in can.media:
                raise client.incapable(f"attachments of kind {attachment.kind}")
            if message.role not in says.media_in:
                raise client.incapable(f"attachments in a turn of the {message.role}")


def extra_identity(extra: Mapping[str, Json]) -> str:
    """What a fingerprint says of the user's own fields: nothing when there are none."""
    return ":" + json.dumps(from_json(to_json(extra)), sort_keys=True) if extra else ""


def as_body(body: Mapping[str, object]) -> bytes:
    """A request's body as JSON.

    Raises:
        RequestRejected: DX4217: a text has no form in UTF-8. Nothing was sent.
    """
    try:
        return to_json(body)
    except PydanticSerializationError as error:
        raise RequestRejected(
            "DX4217",
            "the request holds half of a surrogate pair, which no server can be sent",
            fix='mend the input where it was read, for example text.encode("utf-16", "surrogatepass").decode("utf-16", '
            '"replace")',
        ) from error


def with_extra(body: dict[str, object], extra: Mapping[str, Json]) -> dict[str, object]:
    """`body` with the user's own fields; objects are joined field by field, and the user's value goes first."""
    if not extra:
        return body
    joined = dict(body)
    for name, value in extra.items():
        present = body.get(name)
        if isinstance(present, dict) and isinstance(value, Mapping):
            joined[name] = with_extra(cast("dict[str, object]", present), cast("Mapping[str, Json]", value))
        else:
            joined[name] = value
    return joined


def choice_schema(choices: tuple[str, ...]) -> dict[str, object]:
    """The JSON Schema of an answer that is one of `choices`."""
    return {"type": "string", "enum": list(choices)}


def choice_object(choices: tuple[str, ...]) -> dict[str, object]:
    """The JSON Schema of an object that carries one of `choices`, for servers that enforce objects alone."""
    return {
        "type": "object",
        "properties": {CHOICE: choice_schema(choices)},
        "required": [CHOICE],
        "additionalProperties": False,
    }


def arguments_of(text: str) -> dict[str, object]:
    """A call's arguments as an object, as a history needs them; whatever else a model wrote stands in one."""
    try:
        value: object = from_json(text or "{}")
    except ValueError:
        value = text
    return cast("dict[str, object]", value) if isinstance(value, dict) else {"INVALID_JSON": text}


def state_in(text: str, protocol: str) -> object:
    """What `state_of` put into a state; None for the state of another protocol's model, after a fallback."""
    try:
        held: object = from_json(text or "null")
    except ValueError:
        return None
    return cast("dict[str, object]", held).get(protocol) if isinstance(held, dict) else None
