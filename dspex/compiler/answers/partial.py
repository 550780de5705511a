"""Read an answer while it is written: which field the new text belongs to, and what is known of it so far.

A reader takes each character once. What it cannot follow it does not show; the validated output is the judge of every
answer, whatever was shown of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, cast

from pydantic_core import from_json

__all__ = ["BareReader", "LabelReader", "ObjectReader", "PartialReader", "Piece"]

Piece = tuple[str, str, object]
"""A field, what is appended to its text, and its value so far."""

_OPENED = re.compile(r"\{\s*(?=\")")
_KEY = re.compile(r'[\s,]*("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_NO_KEY = re.compile(r'[\s,]*[^\s,"]')
# A high surrogate's escape is complete with the low one behind it.
_BODY = re.compile(
    r'(?:[^"\\]+|\\(?:[^u]|u(?![dD][89abAB])[0-9a-fA-F]{4}|u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}))*'
)
_SIGNS = re.compile(r'[{}\[\],"\\]')
_GROWTH = 1.02


class PartialReader(Protocol):
    """Reads one answer."""

    def feed(self, text: str, /) -> list[Piece]:
        """What `text`, the next part of the answer, adds to which fields."""
        ...


class _Value:
    """A value that is not a text, as its JSON comes in."""

    def __init__(self) -> None:
        self._json = ""
        self._read = 0
        self._known: object = None

    def add(self, text: str, *, ended: bool = False) -> object:
        """The value so far; half a number or word is nothing yet."""
        self._json += text
        # Read again only once it has grown by a share of itself, so that a long list costs no more for each item.
        if not (ended or (self._json.startswith(("[", "{")) and len(self._json) >= self._read * _GROWTH)):
            return self._known
        self._read = len(self._json)
        try:
            self._known = from_json(self._json, allow_partial="off" if ended else "trailing-strings")
        except ValueError:
            return self._known
        return self._known


class ObjectReader:
    """Reads an answer that is, or holds, a JSON object with the fields `names`."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._rest = ""
        self._step: Callable[[], bool] = self._open
        self._field = ""
        self._text = ""
        self._value = _Value()
        self._depth = 0
        self._quoted = False
        self._pieces: list[Piece] = []

    def feed(self, text: str, /) -> list[Piece]:
        self._rest += text
        while self._step():
            pass
        pieces, self._pieces = self._pieces, []
        return pieces

    def _open(self) -> bool:
        found = _OPENED.search(self._rest)
        if found is None:
            last = self._rest.rfind("{")
            self._rest = self._rest[last:] if last != -1 else ""
            return False
        return self._go(found.end(), self._key)

    def _key(self) -> bool:
        found = _KEY.match(self._rest)
        if found is None:
            return bool(_NO_KEY.match(self._rest)) and self._go(0, self._over)
        if found.end() == len(self._rest):
            return False
        try:
            self._field = cast(str, from_json(found[1]))
        except ValueError:
            return self._go(0, self._over)
        self._text, self._value, self._depth, self._quoted = "", _Value(), 0, False
        quoted = self._rest[found.end()] == '"'
        return self._go(found.end() + quoted, self._string if quoted else self._other)

    def _string(self) -> bool:
        found = cast("re.Match[str]", _BODY.match(self._rest))
        if found[0]:
            try:
                new = cast(str, from_json(f'"{found[0]}"'))
            except ValueError:
                return self._go(0, self._over)
            self._text += new
            self._show(new, self._text)
        self._rest = self._rest[found.end() :]
        return self._rest.startswith('"') and self._go(1, self._key)

    def _other(self) -> bool:
        """A value that is not a text, up to the comma or bracket behind it."""
        rest = self._rest
        at = 0
        while (sign := _SIGNS.search(rest, at)) is not None:
            at = sign.end()
            if sign[0] == "\\":
                if at == len(rest):
                    at -= 1
                    break
                at += 1
            elif sign[0] == '"':
                self._quoted = not self._quoted
            elif self._quoted:
                continue
            elif sign[0] in "[{":
                self._depth += 1
            elif self._depth == 0:
                new = rest[: sign.start()].rstrip()
                self._show(new, self._value.add(new, ended=True))
                return self._go(sign.start(), self._key)
            elif sign[0] != ",":
                self._depth -= 1
        else:
            at = len(rest)
        if at:
            self._show(rest[:at], self._value.add(rest[:at]))
        self._rest = rest[at:]
        return False

    def _over(self) -> bool:
        self._rest = ""
        return False

    def _go(self, end: int, step: Callable[[], bool]) -> bool:
        self._rest = self._rest[end:]
        self._step = step
        return True

    def _show(self, text: str, value: object) -> None:
        if self._field in self._names:
            self._pieces.append((self._field, text, value))


class _Words:
    """A field as it is written without quotes; white space around it does not count."""

    def __init__(self, name: str, *, text: bool) -> None:
        self._name = name
        self._text: str | None = "" if text else None
        self._value = _Value()
        self._begun = False
        self._held: str = ""

    def add(self, text: str) -> list[Piece]:
        if not self._begun:
            text = text.lstrip()
        text = self._held + text
        new = text.rstrip()
        self._held = text[len(new) :]
        if not new:
            return []
        self._begun = True
        if self._text is None:
            return [(self._name, new, self._value.add(new))]
        self._text += new
        return [(self._name, new, self._text)]


class BareReader:
    """Reads an answer that is one value by itself, or an object around it.

    Args:
        name: The field.
        text: Whether its value is a text.
    """

    def __init__(self, name: str, *, text: bool) -> None:
        self._name = name
        self._words = _Words(name, text=text)
        self._reader: PartialReader | None = None

    def feed(self, text: str, /) -> list[Piece]:
        if self._reader is None:
            begin = text.lstrip()
            if not begin:
                return []
            self._reader = ObjectReader((self._name,)) if begin.startswith("{") else _Whole(self._words)
        return self._reader.feed(text)


class _Whole:
    def __init__(self, words: _Words) -> None:
        self._words = words

    def feed(self, text: str, /) -> list[Piece]:
        return self._words.add(text)


class LabelReader:
    """Reads ``Label: value`` lines.

    Args:
        line: Matches the label at the beginning of a line.
        labels: The field of each label, casefolded, in the order of the answer.
        texts: The fields whose values are texts.
        continued: Whether the answer begins behind the first label, and indents the further lines of a value.
    """

    def __init__(
        self, line: re.Pattern[str], labels: Mapping[str, str], texts: Collection[str], *, continued: bool
    ) -> None:
        self._label = line
        self._labels = labels
        self._texts = texts
        self._continued = continued
        self._seen: set[str] = set()
        self._words: _Words | None = None
        self._rest = ""
        self._inside = continued
        """Whether the line's beginning is behind us."""
        if continued:
            self._enter(next(iter(labels.values())))

    def feed(self, text: str, /) -> list[Piece]:
        self._rest += text
        pieces: list[Piece] = []
        while self._rest:
            if not self._inside and not self._begin():
                break
            line, newline, self._rest = self._rest.partition("\n")
            self._inside = not newline
            if self._words is not None and (line or newline):
                pieces += self._words.add(line + newline)
        return pieces

    def _begin(self) -> bool:
        """Whether enough of the line is there to know what it is."""
        ended = "\n" in self._rest
        found = self._label.match(self._rest)
        if found is not None and (ended or found.end() < len(self._rest)):
            self._enter(self._labels[found[1].casefold()])
            self._rest = self._rest[found.end() :]
        elif not ended and self._may_be_label(self._rest):
            return False
        elif self._continued and self._rest.startswith("  "):
            self._rest = self._rest[2:]
        self._inside = True
        return True

    def _may_be_label(self, line: str) -> bool:
        begin = line.lstrip("#*_ \t").casefold()
        return any(
            label.startswith(begin) or (begin.startswith(label) and not begin[len(label) :].strip("*_: \t"))
            for label in self._labels
        )

    def _enter(self, name: str) -> None:
        # Of two lines with one label the first counts.
        self._words = None if name in self._seen else _Words(name, text=name in self._texts)
        self._seen.add(name)
