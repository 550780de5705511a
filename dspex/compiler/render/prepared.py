"""A bound module made ready: everything about its prompt and its answers that does not change from call to call."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from dspex.compiler.answers.parser import AnswerParser, answer_text
from dspex.compiler.answers.partial import PartialReader
from dspex.compiler.answers.shape import OutputShape
from dspex.compiler.render.layouts import ChatLayout, CompletionLayout, Filled, Layout
from dspex.compiler.render.values import value_text
from dspex.errors import LMError, OutputError
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Message, ToolSpec
from dspex.program.demos import Demo, DemoSet
from dspex.program.schema import Schema, secret_fields

if TYPE_CHECKING:
    from dspex.program.modules import Answers, ModuleSettings

Draft = tuple[Filled, *tuple[str, ...]]
"""What comes before the input, and the texts of the input's fields."""

Means = Literal["choices", "schema", "json", "tool", "words"]

ANSWER_TOOL = "answer"
"""Name of the tool whose arguments are the answer."""

CONTENT_FREE = "N/A"
"""What stands for every input in the prompt that measures a prompt's own bias.

Source: Zhao et al., "Calibrate Before Use" (ICML 2021), §5.
"""

_SPARE_TOKENS = 24
"""For the end of an answer, and for the JSON object around a choice where a server enforces objects alone."""

_SEED = 0
"""Sampling is seeded, so that an answer is a function of request and rollout; providers add the rollout."""


@dataclass(frozen=True, slots=True)
class _Form:
    """The fields of a request that follow from the module and from what the model can do."""

    raw: bool
    max_tokens: int
    stop: tuple[str, ...]
    json_schema: str | None
    choices: tuple[str, ...]
    score: bool
    json_mode: bool
    tools: tuple[ToolSpec, ...]


class PreparedModule:
    """Builds requests and reads answers for one bound module; see `prepare`.

    Attributes:
        settings: What it was prepared from.
        shape: What its answers look like.
        calibrated: Whether scores are to be corrected by those of the content-free request.
    """

    def __init__(self, settings: ModuleSettings[Any, Any]) -> None:
        self.settings = settings
        self.calibrated = settings.scoring == "calibrated"
        self._scores = settings.scoring in ("logprob", "calibrated")
        self._completion = settings.format == "completion"
        # In a raw prompt answers go on with its labels, and scores are those of the bare choices.
        self._answers = "auto" if self._scores or self._completion else settings.answers
        self.shape = _shape(settings, self._answers)
        secret = secret_fields(settings.input)
        self._inputs = tuple(name for name in settings.input.model_fields if name not in secret)
        self._layout: Layout = (
            CompletionLayout(settings.instruction, self._inputs, self.shape)
            if self._completion
            else ChatLayout(settings.instruction, self._inputs, self.shape, labelled=self._answers == "labels")
        )
        self._parser = AnswerParser(
            self.shape, labels=self._layout.labels, continued=self._completion, where=settings.path
        )
        source = settings.demos
        self._prefix: Filled | None = (
            self._layout.prefix(self._last(source.demos), fixed=True) if isinstance(source, DemoSet) else None
        )
        self._form: tuple[Capabilities | None, _Form | None] = (None, None)

    @property
    def fixed(self) -> bool:
        """Whether the part of the prompt before the input is the same for every input."""
        return self._prefix is not None

    def request(self, x: Schema, rollout: int = 0, capabilities: Capabilities | None = None) -> LMRequest:
        """The request that asks for `x`'s answer.

        Args:
            x: The input.
            rollout: Number of the repeated sample.
            capabilities: What the model can do; decides what constrains the answer. None: nothing.

        Raises:
            LMError: DX4603, when the module scores choices and the model cannot; DX4605, when the model cannot
                enforce the form of the answer that the module wants.
        """
        return self.written(self.draft(x), rollout, capabilities)

    def draft(self, x: Schema) -> Draft:
        """All that `x`'s request is made of: little more than `x`, however long the prompt."""
        values = x.__dict__
        texts = [value if type(value := values[name]) is str else value_text(value) for name in self._inputs]
        return self._prefix_for(x), *texts

    def written(self, draft: Draft, rollout: int = 0, capabilities: Capabilities | None = None) -> LMRequest:
        """`request`, of a draft."""
        prefix, *texts = draft
        return self._build(self._layout.fill(prefix, texts), rollout, capabilities or _NOTHING)

    def content_free(self, x: Schema, rollout: int = 0, capabilities: Capabilities | None = None) -> LMRequest:
        """`x`'s request with every input field replaced by `CONTENT_FREE`, under the same demonstrations."""
        texts = [CONTENT_FREE] * len(self._inputs)
        return self._build(self._layout.fill(self._prefix_for(x), texts), rollout, capabilities or _NOTHING)

    def repair(self, request: LMRequest, response: LMResponse, error: OutputError) -> LMRequest:
        """`request` again, with the answer that did not fit and why."""
        complaint = f"That answer is not usable: {error.message.split('; the model said', 1)[0]}."
        if request.prompt is None and self._completion:
            # A raw prompt sent as one chat turn, for a model that has chat only.
            filled = self._layout.repair(((), request.messages[-1].content), response.text, complaint)
            return replace(request, messages=(Message("user", filled[1] or ""),))
        said = answer_text(response)
        messages, prompt = self._layout.repair((request.messages, request.prompt), said, complaint)
        return replace(request, messages=messages, prompt=prompt)

    def partial(self) -> PartialReader:
        """Reads one answer while it is written."""
        return self._parser.partial()

    def parse(self, x: Schema, response: LMResponse) -> tuple[Schema, str | None]:
        """The validated output and the reasoning in `response`, which answers `x`.

        Raises:
            OutputError: DX4601 or DX4602.
        """
        return self._parser.parse(response)

    def scores(self, response: LMResponse) -> tuple[float, ...]:
        """The scores of a scoring request's answer.

        Raises:
            LMError: DX4604, when there are none.
        """
        if response.choice_logprobs is None:
            raise LMError("DX4604", f"{self.settings.path}: the model answered a scoring request without scores")
        return response.choice_logprobs

    def corrected(self, response: LMResponse, base: tuple[float, ...]) -> LMResponse:
        """`response` with each choice's score less its score apart from the input, and the choice that is best then.

        Source: Zhao et al. (2021), eq. 2 with W = diag(p)^-1, b = 0, in logarithms, where `base` is that of the
        content-free input; Zhou et al., "Batch Calibration" (ICLR 2024), eq. 4, where it is a mean over inputs.
        """
        scores = self.scores(response)
        corrected = tuple(score - bias for score, bias in zip(scores, base, strict=True))
        best = max(range(len(corrected)), key=corrected.__getitem__)
        return replace(response, text=self.shape.choices[best], choice_logprobs=corrected)

    def _prefix_for(self, x: Schema) -> Filled:
        if self._prefix is not None:
            return self._prefix
        demos = self.settings.demos.select(x.model_dump(mode="json", include=set(self._inputs)))
        return self._layout.prefix(self._last(demos), fixed=False)

    def _last(self, demos: tuple[Demo, ...]) -> tuple[Demo, ...]:
        k = self.settings.demos_k
        if k is None:
            return demos
        return demos[-k:] if k > 0 else ()

    def _build(self, filled: Filled, rollout: int, capabilities: Capabilities) -> LMRequest:
        known, form = self._form
        if form is None or known is not capabilities:
            form = self._form_for(capabilities)
            self._form = (capabilities, form)
        messages, prompt = filled
        if prompt is not None and not form.raw:
            messages, prompt = (Message("user", prompt),), None
        temperature = self.settings.temperature
        return LMRequest(
            messages,
            prompt,
            temperature,
            form.max_tokens,
            form.stop,
            _SEED if temperature > 0 else None,
            form.json_schema,
            form.choices,
            form.score,
            self.shape.answer_fields,
            rollout,
            form.json_mode,
            tools=form.tools,
            tool_choice=ANSWER_TOOL if form.tools else "auto",
        )

    def _form_for(self, capabilities: Capabilities) -> _Form:
        settings, shape = self.settings, self.shape
        if self._scores and not (capabilities.score_choices and shape.choices):
            raise LMError(
                "DX4603",
                f"{settings.path} has scoring={settings.scoring!r}, and the model cannot score choices"
                if shape.choices
                else f"{settings.path} has scoring={settings.scoring!r}, and its output is not one closed choice",
                where=settings.path,
                fix='use scoring="generate", or a model that gives log-probabilities, such as local/smollm2',
            )
        means = "choices" if self._scores else self._means(capabilities)
        choices = shape.choices if means == "choices" else ()
        schema = shape.json_schema() if means in ("schema", "tool") else None
        max_tokens = settings.max_tokens
        if choices and not capabilities.reasoning:
            # A token is at least one byte of the longest spelling, so this never cuts a choice, and reserves little
            # more than it can cost. A model that reasons does so within the same bound.
            max_tokens = min(max_tokens, max(len(json.dumps(choice)) for choice in choices) + _SPARE_TOKENS)
        return _Form(
            raw=self._completion and capabilities.raw_prompt,
            max_tokens=max_tokens,
            stop=() if choices else self._layout.stop,
            json_schema=schema if means == "schema" else None,
            choices=choices,
            score=self._scores,
            json_mode=means == "json",
            tools=(ToolSpec(ANSWER_TOOL, "Gives the answer.", schema),) if schema and means == "tool" else (),
        )

    def _means(self, capabilities: Capabilities) -> Means:
        """What keeps the answer in form, of what the module allows and the model has: the strictest.

        JSON mode goes before a tool: hidden reasoning and streams go together with it everywhere.
        """
        wanted, shape = self._answers, self.shape
        if wanted in ("auto", "schema"):
            if shape.choices and capabilities.choices:
                return "choices"
            if capabilities.json_schema and not (self._completion or shape.text):
                return "schema"
        prose = self._completion or shape.bare
        if wanted == "json" or (wanted == "auto" and not prose and capabilities.json_mode):
            return "json" if capabilities.json_mode else "words"
        if capabilities.tools and (wanted == "tool" or (wanted == "auto" and not prose and capabilities.tool_choice)):
            return "tool"
        if wanted in ("schema", "tool"):
            raise LMError(
                "DX4605",
                f"{self.settings.path} has answers={wanted!r}, and the model "
                + ("enforces no schema" if wanted == "schema" else "calls no tools"),
                where=self.settings.path,
                fix='use answers="auto", or another model; LM(capabilities=...) says what a server of your own can do',
            )
        return "words"


def _shape(settings: ModuleSettings[Any, Any], answers: Answers) -> OutputShape:
    """What an answer looks like: asked for as JSON, one value has its field around it."""
    shape = OutputShape.of(settings.output, reasoning=settings.reasoning)
    alone = shape.bare and (answers in ("tool", "json") or (answers == "schema" and not shape.choices))
    return OutputShape.of(settings.output, reasoning=False, record=True) if alone else shape


_NOTHING = Capabilities()


def prepare(settings: ModuleSettings[Any, Any]) -> PreparedModule:
    """Make a bound module ready: templates, demonstrations, parser and validators are built here, once."""
    return PreparedModule(settings)
