"""How many tokens a text is, without the model's vocabulary: a weighted count of its words, numbers, marks and scripts.

The weights of each vocabulary were fitted, by least squares on relative errors, to its real token counts of some 1,200
texts: English, code, JSON, Markdown and 20 other languages (`benchmarks/vocabularies.py`). Root mean square errors on
texts that were held out: 5 to 7 % for English, code, JSON and Markdown, up to 24 % for other languages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from dspex.lm.types import LMRequest

__all__ = ["VOCABULARIES", "Vocabulary", "features", "vocabulary_of"]

FEATURES: Final[tuple[str, ...]] = (
    "word",  # words, and the parts of camelCase ones
    "l5",  # letters of a word from the 6th to the 9th
    "l9",  # letters from the 10th on
    "upper",  # letters of words in capitals
    "accented_word",
    "accented",  # accented letters
    "al4",  # letters of accented words from the 5th on
    "glued",  # words that follow something else than a space
    "digit",
    "digit3",  # groups of three digits
    "newline",
    "space",  # runs of two blanks and more
    "mark",  # runs of punctuation
    "markx",  # further marks of a run
    "symbol",  # marks beyond ASCII, such as emoji
    "oword",  # words in other scripts
    "greek",
    "cyrillic",
    "hebrew",
    "arabic",
    "devanagari",
    "indic",
    "thai",
    "kana",
    "han",
    "hangul",
    "rest",
)

_LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
_COMBINING = "\u0300-\u036f\u0591-\u05c7\u064b-\u0652\u0900-\u0903\u093a-\u094f\u0981-\u09cd\u0b82-\u0bcd\u0e31-\u0e4e"
_PIECE: Final = re.compile(
    rf"(?P<word>[{_LATIN}]+)|(?P<digits>\d+)|(?P<newline>[ \t]*\n\s*)|(?P<space>[ \t]{{2,}})"
    rf"|(?P<other>[^\W\d_{_LATIN}]+(?:[{_COMBINING}]*[^\W\d_A-Za-z]*)*)|(?P<mark>[^\w\s]+|_)"
)
_CASES: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+|[A-Z]")

_SCRIPTS: Final = (
    (0x370, 0x400, "greek"),
    (0x400, 0x530, "cyrillic"),
    (0x590, 0x600, "hebrew"),
    (0x600, 0x780, "arabic"),
    (0x900, 0x980, "devanagari"),
    (0x980, 0xE00, "indic"),
    (0xE00, 0xF00, "thai"),
    (0x1100, 0x1200, "hangul"),
    (0x3040, 0x3100, "kana"),
    (0x3400, 0xA000, "han"),
    (0xAC00, 0xD7B0, "hangul"),
    (0xF900, 0xFB00, "han"),
)


def features(text: str) -> dict[str, int]:
    """How often each of `FEATURES` occurs in `text`."""
    found: dict[str, int] = dict.fromkeys(FEATURES, 0)
    for match in _PIECE.finditer(text):
        kind, piece = match.lastgroup, match.group()
        if kind == "word":
            _count_word(piece, found)
            if match.start() and text[match.start() - 1] != " ":
                found["glued"] += 1
        elif kind == "digits":
            found["digit"] += len(piece)
            found["digit3"] += -(-len(piece) // 3)
        elif kind == "mark":
            ascii_marks = sum(char.isascii() for char in piece)
            found["mark"] += 1
            found["markx"] += max(0, ascii_marks - 1)
            found["symbol"] += len(piece) - ascii_marks
        elif kind == "other":
            found["oword"] += 1
            for char in piece:
                found[_script(char)] += 1
        elif kind is not None:
            found[kind] += 1
    return found


def _count_word(piece: str, found: dict[str, int]) -> None:
    if not piece.isascii():
        found["word"] += 1
        found["accented_word"] += 1
        found["accented"] += sum(not char.isascii() for char in piece)
        found["al4"] += max(0, len(piece) - 4)
        return
    for part in _CASES.findall(piece):
        length = len(part)
        found["word"] += 1
        if length > 1 and part.isupper():
            found["upper"] += length
        elif length > 5:
            found["l5"] += min(length, 9) - 5
            found["l9"] += max(0, length - 9)


def _script(char: str) -> str:
    point = ord(char)
    for low, high, name in _SCRIPTS:
        if low <= point < high:
            return name
    return "rest"


@dataclass(frozen=True)
class Vocabulary:
    """How one family of models counts.

    Attributes:
        name: Of the vocabulary that the weights were fitted to.
        weights: Tokens for each of `FEATURES`; empty where words between blanks are counted.
        turn: Tokens that the chat template adds to a turn.
        reply: Tokens that it adds after the last turn, for the answer to begin.
        no_system: Tokens of the system turn that it adds where there is none.
        start: Tokens before a raw prompt.
        margin: Relative error that ranges allow for.
        schema: Whether a JSON Schema that the answer must fit is counted as input.
    """

    name: str
    weights: tuple[float, ...]
    turn: int = 4
    reply: int = 3
    no_system: int = 0
    start: int = 0
    margin: float = 0.15
    schema: bool = True

    def count(self, text: str) -> float:
        """About how many tokens `text` is."""
        return _count(self.name, text)

    def request(self, request: LMRequest) -> float:
        """About how many input tokens a request is, with what the chat template adds."""
        total = 0.0
        if request.prompt is not None:
            total += self.start + self.count(request.prompt)
        if request.messages:
            total += self.reply + sum(self.turn + self.count(message.content) for message in request.messages)
            if request.messages[0].role != "system":
                total += self.no_system
        if self.schema and request.json_schema is not None and not request.choices:
            total += self.count(request.json_schema)
        return total


# Columns as in FEATURES.
# fmt: off
_FITTED: Final[dict[str, tuple[float, ...]]] = {
    "o200k": (0.9, 0.18, 0.27, 0.16, 0.0, 0.32, 0.43, 0.0, 0.03, 1.4, 0.4, 2.19, 0.88, 0.18, 0.04, 0.51, 0.32, 0.23,
              0.35, 0.27, 0.28, 0.32, 0.39, 0.64, 0.68, 0.55, 3.77),
    "cl100k": (0.92, 0.15, 0.43, 0.15, 0.0, 1.09, 0.48, 0.0, 0.05, 1.34, 0.38, 2.33, 0.88, 0.15, 0.34, 0.62, 0.94, 0.42,
               1.05, 0.71, 1.06, 1.36, 0.92, 0.95, 0.89, 0.9, 2.96),
    "llama3": (0.92, 0.16, 0.45, 0.17, 0.21, 0.0, 0.62, 0.0, 0.04, 1.37, 0.43, 2.46, 0.85, 0.17, 0.03, 0.0, 0.42, 0.34,
               1.19, 0.41, 0.65, 1.46, 0.49, 0.64, 0.78, 0.77, 3.97),
    "claude": (0.93, 0.16, 0.55, 0.19, 0.86, 1.43, 0.37, 0.26, 0.0, 1.15, 0.9, 1.78, 0.89, 0.02, 0.44, 0.97, 1.15, 0.45,
               0.82, 0.92, 1.11, 1.95, 1.77, 0.87, 0.67, 0.94, 0.0),
    "smollm2": (0.92, 0.18, 0.48, 0.41, 2.45, 0.27, 0.67, 0.42, 0.85, 0.74, 0.73, 2.49, 0.86, 0.1, 1.06, 1.33, 0.75,
                0.68, 0.98, 0.87, 1.03, 1.84, 1.86, 1.65, 1.4, 2.27, 1.43),
}
# fmt: on

VOCABULARIES: Final[dict[str, Vocabulary]] = {
    "o200k": Vocabulary("o200k", _FITTED["o200k"]),
    "cl100k": Vocabulary("cl100k", _FITTED["cl100k"]),
    "llama3": Vocabulary("llama3", _FITTED["llama3"], turn=5, reply=4, start=1, schema=False),
    "claude": Vocabulary("claude", _FITTED["claude"], margin=0.25),
    "smollm2": Vocabulary("smollm2", _FITTED["smollm2"], turn=5, reply=5, no_system=21, schema=False),
    "words": Vocabulary("words", (), turn=0, reply=0, margin=0.0, schema=False),
    "unknown": Vocabulary("unknown", _FITTED["o200k"], margin=0.3),
}
"""By name. ``claude`` was fitted to the vocabulary of Claude 2, the last published one; ``unknown`` counts as o200k."""

_NAMES: Final = (
    (r"^scripted/", "words"),
    (r"smollm", "smollm2"),
    (r"claude", "claude"),
    (r"gpt-4(?!o|\.|\d)|gpt-3\.5|gpt-35", "cl100k"),
    (r"gpt|^openai/o\d|chatgpt", "o200k"),
    (r"llama|mistral|mixtral|qwen|deepseek|phi-?[34]", "llama3"),
)


def vocabulary_of(model: str | None) -> Vocabulary:
    """The vocabulary that a model of this name (``provider/model``) most likely counts with."""
    if model is not None:
        for pattern, name in _NAMES:
            if re.search(pattern, model, re.IGNORECASE):
                return VOCABULARIES[name]
    return VOCABULARIES["unknown"]


@lru_cache(maxsize=4096)
def _count(name: str, text: str) -> float:
    weights = VOCABULARIES[name].weights
    if not weights:
        return float(len(text.split()))
    found = features(text)
    return sum(weight * found[feature] for weight, feature in zip(weights, FEATURES, strict=True))
