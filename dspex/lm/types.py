"""Messages, requests, responses and usage: what crosses between a program and a provider.

Plain frozen dataclasses: they are built on the hot path, hashed into cache keys and written to
the event log, so they hold only text, numbers and tuples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
Stop = Literal["stop", "length", "content_filter", "unknown"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class LMRequest:
    """Everything that a program asks of a model in one call.

    Exactly one of ``messages`` (chat) and ``prompt`` (raw completion) is set.

    Attributes:
        messages: Chat turns, in order.
        prompt: Text to be continued, without any chat template.
        temperature: Sampling temperature, >= 0.
        max_tokens: Upper bound on generated tokens, >= 1.
        stop: Texts at which generation ends.
        seed: Sampling seed, where the provider has one.
        json_schema: JSON Schema of the answer as canonical JSON text, or None for free text.
        choices: Closed set of answers; the text of the response is then exactly one of them.
        score_choices: Ask for the log-probability of each of ``choices`` rather than for a sample.
            The response then has ``choice_logprobs``, and its text is the most probable choice.
        output_fields: Names of the output fields in order (for scripted models and for people).
        rollout: Number of the repeated sample; part of the identity, so that two rollouts of
            one request are two calls.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    temperature: float = 0.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int | None = None
    json_schema: str | None = None
    choices: tuple[str, ...] = ()
    score_choices: bool = False
    output_fields: tuple[str, ...] = ()
    rollout: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them.

    ``cached_tokens`` is the part of ``input_tokens`` that a prompt cache served;
    ``reasoning_tokens`` is the part of ``output_tokens`` spent on hidden reasoning.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class LMResponse:
    """What a model answered.

    Attributes:
        text: The generated text, or the chosen one of ``choices``.
        usage: Tokens; None when the provider reports none.
        stop: Why generation ended.
        model: The model's name as the provider reports it.
        choice_logprobs: For ``score_choices``: natural-log scores, one a choice, in the order of the
            request's ``choices``. They are comparable with each other; they need not sum to one.
    """

    text: str
    usage: Usage | None = None
    stop: Stop = "stop"
    model: str = ""
    choice_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cached: float | None = None

    def cost(self, usage: Usage) -> float:
        """US dollars for `usage`."""
        cached = self.input if self.cached is None else self.cached
        fresh = usage.input_tokens - usage.cached_tokens
        return (fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output) / 1e6


FREE = Price(0.0, 0.0)
"""The price of a model that runs on the user's own machine."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model behind a provider can do; formats that need more are not offered to optimizers.

    Attributes:
        raw_prompt: Continues a prompt without a chat template (`LMRequest.prompt`).
        json_schema: Enforces `LMRequest.json_schema` while generating.
        choices: Enforces `LMRequest.choices` while generating.
        score_choices: Returns `LMResponse.choice_logprobs`.
        context_tokens: Size of the context window, when known.
        parallel: Calls in flight that are of any use, when the model itself sets a limit.
    """

    raw_prompt: bool = False
    json_schema: bool = False
    choices: bool = False
    score_choices: bool = False
    context_tokens: int | None = None
    parallel: int | None = None
