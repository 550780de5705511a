"""The prompt formats. A layout is built once; `fill` puts one input's values into it by joining, never by formatting.

No value is ever read as a template, so braces or percent signs in a user's text mean nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from dspex.compiler.answers.shape import OutputShape, choice_text
from dspex.compiler.render.values import block_text, json_text, line_text, title, value_text
from dspex.lm.types import Message
from dspex.program.demos import Demo

Filled = tuple[tuple[Message, ...], str | None]
"""Chat turns, or no turns and a raw prompt: the two fields of a request."""


class Layout(Protocol):
    """One prompt format, prepared for one module."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the answer's fields in the text, or () where answers are JSON or a bare value."""
        ...

    @property
    def stop(self) -> tuple[str, ...]: ...

    def prefix(self, demos: Sequence[Demo], *, fixed: bool) -> Filled:
        """What comes before the input; `fixed` where the demonstrations are the same for every input."""
        ...

    def fill(self, prefix: Filled, texts: Sequence[str]) -> Filled:
        """The whole prompt for one input, whose field texts are given in field order."""
        ...

    def repair(self, filled: Filled, answer: str, complaint: str) -> Filled:
        """The prompt that shows the model its answer and what is wrong with it."""
        ...


class ChatLayout:
    """System turn = instruction and answer form; each demonstration a user and an assistant turn; then the input.

    Args:
        instruction: The task.
        inputs: Names of the input fields.
        shape: What an answer looks like.
        labelled: Whether a record is written as ``Label: value`` lines rather than as a JSON object.
    """

    stop: tuple[str, ...] = ()

    def __init__(self, instruction: str, inputs: tuple[str, ...], shape: OutputShape, *, labelled: bool) -> None:
        self._inputs = inputs
        self._shape = shape
        self.labels: tuple[str, ...] = tuple(map(title, shape.answer_fields)) if labelled and not shape.bare else ()
        self._form = shape.describe(self.labels)
        said = f"{instruction}\n\n{self._form}" if instruction else self._form
        self._system = Message("system", said, cache_point=True)

    def prefix(self, demos: Sequence[Demo], *, fixed: bool) -> Filled:
        turns = [self._system]
        for number, demo in enumerate(demos, 1):
            turns.append(Message("user", self._user(_demo_texts(demo.input, self._inputs))))
            turns.append(Message("assistant", self._answer(demo), cache_point=fixed and number == len(demos)))
        return tuple(turns), None

    def fill(self, prefix: Filled, texts: Sequence[str]) -> Filled:
        return (*prefix[0], Message("user", self._user(texts))), None

    def repair(self, filled: Filled, answer: str, complaint: str) -> Filled:
        asked = Message("user", f"{complaint} {self._form}")
        return (*filled[0], Message("assistant", answer), asked), None

    def _user(self, texts: Sequence[str]) -> str:
        if len(self._inputs) == 1:
            return texts[0]
        return "\n".join([f"{name}: {block_text(text)}" for name, text in zip(self._inputs, texts, strict=True)])

    def _answer(self, demo: Demo) -> str:
        shape = self._shape
        if shape.bare:
            value = demo.output[shape.names[0]]
            return choice_text(value) if shape.choices else value_text(value)
        if self.labels:
            return "\n".join(f"{label}: {block_text(text)}" for label, text in _answer_texts(demo, shape, self.labels))
        fields: dict[str, object] = {}
        if shape.reasoning and demo.reasoning is not None:
            fields["reasoning"] = demo.reasoning
        fields.update({name: demo.output[name] for name in shape.names if name in demo.output})
        return json_text(fields)


class CompletionLayout:
    """Instruction, then blocks of ``Label: value`` lines; the last block ends with the first output's label."""

    def __init__(self, instruction: str, inputs: tuple[str, ...], shape: OutputShape) -> None:
        self._inputs = tuple(title(name) for name in inputs)
        self._names = inputs
        self._shape = shape
        self._outputs = tuple(title(name) for name in shape.answer_fields)
        single = len(self._outputs) == 1
        self.labels: tuple[str, ...] = () if single else self._outputs
        self._single = single
        self.stop: tuple[str, ...] = ("\n",) if single and shape.bare else ("\n\n",)
        closed = f"\n{self._outputs[0]} is one of: {', '.join(shape.choices)}." if shape.choices else ""
        self._head = f"{instruction}{closed}".lstrip("\n")

    def prefix(self, demos: Sequence[Demo], *, fixed: bool) -> Filled:
        blocks = [self._head] if self._head else []
        for demo in demos:
            lines = self._lines(_demo_texts(demo.input, self._names))
            blocks.append("\n".join([*lines, *self._answer(demo)]))
        return (), "".join([block + "\n\n" for block in blocks])

    def fill(self, prefix: Filled, texts: Sequence[str]) -> Filled:
        return (), (prefix[1] or "") + "\n".join([*self._lines(texts), f"{self._outputs[0]}:"])

    def repair(self, filled: Filled, answer: str, complaint: str) -> Filled:
        prompt = filled[1] or ""
        cut = len(prompt) - len(self._outputs[0]) - 1
        said = block_text(line_text(answer)[:200])
        return (), f"{prompt[:cut]}Note: not {said!r}. {line_text(complaint)}\n{prompt[cut:]}"

    def _lines(self, texts: Sequence[str]) -> list[str]:
        return [f"{label}: {block_text(text)}" for label, text in zip(self._inputs, texts, strict=True)]

    def _answer(self, demo: Demo) -> list[str]:
        shape = self._shape
        if shape.choices:
            return [f"{self._outputs[0]}: {choice_text(demo.output[shape.names[0]])}"]
        brief = line_text if self._single else block_text
        return [f"{label}: {brief(text)}" for label, text in _answer_texts(demo, shape, self._outputs)]


def _answer_texts(demo: Demo, shape: OutputShape, labels: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Label and text of each field that the demonstration's answer has."""
    for name, label in zip(shape.answer_fields, labels, strict=True):
        value = demo.reasoning if shape.reasoning and name == "reasoning" else demo.output.get(name)
        if value is not None or name in demo.output:
            yield label, value_text(value)


def _demo_texts(fields: Mapping[str, object], names: tuple[str, ...]) -> list[str]:
    return [value_text(fields[name]) if name in fields else "" for name in names]
