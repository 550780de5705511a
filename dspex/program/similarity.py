"""TF-IDF similarity of texts: the yardstick for nearest demonstrations and for the baseline without an LM."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TfIdf", "words"]

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of `text`, folded to lower case."""
    return _WORD.findall(text.casefold())


class TfIdf:
    """An inverted index over `texts` with cosine similarity.

    Weights are term frequency × smoothed inverse document frequency, ln((1 + n) / (1 + df)) + 1, and every
    text has unit length. A query costs the postings of its own words only.

    Source: Salton & Buckley (1988), with the smoothing that is common today.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        self._size = len(texts)
        counts = [Counter(words(text)) for text in texts]
        frequency: Counter[str] = Counter()
        for count in counts:
            frequency.update(count.keys())
        self._idf = {
            word: float(np.log((1.0 + self._size) / (1.0 + df)) + 1.0) for word, df in sorted(frequency.items())
        }
        rows: dict[str, list[int]] = {}
        weights: dict[str, list[float]] = {}
        for row, count in enumerate(counts):
            vector = self._unit(count)
            for word, weight in vector.items():
                rows.setdefault(word, []).append(row)
                weights.setdefault(word, []).append(weight)
        self._postings: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {
            word: (np.asarray(rows[word], dtype=np.int64), np.asarray(weights[word], dtype=np.float64)) for word in rows
        }

    def _unit(self, count: Counter[str]) -> dict[str, float]:
        # Sorted, so that sums have one order and results do not depend on the hash seed.
        vector = {word: count[word] * self._idf[word] for word in sorted(count) if word in self._idf}
        length = sum(weight * weight for weight in vector.values()) ** 0.5
        return {word: weight / length for word, weight in vector.items()} if length > 0 else {}

    def __len__(self) -> int:
        return self._size

    def similarities(self, text: str) -> NDArray[np.float64]:
        """Cosine of `text` with every indexed text, in [0, 1]; 0 where no word is shared."""
        import numpy as np

        scores = np.zeros(self._size)
        for word, weight in self._unit(Counter(words(text))).items():
            rows, weights = self._postings[word]
            scores[rows] += weight * weights
        return scores

    def ranking(self, text: str) -> list[int]:
        """Indices of all texts, the most similar first, ties by lower index."""
        import numpy as np

        return np.argsort(-self.similarities(text), kind="stable").tolist()

    def nearest(self, text: str, k: int) -> list[tuple[int, float]]:
        """The `k` most similar texts as (index, cosine), the most similar first, ties by lower index."""
        import numpy as np

        scores = self.similarities(text)
        k = min(k, self._size)
        if k < 1:
            return []
        if k < self._size:
            # Everything at or above the k-th best score, so that ties at the border are broken by index too.
            border = np.partition(scores, self._size - k)[self._size - k]
            candidates = np.flatnonzero(scores >= border)
        else:
            candidates = np.arange(self._size)
        order = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
        return [(int(index), float(scores[index])) for index in order]
