"""What can be had without a language model: the yardsticks that a program has to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dspex.errors import DataError
from dspex.evaluation.dataset import Dataset, Example
from dspex.evaluation.evaluator import Outcome, outcome_of
from dspex.program.demos import canonical_json, input_text
from dspex.program.metric import MetricLike
from dspex.program.schema import Schema
from dspex.program.similarity import TfIdf

__all__ = ["Yardstick", "majority", "tfidf_nearest"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Yardstick(Generic[I, O]):
    """A function from inputs to outputs that was made from examples, without any language model.

    Attributes:
        name: What the report calls it.
        predict: The output for an input.
    """

    name: str
    predict: Callable[[I], O]

    async def __call__(self, x: I, /) -> O:
        """The output for `x`, in the form of a program's call."""
        return self.predict(x)

    async def evaluate(self, dataset: Dataset[I, O], metric: MetricLike[I, O]) -> list[Outcome[O]]:
        """The outcome of each example, in order, by the metric that programs are scored with."""
        return [await outcome_of(self, example, metric) for example in dataset]


def majority(train: Dataset[I, O]) -> Yardstick[I, O]:
    """Always the most frequent wanted output; among equally frequent ones the first by its JSON text.

    Raises:
        DataError: DX5110: there are no examples.
    """
    examples = _some(train)
    texts = [canonical_json(example.want.model_dump(mode="json")) for example in examples]
    counts = Counter(texts)
    best = min(counts, key=lambda text: (-counts[text], text))
    want = examples[texts.index(best)].want
    return Yardstick("majority class", lambda _: want)


def tfidf_nearest(train: Dataset[I, O]) -> Yardstick[I, O]:
    """The wanted output of the example whose input is most similar, by TF-IDF cosine over its text.

    The majority's output where no word is shared.

    Raises:
        DataError: DX5110: there are no examples.
    """
    examples = _some(train)
    index = TfIdf([_text(example.input) for example in examples])
    otherwise = majority(train)

    def predict(x: I) -> O:
        for position, similarity in index.nearest(_text(x), 1):
            if similarity > 0:
                return examples[position].want
        return otherwise.predict(x)

    return Yardstick("TF-IDF nearest neighbour", predict)


def _text(x: Schema) -> str:
    return input_text(x.model_dump(mode="json"))


def _some(train: Dataset[I, O]) -> list[Example[I, O]]:
    # In the order of hashes, so that ties do not depend on the order of rows.
    examples = sorted(train, key=lambda example: example.hash)
    if not examples:
        raise DataError("DX5110", "a baseline needs examples", where=train.source, fix="give at least one row")
    return examples
