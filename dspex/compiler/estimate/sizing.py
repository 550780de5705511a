"""What one call of a module sends and gets, before it is made: tokens, dollars, and how long its output fields are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final, cast

from dspex.compiler.answers.shape import choice_text
from dspex.compiler.estimate.amounts import (
    FREE_TEXT,
    NOTHING,
    ONE,
    Amount,
    Guess,
    Known,
    Many,
    Record,
    Sized,
    Symbolic,
    amount_of,
    at,
    of_schema,
    plain,
)
from dspex.compiler.estimate.tokens import Vocabulary, vocabulary_of
from dspex.compiler.render import PreparedModule, prepare
from dspex.compiler.render.values import value_text
from dspex.errors import LMError, NoLMError, UsageError
from dspex.lm.model import LM, LanguageModel, LMLike
from dspex.lm.types import Capabilities, LMRequest, Price
from dspex.program import ports
from dspex.program.context import resolve_lm
from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.modules import ModuleSettings
from dspex.program.schema import Schema

__all__ = ["EVERYTHING", "CallSize", "Model", "is_free", "model_of", "size_call", "static_tokens"]

EVERYTHING: Final = Capabilities(raw_prompt=True, json_schema=True, choices=True, score_choices=True, tools=True)
"""What a model that is not known is taken to be able to do, so that every prompt can be shown."""

_COMPLAINT = 60.0
"""Tokens of the sentence that shows a model what was wrong with its answer, at most."""

_ENDS = 1.0
"""Tokens that end an answer and are counted with it."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as far as it is known without calling it.

    Attributes:
        name: ``provider/model``; None when none is chosen.
        vocabulary: How it counts.
        capabilities: What it can do.
        price: Dollars; None when unknown.
        unpriced: Why the price is unknown.
        caches: Whether its provider's prompt cache may serve what prompts have in common.
    """

    name: str | None
    vocabulary: Vocabulary
    capabilities: Capabilities
    price: Price | None
    unpriced: str | None
    caches: bool = True


def model_of(lm: LMLike | None) -> Model:
    """What is known of the model that a module with `lm` calls; nothing is sent, and no key is needed."""
    try:
        chosen = resolve_lm(lm)
    except NoLMError:
        return Model(None, vocabulary_of(None), EVERYTHING, None, "no model is chosen")
    if isinstance(chosen, str):
        chosen = LM(chosen)
    if isinstance(chosen, LM):
        try:
            opened = ports.open_model(chosen)
        except UsageError as error:
            if error.code != "DX8111":
                raise
            # Only a call needs the key, and none is made.
            opened = ports.open_model(replace(chosen, api_key="none"))
        price = chosen.price if chosen.price is not None else opened.price
    else:
        opened, price = chosen, chosen.price
    return _described(opened, price, not isinstance(chosen, LM) or chosen.caches_prompts)


def _described(model: LanguageModel, price: Price | None, caches: bool) -> Model:
    why = (
        None if price is not None else f"{model.name} has no known price; give it with dx.LM(..., price=dx.Price(...))"
    )
    return Model(model.name, vocabulary_of(model.name), model.capabilities, price, why, caches)


@dataclass(frozen=True, slots=True)
class CallSize:
    """One call of a module.

    Attributes:
        calls: Requests, with those that measure a prior or repair an answer.
        prompt: Input tokens of the first of them.
        input: Input tokens of all of them.
        output: Output tokens of all of them.
        usd: Dollars; None when the model has no price.
        static: Tokens at the beginning of the prompt that are the same at every call.
        value: The output's fields.
        guessed: Output fields whose length nothing says.
    """

    calls: Amount
    prompt: Amount
    input: Amount
    output: Amount
    usd: Amount | None
    static: float
    value: Symbolic
    guessed: tuple[str, ...]


def size_call(
    settings: ModuleSettings[Any, Any], given: Symbolic, model: Model, expected: Mapping[str, object] | None = None
) -> CallSize:
    """What a call of the module sends and gets.

    Args:
        settings: The module under its configuration.
        given: What it is called with, as far as known.
        model: What it calls.
        expected: Fields of its output, as far as an example says them.
    """
    sized = _Sizing(settings, model)
    request, prompt = sized.prompt(given)
    answer, value, guessed = sized.answer(request, expected or {})
    rounds = _rounds(sized, request, prompt, answer)
    calls = sum((each.count for each in rounds), NOTHING)
    sent = sum((each.input.times(each.count) for each in rounds), NOTHING)
    got = sum((each.output.times(each.count) for each in rounds), NOTHING)
    static = min(_static(sized), prompt.point if prompt.point is not None else prompt.low)
    usd = None
    if model.price is not None:
        served = static if model.caches else 0.0
        usd = sum((_dollars(model.price, each, served).times(each.count) for each in rounds), NOTHING)
    return CallSize(calls, prompt, sent, got, usd, static, value, guessed)


def is_free(price: Price) -> bool:
    """Whether calls cost nothing, however long."""
    return price.ceiling(1e12, 1e12) == 0.0


@dataclass(frozen=True, slots=True)
class _Round:
    """Requests of one kind.

    Attributes:
        count: How many.
        input: Tokens of the prompt of each.
        output: Tokens of the answer of each.
    """

    count: Amount
    input: Amount
    output: Amount


def _dollars(price: Price, each: _Round, served: float) -> Amount:
    """What one of the requests costs, of which a prompt cache may serve `served` tokens.

    Prices may depend on how long its prompt is.
    """
    sent, got = each.input, each.output
    if is_free(price):
        return NOTHING

    def cost(tokens_in: float, tokens_out: float, cached: float = 0.0) -> float:
        due = price.at(tokens_in)
        less = 0.0 if due.cached is None else max(0.0, due.input - due.cached) * cached
        return (tokens_in * due.input + tokens_out * due.output - less) / 1e6

    low = cost(sent.low, got.low, min(served, sent.low))
    high = None if sent.high is None or got.high is None else price.ceiling(sent.high, got.high)
    return Amount(low, high, None if sent.point is None or got.point is None else cost(sent.point, got.point))


def _rounds(sized: _Sizing, request: LMRequest, prompt: Amount, answer: Amount) -> list[_Round]:
    """The first request, and those that measure a prior or repair an answer."""
    margin = sized.vocabulary.margin
    if request.score_choices:
        forks = sized.evaluations(request.choices)
        rounds = [_Round(ONE, prompt.times(forks).widened(margin), ONE.times(forks))]
        if sized.prepared.calibrated and sized.settings.prior is None:
            bare = sized.content_free(request).times(forks).widened(margin)
            # A fixed prompt's prior is bought by the first run and kept.
            rounds.append(_Round(Amount(0.0, 1.0, 0.0) if sized.prepared.fixed else ONE, bare, ONE.times(forks)))
        return rounds
    shape = sized.prepared.shape
    rounds = [_Round(ONE, prompt.widened(margin), answer)]
    if request.choices or (shape.text and not _restricted(shape.output, shape.names[0])):
        return rounds
    # An answer that does not fit is shown to the model, with those before it.
    complaint = answer + Amount(0.0, _COMPLAINT, _COMPLAINT)
    for shown in range(1, sized.settings.repairs + 1):
        longer = prompt + complaint.times(Amount.exactly(shown))
        rounds.append(_Round(Amount(0.0, 1.0, 0.0), longer.widened(margin), answer))
    return rounds


def _restricted(schema: type[Schema], name: str) -> bool:
    return bool(schema.model_fields[name].metadata)


class _Sizing:
    """One module's prompt and answer, by size."""

    def __init__(self, settings: ModuleSettings[Any, Any], model: Model) -> None:
        self.settings = settings
        self.prepared: PreparedModule = prepare(settings)
        self.vocabulary = model.vocabulary
        self.count: Guess = model.vocabulary.count
        self._capabilities = model.capabilities

    def request(self, x: Schema, prepared: PreparedModule | None = None) -> LMRequest:
        """The request for `x`; where the model cannot score, as one that can."""
        made = prepared or self.prepared
        try:
            return made.request(x, capabilities=self._capabilities)
        except LMError:
            return made.request(x, capabilities=EVERYTHING)

    def prompt(self, given: Symbolic) -> tuple[LMRequest, Amount]:
        """The request with what is known of `given`, and its tokens with the rest."""
        schema = cast("type[Schema]", self.settings.input)
        fields: dict[str, object] = {}
        rest = NOTHING
        for name in schema.model_fields:
            part = self._given(given, name)
            known, value = plain(part)
            fields[name] = value if known else ""
            if not known:
                rest += amount_of(part, self.count)
        request = self.request(schema.model_construct(None, **fields))
        return request, Amount.exactly(self.vocabulary.request(request)) + rest

    def _given(self, given: Symbolic, name: str) -> Symbolic:
        values = self.settings.input_values
        held = given.value if isinstance(given, Known) else None
        if name in values and name not in getattr(held, "model_fields_set", ()):
            return Known(values[name])
        return at(given, (name,))

    def content_free(self, request: LMRequest) -> Amount:
        """The prompt with every input replaced by a word or two."""
        schema = cast("type[Schema]", self.settings.input)
        made = self.request(schema.model_construct(None, **dict.fromkeys(schema.model_fields, "N/A")))
        return Amount.exactly(self.vocabulary.request(made))

    def evaluations(self, choices: Sequence[str]) -> Amount:
        """How often the prompt is read to score `choices`: once for each place where some of them part."""
        if self.vocabulary.name != "smollm2":
            return ONE

        def groups(length: int) -> int:
            keys = sorted(choice[:length] for choice in choices)
            return sum(len(list(group)) > 1 for _, group in groupby(keys))

        return Amount(1.0, 1.0 + groups(1), 1.0 + groups(4))

    def answer(self, request: LMRequest, expected: Mapping[str, object]) -> tuple[Amount, Symbolic, tuple[str, ...]]:
        """Tokens of the answer, its fields, and those of them whose length is a guess."""
        shape = self.prepared.shape
        limit = float(request.max_tokens)
        texts, guessed = self._texts()
        record = of_schema(self.settings.output, self.count, Amount(0.0, limit, FREE_TEXT))
        fields: dict[str, Symbolic] = {
            name: Known(expected[name], False) if name in expected else self._likely(name, part, texts, limit)
            for name, part in record.fields.items()
        }
        whole = all(name in expected for name in fields)
        value = Known(self.settings.output.model_construct(None, **expected), False) if whole else Record(fields)
        if request.choices:
            name = shape.names[0]
            sizes = [self.count(choice_text(expected[name]))] if name in expected else map(self.count, request.choices)
            lengths = list(sizes)
            point = min(limit, sum(lengths) / len(lengths) + _ENDS)
            return Amount(1.0, limit, point), value, ()
        said = fields
        if shape.reasoning:
            reasoning = Sized(Amount(0.0, limit, texts.get("reasoning", FREE_TEXT)))
            said = {"reasoning": reasoning, **fields}
        total = amount_of(said[shape.names[0]] if shape.bare else Record(said), self.count)
        # The model may stop early, or ramble as long as it is let.
        point = None if total.point is None else min(limit, total.point + _ENDS)
        return Amount(1.0, limit, point), value, tuple(name for name in guessed if name not in expected)

    def _likely(self, name: str, value: Symbolic, texts: Mapping[str, float], limit: float) -> Symbolic:
        if name in texts and isinstance(value, Sized):
            return Sized(replace(value.amount, point=texts[name]).at_most(limit))
        return replace(value, most=limit) if isinstance(value, Many) else value

    def _texts(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """Mean length of each output field in the demonstrations, and the fields that none of them shows."""
        shape = self.prepared.shape
        found: dict[str, float] = {}
        guessed: list[str] = []
        demos = _demos(self.settings)
        for name in shape.answer_fields:
            shown = [text for demo in demos if (text := _shown(demo, name)) is not None]
            if shown:
                found[name] = sum(map(self.count, shown)) / len(shown)
            elif name == "reasoning" or _open_text(self.settings.output, name):
                guessed.append(name)
        return found, tuple(guessed)


def _shown(demo: Demo, name: str) -> str | None:
    if name == "reasoning":
        return demo.reasoning
    return value_text(demo.output[name]) if name in demo.output else None


def _demos(settings: ModuleSettings[Any, Any]) -> tuple[Demo, ...]:
    source = settings.demos
    return source.pool[:32] if isinstance(source, Nearest) else source.demos[:32]


def _open_text(schema: type[Schema], name: str) -> bool:
    text = json.dumps(schema.model_json_schema().get("properties", {}).get(name, {}))
    return '"string"' in text and '"enum"' not in text and '"const"' not in text


def static_tokens(settings: ModuleSettings[Any, Any], model: Model) -> float:
    """Tokens of the part of a module's prompt before the first thing that changes from call to call."""
    return _static(_Sizing(settings, model))


def _static(sized: _Sizing) -> float:
    made, vocabulary = sized.prepared, sized.vocabulary
    if not made.fixed:
        # Demonstrations that are chosen for each input come after what is static.
        made = prepare(replace(sized.settings, demos=DemoSet()))
    schema = cast("type[Schema]", sized.settings.input)
    one, other = (
        sized.request(schema.model_construct(None, **dict.fromkeys(schema.model_fields, mark)), made)
        for mark in ("\u0001", "\u0002")
    )
    if one.prompt is not None and other.prompt is not None:
        return vocabulary.start + vocabulary.count(_common(one.prompt, other.prompt))
    total = 0.0
    for mine, theirs in zip(one.messages, other.messages, strict=True):
        total += vocabulary.turn
        if mine != theirs:
            return total + vocabulary.count(_common(mine.content, theirs.content))
        total += vocabulary.count(mine.content)
    return total


def _common(one: str, other: str) -> str:
    """What both texts begin with."""
    pairs = zip(one, other, strict=False)
    return one[: next((place for place, (a, b) in enumerate(pairs) if a != b), len(one))]
