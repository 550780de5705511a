"""Read JSON as models write it when nothing enforces it."""

from __future__ import annotations

import re
from typing import cast

from pydantic_core import from_json

__all__ = ["json_object", "json_value", "unfenced"]

_FENCE = re.compile(r"```[A-Za-z]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_GAP = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_$][\w$-]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")
_CLOSES = re.compile(r"\s*(?:[,:}\]]|//|/\*|\Z)")
_WORDS: dict[str, object] = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_QUOTES = {'"': '"', "'": "'", "“": "”"}
_ENDS = {end: re.compile(rf"[\\{end}]") for end in _QUOTES.values()}
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_CODE = re.compile(r"u([0-9A-Fa-f]{4})(?:\\u([0-9A-Fa-f]{4}))?")
_DEPTH = 64
_TRIES = 50


def unfenced(text: str) -> str:
    """What the first code fence of `text` holds, its end being optional; `text` itself when there is none."""
    if "```" not in text:
        return text
    fence = _FENCE.search(text)
    return fence[1] if fence else text


def json_value(text: str, *, whole: bool) -> object:
    """The value that all of `text`, fenced or not, stands for.

    Beyond JSON it may have: trailing commas, comments, single or curly quotes, quotes and line breaks inside of
    texts, bare keys, Python's words, and brackets that were never closed. A text that breaks off inside a string, a
    word or a number's sign is unreadable, since nobody knows how it goes on.

    Args:
        text: What the model wrote.
        whole: Whether open brackets are an error; so they are in an answer that was cut off.

    Raises:
        ValueError: There is no such value.
    """
    for candidate in dict.fromkeys((text, unfenced(text))):
        try:
            return cast("object", from_json(candidate))
        except ValueError:
            continue
    reader = _Reader(unfenced(text), whole=whole)
    value = reader.value()
    if reader.gap() < len(reader.text):
        raise ValueError("text after the value")
    return value


def json_object(text: str, names: tuple[str, ...], *, whole: bool) -> dict[str, object] | None:
    """The JSON object that `text` is, fences or holds, as `json_value` reads it.

    Among several the first one counts that has one of the fields `names`, else the first one; None when there is none.
    """
    for candidate in dict.fromkeys((text, unfenced(text))):
        try:
            value: object = from_json(candidate)
        except ValueError:
            continue
        return cast("dict[str, object]", value) if isinstance(value, dict) else None
    first: dict[str, object] | None = None
    for candidate in dict.fromkeys((unfenced(text), text)):
        at = candidate.find("{")
        for _ in range(_TRIES):
            if at == -1:
                break
            reader = _Reader(candidate, at, whole=whole)
            try:
                found = cast("dict[str, object]", reader.value())
            except ValueError:
                at = candidate.find("{", at + 1)
                continue
            if not found.keys().isdisjoint(names):
                return found
            first = found if first is None else first
            at = candidate.find("{", reader.at)
    return first


class _Reader:
    """Reads one value of `text` from `at` on."""

    def __init__(self, text: str, at: int = 0, *, whole: bool) -> None:
        self.text = text
        self.at = at
        self._whole = whole
        self._depth = 0

    def gap(self) -> int:
        """Skip white space and comments; the place after them."""
        found = _GAP.match(self.text, self.at)
        self.at = self.at if found is None else found.end()
        return self.at

    def value(self) -> object:
        self.gap()
        begin = self.text[self.at : self.at + 1]
        if begin in ("{", "["):
            self._depth += 1
            if self._depth > _DEPTH:
                raise ValueError("nested too deeply")
            self.at += 1
            value = self._object() if begin == "{" else self._array()
            self._depth -= 1
            return value
        if begin in _QUOTES and begin:
            return self._string(_QUOTES[begin])
        number = _NUMBER.match(self.text, self.at)
        if number is not None:
            self.at = number.end()
            return cast("object", from_json(number[0]))
        word = _NAME.match(self.text, self.at)
        if word is None or word[0] not in _WORDS:
            raise ValueError("no JSON value")
        self.at = word.end()
        return _WORDS[word[0]]

    def _object(self) -> dict[str, object]:
        fields: dict[str, object] = {}
        while not self._closed("}"):
            begin = self.text[self.at]
            if begin in _QUOTES:
                key = self._string(_QUOTES[begin])
            else:
                bare = _NAME.match(self.text, self.at)
                if bare is None:
                    raise ValueError("no key")
                self.at, key = bare.end(), bare[0]
            if self.text[self.gap() : self.at + 1] != ":":
                raise ValueError("a key without a value")
            self.at += 1
            fields[key] = self.value()
            self._next("}")
        return fields

    def _array(self) -> list[object]:
        items: list[object] = []
        while not self._closed("]"):
            items.append(self.value())
            self._next("]")
        return items

    def _closed(self, end: str) -> bool:
        """Whether the object or list ends here."""
        if self.gap() == len(self.text):
            if self._whole:
                raise ValueError("never closed")
            return True
        if self.text[self.at] != end:
            return False
        self.at += 1
        return True

    def _next(self, end: str) -> None:
        """Go past a comma, which may stand before the end too."""
        if self.gap() < len(self.text) and self.text[self.at] == ",":
            self.at += 1
        elif self.at < len(self.text) and self.text[self.at] != end:
            raise ValueError("no comma")

    def _string(self, end: str) -> str:
        parts: list[str] = []
        text, start = self.text, self.at + 1
        while True:
            mark = _ENDS[end].search(text, start)
            if mark is None:
                raise ValueError("a text never ends")
            at = mark.start()
            parts.append(text[start:at])
            start = at + 1
            if mark[0] == "\\":
                start = self._escaped(start, parts)
            elif _CLOSES.match(text, start):
                self.at = start
                return "".join(parts)
            else:
                # A quote that stands inside of the text.
                parts.append(end)

    def _escaped(self, at: int, parts: list[str]) -> int:
        sign = self.text[at : at + 1]
        code = _CODE.match(self.text, at)
        if code is None:
            parts.append(_ESCAPES.get(sign, sign))
            return at + 1
        high = int(code[1], 16)
        low = int(code[2], 16) if code[2] else 0
        if 0xD800 <= high < 0xDC00 and 0xDC00 <= low < 0xE000:
            parts.append(chr(0x10000 + ((high - 0xD800) << 10) + low - 0xDC00))
            return code.end()
        parts.append(chr(high))
        return at + 5
