"""Messages, requests, responses and usage: what crosses between a program and a provider.

Plain frozen dataclasses: they are built on the hot path, hashed into cache keys and written to
the event log, so they hold only text, numbers and tuples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from dspex.errors import UsageError
from dspex.lm.record import record

Role = Literal["system", "user", "assistant", "tool"]
Stop = Literal["stop", "length", "content_filter", "tool_calls", "unknown"]
MediaKind = Literal["image", "audio", "file"]
Effort = Literal["none", "minimal", "low", "medium", "high"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image, a sound or a file inside a message; exactly one of ``data`` and ``url`` is set.

    Attributes:
        kind: What it is.
        media_type: For example ``image/png``, ``audio/wav`` or ``application/pdf``.
        data: The content in base64, as every protocol sends it.
        url: Where the provider fetches it.
        name: File name, where the protocol has one.
    """

    kind: MediaKind
    media_type: str
    data: str = field(default="", repr=False)
    url: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. ``arguments`` is JSON text as the model wrote it, not validated yet."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call; ``parameters`` is the JSON Schema of its arguments as canonical JSON text."""

    name: str
    description: str
    parameters: str


@record
class Message:
    """One chat turn.

    Attributes:
        role: ``tool`` is the result of the tool call that ``tool_call_id`` names.
        content: Its text; attachments stand before it.
        attachments: Images, sounds and files.
        tool_calls: Of an assistant's turn: the calls that it asked for.
        tool_call_id: Of a tool's turn: the id of the call that it answers.
        state: Of an assistant's turn: `LMResponse.state` of the answer that it repeats.
        cache_point: The prompt up to here is worth keeping in the provider's prompt cache: sent as a mark to models
            with `LM.prompt_cache`. No answer depends on it, so requests that differ in it are equal.
    """

    role: Role
    content: str
    attachments: tuple[Attachment, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    state: str = ""
    cache_point: bool = field(default=False, compare=False)


@record
class LMRequest:
    """Everything that a program asks of a model in one call.

    Exactly one of ``messages`` (chat) and ``prompt`` (raw completion) is set.

    Attributes:
        messages: Chat turns, in order.
        prompt: Text to be continued, without any chat template.
        temperature: Sampling temperature, >= 0.
        max_tokens: Upper bound on generated tokens, >= 1, hidden reasoning included.
        stop: Texts at which generation ends.
        seed: Sampling seed, where the provider has one.
        json_schema: JSON Schema of the answer as canonical JSON text, or None for free text.
        choices: Closed set of answers; the text of the response is then exactly one of them.
        score_choices: Ask for the log-probability of each of ``choices`` rather than for a sample.
            The response then has ``choice_logprobs``, and its text is the most probable choice.
        output_fields: Names of the output fields in order (for scripted models and for people).
        rollout: Number of the repeated sample; part of the identity, so that two rollouts of
            one request are two calls.
        json_mode: The answer is some JSON object, of no enforced schema.
        top_p: Nucleus sampling, in (0, 1]; None leaves it to the provider.
        reasoning: How much hidden reasoning: an effort, or an upper bound in tokens; None leaves it to the provider.
        top_logprobs: None for no log-probabilities; else how many alternatives of each token, 0 for the token alone.
        tools: What the model may call.
        tool_choice: ``auto``, ``none``, ``required``, or the name of the one tool to call.
        parallel_tools: Whether several tools may be called in one answer.
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
    json_mode: bool = False
    top_p: float | None = None
    reasoning: Effort | int | None = None
    top_logprobs: int | None = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    parallel_tools: bool = True


@record
class Usage:
    """Tokens as the provider counted them.

    ``cached_tokens`` is the part of ``input_tokens`` that a prompt cache served, ``written_tokens`` the part that was
    written into one at a price of its own; ``reasoning_tokens`` is the part of ``output_tokens`` spent on hidden
    reasoning.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    written_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.written_tokens + other.written_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@record
class TokenLogprob:
    """A generated token with its natural-log probability, and the most probable tokens at its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@record
class RateLimits:
    """What a server told about its limits in the headers of one response; None where it told nothing.

    Attributes:
        requests, tokens: Allowed within the server's window.
        requests_left, tokens_left: What remains of them.
        requests_reset, tokens_reset: Seconds until they are whole again.
    """

    requests: int | None = None
    requests_left: int | None = None
    requests_reset: float | None = None
    tokens: int | None = None
    tokens_left: int | None = None
    tokens_reset: float | None = None


@record
class LMResponse:
    """What a model answered.

    Attributes:
        text: The generated text, or the chosen one of ``choices``.
        usage: Tokens; None when the provider reports none.
        stop: Why generation ended.
        model: The model's name as the provider reports it.
        choice_logprobs: For ``score_choices``: natural-log scores, one a choice, in the order of the
            request's ``choices``. They are comparable with each other; they need not sum to one.
        tool_calls: The calls that the model asks for.
        reasoning: The reasoning that the provider shows, often a summary.
        logprobs: Of the generated tokens, when the request asked for them.
        state: What the provider wants back with this answer in the next turn (signed or encrypted reasoning), as
            JSON text; opaque. Put it into `Message.state`.
        limits: The server's rate limits; not part of the answer, and never stored.
    """

    text: str
    usage: Usage | None = None
    stop: Stop = "stop"
    model: str = ""
    choice_logprobs: tuple[float, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None
    state: str = ""
    limits: RateLimits | None = field(default=None, compare=False, repr=False)


@record
class CallDelta:
    """A part of a tool call that is being written.

    Attributes:
        index: The call's place in `LMResponse.tool_calls`.
        id, name: Those of the call, on its first part; ``""`` on the others.
        arguments: What is appended to the text of its arguments.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@record
class Delta:
    """A part of a streamed answer.

    Attributes:
        text: What is appended to the answer's text.
        reasoning: What is appended to its shown reasoning.
        response: On the last part alone: the whole answer with its usage, equal to what `complete` would have given.
        calls: What is added to its tool calls. The arguments that come so are the JSON that the whole answer's calls
            have, though other white space may stand in it.
    """

    text: str = ""
    reasoning: str = ""
    response: LMResponse | None = None
    calls: tuple[CallDelta, ...] = ()

    @classmethod
    def whole(cls, response: LMResponse) -> Delta:
        """An answer that comes in one part."""
        return cls(response.text, response.reasoning, response, whole_calls(response.tool_calls))


def whole_calls(calls: tuple[ToolCall, ...]) -> tuple[CallDelta, ...]:
    """Tool calls that come in one part each."""
    return tuple(CallDelta(index, call.id, call.name, call.arguments) for index, call in enumerate(calls))


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of texts, in the order of the texts, and what they cost."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None = None
    model: str = ""
    limits: RateLimits | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens.

    Args:
        input: Of the prompt.
        output: Of what is generated, hidden reasoning included.
        cached: Of the part of the prompt that a prompt cache served; by default `input`.
        written: Of the part that was written into a prompt cache; by default `input`.
        above: Prices of long prompts, as pairs of a number of tokens and a price, ascending: a call whose prompt has
            more tokens than that is charged wholly at that price.

    Raises:
        UsageError: DX8136, when a price is negative or not finite, or `above` does not ascend.
    """

    input: float
    output: float
    cached: float | None = None
    written: float | None = None
    above: tuple[tuple[int, Price], ...] = ()

    def __post_init__(self) -> None:
        for name, value in (
            ("input", self.input),
            ("output", self.output),
            ("cached", self.cached),
            ("written", self.written),
        ):
            if value is not None and not 0.0 <= value < math.inf:
                raise UsageError("DX8136", f"a price is a finite number of dollars, at least 0, got {name}={value!r}")
        starts = [0, *(start for start, _ in self.above)]
        if any(after <= before for before, after in pairwise(starts)):
            raise UsageError("DX8136", f"above= names ascending numbers of tokens, got {starts[1:]}")

    def scaled(self, factor: float) -> Price:
        """This price times `factor`, in all its parts: 0.5 for a batch at half the price."""
        return Price(
            self.input * factor,
            self.output * factor,
            None if self.cached is None else self.cached * factor,
            None if self.written is None else self.written * factor,
            tuple((start, dearer.scaled(factor)) for start, dearer in self.above),
        )

    def at(self, input_tokens: float) -> Price:
        """What a call with so long a prompt is charged by: this price, or one of `above`."""
        for start, dearer in reversed(self.above):
            if input_tokens > start:
                return dearer.at(input_tokens)
        return self

    def cost(self, usage: Usage) -> float:
        """US dollars for `usage`."""
        price = self.at(usage.input_tokens)
        cached = price.input if price.cached is None else price.cached
        written = price.input if price.written is None else price.written
        # Some servers count what the cache read beside the prompt.
        fresh = max(0, usage.input_tokens - usage.cached_tokens - usage.written_tokens)
        prompt = fresh * price.input + usage.cached_tokens * cached + usage.written_tokens * written
        return (prompt + usage.output_tokens * price.output) / 1e6

    def ceiling(self, input_tokens: float, output_tokens: float) -> float:
        """The most US dollars that a call of at most so many tokens can cost, whatever a prompt cache does."""
        dearest = max(self.input, self.cached or 0.0, self.written or 0.0)
        costs = [(input_tokens * dearest + output_tokens * self.output) / 1e6]
        costs += [dearer.ceiling(input_tokens, output_tokens) for start, dearer in self.above if input_tokens > start]
        return max(costs)


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
        json_mode: Enforces that the answer is a JSON object.
        tools: Calls tools.
        tool_choice: Calls the very tool that `LMRequest.tool_choice` names; some models choose for themselves only.
        media: Kinds of attachments that it takes.
        reasoning: Takes `LMRequest.reasoning`.
        logprobs: Returns `LMResponse.logprobs`.
        seed: Takes a seed.
    """

    raw_prompt: bool = False
    json_schema: bool = False
    choices: bool = False
    score_choices: bool = False
    context_tokens: int | None = None
    parallel: int | None = None
    json_mode: bool = False
    tools: bool = False
    media: tuple[MediaKind, ...] = ()
    reasoning: bool = False
    logprobs: bool = False
    seed: bool = False
    tool_choice: bool = False

    def within(self, other: Capabilities) -> Capabilities:
        """What both say; the sizes are this one's."""
        flags = {
            name: value and getattr(other, name)
            for name in self.__slots__
            if isinstance(value := getattr(self, name), bool)
        }
        return replace(self, **flags, media=tuple(kind for kind in self.media if kind in other.media))
