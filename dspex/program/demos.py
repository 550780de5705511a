"""Demonstrations and where a prompt takes them from: a fixed set, or the nearest ones of a pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, TypeGuard, cast, final

from dspex.errors import ProgramError

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dspex.program.schema import Schema
    from dspex.program.similarity import TfIdf

__all__ = ["Demo", "DemoSet", "DemoSource", "Nearest", "input_text", "is_demo_source", "source_from_json"]

_set = object.__setattr__


def canonical_json(value: object) -> str:
    """`value` as JSON text with sorted keys and no spaces: equal values give equal texts."""
    import json

    from pydantic_core import to_jsonable_python

    try:
        return json.dumps(
            to_jsonable_python(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ProgramError("DX1601", f"not JSON data: {value!r} ({error})", fix="use JSON values or a Schema") from None


def content_hash(*parts: str) -> str:
    """SHA-256 over `parts`, as 32 hexadecimal digits."""
    from hashlib import sha256

    digest = sha256()
    for part in parts:
        data = part.encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:32]


def input_text(values: Mapping[str, object]) -> str:
    """The text by which inputs are compared: field values in field order, other values as JSON."""
    return "\n".join(value if isinstance(value, str) else canonical_json(value) for value in values.values())


def _fields(values: Mapping[str, JsonValue] | Schema, side: str) -> str:
    if not isinstance(values, Mapping):
        values = cast("Mapping[str, JsonValue]", values.model_dump(mode="json"))
    if not values:
        raise ProgramError("DX1601", f"a demonstration's {side} has no fields")
    # Field order is kept: it is the order in which the prompt shows them.
    import json

    from pydantic_core import to_jsonable_python

    try:
        plain = to_jsonable_python(dict(values))
        return json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ProgramError("DX1601", f"a demonstration's {side} is not JSON data: {error}") from None


@final
class Demo:
    """One worked example: the fields of an input and of its output, as JSON values.

    Args:
        input: Field values, or an instance of the input schema.
        output: Field values, or an instance of the output schema.
        reasoning: The steps that lead from one to the other, for modules that reason.
        bootstrapped: Whether a program produced it, rather than a person.
    """

    __slots__ = ("_cache", "bootstrapped", "input_json", "output_json", "reasoning")
    input_json: str
    output_json: str
    reasoning: str | None
    bootstrapped: bool
    _cache: dict[str, object]

    def __init__(
        self,
        input: Mapping[str, JsonValue] | Schema,
        output: Mapping[str, JsonValue] | Schema,
        reasoning: str | None = None,
        bootstrapped: bool = False,
    ) -> None:
        _set(self, "input_json", _fields(input, "input"))
        _set(self, "output_json", _fields(output, "output"))
        _set(self, "reasoning", reasoning)
        _set(self, "bootstrapped", bootstrapped)
        _set(self, "_cache", {})

    @property
    def input(self) -> Mapping[str, JsonValue]:
        return self._parsed("input", self.input_json)

    @property
    def output(self) -> Mapping[str, JsonValue]:
        return self._parsed("output", self.output_json)

    def _parsed(self, side: str, text: str) -> Mapping[str, JsonValue]:
        values = self._cache.get(side)
        if values is None:
            from types import MappingProxyType

            from pydantic_core import from_json

            values = self._cache[side] = MappingProxyType(from_json(text))
        return cast("Mapping[str, JsonValue]", values)

    @property
    def hash(self) -> str:
        """Content hash over input, output and reasoning."""
        digest = self._cache.get("hash")
        if digest is None:
            digest = content_hash("demo", self.input_json, self.output_json, self.reasoning or "")
            self._cache["hash"] = digest
        return cast(str, digest)

    def to_json(self) -> dict[str, JsonValue]:
        data: dict[str, JsonValue] = {"input": dict(self.input), "output": dict(self.output)}
        if self.reasoning is not None:
            data["reasoning"] = self.reasoning
        if self.bootstrapped:
            data["bootstrapped"] = True
        return data

    def _key(self) -> tuple[object, ...]:
        return (self.input_json, self.output_json, self.reasoning, self.bootstrapped)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Demo is immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Demo) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[object, ...]:
        return (Demo, (dict(self.input), dict(self.output), self.reasoning, self.bootstrapped))

    def __repr__(self) -> str:
        return f"Demo({self.input_json} -> {self.output_json})"


def _demos(demos: Iterable[Demo]) -> tuple[Demo, ...]:
    members = tuple(demos)
    for member in members:
        if not isinstance(member, Demo):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ProgramError("DX1601", f"demonstrations are dx.Demo, got {member!r}")
    return members


@final
class DemoSet:
    """Fixed demonstrations, shown in this order."""

    __slots__ = ("_hash", "demos", "name")
    demos: tuple[Demo, ...]
    name: str
    _hash: str

    def __init__(self, demos: Iterable[Demo] = (), name: str = "") -> None:
        _set(self, "demos", _demos(demos))
        _set(self, "name", name)
        _set(self, "_hash", "")

    @property
    def hash(self) -> str:
        """Content hash over the demonstrations and their order; the name does not count."""
        if not self._hash:
            _set(self, "_hash", content_hash("set", *(demo.hash for demo in self.demos)))
        return self._hash

    def select(self, input: Mapping[str, object], /) -> tuple[Demo, ...]:
        """The demonstrations for `input`: always all of them."""
        return self.demos

    def to_json(self) -> dict[str, JsonValue]:
        return {"kind": "set", "name": self.name, "demos": [demo.to_json() for demo in self.demos]}

    def __len__(self) -> int:
        return len(self.demos)

    def __bool__(self) -> bool:
        return True

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("DemoSet is immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DemoSet) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __reduce__(self) -> tuple[object, ...]:
        return (DemoSet, (self.demos, self.name))

    def __repr__(self) -> str:
        return f"DemoSet({len(self.demos)} demos{', ' + self.name if self.name else ''})"


@final
class Nearest:
    """Per input, the `k` demonstrations of `pool` whose inputs are most similar, the most similar last.

    Similarity is the TF-IDF cosine of the inputs' text. A demonstration whose input equals the query
    is never used, so that an example is never shown its own answer.

    Args:
        pool: Demonstrations to choose from.
        k: How many an input gets.
        name: For people.
        spread: Take the nearest of every different output first, then the second nearest of each, and so on, so that
            no output is missing and none is shown much more often than another.
    """

    __slots__ = ("_hash", "_index", "_outputs", "k", "name", "pool", "spread")
    pool: tuple[Demo, ...]
    k: int
    name: str
    spread: bool
    _hash: str
    _index: TfIdf | None
    _outputs: int

    def __init__(self, pool: Iterable[Demo], k: int, name: str = "", spread: bool = False) -> None:
        _set(self, "pool", _demos(pool))
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ProgramError("DX1602", f"Nearest takes k >= 1 demonstrations per input, got {k!r}")
        _set(self, "k", k)
        _set(self, "name", name)
        _set(self, "spread", spread)
        _set(self, "_hash", "")
        _set(self, "_index", None)
        _set(self, "_outputs", 0)

    @property
    def hash(self) -> str:
        """Content hash over the pool, its order, k and spread; the name does not count."""
        if not self._hash:
            kind = "nearest-spread" if self.spread else "nearest"
            _set(self, "_hash", content_hash(kind, str(self.k), *(demo.hash for demo in self.pool)))
        return self._hash

    def select(self, input: Mapping[str, object], /) -> tuple[Demo, ...]:
        """The demonstrations for `input`, most similar last."""
        text = input_text(input)
        plain = _plain(input)
        if self.spread:
            return self._spread(text, plain)
        chosen: list[Demo] = []
        # Almost always the first k + 1 suffice; more are looked at only when inputs repeat in the pool.
        wanted = self.k + 1
        while True:
            ranked = self.index.nearest(text, wanted)
            chosen.clear()
            for position, _ in ranked:
                demo = self.pool[position]
                if _equal(demo.input, plain):
                    continue
                chosen.append(demo)
                if len(chosen) == self.k:
                    break
            if len(chosen) == self.k or wanted >= len(self.pool):
                return tuple(reversed(chosen))
            wanted = min(wanted * 4, len(self.pool))

    def _spread(self, text: str, plain: Mapping[str, object]) -> tuple[Demo, ...]:
        if not self._outputs:
            _set(self, "_outputs", max(1, len({demo.output_json for demo in self.pool})))
        # So many turns of all outputs are enough.
        whole = -(-self.k // self._outputs)
        pool, order = self.pool, self.index.ranking(text)
        same: set[int] = set()
        while True:
            # Places in `order` by turn: the nearest of each output, the second nearest of each, and so on.
            turns: list[list[int]] = []
            seen: dict[str, int] = {}
            for place, position in enumerate(order):
                if position in same:
                    continue
                output = pool[position].output_json
                turn = seen.get(output, 0)
                seen[output] = turn + 1
                if turn == len(turns):
                    turns.append([])
                turns[turn].append(place)
                if turn == whole - 1 and len(turns[turn]) == self._outputs:
                    break
            chosen = [order[place] for place in sorted(list(chain.from_iterable(turns))[: self.k], reverse=True)]
            # Only what would be shown is compared: what is not chosen does not let others in by its absence.
            equal = [position for position in chosen if _equal(pool[position].input, plain)]
            if not equal:
                return tuple(pool[position] for position in chosen)
            same.update(equal)

    @property
    def index(self) -> TfIdf:
        """The similarity index over the pool's inputs, built at the first use."""
        index = self._index
        if index is None:
            from dspex.program.similarity import TfIdf

            index = TfIdf([input_text(demo.input) for demo in self.pool])
            _set(self, "_index", index)
        return index

    def to_json(self) -> dict[str, JsonValue]:
        pool: list[JsonValue] = [demo.to_json() for demo in self.pool]
        return {"kind": "nearest", "name": self.name, "k": self.k, "spread": self.spread, "pool": pool}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Nearest is immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nearest) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __reduce__(self) -> tuple[object, ...]:
        return (Nearest, (self.pool, self.k, self.name, self.spread))

    def __repr__(self) -> str:
        return f"Nearest(k={self.k}, pool of {len(self.pool)}{', ' + self.name if self.name else ''})"


DemoSource = DemoSet | Nearest
"""Where a module takes its demonstrations from."""


def is_demo_source(value: object) -> TypeGuard[DemoSource]:
    return isinstance(value, DemoSet | Nearest)


def _plain(values: Mapping[str, object]) -> Mapping[str, object]:
    from pydantic_core import to_jsonable_python

    return cast("Mapping[str, object]", to_jsonable_python(dict(values)))


def _equal(known: Mapping[str, object], query: Mapping[str, object]) -> bool:
    """Whether the demonstration's input is the query; fields that the demonstration leaves out do not count."""
    return all(name in query and query[name] == value for name, value in known.items())


def source_from_json(data: object) -> DemoSource:
    """The source that `to_json` wrote.

    Raises:
        ProgramError: DX1603 when `data` has another shape.
    """
    try:
        record = cast("dict[str, object]", data)
        kind = record["kind"]
        members = cast("list[dict[str, object]]", record["demos" if kind == "set" else "pool"])
        if not isinstance(members, list):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{type(members).__name__} instead of a list of demonstrations")
        demos = tuple(
            Demo(
                cast("Mapping[str, JsonValue]", member["input"]),
                cast("Mapping[str, JsonValue]", member["output"]),
                cast("str | None", member.get("reasoning")),
                bool(member.get("bootstrapped", False)),
            )
            for member in members
        )
        for demo in demos:
            if not isinstance(demo.reasoning, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"reasoning is {type(demo.reasoning).__name__}")
        name = cast(str, record.get("name", ""))
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"name is {type(name).__name__}")
        if kind == "set":
            return DemoSet(demos, name)
        if kind != "nearest":
            raise TypeError(f"kind is {kind!r:.40}")
        return Nearest(demos, cast(int, record["k"]), name, bool(record.get("spread", False)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProgramError("DX1603", f"not a demonstration source: {error!r}") from None
