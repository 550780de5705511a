"""A run gone through without a call: the graph with sizes in place of answers."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from pydantic import BaseModel

from dspex.compiler.estimate.amounts import (
    FREE_TEXT,
    NOTHING,
    ONE,
    UNBOUNDED,
    Amount,
    Items,
    Known,
    Many,
    Record,
    Sized,
    Symbolic,
    amount_of,
    at,
    certain,
    of_schema,
    plain,
)
from dspex.compiler.estimate.sizing import CallSize, Model, is_free, model_of, size_call
from dspex.compiler.estimate.tokens import vocabulary_of
from dspex.compiler.ir.nodes import (
    Attempt,
    Attribute,
    Branch,
    Call,
    Cond,
    Constant,
    Input,
    Join,
    Lm,
    Map,
    Node,
    Opaque,
    Python,
    Ref,
    Region,
    Select,
    Tool,
    Value,
    Variable,
    operands,
    regions,
    walk,
)
from dspex.compiler.ir.types import Type

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.lm.model import LMLike

__all__ = ["Load", "Note", "Rehearsal", "unknown_instance"]

_COUNT: Final = vocabulary_of(None).count


def unknown_instance(schema: type[BaseModel]) -> Record:
    """An instance of which only the schema is known."""
    return of_schema(schema, _COUNT, UNBOUNDED)


@dataclass(frozen=True, slots=True)
class Load:
    """What a part of a run takes.

    Attributes:
        usd: None where a call has no price.
        ready: Calls of the longest chain up to its end.
    """

    calls: Amount = NOTHING
    input: Amount = NOTHING
    output: Amount = NOTHING
    usd: Amount | None = NOTHING
    ready: Amount = NOTHING

    def __add__(self, other: Load) -> Load:
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        ready = _later(self.ready, other.ready)
        return Load(self.calls + other.calls, self.input + other.input, self.output + other.output, usd, ready)

    def either(self, other: Load) -> Load:
        """One of the two."""
        usd = None if self.usd is None or other.usd is None else self.usd.either(other.usd)
        return Load(
            self.calls.either(other.calls),
            self.input.either(other.input),
            self.output.either(other.output),
            usd,
            self.ready.either(other.ready),
        )

    def times(self, count: Amount, ready: Amount) -> Load:
        """So many times."""
        usd = None if self.usd is None else self.usd.times(count)
        return Load(self.calls.times(count), self.input.times(count), self.output.times(count), usd, ready)


def _later(a: Amount, b: Amount) -> Amount:
    high = None if a.high is None or b.high is None else max(a.high, b.high)
    point = None if a.point is None or b.point is None else max(a.point, b.point)
    return Amount(max(a.low, b.low), high, point)


@dataclass
class Note:
    """What one node of the graph takes in one run."""

    node: Lm
    model: Model
    size: CallSize
    times: Amount
    chance: bool = False


@dataclass
class Rehearsal:
    """One pass through the graph."""

    compiled: Compiled[Any, Any]
    model: LMLike | None
    models: dict[str, Model]
    expected: Mapping[str, BaseModel]
    notes: list[Note] = field(default_factory=list[Note])
    unknown: list[str] = field(default_factory=list[str])
    total: Load = field(default_factory=Load)
    values: dict[int, Symbolic] = field(default_factory=dict[int, Symbolic])
    ready: dict[int, Amount] = field(default_factory=dict[int, Amount])
    hints: Mapping[int, Mapping[str, object]] = field(default_factory=dict[int, Mapping[str, object]])
    _times: Amount = ONE

    def graph(self, given: Symbolic) -> None:
        """Go through the whole graph."""
        body = self.compiled.graph.body
        output = self.expected.get("")
        if output is not None:
            self.hints = hints(body, {name: getattr(output, name) for name in type(output).model_fields})
        self.total, _ = self._region(self.compiled.graph.body, given, NOTHING)

    def _region(self, region: Region, given: Symbolic, base: Amount) -> tuple[Load, Symbolic]:
        """What the nodes of `region` take, none of them begun before `base`; and what it gives."""
        load = Load(ready=base)
        for node in region.nodes:
            if isinstance(node, Input):
                self.values[node.id], self.ready[node.id] = given, base
                continue
            begin = base
            for number in (*node.after, *(v.node for v in operands(node) if isinstance(v, Ref))):
                begin = _later(begin, self.ready.get(number, NOTHING))
            taken, value = self._node(node, begin)
            self.values[node.id], self.ready[node.id] = value, taken.ready
            load = load + taken
        return load, self._value(region.output)

    def _value(self, value: Value) -> Symbolic:
        match value:
            case Ref():
                return at(self.values.get(value.node, Sized(UNBOUNDED)), value.path)
            case Constant():
                return Known(value.value)
            case Variable():
                held = self.compiled.config.get(value.name)
                return Known(held)
            case Attribute():
                return Sized(UNBOUNDED)

    def _node(self, node: Node, begin: Amount) -> tuple[Load, Symbolic]:
        match node:
            case Lm():
                return self._lm(node, begin)
            case Select():
                return self._select(node, begin)
            case Cond():
                return self._cond(node, begin)
            case Attempt():
                return self._attempt(node, begin)
            case Map():
                return self._map(node, begin)
            case Call():
                return self._region(node.body, self._value(node.args[0].value), begin)
            case Opaque():
                return self._opaque(node, begin)
            case Join():
                return Load(ready=begin), self._join(node)
            case Python():
                return Load(ready=begin), self._python(node)
            case Tool():
                return Load(ready=begin), self._of_type(node.type, UNBOUNDED)
            case Input():
                return Load(ready=begin), self.values[node.id]

    # --- calls ----------------------------------------------------------------------------------

    def _lm(self, node: Lm, begin: Amount) -> tuple[Load, Symbolic]:
        settings = self.compiled.binding.settings(node)
        model = self._model(settings.lm)
        output = self.expected.get(node.module)
        fields = self.hints.get(node.id, {})
        if output is not None:
            fields = {name: getattr(output, name) for name in type(output).model_fields}
        size = size_call(settings, self._value(node.args[0].value), model, fields)
        self.notes.append(Note(node, model, size, self._times))
        prior = size.calls.low > 1
        ready = begin + Amount(2.0 if prior else 1.0, size.calls.high, size.calls.point)
        return Load(size.calls, size.input, size.output, size.usd, ready), size.value

    def _model(self, lm: LMLike | None) -> Model:
        chosen = lm if lm is not None else self.model
        key = "" if chosen is None else chosen if isinstance(chosen, str) else str(id(chosen))
        found = self.models.get(key)
        if found is None:
            found = self.models[key] = model_of(chosen)
        return found

    # --- regions --------------------------------------------------------------------------------

    def _select(self, node: Select, begin: Amount) -> tuple[Load, Symbolic]:
        chosen = self.compiled.config[node.variable]
        branch = next(branch for branch in node.branches if branch.name == chosen)
        return self._branch(branch, begin)

    def _branch(self, branch: Branch, begin: Amount) -> tuple[Load, Symbolic]:
        return self._region(branch.body, Sized(UNBOUNDED), begin)

    def _cond(self, node: Cond, begin: Amount) -> tuple[Load, Symbolic]:
        given = self._value(node.test)
        known, test = plain(given)
        then, otherwise = Branch("then", node.then), Branch("otherwise", node.otherwise)
        if known and certain(given):
            return self._branch(then if test else otherwise, begin)
        # What an example expects says which branch to expect, and not that the other will not run.
        first, value = self._apart(then, begin, (1.0 if test else 0.0) if known else 0.5)
        second, other = self._apart(otherwise, begin, (0.0 if test else 1.0) if known else 0.5)
        hull = first.either(second)
        if not known:
            return hull, self._either(value, other)
        return _taking(hull, "point", first if test else second), value if test else other

    def _apart(self, branch: Branch, begin: Amount, chance: float) -> tuple[Load, Symbolic]:
        """A branch that may or may not run."""
        outer, self._times = self._times, self._times.times(Amount(0.0, 1.0, chance))
        try:
            return self._branch(branch, begin)
        finally:
            self._times = outer

    def _attempt(self, node: Attempt, begin: Amount) -> tuple[Load, Symbolic]:
        if node.form == "together":
            whole, values = Load(ready=begin), list[Symbolic]()
            for branch in node.branches:
                load, value = self._branch(branch, begin)
                whole = whole + load
                values.append(value)
            return whole, Items(tuple(values))
        first, value = self._branch(node.branches[0], begin)
        if node.form == "race":
            rest = [self._branch(branch, begin) for branch in node.branches[1:]]
            total = first
            for load, other in rest:
                total = total + load
                value = self._either(value, other)
            # What is cancelled may have been charged or not.
            least = min([first, *(load for load, _ in rest)], key=lambda load: load.input.low)
            return _taking(total, "low", least), value
        total = first
        for branch in node.branches[1:]:
            outer, self._times = self._times, self._times.times(Amount(0.0, 1.0, 0.0))
            try:
                load, other = self._branch(branch, total.ready)
            finally:
                self._times = outer
            # The later ones run when the earlier have failed, which is not expected.
            total = _and_perhaps(total, load)
            value = self._either(value, other)
        return total, value

    def _map(self, node: Map, begin: Amount) -> tuple[Load, Symbolic]:
        over = self._value(node.over)
        held = over.value if isinstance(over, Known) else None
        sure = certain(over)
        if isinstance(held, list | tuple):
            over = Items(tuple(Known(item, sure) for item in cast("Sequence[object]", held)))
        if isinstance(over, Items):
            total, items = Load(ready=begin), list[Symbolic]()
            start = begin
            for item in over.items:
                load, value = self._region(node.body, item, start)
                total = total + load
                items.append(value)
                start = load.ready if node.ordered else begin
            return total, Items(tuple(items))
        item, count = (over.item, over.count) if isinstance(over, Many) else (Sized(UNBOUNDED), UNBOUNDED)
        if count.high is None or count.high != count.low:
            place = f" at {node.loc}" if node.loc else ""
            self.unknown.append(f"%{node.id} map{place}: how many items it has is not known; example inputs may tell")
        outer, self._times = self._times, self._times.times(count)
        try:
            load, value = self._region(node.body, item, NOTHING)
        finally:
            self._times = outer
        depth = load.ready.times(count if node.ordered else Amount(min(1.0, count.low), 1.0, 1.0))
        return load.times(count, begin + depth), Many(value, count)

    def _opaque(self, node: Opaque, begin: Amount) -> tuple[Load, Symbolic]:
        name = node.program or self.compiled.graph.name
        at_line = f" at {node.loc}" if node.loc else ""
        modules = f"; how often it calls {', '.join(node.owns)} is not known" if node.owns else ""
        self.unknown.append(f"{name}{at_line} is opaque: {node.reason}{modules}")
        value = self._of_type(node.type, Amount(0.0, None, FREE_TEXT))
        if not node.owns:
            return Load(ready=begin), value
        return Load(UNBOUNDED, UNBOUNDED, UNBOUNDED, self._unknown_cost(node), begin + UNBOUNDED), value

    def _unknown_cost(self, node: Opaque) -> Amount | None:
        prices = [self._model(self.compiled.settings[path].lm).price for path in node.owns]
        known = [price for price in prices if price is not None]
        if len(known) < len(prices):
            return None
        return NOTHING if all(map(is_free, known)) else UNBOUNDED

    # --- values ---------------------------------------------------------------------------------

    def _join(self, node: Join) -> Symbolic:
        args = [(argument.name, self._value(argument.value)) for argument in node.args]
        match node.form:
            case "vote":
                candidates = [value for name, value in args if name is None]
                value = candidates[0]
                for other in candidates[1:]:
                    value = self._either(value, other)
                return value
            case "copy":
                base = self._fields(args[0][1], node.type)
                return self._made(node.type, {**base, **{name: value for name, value in args[1:] if name is not None}})
            case "record":
                whole = self._of_type(node.type, UNBOUNDED)
                fields = dict(whole.fields) if isinstance(whole, Record) else {}
                return self._made(node.type, {**fields, **{name: value for name, value in args if name is not None}})
            case "dict":
                return Record({name or "": value for name, value in args})
            case _:
                return Items(tuple(value for _, value in args))

    def _fields(self, value: Symbolic, kind: Type) -> dict[str, Symbolic]:
        if isinstance(value, Record):
            return dict(value.fields)
        names = self._schema(kind)
        return {name: at(value, (name,)) for name in names.model_fields} if names is not None else {}

    def _made(self, kind: Type, fields: dict[str, Symbolic]) -> Symbolic:
        """An instance where all its fields are known, else a record."""
        schema = self._schema(kind)
        parts = {name: plain(value) for name, value in fields.items()}
        if schema is not None and all(known for known, _ in parts.values()):
            whole = schema.model_construct(None, **{name: value for name, (_, value) in parts.items()})
            return Known(whole, all(map(certain, fields.values())))
        return Record(fields)

    def _python(self, node: Python) -> Symbolic:
        args = [(argument.name, self._value(argument.value)) for argument in node.args]
        parts = [plain(value) for _, value in args]
        function = self.compiled.code.functions.get(node.key)
        found: Symbolic | None = None
        whole = all(known for known, _ in parts) and not node.uses
        if whole and node.pure and not node.awaits and function is not None:
            found = self._evaluated(function, args, parts)
        return self._computed(node, args) if found is None else found

    def _evaluated(
        self,
        function: Callable[..., Any],
        args: list[tuple[str | None, Symbolic]],
        parts: list[tuple[bool, object]],
    ) -> Symbolic | None:
        """What pure code gives; None where it fails, which the run will say better."""
        positional = [value for (name, _), (_, value) in zip(args, parts, strict=True) if name is None]
        named = {name: value for (name, _), (_, value) in zip(args, parts, strict=True) if name is not None}
        try:
            return Known(function(*positional, **named), all(certain(value) for _, value in args))
        except Exception:  # noqa: BLE001 - user code, declared pure: what it raises is for the run to report
            return None

    def _computed(self, node: Python, args: list[tuple[str | None, Symbolic]]) -> Symbolic:
        """A value that only running the code would give: of a text, about as long as what it is made of."""
        picked = _picked(node.expr, args)
        if picked is not None:
            return picked
        total = NOTHING
        for _, value in args:
            total += amount_of(value, _COUNT)
        text = Amount(0.0, None, total.point)
        lists = [value for _, value in args if isinstance(value, Items | Many)]
        if node.type.name != "list" or not node.type.args or len(lists) != 1:
            return self._of_type(node.type, text)
        # A list made of one list: as many items, and as much text altogether.
        given = lists[0]
        count = Amount.exactly(len(given.items)) if isinstance(given, Items) else given.count
        each = None if text.point is None or not count.point else text.point / count.point
        kind = node.type.args[0]
        item = self._of_type(kind, Amount(0.0, None, each)) if isinstance(kind, Type) else Sized(UNBOUNDED)
        return Many(item, Amount(0.0, count.high, count.point))

    def _of_type(self, kind: Type, text: Amount) -> Symbolic:
        """A value of which only the type is known."""
        schema = self._schema(kind)
        if schema is not None:
            return of_schema(schema, _COUNT, text)
        if kind.name in ("bool", "int", "float", "None"):
            return Sized(Amount(1.0, 24.0, 2.0))
        if kind.name in ("list", "set", "frozenset") and kind.args and isinstance(kind.args[0], Type):
            return Many(self._of_type(kind.args[0], text), UNBOUNDED)
        return Sized(text)

    def _schema(self, kind: Type) -> type[BaseModel] | None:
        return self.compiled.schemas.get(str(kind))

    def _either(self, one: Symbolic, other: Symbolic) -> Symbolic:
        if one == other:
            return one
        if isinstance(one, Record) and isinstance(other, Record) and one.fields.keys() == other.fields.keys():
            return Record({name: self._either(part, other.fields[name]) for name, part in one.fields.items()})
        if isinstance(one, Known) and isinstance(one.value, BaseModel):
            fields = {name: Known(getattr(one.value, name, None), one.certain) for name in type(one.value).model_fields}
            return self._either(Record(fields), other)
        if isinstance(other, Known) and isinstance(other.value, BaseModel) and isinstance(one, Record):
            return self._either(other, one)
        return Sized(amount_of(one, _COUNT).either(amount_of(other, _COUNT)))


def _picked(expr: str | None, args: list[tuple[str | None, Symbolic]]) -> Symbolic | None:
    """The value of ``[item.field for item in items]``, the one expression over answers that needs no running."""
    try:
        tree = ast.parse(expr or "", mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(tree, ast.ListComp) or len(tree.generators) != 1:
        return None
    loop, path, part = tree.generators[0], list[str](), tree.elt
    while isinstance(part, ast.Attribute):
        path.insert(0, part.attr)
        part = part.value
    over, name = loop.iter, loop.target
    if loop.ifs or loop.is_async or not (isinstance(over, ast.Name) and isinstance(name, ast.Name)):
        return None
    if not isinstance(part, ast.Name) or part.id != name.id:
        return None
    given = dict(args).get(over.id)
    if isinstance(given, Items):
        return Items(tuple(at(item, tuple(path)) for item in given.items))
    return Many(at(given.item, tuple(path)), given.count) if isinstance(given, Many) else None


def _and_perhaps(load: Load, more: Load) -> Load:
    perhaps = Amount(0.0, 1.0, 0.0)
    ready = replace(load.ready, high=more.ready.high)
    return replace(load + more.times(perhaps, load.ready), ready=ready)


def _taking(load: Load, part: Literal["low", "point"], other: Load) -> Load:
    """`load` with that part of each amount as `other` has it."""

    def taken(amount: Amount, given: Amount) -> Amount:
        return replace(amount, point=given.point) if part == "point" else replace(amount, low=given.low)

    return Load(
        taken(load.calls, other.calls),
        taken(load.input, other.input),
        taken(load.output, other.output),
        load.usd if load.usd is None or other.usd is None else taken(load.usd, other.usd),
        taken(load.ready, other.ready),
    )


def hints(region: Region, wanted: Mapping[str, object]) -> dict[int, Mapping[str, object]]:
    """What nodes give, as far as it follows from fields of what `region` gives: through records, votes and branches."""
    nodes = {node.id: node for node in walk(region)}
    found: dict[int, Mapping[str, object]] = {}
    pending: list[tuple[Value, Mapping[str, object]]] = [(region.output, wanted)]
    while pending:
        value, fields = pending.pop()
        if not isinstance(value, Ref) or value.path:
            continue
        node = nodes.get(value.node)
        if node is None:
            continue
        known = found[node.id] = {**found.get(node.id, {}), **fields}
        if isinstance(node, Join) and node.form in ("record", "copy"):
            for argument in node.args:
                inner = argument.value
                if argument.name in known and isinstance(inner, Ref) and len(inner.path) == 1:
                    pending.append((Ref(inner.node), {str(inner.path[0]): known[argument.name]}))
                elif argument.name is None:
                    changed = {other.name for other in node.args}
                    pending.append((inner, {name: part for name, part in known.items() if name not in changed}))
        elif isinstance(node, Join) and node.form == "vote":
            pending += [(argument.value, known) for argument in node.args if argument.name is None]
        elif not isinstance(node, Map):
            pending += [(inner.output, known) for inner in regions(node)]
    return found
