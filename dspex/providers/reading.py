"""What reading an answer takes in every protocol: its figures and texts, an enforced choice, stop texts, a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pydantic_core import from_json, to_json

from dspex.errors import ResponseError
from dspex.lm.types import CallDelta, Delta, LMRequest, LMResponse, TokenLogprob, whole_calls
from dspex.providers.asking import CHOICE
from dspex.providers.stops import Cutter, cut
from dspex.providers.transport import place

if TYPE_CHECKING:
    from dspex.providers.http import Client

MALFORMED = (KeyError, IndexError, TypeError, AttributeError, ValueError)
"""What reading an answer of another shape raises."""


def count(fields: object, key: str) -> int:
    """The count under `key` of an object; 0 where either is missing.

    Raises:
        ValueError: something else stands there.
    """
    value = cast("dict[str, object]", fields).get(key) if isinstance(fields, dict) else None
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} is not a count")
    return value


def text_of(value: object) -> str:
    """`value`, which has to be a text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def token_logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    """One token with its log-probability and its alternatives."""
    top = tuple((text_of(other["token"]), float(other["logprob"])) for other in entry.get("top_logprobs") or ())
    return TokenLogprob(text_of(entry["token"]), float(entry["logprob"]), top)


def arguments_in(given: object) -> str:
    """A call's arguments as JSON text, whether a server gave the text or what it says."""
    return given if isinstance(given, str) else to_json(given).decode()


def input_of(text: str) -> object:
    """A call's arguments as JSON; the text itself where the answer was cut off within."""
    try:
        return from_json(text or "{}")
    except ValueError:
        return text


def state_of(protocol: str, held: object) -> str:
    """`LMResponse.state`: what a protocol wants back, under its name, so that no other one reads it."""
    return json.dumps({protocol: held}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class Reading(NamedTuple):
    """How the answer to a request has to be read.

    Attributes:
        enforced: It is an enforced choice.
        choices: The choices; empty where they are not known any more.
        stops: Stop texts that the server was not told, at which it is cut.
        logprobs: It was asked for log-probabilities.
        bare: An enforced choice is the text itself, perhaps behind a space; else it is spelled as JSON.
    """

    enforced: bool = False
    choices: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    logprobs: bool = False
    bare: bool = False

    @staticmethod
    def of(request: LMRequest, stops: tuple[str, ...] = ()) -> Reading:
        """The reading of the answer to `request`, whose `stops` the server was not told."""
        return Reading(bool(request.choices), request.choices, stops, request.top_logprobs is not None)

    def finished(self, response: LMResponse, client: Client, url: str) -> LMResponse:
        """`response` with the choice that it makes as its text, or cut at a stop text.

        Raises:
            ResponseError: DX4303, it spells none of the choices.
        """
        if self.enforced:
            # An answer that was cut off or refused spells no choice, and says so by its `stop`.
            ended = response.stop in ("stop", "unknown")
            return replace(response, text=self._chosen(response.text, client, url)) if ended else response
        return cut(response, self.stops) if self.stops else response

    def _chosen(self, text: str, client: Client, url: str) -> str:
        value: object = None
        if self.bare:
            value = text if text in self.choices else text.removeprefix(" ")
        else:
            with suppress(ValueError):
                value = from_json(text)
            if isinstance(value, dict):
                value = cast("dict[str, object]", value).get(CHOICE)
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            raise ResponseError(
                "DX4303",
                f"the server did not enforce the choices {list(self.choices)}: {client.redact.excerpt(text)}",
                where=place(url),
                fix="leave choices out of LM(capabilities=...) for this server",
                retryable=True,
                sent="yes",
            )
        return value


class CallParts:
    """Tool calls whose parts are told apart by the block of the answer that they stand in."""

    def __init__(self) -> None:
        self._places: dict[object, int] = {}
        self._told: set[object] = set()

    def begin(self, block: object, call_id: object, name: object) -> Delta:
        """A call begins.

        Raises:
            MALFORMED: its id or its name is no text.
        """
        at = self._places[block] = len(self._places)
        return Delta(calls=(CallDelta(at, text_of(call_id), text_of(name)),))

    def more(self, block: object, arguments: str) -> Delta | None:
        """More of its arguments; None where there are none, or the block is no call."""
        if not arguments or block not in self._places:
            return None
        self._told.add(block)
        return Delta(calls=(CallDelta(self._places[block], arguments=arguments),))

    def end(self, block: object, whole: str = "{}") -> Delta | None:
        """It has ended; its `whole` arguments show where none came in parts."""
        return None if block in self._told else self.more(block, whole)


class Flow:
    """The parts of a streamed answer as a caller sees them: together they are the whole answer's text and calls."""

    def __init__(self, reading: Reading) -> None:
        # What spells an enforced choice is not its text, so it shows when it is whole.
        self._whole = reading.enforced
        self._cutter = Cutter(reading.stops)
        # A stop text that follows would make them void.
        self._late = bool(reading.stops)
        self._begun = 0

    def of(self, delta: Delta) -> Delta | None:
        """What shows of a part; None for nothing."""
        calls = delta.calls
        if calls and not self._late:
            self._begun = max(self._begun, *(part.index + 1 for part in calls))
        if not (self._whole or self._late):
            return delta if delta.text or delta.reasoning or calls else None
        text = "" if self._whole else self._cutter.feed(delta.text)
        calls = () if self._late else calls
        return Delta(text, delta.reasoning, calls=calls) if text or delta.reasoning or calls else None

    def last(self, response: LMResponse) -> Delta:
        """The last part, with the calls of which nothing has shown."""
        text = response.text if self._whole else self._cutter.end()
        return Delta(text, response=response, calls=whole_calls(response.tool_calls)[self._begun :])
