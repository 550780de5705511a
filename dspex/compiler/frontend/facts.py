"""What can be said about an expression without running it: its type, and whether it is pure.

An expression is pure when it is made of operators, comparisons, subscripts, f-strings, literals and built-in
functions over plain values (texts, numbers, None, and lists, tuples and dicts of those): then equal inputs give equal
values, and nothing else happens.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, NoneType
from typing import Final, Union, cast, get_args, get_origin

from pydantic import BaseModel

from dspex.compiler.frontend.annotations import (
    ITERATOR,
    field_types,
    generic,
    is_plain,
    item_type,
    members,
    return_type,
)
from dspex.compiler.frontend.names import MISSING
from dspex.compiler.frontend.symbols import ANY, class_of
from dspex.program.operations import operation_of

__all__ = ["UNKNOWN", "Fact", "Facts", "union_of"]


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known about an expression.

    Attributes:
        type: The annotation of its value; `ANY` when unknown.
        plain: Its value is plain data, whatever its type.
        pure: Evaluating it does nothing else.
    """

    type: object = ANY
    plain: bool = False
    pure: bool = False

    @classmethod
    def of(cls, kind: object, *, pure: bool = True) -> Fact:
        """A fact about a value of type `kind`."""
        return cls(kind, is_plain(kind), pure)


_NUMBERS: Final = cast("tuple[object, ...]", (int, float))
_CONTAINERS: Final = cast("tuple[object, ...]", (list, tuple, dict))
UNKNOWN: Final = Fact()
_BUILTINS: Final[dict[str, object]] = {
    "len": int,
    "str": str,
    "repr": str,
    "int": int,
    "float": float,
    "bool": bool,
    "any": bool,
    "all": bool,
    "ord": int,
    "chr": str,
    "abs": ANY,
    "min": ANY,
    "max": ANY,
    "sum": ANY,
    "round": ANY,
    "sorted": ANY,
    "list": ANY,
    "tuple": ANY,
    "dict": ANY,
    "divmod": ANY,
}
_CONSUMERS: Final = frozenset({"any", "all", "min", "max", "sum", "sorted", "list", "tuple", "dict"})
_ITERATORS: Final = frozenset({"zip", "enumerate", "reversed", "range", "map", "filter"})
_TEXTS: Final[dict[str, object]] = {
    **dict.fromkeys(
        (
            *("upper", "lower", "strip", "lstrip", "rstrip", "title", "capitalize", "casefold", "swapcase", "replace"),
            *("join", "format", "zfill", "center", "ljust", "rjust", "removeprefix", "removesuffix", "expandtabs"),
        ),
        str,
    ),
    **dict.fromkeys(("split", "rsplit", "splitlines"), list[str]),
    **dict.fromkeys(("partition", "rpartition"), tuple[str, str, str]),
    **dict.fromkeys(("find", "rfind", "index", "rindex", "count"), int),
    **dict.fromkeys(
        (
            *("startswith", "endswith", "isdigit", "isalpha", "isalnum", "isspace", "isupper", "islower"),
            *("isnumeric", "isdecimal", "istitle", "isidentifier", "isascii"),
        ),
        bool,
    ),
}
_METHODS: Final = frozenset({*_TEXTS, "get", "copy"})
_VIEWS: Final = frozenset({"keys", "values", "items"})


class Facts:
    """Facts about the expressions of one rewritten tree.

    Args:
        names: What its captured names are.
        free: What any other name or attribute stands for; `MISSING` for what is bound inside.
    """

    def __init__(self, names: Mapping[str, Fact], free: Callable[[ast.expr], object]) -> None:
        self._names = dict(names)
        self._free = free

    def of(self, node: ast.expr | None) -> Fact:
        """What is known about `node`."""
        if node is None:
            return Fact.of(None)
        method = getattr(self, f"_{type(node).__name__}", None)
        return UNKNOWN if method is None else cast("Fact", method(node))

    def _all(self, nodes: list[ast.expr]) -> tuple[list[Fact], bool]:
        """Facts about `nodes`, and whether all of them are plain and pure."""
        found = [self.of(node) for node in nodes]
        return found, all(item.plain and item.pure for item in found)

    def _Constant(self, node: ast.Constant) -> Fact:
        kind = type(node.value)
        return Fact(None if kind is NoneType else kind, is_plain(kind), True)

    def _Name(self, node: ast.Name) -> Fact:
        return self._names.get(node.id, UNKNOWN)

    def _Starred(self, node: ast.Starred) -> Fact:
        inner = self.of(node.value)
        return Fact(ANY, inner.plain, inner.pure)

    def _Attribute(self, node: ast.Attribute) -> Fact:
        base = self.of(node.value)
        schema = class_of(base.type)
        if schema is not None and issubclass(schema, BaseModel):
            fields = field_types(schema)
            if node.attr in fields:
                return Fact.of(fields[node.attr], pure=base.pure)
        return UNKNOWN

    def _JoinedStr(self, node: ast.JoinedStr) -> Fact:
        _, sound = self._all(node.values)
        return Fact(str, True, sound)

    def _FormattedValue(self, node: ast.FormattedValue) -> Fact:
        inner, spec = self.of(node.value), self.of(node.format_spec)
        return Fact(str, inner.plain and spec.plain, inner.pure and spec.pure)

    def _UnaryOp(self, node: ast.UnaryOp) -> Fact:
        inner = self.of(node.operand)
        if isinstance(node.op, ast.Not):
            return Fact(bool, True, _is_container(inner) and inner.pure)
        if not inner.plain:
            return UNKNOWN
        kind = int if inner.type is bool else inner.type
        return Fact(kind if kind in (int, float) else ANY, True, inner.pure)

    def _BinOp(self, node: ast.BinOp) -> Fact:
        left, right = self.of(node.left), self.of(node.right)
        if not (left.plain and right.plain) or isinstance(node.op, ast.MatMult):
            return UNKNOWN
        return Fact(_arithmetic(node.op, left.type, right.type), True, left.pure and right.pure)

    def _BoolOp(self, node: ast.BoolOp) -> Fact:
        found, sound = self._all(node.values)
        kinds = [item.type for item in found]
        if isinstance(node.op, ast.Or):
            # Only the last one may be what is not true.
            kinds = [_without_none(kind) for kind in kinds[:-1]] + kinds[-1:]
        return Fact(union_of(kinds), all(item.plain for item in found), sound)

    def _Compare(self, node: ast.Compare) -> Fact:
        found, sound = self._all([node.left, *node.comparators])
        identity = any(
            isinstance(op, ast.Is | ast.IsNot)
            and not (isinstance(right, ast.Constant) and right.value in (None, True, False))
            for op, right in zip(node.ops, node.comparators, strict=True)
        )
        if all(item.plain for item in found):
            return Fact(bool, True, sound and not identity)
        if all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            return Fact(bool, True, not identity and all(item.pure for item in found))
        if all(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            return Fact(bool, True, False)
        return UNKNOWN

    def _IfExp(self, node: ast.IfExp) -> Fact:
        test, body, orelse = self.of(node.test), self.of(node.body), self.of(node.orelse)
        pure = _is_container(test) and test.pure and body.pure and orelse.pure
        return Fact(union_of([body.type, orelse.type]), body.plain and orelse.plain, pure)

    def _Subscript(self, node: ast.Subscript) -> Fact:
        base, key = self.of(node.value), self.of(node.slice)
        if not _is_container(base) or not key.plain:
            return UNKNOWN
        kind: object = ANY
        args = get_args(base.type)
        if base.type is str:
            kind = str
        elif isinstance(node.slice, ast.Slice):
            kind = base.type if get_origin(base.type) is list else ANY
        elif get_origin(base.type) is list and args:
            kind = args[0]
        elif get_origin(base.type) is dict and args:
            kind = args[1]
        elif get_origin(base.type) is tuple and args:
            at = node.slice.value if isinstance(node.slice, ast.Constant) else None
            if args[-1] is ...:
                kind = args[0]
            elif isinstance(at, int) and -len(args) <= at < len(args):
                kind = args[at]
        return Fact(kind, base.plain or is_plain(kind), base.pure and key.pure)

    def _Slice(self, node: ast.Slice) -> Fact:
        _, sound = self._all([item for item in (node.lower, node.upper, node.step) if item is not None])
        return Fact(ANY, sound, sound)

    def _List(self, node: ast.List) -> Fact:
        match node.elts:
            case [ast.Starred(value=value)]:
                inner = self.iterated(value)
                return Fact(generic(list, item_type(inner.type)), inner.plain, inner.pure and inner.plain)
            case _:
                pass
        if any(isinstance(item, ast.Starred) for item in node.elts):
            return self._spread(node.elts)
        found, sound = self._all(node.elts)
        kinds = {repr(item.type): item.type for item in found}
        kind = generic(list, next(iter(kinds.values()))) if len(kinds) == 1 else list
        return Fact(kind, all(item.plain for item in found), sound)

    def _spread(self, elements: list[ast.expr]) -> Fact:
        """A list into which others are unpacked."""
        kinds: dict[str, object] = {}
        plain = pure = True
        for item in elements:
            if isinstance(item, ast.Starred):
                inner = self.iterated(item.value)
                kind = item_type(inner.type)
                pure = pure and inner.pure and _is_container(inner)
            else:
                inner = self.of(item)
                kind = inner.type
                pure = pure and inner.pure
            kinds[repr(kind)] = kind
            plain = plain and inner.plain
        kind = generic(list, next(iter(kinds.values()))) if len(kinds) == 1 else list
        return Fact(kind, plain, pure)

    def _Tuple(self, node: ast.Tuple) -> Fact:
        found, sound = self._all(node.elts)
        starred = any(isinstance(item, ast.Starred) for item in node.elts)
        kind = tuple if starred or not found else generic(tuple, *(item.type for item in found))
        return Fact(kind, all(item.plain for item in found), sound)

    def _Dict(self, node: ast.Dict) -> Fact:
        keys, sound_keys = self._all([key for key in node.keys if key is not None])
        values, sound = self._all(node.values)
        return Fact(dict, all(item.plain for item in (*keys, *values)), sound_keys and sound)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Fact:
        inner = Facts(self._names, self._free)
        sound = True
        for generator in node.generators:
            over = inner.iterated(generator.iter)
            sound = sound and over.pure and _is_container(over) and not generator.is_async
            inner.bind(generator.target, over)
            _, tests = inner._all(generator.ifs)
            sound = sound and tests
        if isinstance(node, ast.DictComp):
            found, pure = inner._all([node.key, node.value])
            return Fact(
                generic(dict, *(item.type for item in found)), all(item.plain for item in found), pure and sound
            )
        element = inner.of(node.elt)
        kind = list if isinstance(node, ast.ListComp) else set
        if isinstance(node, ast.GeneratorExp):
            return Fact(ITERATOR, False, False)
        # The order of a set is no function of its items.
        plain = element.plain and kind is list
        return Fact(generic(kind, element.type), plain, sound and element.pure and kind is list)

    _ListComp = _SetComp = _GeneratorExp = _DictComp = _comprehension

    def bind(self, target: ast.expr, over: Fact) -> None:
        """Names the items of what is iterated over."""
        match target:
            case ast.Name():
                kind = item_type(over.type)
                plain = (over.plain and over.type is not ITERATOR) or is_plain(kind)
                self._names[target.id] = Fact(kind, plain, True)
            case ast.Tuple() | ast.List():
                args = get_args(item_type(over.type))
                fixed = len(args) == len(target.elts) and ... not in args
                for at, item in enumerate(target.elts):
                    inner = item.value if isinstance(item, ast.Starred) else item
                    kind = args[at] if fixed and not isinstance(item, ast.Starred) else ANY
                    if isinstance(inner, ast.Name):
                        self._names[inner.id] = Fact(kind, over.plain or is_plain(kind), True)
                    else:
                        self.bind(inner, Fact(ANY, over.plain, True))
            case _:
                pass

    def iterated(self, node: ast.expr) -> Fact:
        """What is known about something that is read through at once: its type is that of a list of the items."""
        if isinstance(node, ast.GeneratorExp):
            return self._comprehension(ast.ListComp(node.elt, node.generators))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            if isinstance(node.func, ast.Attribute) and node.func.attr in _VIEWS and not node.args:
                base = self.of(node.func.value)
                args = get_args(base.type)
                if get_origin(base.type) is dict and len(args) == 2:
                    items: dict[str, object] = {
                        "keys": args[0],
                        "values": args[1],
                        "items": generic(tuple, args[0], args[1]),
                    }
                    return Fact(generic(list, items[node.func.attr]), base.plain, base.pure)
                return Fact(ANY, base.plain, base.plain and base.pure)
            name = self._builtin(node.func)
            if name in _ITERATORS:
                found = [self.iterated(item) for item in node.args]
                if name in ("map", "filter"):
                    return UNKNOWN
                plain = all(item.plain for item in found)
                pure = plain and all(item.pure for item in found)
                kinds = [item_type(item.type) for item in found]
                kind: object = ANY
                if name == "range":
                    kind = int
                elif name == "reversed" and len(kinds) == 1:
                    kind = kinds[0]
                elif name == "enumerate" and kinds:
                    kind = generic(tuple, int, kinds[0])
                elif name == "zip":
                    kind = generic(tuple, *kinds) if kinds else ANY
                return Fact(generic(list, kind) if kind is not ANY else ANY, plain, pure)
        return self.of(node)

    def _builtin(self, func: ast.expr) -> str:
        """The name of the built-in function that `func` is; empty for any other."""
        if not isinstance(func, ast.Name) or func.id in self._names:
            return ""
        found = self._free(func)
        return func.id if found is not MISSING and vars(builtins).get(func.id) is found else ""

    def _Call(self, node: ast.Call) -> Fact:
        if isinstance(node.func, ast.Attribute) and (method := self._method(node, node.func)) is not None:
            return method
        name = self._builtin(node.func)
        if name in ("isinstance", "callable"):
            subject = self.of(node.args[0]) if node.args else UNKNOWN
            return Fact(bool, True, subject.plain and subject.pure and self._names_types(node.args[1:]))
        if name in _ITERATORS or name == "iter":
            return Fact(ITERATOR)
        if name in _BUILTINS:
            return self._known(name, node)
        target = MISSING if isinstance(node.func, ast.Name) and node.func.id in self._names else self._free(node.func)
        if target is MISSING:
            return UNKNOWN
        operation = operation_of(target) if isinstance(target, FunctionType) else None
        kind = return_type(target)
        if operation is not None and operation.pure:
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            return Fact.of(kind, pure=all(self.of(value).pure for value in values))
        return Fact.of(kind, pure=False)

    def _names_types(self, nodes: list[ast.expr]) -> bool:
        """Whether `nodes` name built-in types alone."""
        flat = [item for node in nodes for item in (node.elts if isinstance(node, ast.Tuple) else [node])]
        return all(isinstance(vars(builtins).get(self._builtin(item)), type) for item in flat)

    def _known(self, name: str, node: ast.Call) -> Fact:
        found = [self.iterated(arg) if name in _CONSUMERS else self.of(arg) for arg in node.args]
        sound = all(item.plain and item.pure for item in found)
        if name == "len":
            sound = all(_is_container(item) and item.pure for item in found)
        for keyword in node.keywords:
            if keyword.arg == "key":
                sound = sound and self._key(keyword.value, found)
            else:
                value = self.of(keyword.value)
                sound = sound and value.plain and value.pure
        plain = all(item.plain for item in found)
        kind = _BUILTINS[name]
        first = found[0].type if found else ANY
        if name in ("sorted", "list"):
            kind = generic(list, item_type(first)) if item_type(first) is not ANY else list
        elif name == "tuple":
            kind = generic(tuple, item_type(first), ...) if item_type(first) is not ANY else tuple
        elif name == "dict":
            kind = dict
        elif name in ("min", "max") and len(found) == 1 and not node.keywords:
            kind = item_type(first)
        elif name in ("sum", "abs") and (item_type(first) if name == "sum" else first) in _NUMBERS:
            kind = item_type(first) if name == "sum" else first
        elif name == "round" and len(node.args) == 1 and first in _NUMBERS:
            kind = int
        if kind in (int, str, float, bool):
            plain = True
        return Fact(kind, plain, sound)

    def _key(self, node: ast.expr, found: list[Fact]) -> bool:
        """Whether the function that sorts is pure over items that are plain."""
        if isinstance(node, ast.Lambda):
            args = node.args
            if args.vararg or args.kwarg or args.kwonlyargs or args.defaults:
                return False
            inner = Facts(self._names, self._free)
            for arg in (*args.posonlyargs, *args.args):
                kind = item_type(found[0].type) if found else ANY
                inner._names[arg.arg] = Fact(kind, all(item.plain for item in found), True)
            result = inner.of(node.body)
            return result.plain and result.pure
        return self._builtin(node) in ("len", "str", "int", "float", "abs", "bool", "repr")

    def _method(self, node: ast.Call, func: ast.Attribute) -> Fact | None:
        """A method of a plain value; None for anything else."""
        base = self.of(func.value)
        if not base.plain or func.attr not in _METHODS:
            return None
        args = [*node.args, *(keyword.value for keyword in node.keywords)]
        found = [self.iterated(arg) if func.attr == "join" else self.of(arg) for arg in args]
        sound = base.pure and all(item.plain and item.pure for item in found)
        kind = _TEXTS.get(func.attr, ANY) if base.type is str else ANY
        if base.type is not str and not all(item.plain for item in found):
            return UNKNOWN
        return Fact(kind, True, sound)


def _is_container(fact: Fact) -> bool:
    """Whether its truth, its length and its items are those of a built-in value."""
    return fact.plain or fact.type in _CONTAINERS or get_origin(fact.type) in _CONTAINERS


def _without_none(kind: object) -> object:
    kept = [item for item in members(kind) if item not in (None, NoneType)]
    return ANY if not kept else kept[0] if len(kept) == 1 else Union[tuple(kept)]  # noqa: UP007 - made of values


def union_of(kinds: list[object]) -> object:
    """The type of a value that is of one of `kinds`."""
    distinct: list[object] = []
    for kind in kinds:
        if isinstance(kind, str):
            return ANY
        if kind not in distinct:
            distinct.append(kind)
    if len(distinct) == 1:
        return distinct[0]
    try:
        return Union[tuple(distinct)]  # noqa: UP007 - made of values
    except TypeError:
        # An annotation may be any object.
        return ANY


def _arithmetic(op: ast.operator, left: object, right: object) -> object:
    if isinstance(op, ast.Add) and left == right and (left is str or get_origin(left) is list):
        return left
    if isinstance(op, ast.Mod) and left is str:
        return str
    if isinstance(op, ast.Mult) and {left, right} in ({str, int}, {str, bool}):
        return str
    if left in (*_NUMBERS, bool) and right in (*_NUMBERS, bool):
        if isinstance(op, ast.Div):
            return float
        if isinstance(op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv | ast.Mod):
            return float if float in (left, right) else int
    return ANY
