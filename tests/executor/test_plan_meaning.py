"""Random graphs: a plan gives, or raises, what working through the graph in source order does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import dspex as dx
from dspex.compiler.code import Code
from dspex.compiler.compiled import Compiled
from dspex.compiler.ir.nodes import Attempt, Cond, Constant, Graph, Join, Map, Node, Python, Ref, Region, Value
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.verify import verify
from dspex.errors import LMError
from dspex.program.space import Space


class Text(dx.Schema):
    text: str


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def mix(tag: int, *parts: object) -> str:
    """A value that tells its inputs apart; for some inputs a failure."""
    value = digest(tag, *parts)
    if int(value, 16) % 6 == 0:
        raise LMError("DX4201", f"{tag} failed for {value}")
    return value


async def slow(tag: int, *parts: object) -> str:
    for _ in range(int(digest("wait", tag, *parts), 16) % 5):
        await asyncio.sleep(0)
    return mix(tag, *parts)


def pair(*parts: object) -> list[str]:
    return [digest(part) for part in parts]


FUNCTIONS: dict[str, Callable[..., Any]] = {"bot:mix": mix, "bot:slow": slow, "bot:pair": pair, "bot:text": Text}


class Writer:
    """Draws the text of a graph."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.count = 1

    def fresh(self) -> int:
        self.count += 1
        return self.count - 1

    def pick(self, known: list[str]) -> str:
        return self.draw(st.sampled_from(known[-6:]))

    def region(self, known: list[str], depth: int, lines: list[str], pad: str) -> str:
        """Writes some nodes; gives what the region may put out."""
        known = list(known)
        last = 0
        for _ in range(self.draw(st.integers(1, 6 if depth == 0 else 3))):
            number = self.fresh()
            kind = self.draw(
                st.sampled_from(
                    ["mix", "slow", "slow", "slow", "vote"] + ["cond", "map", "fallback", "together"] * (depth < 2)
                )
            )
            one, two = self.pick(known), self.pick(known)
            after = f"after %{last} " if last and self.draw(st.integers(0, 4)) == 0 else ""
            match kind:
                case "mix":
                    lines.append(f"{pad}%{number} = {after}python bot:mix ({number}, {one}, {two}) : str")
                case "slow":
                    lines.append(f"{pad}%{number} = {after}python await bot:slow ({number}, {one}, {two}) : str")
                case "vote":
                    lines.append(f"{pad}%{number} = {after}join vote ({one}, {two}, {one}) : str")
                case "cond":
                    lines.append(f"{pad}%{number} = {after}cond {one} {{")
                    self.block(known, depth, lines, pad)
                    lines.append(f"{pad}}} else {{")
                    self.block(known, depth, lines, pad)
                    lines.append(f"{pad}}} : str")
                case "together":
                    lines.append(f"{pad}%{number} = {after}together {{")
                    count = self.draw(st.integers(1, 3))
                    for name in "abc"[:count]:
                        lines.append(f"{pad}  {name}: {{")
                        self.block(known, depth, lines, pad + "  ")
                        lines.append(f"{pad}  }}")
                    lines.append(f"{pad}}} : list[str]")
                    whole, number = number, self.fresh()
                    lines.append(
                        f"{pad}%{number} = python bot:mix ({number}, %{whole}[0], %{whole}[{count - 1}]) : str"
                    )
                case "fallback":
                    lines.append(f"{pad}%{number} = {after}fallback {{")
                    for name in "abc"[: self.draw(st.integers(1, 3))]:
                        lines.append(f"{pad}  {name}: {{")
                        self.block(known, depth, lines, pad + "  ")
                        lines.append(f"{pad}  }}")
                    lines.append(f"{pad}}} : str")
                case _:
                    lines.append(f"{pad}%{number} = {after}python bot:pair ({one}, {two}) : list[str]")
                    over, item = number, self.fresh()
                    mode = self.draw(st.sampled_from(["", "ordered "]))
                    lines.append(f"{pad}%{item} = map {mode}%{over} {{")
                    inner = self.fresh()
                    lines.append(f"{pad}  %{inner} = input : str")
                    self.block([*known, f"%{inner}"], depth, lines, pad)
                    lines.append(f"{pad}}} : list[str]")
                    number = item
            last = number
            known.append(f"%{number}")
        return self.pick(known)

    def block(self, known: list[str], depth: int, lines: list[str], pad: str) -> None:
        output = self.region(known, depth + 1, lines, pad + "  ")
        lines.append(f"{pad}  output {output}")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    writer = Writer(draw)
    lines: list[str] = []
    output = writer.region(["%0.text"], 0, lines, "  ")
    last = writer.fresh()
    lines += [f"  %{last} = python bot:mix (0, {output}) : str", f"  %{last + 1} = join record (text=%{last}) : Text"]
    text = "\n".join(["program bot : Text -> Text {", "  %0 = input : Text", *lines, f"  output %{last + 1}", "}", ""])
    return verify(parse(text))


def in_order(graph: Graph, x: Text) -> Any:
    """The meaning of a graph, one node after another."""
    values: dict[int, Any] = {0: x}

    def read(value: Value) -> Any:
        if isinstance(value, Constant):
            return value.value
        assert isinstance(value, Ref)
        found = values[value.node]
        for step in value.path:
            found = found[step] if isinstance(step, int) else getattr(found, step)
        return found

    def region(item: Region, first: Any = None) -> Any:
        for number, inner in enumerate(item.nodes):
            if number or inner.kind != "input":
                values[inner.id] = node(inner)
            elif item is not graph.body:
                values[inner.id] = first
        return read(item.output)

    def node(item: Node) -> Any:
        match item:
            case Python():
                function = mix if item.target == "bot:slow" else FUNCTIONS[item.target]
                return function(*(read(arg.value) for arg in item.args))
            case Join(form="vote"):
                votes = [read(arg.value) for arg in item.args]
                return max(votes, key=votes.count)
            case Join():
                return Text(text=read(item.args[0].value))
            case Cond():
                return region(item.then if read(item.test) else item.otherwise)
            case Map():
                return [region(item.body, one) for one in read(item.over)]
            case Attempt(form="together"):
                return [region(branch.body) for branch in item.branches]
            case Attempt():
                for branch in item.branches[:-1]:
                    try:
                        return region(branch.body)
                    except LMError:
                        continue
                return region(item.branches[-1].body)
            case _:
                raise AssertionError(item)

    return region(graph.body)


@settings(max_examples=150, deadline=None)
@given(graph=graphs(), text=st.sampled_from("abcdef"))
def test_plan_means_what_its_graph_says_in_order(graph: Graph, text: str) -> None:
    x = Text(text=text)
    bot: Compiled[Any, Any] = Compiled(graph, Space([]), {"Text": Text}, {}, Code(FUNCTIONS))

    async def outcome() -> object:
        try:
            return await bot(x)
        except LMError as error:
            return error.message
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

    try:
        expected: object = in_order(graph, x)
    except LMError as error:
        expected = error.message
    assert asyncio.run(outcome()) == expected


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), turns=st.integers(0, 12))
def test_cancelled_plan_leaves_nothing_running(graph: Graph, turns: int) -> None:
    bot: Compiled[Any, Any] = Compiled(graph, Space([]), {"Text": Text}, {}, Code(FUNCTIONS))

    async def scenario() -> None:
        work = asyncio.ensure_future(bot(Text(text="a")))
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait((work,))
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        assert work.cancelled() or work.done()
        if not work.cancelled():
            work.exception()

    asyncio.run(scenario())
