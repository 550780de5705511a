"""Reads the canonical text of a graph: ``parse(print_graph(g)) == g``.

Numbers in the text are names: any numbering is read, and the graph is numbered canonically. Any text gives a graph or
DX2080, in time linear in its length. The text of the first version, which has fewer words, is read as well.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Final, NoReturn, cast

from dspex.compiler.ir.nodes import (
    MAX_DEPTH,
    Argument,
    Attempt,
    AttemptForm,
    Attribute,
    Branch,
    Call,
    Cond,
    Constant,
    Estimate,
    Graph,
    Input,
    Join,
    JoinForm,
    Lm,
    Location,
    Map,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Select,
    Setting,
    Tool,
    Value,
    Variable,
    canonical,
)
from dspex.compiler.ir.types import ELLIPSIS, LiteralValue, Type, union
from dspex.errors import CompileError

__all__ = ["parse"]

_STRING: Final = r'"(?:[^"\\\n]|\\.)*"'
_NAME: Final = r"[^\W\d]\w*(?:\.\w+)*"
_TOKEN: Final = re.compile(
    rf"""
      (?P<space>[ \t\r\n]+)
    | (?P<comment>\#[^\n]*)
    | (?P<ref>%\d+(?:\.\w+|\[\d+\])*)
    | (?P<variable>\$(?:{_NAME}|{_STRING}))
    | (?P<attribute>@(?:{_NAME}|{_STRING}))
    | (?P<string>{_STRING})
    | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<target>[^\W\d][\w.]*:[^\W\d<][\w.<>]*)
    | (?P<name>{_NAME})
    | (?P<mark>->|\.\.\.?|[{{}}()\[\],:=|?])
    """,
    re.VERBOSE,
)
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_MAX_DIGITS: Final = 9
_MAX_INTEGER: Final = 1000
_MAX_SHOWN: Final = 60
_FORMS: Final[dict[str, JoinForm]] = {form: form for form in ("record", "copy", "tuple", "list", "dict", "vote")}
_KINDS: Final = {
    "ref": "a node such as %1",
    "variable": "a Variable such as $k",
    "attribute": "a path such as @solver.cot",
    "string": "a string",
    "number": "a number",
    "target": "a function such as bot:search",
    "name": "a name",
}


def parse(text: str) -> Graph:
    """The graph that `text` says.

    Raises:
        CompileError: DX2080 with line and column when the text is not a graph.
    """
    return _Parser(text).graph()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        # The tokens in parallel lists, which are several times faster to fill than a list of objects.
        self._kinds: list[str] = []
        self._words: list[str] = []
        self._starts: list[int] = []
        self._lines: list[int] = []
        self._locations: dict[int, Location] = {}
        self._at = 0
        self._implicit = -1
        self._blocks = 0
        self._depth = 0
        self._defined: set[int] = set()
        self._read: dict[int, int] = {}
        self._split()

    def _split(self) -> None:
        text, line, position = self._text, 0, 0
        while (match := _TOKEN.match(text, position)) is not None:
            kind, word = match.lastgroup or "", match.group()
            if kind == "space":
                line += word.count("\n")
            elif kind == "comment":
                self._location(line, word)
            else:
                self._kinds.append(kind)
                self._words.append(word)
                self._starts.append(position)
                self._lines.append(line)
            position = match.end()
        if position < len(text):
            self._refuse(f"unexpected {text[position]!r}", position)
        # Two, because the parser looks one token ahead.
        self._kinds += ["end"] * 2
        self._words += [""] * 2
        self._starts += [position] * 2
        self._lines += [line] * 2

    def _location(self, line: int, comment: str) -> None:
        file, _, number = comment[1:].strip().removeprefix("opaque, ").rpartition(":")
        if file and number.isdecimal() and len(number) <= _MAX_DIGITS:
            self._locations[line] = Location(file, int(number))

    def _refuse(self, what: str, start: int) -> NoReturn:
        line = self._text.count("\n", 0, start) + 1
        column = start - self._text.rfind("\n", 0, start)
        raise CompileError(
            "DX2080",
            f"the graph's text cannot be read: {what}",
            where=f"line {line}, column {column}",
            fix="correct the text; `print(compiled.graph)` shows the form",
        )

    def _fail(self, expected: str, at: int | None = None) -> NoReturn:
        """Refuses the token at `at`, the next one when it is left out."""
        at = self._at if at is None else at
        self._refuse(f"{expected} expected, found {_shown(self._words[at]) or 'the end'}", self._starts[at])

    def _peek(self, text: str) -> bool:
        return self._words[self._at] == text

    def _accept(self, text: str) -> bool:
        if self._words[self._at] == text:
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if self._words[self._at] != text:
            self._fail(f"{text!r}")
        self._at += 1

    def _take(self, *kinds: str) -> str:
        at = self._at
        if self._kinds[at] not in kinds:
            self._fail(" or ".join(_KINDS[kind] for kind in kinds))
        self._at = at + 1
        return self._words[at]

    def _string(self) -> str:
        return self._unquoted(self._take("string"))

    def _unquoted(self, text: str) -> str:
        """What the token just taken says, whose text without its sign is `text`."""
        if not text.startswith('"'):
            return text
        try:
            return str(json.loads(text))
        except ValueError:
            self._refuse(f"{_shown(text)} is not a string", self._starts[self._at - 1])

    def _name(self) -> str:
        return self._unquoted(self._take("name", "string"))

    def _sigil(self, kind: str) -> str:
        return self._unquoted(self._take(kind)[1:])

    def _target(self) -> str:
        return self._unquoted(self._take("target", "string"))

    def _block_deeper(self) -> None:
        self._blocks += 1
        if self._blocks > MAX_DEPTH:
            self._fail(f"at most {MAX_DEPTH} nested regions")

    def _deeper(self) -> None:
        """One step into a constant or a type."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"nesting of at most {MAX_DEPTH}")

    def graph(self) -> Graph:
        self._expect("program")
        name = self._name()
        self._expect(":")
        given = self._type()
        self._expect("->")
        result = self._type()
        self._block_deeper()
        self._expect("{")
        params = self._names("variable") if self._accept("params") else ()
        computed = self._names("variable") if self._accept("computed") else ()
        body = self._region()
        if self._kinds[self._at] != "end":
            self._fail("the end")
        for number, at in self._read.items():
            if number not in self._defined:
                self._refuse(f"%{number} is nowhere defined", self._starts[at])
        return canonical(Graph(name, given, result, body, params, computed))

    def _numbered(self, number: int) -> int:
        if number in self._defined:
            self._fail(f"a number other than %{number}, which is taken", self._at - 1)
        self._defined.add(number)
        return number

    def _number(self) -> int:
        """A node's number, without a path."""
        found = self._ref()
        if found.path:
            self._fail("a node number without a path", self._at - 1)
        return found.node

    def _block(self) -> Region:
        self._block_deeper()
        self._expect("{")
        region = self._region()
        self._blocks -= 1
        return region

    def _region(self) -> Region:
        nodes: list[Node] = []
        while not self._accept("output"):
            if self._kinds[self._at] != "ref":
                self._fail("a node such as %1 or 'output'")
            number = self._numbered(self._number())
            self._expect("=")
            nodes.append(self._operation(number))
        output = self._value()
        self._expect("}")
        return Region(tuple(nodes), output)

    def _operation(self, number: int) -> Node:
        # The operation starts on the line of its number, and the location stands on that line.
        line = self._lines[self._at]
        after = self._after() if self._accept("after") else ()
        at = self._at
        word = self._take("name")
        reader = _READERS.get(word)
        if reader is None or (after and word == "input"):
            self._fail(f"one of {', '.join(_READERS)}", at)
        node = reader(self, number)
        loc = self._locations.get(line)
        if isinstance(node, Input):
            return node if loc is None else replace(node, loc=loc)
        return node if loc is None and not after else replace(node, loc=loc, after=after)

    def _after(self) -> tuple[int, ...]:
        numbers: list[int] = []
        while True:
            at = self._at
            numbers.append(self._number())
            self._read.setdefault(numbers[-1], at)
            if not self._accept(","):
                return tuple(numbers)

    def _input(self, number: int) -> Node:
        self._expect(":")
        return Input(number, self._type())

    def _lm(self, number: int) -> Node:
        given, result, args = self._signature()
        module = self._path()
        scope = ""
        if self._peek("scope") and self._kinds[self._at + 1] == "attribute":
            self._at += 1
            scope = self._path()
        settings: list[Setting] = []
        while self._kinds[self._at] in ("name", "string") and self._words[self._at + 1] == "=":
            name = self._name()
            self._expect("=")
            settings.append(Setting(name, self._value()))
        prefix = self._bracketed("name", "string") if self._accept("prefix") else None
        estimate = None
        if self._accept("estimate"):
            given_tokens = self._range()
            self._expect("->")
            estimate = Estimate(given_tokens, self._range())
        return Lm(number, module, given, result, args, tuple(settings), scope, prefix, estimate)

    def _range(self) -> tuple[int, int | None]:
        low = self._count()
        self._expect("..")
        return low, self._count() if self._kinds[self._at] == "number" else None

    def _count(self) -> int:
        text = self._take("number")
        if not text.isdecimal() or len(text) > _MAX_DIGITS:
            self._fail(f"a count of at most {_MAX_DIGITS} digits", self._at - 1)
        return int(text)

    def _select(self, number: int) -> Node:
        variable = self._sigil("variable")
        branches = self._branches()
        return Select(number, variable, branches, self._type())

    def _attempt(self, form: AttemptForm, number: int) -> Node:
        branches = self._branches()
        return Attempt(number, form, branches, self._type())

    def _fallback(self, number: int) -> Node:
        return self._attempt("fallback", number)

    def _race(self, number: int) -> Node:
        return self._attempt("race", number)

    def _together(self, number: int) -> Node:
        return self._attempt("together", number)

    def _branches(self) -> tuple[Branch, ...]:
        """Branches in braces, and the colon before the type."""
        self._expect("{")
        branches: list[Branch] = []
        while not self._accept("}"):
            name = self._name()
            self._expect(":")
            if self._peek("{"):
                branches.append(Branch(name, self._block()))
                continue
            self._block_deeper()
            inner = self._implicit
            self._implicit -= 1
            node = self._operation(inner)
            self._blocks -= 1
            branches.append(Branch(name, Region((node,), Ref(inner))))
        self._expect(":")
        return tuple(branches)

    def _cond(self, number: int) -> Node:
        test = self._value()
        then = self._block()
        self._expect("else")
        otherwise = self._block()
        self._expect(":")
        return Cond(number, test, then, otherwise, self._type())

    def _map(self, number: int) -> Node:
        ordered = self._accept("ordered")
        over = self._value()
        body = self._block()
        self._expect(":")
        return Map(number, over, body, self._type(), ordered)

    def _python(self, number: int) -> Node:
        awaits, pure = self._accept("await"), self._accept("pure")
        target, args = self._target(), self._arguments()
        expr = self._string() if self._accept("expr") else None
        source = self._string() if self._accept("source") else None
        uses = self._bracketed("variable") if self._accept("uses") else ()
        self._expect(":")
        return Python(number, target, args, self._type(), expr, source, awaits, pure, uses)

    def _tool(self, number: int) -> Node:
        name = self._name()
        target = "" if self._peek("(") else self._target()
        args = self._arguments()
        self._expect(":")
        return Tool(number, name, target, args, self._type())

    def _join(self, number: int) -> Node:
        form = _FORMS.get(self._words[self._at])
        if form is None:
            self._fail(f"one of {', '.join(_FORMS)}")
        self._at += 1
        args = self._arguments()
        self._expect(":")
        return Join(number, form, args, self._type())

    def _call(self, number: int) -> Node:
        program = self._path()
        given, result, args = self._signature()
        return Call(number, program, given, result, args, self._block())

    def _opaque(self, number: int) -> Node:
        target = self._target()
        given, result, args = self._signature()
        program = self._path()
        owns = self._bracketed("name", "string") if self._accept("owns") else ()
        uses = self._bracketed("variable") if self._accept("uses") else ()
        reason = self._string() if self._accept("because") else ""
        remedy = self._string() if self._accept("remedy") else ""
        return Opaque(number, target, program, given, result, args, owns, uses, reason, remedy)

    def _signature(self) -> tuple[Type, Type, tuple[Argument, ...]]:
        given = self._type()
        self._expect("->")
        result = self._type()
        return given, result, self._arguments()

    def _path(self) -> str:
        return self._sigil("attribute") if self._kinds[self._at] == "attribute" else ""

    def _names(self, *kinds: str) -> tuple[str, ...]:
        """Names between commas; those of Variables without their sign."""
        names: list[str] = []
        while True:
            text = self._take(*kinds)
            names.append(self._unquoted(text[1:] if text.startswith("$") else text))
            if not self._accept(","):
                return tuple(names)

    def _bracketed(self, *kinds: str) -> tuple[str, ...]:
        self._expect("[")
        if self._accept("]"):
            return ()
        names = self._names(*kinds)
        self._expect("]")
        return names

    def _arguments(self) -> tuple[Argument, ...]:
        self._expect("(")
        args: list[Argument] = []
        while not self._accept(")"):
            if self._words[self._at + 1] == "=" and self._kinds[self._at] in ("name", "string"):
                name = self._name()
                self._expect("=")
                args.append(Argument(name, self._value()))
            else:
                args.append(Argument(None, self._value()))
            if not self._peek(")"):
                self._expect(",")
        return tuple(args)

    def _ref(self) -> Ref:
        text = self._take("ref")
        end = 1
        while end < len(text) and text[end] not in ".[":
            end += 1
        if end > _MAX_DIGITS + 1:
            self._fail("a node number", self._at - 1)
        if end == len(text):
            return Ref(int(text[1:]))
        path: list[str | int] = []
        for field, item in cast("list[tuple[str, str]]", _STEP.findall(text, end)):
            if len(item) > _MAX_DIGITS:
                self._fail("a smaller index", self._at - 1)
            path.append(field or int(item))
        return Ref(int(text[1:end]), tuple(path))

    def _value(self) -> Value:
        at = self._at
        text = self._words[at]
        match self._kinds[at]:
            case "ref":
                found = self._ref()
                self._read.setdefault(found.node, at)
                return found
            case "variable":
                return Variable(self._sigil("variable"))
            case "attribute":
                return Attribute(self._sigil("attribute"))
            case "string":
                return Constant.of(self._string())
            case "number":
                self._at += 1
                return Constant.of(self._numeral(text, at))
            case "name" if text in ("true", "false", "null"):
                self._at += 1
                return Constant(text)
            case "mark" if text in ("[", "{"):
                return Constant.of(self._json())
            case _:
                return self._fail("a value")

    def _numeral(self, text: str, at: int) -> int | float:
        if "." not in text and "e" not in text.lower():
            if len(text) > _MAX_INTEGER:
                self._refuse("the integer is too long", self._starts[at])
            return int(text)
        number = float(text)
        if number in (float("inf"), float("-inf")):
            self._refuse(f"{_shown(text)} is out of range", self._starts[at])
        return number

    def _json(self) -> object:
        self._deeper()
        if self._accept("["):
            items: list[object] = []
            while not self._accept("]"):
                items.append(self._json())
                if not self._peek("]"):
                    self._expect(",")
            result: object = items
        elif self._accept("{"):
            entries: dict[str, object] = {}
            while not self._accept("}"):
                key = self._string()
                self._expect(":")
                entries[key] = self._json()
                if not self._peek("}"):
                    self._expect(",")
            result = entries
        else:
            value = self._value()
            if not isinstance(value, Constant):
                self._fail("a JSON value", self._at - 1)
            result = value.value
        self._depth -= 1
        return result

    def _type(self) -> Type:
        members = [self._member()]
        while self._accept("|"):
            members.append(self._member())
        return members[0] if len(members) == 1 else union(tuple(members))

    def _member(self) -> Type:
        if self._accept("?"):
            return Type("?")
        if self._accept("..."):
            return ELLIPSIS
        self._deeper()
        name = self._take("name")
        args: list[Type | LiteralValue] = []
        if self._accept("["):
            while not self._accept("]"):
                if self._kinds[self._at] in ("string", "number") or self._words[self._at] in ("true", "false", "null"):
                    value = self._value()
                    args.append(LiteralValue(value.text if isinstance(value, Constant) else "null"))
                else:
                    args.append(self._type())
                if not self._peek("]"):
                    self._expect(",")
        self._depth -= 1
        return Type(name, tuple(args))


def _shown(text: str) -> str:
    """A token in a message; a long one is cut."""
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…") if text else ""


# The operations by their word: one table for the parser, its error message and the documentation.
_READERS: Final = {
    "input": _Parser._input,  # pyright: ignore[reportPrivateUsage]
    "lm": _Parser._lm,  # pyright: ignore[reportPrivateUsage]
    "select": _Parser._select,  # pyright: ignore[reportPrivateUsage]
    "cond": _Parser._cond,  # pyright: ignore[reportPrivateUsage]
    "map": _Parser._map,  # pyright: ignore[reportPrivateUsage]
    "python": _Parser._python,  # pyright: ignore[reportPrivateUsage]
    "tool": _Parser._tool,  # pyright: ignore[reportPrivateUsage]
    "join": _Parser._join,  # pyright: ignore[reportPrivateUsage]
    "fallback": _Parser._fallback,  # pyright: ignore[reportPrivateUsage]
    "race": _Parser._race,  # pyright: ignore[reportPrivateUsage]
    "together": _Parser._together,  # pyright: ignore[reportPrivateUsage]
    "call": _Parser._call,  # pyright: ignore[reportPrivateUsage]
    "opaque": _Parser._opaque,  # pyright: ignore[reportPrivateUsage]
}
