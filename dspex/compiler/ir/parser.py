"""Reads the canonical text of a graph: ``parse(print_graph(g)) == g``.

Numbers in the text are names: any numbering is read, and the graph is numbered canonically.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Final, NoReturn, cast

from dspex.compiler.ir.nodes import (
    Argument,
    Attribute,
    Branch,
    Call,
    Cond,
    Constant,
    Graph,
    Input,
    Join,
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
    | (?P<mark>->|\.\.\.|[{{}}()\[\],:=|?])
    """,
    re.VERBOSE,
)
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_LOCATION: Final = re.compile(r"#\s*(?:opaque, )?(.+):(\d+)\s*$")
_MAX_DEPTH: Final = 64
_MAX_DIGITS: Final = 9
_MAX_INTEGER: Final = 1000


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    column: int


def parse(text: str) -> Graph:
    """The graph that `text` says.

    Raises:
        CompileError: DX2080 with line and column when the text is not a graph.
    """
    return _Parser(text).graph()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[_Token] = []
        self._locations: dict[int, Location] = {}
        self._at = 0
        self._implicit = -1
        self._depth = 0
        self._defined: set[int] = set()
        self._read: dict[int, _Token] = {}
        line, start, position = 1, 0, 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self._refuse(f"unexpected {text[position]!r}", line, position - start + 1)
            kind, word = match.lastgroup or "", match.group()
            if kind == "comment":
                found = _LOCATION.match(word)
                if found and len(found[2]) <= _MAX_DIGITS:
                    self._locations[line] = Location(found[1], int(found[2]))
            elif kind != "space":
                self._tokens.append(_Token(kind, word, line, position - start + 1))
            breaks = word.count("\n")
            if breaks:
                line += breaks
                start = position + word.rindex("\n") + 1
            position = match.end()
        # Two, because the parser looks one token ahead.
        self._tokens += [_Token("end", "", line, position - start + 1)] * 2

    def _refuse(self, what: str, line: int, column: int) -> NoReturn:
        raise CompileError(
            "DX2080",
            f"the graph's text cannot be read: {what}",
            where=f"line {line}, column {column}",
            fix="correct the text; `print(compiled.graph)` shows the form",
        )

    def _fail(self, expected: str) -> NoReturn:
        token = self._tokens[self._at]
        found = repr(token.text) if token.text else "the end"
        self._refuse(f"{expected} expected, found {found}", token.line, token.column)

    def _peek(self, text: str) -> bool:
        token = self._tokens[self._at]
        return token.text == text and token.kind != "string"

    def _accept(self, text: str) -> bool:
        if self._peek(text):
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._fail(f"{text!r}")

    def _take(self, *kinds: str) -> str:
        token = self._tokens[self._at]
        if token.kind not in kinds:
            self._fail(" or ".join(kinds))
        self._at += 1
        return token.text

    def _string(self) -> str:
        token = self._tokens[self._at]
        return self._unquoted(self._take("string"), token)

    def _unquoted(self, text: str, token: _Token) -> str:
        if not text.startswith('"'):
            return text
        try:
            value = cast("object", json.loads(text))
        except ValueError:
            self._refuse(f"{text} is not a string", token.line, token.column)
        return str(value)

    def _name(self) -> str:
        token = self._tokens[self._at]
        return self._unquoted(self._take("name", "string"), token)

    def _sigil(self, kind: str) -> str:
        token = self._tokens[self._at]
        return self._unquoted(self._take(kind)[1:], token)

    def _target(self) -> str:
        token = self._tokens[self._at]
        return self._unquoted(self._take("target", "string"), token)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"nesting of at most {_MAX_DEPTH}")

    def graph(self) -> Graph:
        self._expect("program")
        name = self._name()
        self._expect(":")
        given = self._type()
        self._expect("->")
        result = self._type()
        body = self._block()
        if self._tokens[self._at].kind != "end":
            self._fail("the end")
        for number, token in self._read.items():
            if number not in self._defined:
                self._refuse(f"%{number} is nowhere defined", token.line, token.column)
        return canonical(Graph(name, given, result, body))

    def _numbered(self, number: int) -> int:
        if number in self._defined:
            self._at -= 1
            self._fail(f"a number other than %{number}, which is taken")
        self._defined.add(number)
        return number

    def _block(self) -> Region:
        self._deeper()
        self._expect("{")
        nodes: list[Node] = []
        while not self._accept("output"):
            number = self._ref()
            if number.path:
                self._at -= 1
                self._fail("a node number without a path")
            self._expect("=")
            nodes.append(self._operation(self._numbered(number.node)))
        output = self._value()
        self._expect("}")
        self._depth -= 1
        return Region(tuple(nodes), output)

    def _operation(self, number: int) -> Node:
        # The operation starts on the line of its number, and the location stands on that line.
        line = self._tokens[self._at].line
        word = self._take("name")
        reader = _READERS.get(word)
        if reader is None:
            self._at -= 1
            self._fail(f"one of {', '.join(_READERS)}")
        node = reader(self, number)
        return replace(node, loc=self._locations.get(line))

    def _input(self, number: int) -> Node:
        self._expect(":")
        return Input(number, self._type())

    def _lm(self, number: int) -> Node:
        given, result, args = self._signature()
        module = self._path()
        settings: list[Setting] = []
        while self._tokens[self._at].kind in ("name", "string") and self._tokens[self._at + 1].text == "=":
            name = self._name()
            self._expect("=")
            settings.append(Setting(name, self._value()))
        return Lm(number, module, given, result, args, tuple(settings))

    def _select(self, number: int) -> Node:
        variable = self._sigil("variable")
        self._expect("{")
        branches: list[Branch] = []
        while not self._accept("}"):
            name = self._name()
            self._expect(":")
            if self._peek("{"):
                branches.append(Branch(name, self._block()))
                continue
            self._deeper()
            inner = self._implicit
            self._implicit -= 1
            node = self._operation(inner)
            self._depth -= 1
            branches.append(Branch(name, Region((node,), Ref(inner))))
        self._expect(":")
        return Select(number, variable, tuple(branches), self._type())

    def _cond(self, number: int) -> Node:
        test = self._value()
        then = self._block()
        self._expect("else")
        otherwise = self._block()
        self._expect(":")
        return Cond(number, test, then, otherwise, self._type())

    def _map(self, number: int) -> Node:
        over = self._value()
        body = self._block()
        self._expect(":")
        return Map(number, over, body, self._type())

    def _python(self, number: int) -> Node:
        awaits, pure = self._accept("await"), self._accept("pure")
        target, args = self._target(), self._arguments()
        expr = self._string() if self._accept("expr") else None
        source = self._string() if self._accept("source") else None
        uses = self._variables() if self._accept("uses") else ()
        self._expect(":")
        return Python(number, target, args, self._type(), expr, source, awaits, pure, uses)

    def _tool(self, number: int) -> Node:
        name, args = self._name(), self._arguments()
        self._expect(":")
        return Tool(number, name, args, self._type())

    def _join(self, number: int) -> Node:
        form = self._take("name")
        if form not in ("record", "copy", "tuple", "list", "dict"):
            self._at -= 1
            self._fail("record, copy, tuple, list or dict")
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
        owns: list[str] = []
        if self._accept("owns"):
            self._expect("[")
            while not self._accept("]"):
                owns.append(self._name())
                if not self._peek("]"):
                    self._expect(",")
        uses = self._variables() if self._accept("uses") else ()
        reason = self._string() if self._accept("because") else ""
        remedy = self._string() if self._accept("remedy") else ""
        return Opaque(number, target, program, given, result, args, tuple(owns), uses, reason, remedy)

    def _signature(self) -> tuple[Type, Type, tuple[Argument, ...]]:
        given = self._type()
        self._expect("->")
        result = self._type()
        return given, result, self._arguments()

    def _path(self) -> str:
        return self._sigil("attribute") if self._tokens[self._at].kind == "attribute" else ""

    def _variables(self) -> tuple[str, ...]:
        self._expect("[")
        names: list[str] = []
        while not self._accept("]"):
            names.append(self._sigil("variable"))
            if not self._peek("]"):
                self._expect(",")
        return tuple(names)

    def _arguments(self) -> tuple[Argument, ...]:
        self._expect("(")
        args: list[Argument] = []
        while not self._accept(")"):
            token, after = self._tokens[self._at], self._tokens[self._at + 1]
            if token.kind in ("name", "string") and after.text == "=" and after.kind == "mark":
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
        head = re.match(r"%(\d+)", text)
        if head is None or len(head[1]) > _MAX_DIGITS:
            self._at -= 1
            self._fail("a node number")
        path: list[str | int] = []
        for field, item in cast("list[tuple[str, str]]", _STEP.findall(text, head.end())):
            if len(item) > _MAX_DIGITS:
                self._at -= 1
                self._fail("a smaller index")
            path.append(field or int(item))
        return Ref(int(head[1]), tuple(path))

    def _value(self) -> Value:
        token = self._tokens[self._at]
        match token.kind:
            case "ref":
                found = self._ref()
                self._read.setdefault(found.node, token)
                return found
            case "variable":
                return Variable(self._sigil("variable"))
            case "attribute":
                return Attribute(self._sigil("attribute"))
            case "string":
                return Constant.of(self._string())
            case "number":
                self._at += 1
                if "." not in token.text and "e" not in token.text.lower():
                    if len(token.text) > _MAX_INTEGER:
                        self._refuse("the integer is too long", token.line, token.column)
                    return Constant.of(int(token.text))
                number = float(token.text)
                if number in (float("inf"), float("-inf")):
                    self._refuse(f"{token.text} is out of range", token.line, token.column)
                return Constant.of(number)
            case "name" if token.text in ("true", "false", "null"):
                self._at += 1
                return Constant(token.text)
            case "mark" if token.text in ("[", "{"):
                return Constant.of(self._json())
            case _:
                return self._fail("a value")

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
                self._fail("a JSON value")
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
                token = self._tokens[self._at]
                if token.kind in ("string", "number") or token.text in ("true", "false", "null"):
                    value = self._value()
                    args.append(LiteralValue(value.text if isinstance(value, Constant) else "null"))
                else:
                    args.append(self._type())
                if not self._peek("]"):
                    self._expect(",")
        self._depth -= 1
        return Type(name, tuple(args))


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
    "call": _Parser._call,  # pyright: ignore[reportPrivateUsage]
    "opaque": _Parser._opaque,  # pyright: ignore[reportPrivateUsage]
}
