"""Random programs as source text, and how such text becomes a module that can be read.

Every program is typed as an author would write it, so that whatever it draws runs. `Written` says which of its
parts make comparisons weaker: a race, whose losers may or may not have asked.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from hypothesis import strategies as st

from tests.compiler.vocabulary import NEVER

HEAD = '''\
"""A generated program."""

from __future__ import annotations

import asyncio
from typing import Literal

import dspex as dx
from tests.compiler.vocabulary import (
    Answer, Ask, Both, Draft, Label, clean, fetch, grow, is_long, kept, note, poke, search, shout,
)
'''

PLAIN = ("Ask", "Draft", "Label")
"""Schemas that a module gives; `Answer` and `Both` are given by some."""

_numbers = itertools.count()
T = TypeVar("T")


@dataclass(frozen=True)
class Written:
    """A module's source with the name of the program in it.

    Attributes:
        text: The source.
        name: The class to be compiled.
        races: Whether a race stands in it: which requests its losers send is a matter of time.
        opaque: Whether a body holds a construct that the front end does not read.
    """

    text: str
    name: str
    races: bool
    opaque: bool


@dataclass(frozen=True)
class Part:
    """An attribute that holds a program: how a body calls it.

    Attributes:
        name: The attribute.
        input: The schema that it takes.
        output: The schema that it gives.
        single: Whether it is one module, whose call fails at its first step.
    """

    name: str
    input: str
    output: str
    single: bool = False


class _Writer:
    """Draws one module."""

    def __init__(self, seed: int, size: int, *, sober: bool) -> None:
        self.random = random.Random(seed)
        self.size = size
        self.sober = sober
        self.races = False
        self.opaque = False
        # What one of two programs that run together changes, the other one reads at a time that nobody can tell.
        self.grows = self.chance(50)
        self.programs: list[Part] = []

    def number(self, lo: int, hi: int) -> int:
        return self.random.randint(lo, hi)

    def chance(self, percent: int) -> bool:
        return self.random.random() * 100 < percent

    def one(self, items: Sequence[T]) -> T:
        return self.random.choice(items)

    def pick(self, *items: str) -> str:
        return self.random.choice(items)

    def module(self) -> str:
        classes = [self.program(f"P{n}", last=False) for n in range(self.number(0, self.size - 1))]
        classes.append(self.program("Root", last=True))
        return "\n\n".join([HEAD, *classes])

    # --- a class ----------------------------------------------------------------------------------

    def program(self, name: str, *, last: bool) -> str:
        given = "Ask" if last else self.pick("Ask", "Draft")
        wanted = "Answer" if last else self.pick("Draft", "Answer", "Ask")
        lines = [f"class {name}(dx.Program[{given}, {wanted}]):"]
        body = _Body(self, given)
        variables = self.variables(body)
        lines += variables
        parts: list[Part] = []
        for n in range(self.number(1, self.size + 1)):
            source = self.pick("Ask", "Draft")
            target = self.pick("Draft", "Draft", "Label", "Answer", "Ask")
            text, target = self.part(source, target, body, 2)
            parts.append(Part(f"m{n}", source, target, text.startswith(("dx.Predict", "dx.Chain"))))
            lines.append(f"    m{n} = {text}")
        body.parts = parts
        steps = ""
        if self.chance(25):
            steps = self.pick("Ask", "Draft")
            made = ", ".join(self.leaf(steps, steps, body, inside=True) for _ in range(self.number(1, 3)))
            lines += [
                "",
                "    def __init__(self) -> None:",
                "        super().__init__()",
                f"        self.steps = [{made}]",
                f"        self.flag = {self.chance(50)}",
                '        self.prefix = "p "',
            ]
            body.steps = steps
        lines += ["", f"    async def __call__(self, x: {given}, /) -> {wanted}:"]
        lines += [f"        {line}" for line in body.statements(wanted)]
        self.programs.append(Part(name, given, wanted))
        return "\n".join(lines) + "\n"

    def variables(self, body: _Body) -> list[str]:
        lines: list[str] = []
        if self.chance(50):
            lines.append('    tone: dx.Var[Literal["terse", "wordy"]] = dx.var("terse")')
            body.texts.append("self.tone")
            body.placeholders.append("tone")
        if self.chance(50):
            lines.append(f"    k: dx.Var[int] = dx.var({self.number(1, 2)}, lo=1, hi=3)")
            body.ints.append("self.k")
            body.placeholders.append("k")
            if self.chance(40):
                lines.append("    twice = dx.computed(k * 2)")
                body.ints.append("self.twice")
                body.placeholders.append("twice")
        if self.chance(30):
            when = ', when=tone.is_("wordy")' if "tone" in body.placeholders else ""
            lines.append(f"    heat: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0{when})")
            body.heats.append("heat")
        if self.chance(25):
            lines.append("    strict: dx.Var[bool] = dx.var(False)")
            body.bools.append("self.strict")
        if self.chance(25):
            lines.append('    phrase: dx.Var[str] = dx.var("Be brief.")')
            body.texts.append("self.phrase")
            body.placeholders.append("phrase")
        if {"tone", "k"} <= {*body.placeholders} and self.chance(40):
            lines.append('    rules = [tone.is_("terse").implies(k <= 2)]')
        return lines

    # --- an attribute -----------------------------------------------------------------------------

    def leaf(self, source: str, target: str, body: _Body, *, inside: bool = False) -> str:
        """A module; `inside` a function, where the class's Variables have no names."""
        kind = self.pick("Predict", "Predict", "ChainOfThought")
        options: list[str] = []
        if self.chance(50):
            hole = "{" + self.one(body.placeholders) + "} " if body.placeholders else ""
            options.append(f'instruction="{self.pick("Do it.", "Say it.")} {hole}"')
        if body.heats and not inside and self.chance(50):
            options.append("temperature=heat")
        elif self.chance(20):
            options.append("temperature=0.5")
        if "self.k" in body.ints and not inside and self.chance(30):
            options.append("demos_k=k")
        if self.chance(30):
            options.append(f'format="{self.pick("chat", "completion")}"')
        return f"dx.{kind}({', '.join([source, target, *options])})"

    def part(self, source: str, target: str, body: _Body, depth: int) -> tuple[str, str]:
        """An expression for a program, and what it gives."""
        fitting = [p for p in self.programs if p.input == source and p.output == target]
        kind = self.pick("leaf", "leaf", "select", "pipe", "fallback", "when", "nested", "vote", "parallel", "race")
        if kind == "nested" and fitting and not (self.grows and depth < 2):
            return f"{self.one(fitting).name}()", target
        if depth == 0 or kind in ("leaf", "nested"):
            return self.leaf(source, target, body), target

        def inner(given: str = source, wanted: str = target) -> str:
            while True:
                text, found = self.part(given, wanted, body, depth - 1)
                if found == wanted:
                    return text

        match kind:
            case "select":
                return f"dx.select(a={inner()}, b={inner()})", target
            case "pipe":
                middle = self.pick("Ask", "Draft")
                return f"({self.leaf(source, middle, body)} >> {self.leaf(middle, target, body)})", target
            case "fallback":
                first = f'dx.Predict({source}, {target}, instruction="{NEVER}")' if self.chance(40) else inner()
                return f"dx.fallback({first}, {inner()})", target
            case "race":
                self.races = True
                refused = f'dx.Predict({source}, {target}, instruction="{NEVER}")'
                pair = f"{refused}, {inner()}" if self.chance(50) else f"{inner()}, {refused}"
                return f"dx.race({pair})", target
            case "when":
                if source != "Ask":
                    return self.leaf(source, target, body), target
                return f"dx.when(is_long, {inner()}, {inner()})", target
            case "vote":
                by = ', by="label"' if target == "Label" else ""
                return f"dx.vote({inner()}, {inner()}, {inner()}{by})", target
            case _:
                if depth < 2:
                    return self.leaf(source, target, body), target
                return f"dx.parallel(Both, left={inner(wanted='Draft')}, right={inner(wanted='Draft')})", "Both"


class _Body:
    """The statements of one `__call__`, with the values known so far by type."""

    def __init__(self, writer: _Writer, given: str) -> None:
        self.writer = writer
        self.given = given
        self.parts: list[Part] = []
        self.steps = ""
        self.texts: list[str] = []
        self.ints: list[str] = []
        self.bools: list[str] = []
        self.heats: list[str] = []
        self.placeholders: list[str] = []
        self.known: dict[str, list[str]] = {given: ["x"]}
        self.count = 0

    def fresh(self, type: str) -> str:
        self.count += 1
        name = f"v{self.count}"
        self.known.setdefault(type, []).append(name)
        return name

    # --- expressions without a call of a model ----------------------------------------------------

    def text(self, depth: int = 2) -> str:
        options = ['"plain"', *self.texts, *self.known.get("str", ())]
        options += [f"{name}.question" for name in self.known.get("Ask", ())]
        options += [f"{name}.text" for name in (*self.known.get("Draft", ()), *self.known.get("Answer", ()))]
        options += [f"{name}.label" for name in self.known.get("Label", ())]
        options += [f"{name}.left.text" for name in self.known.get("Both", ())]
        if depth == 0 or self.writer.chance(55):
            return self.writer.one(options)
        match self.writer.pick("join", "f", "clean", "upper", "len", "pick", "index"):
            case "join":
                return f"({self.text(depth - 1)} + {self.text(depth - 1)})"
            case "f":
                return f'f"{{{self.writer.one(self.names() or ["1"])}!r:.24}}: {{{self.int()}}}"'
            case "clean":
                return f"clean({self.text(depth - 1)})"
            case "upper":
                return f"{self.text(depth - 1)}.upper()"
            case "len":
                return f"str(len({self.list(depth - 1)}))"
            case "pick":
                return f"({self.text(depth - 1)} if {self.bool()} else {self.text(depth - 1)})"
            case _:
                return f"{self.text(depth - 1)}[:3]"

    def names(self) -> list[str]:
        return [name for names in self.known.values() for name in names]

    def int(self) -> str:
        return self.writer.one(["2", *self.ints, f"len({self.list(0)})"])

    def bool(self) -> str:
        options = [f"len({self.text(0)}) % 2 == 0", f'"a" in {self.text(0)}', f"{self.int()} > 1", *self.bools]
        options += [f"{name}.deep" for name in self.known.get("Ask", ())]
        options += [f'{name}.label == "red"' for name in self.known.get("Label", ())]
        options += [f"{name}.draft is None" for name in self.known.get("Answer", ())]
        return self.writer.one(options)

    def list(self, depth: int = 1) -> str:
        options = ["['one', 'two']", *self.known.get("list[str]", ())]
        options += [f"{name}.hints" for name in self.known.get("Ask", ())]
        options += [f"{name}.tags" for name in self.known.get("Draft", ())]
        options += [f"{name}.items" for name in self.known.get("Answer", ())]
        if depth == 0 or self.writer.chance(70):
            return self.writer.one(options)
        return self.writer.pick(
            f"[{self.text(depth - 1)}, {self.text(depth - 1)}]",
            f"sorted({self.list(depth - 1)})",
            f"[t.strip() for t in {self.list(depth - 1)} if t]",
        )

    def held(self) -> list[str]:
        """Lists that something else may read as well."""
        options = list(self.known.get("list[str]", ()))
        options += [f"{name}.hints" for name in self.known.get("Ask", ())]
        options += [f"{name}.tags" for name in self.known.get("Draft", ())]
        options += [f"{name}.left.tags" for name in self.known.get("Both", ())]
        return options + [f"{name}.items" for name in self.known.get("Answer", ())]

    def value(self, type: str) -> str:
        """An expression of one of the schemas."""
        known = self.known.get(type, [])
        if known and self.writer.chance(50):
            return self.writer.one(known)
        if known and type in ("Ask", "Draft") and self.writer.chance(40):
            field = "question" if type == "Ask" else "text"
            return f'{self.writer.one(known)}.model_copy(update={{"{field}": {self.text()}}})'
        match type:
            case "Ask":
                more = self.writer.pick("", f", hints={self.list()}", f", deep={self.bool()}")
                return f"Ask(question={self.text()}{more})"
            case "Draft":
                if "Both" in self.known and self.writer.chance(50):
                    return f"{self.writer.one(self.known['Both'])}.right"
                more = self.writer.pick("", f", tags={self.list()}", ", score=0.5")
                return f"Draft(text={self.text()}{more})"
            case "Label":
                return 'Label(label="green")'
            case _:
                draft = f", draft={self.writer.one(self.known['Draft'])}" if self.known.get("Draft") else ""
                more = self.writer.pick("", draft, f", items={self.list()}")
                return f"Answer(text={self.text()}{more})"

    # --- statements -------------------------------------------------------------------------------

    def statements(self, wanted: str) -> list[str]:
        lines: list[str] = []
        for _ in range(self.writer.number(1, 2 * self.writer.size)):
            lines += self.statement()
        if self.writer.chance(70) or self.writer.sober:
            # Everything is used: nothing is dead.
            parts = ", ".join(f"str({name})" for name in self.names() if name != "x")
            self.texts.append(f'clean("|".join([{parts}]))')
            return [*lines, f"return {self.all_of(wanted)}"]
        return [*lines, f"return {self.value(wanted)}"]

    def all_of(self, wanted: str) -> str:
        field = "question" if wanted == "Ask" else "text"
        return f"{wanted}({field}={self.texts[-1]})"

    def call(self, part: Part) -> str:
        return f"self.{part.name}({self.value(part.input)})"

    def items(self, part: Part) -> str:
        """A list of inputs of `part`."""
        field = "question" if part.input == "Ask" else "text"
        return f"[{part.input}({field}=t) for t in {self.list()}]"

    def statement(self) -> list[str]:
        parts, pick = self.parts, self.writer.pick
        part = self.writer.one(parts)
        # Which of several failing calls `asyncio.gather` raises is a matter of time, unless each fails at once.
        gathered = [p for p in parts if p.single or not (self.writer.sober or self.writer.grows)]
        kinds = ["call", "call", "call", "map", "each", "cond", "loop", "op", "tool", "bind"]
        kinds += ["gather", "together"] if gathered else []
        kinds += ["grow", "grow", "keep", "poke"] if self.writer.grows else []
        kinds += ["flag", "prefix"] if self.steps else []
        kinds += ["steps"] if self.steps else []
        kinds += ["try", "if"] if not self.writer.sober and self.writer.chance(15) else []
        match pick(*kinds):
            case "call":
                call = self.call(part)
                return [f"{self.fresh(part.output)} = await {call}"]
            case "gather":
                part, other = self.writer.one(gathered), self.writer.one(gathered)
                calls = f"{self.call(part)}, {self.call(other)}"
                names = f"{self.fresh(part.output)}, {self.fresh(other.output)}"
                return [f"{names} = await asyncio.gather({calls})"]
            case "map":
                items = self.items(part)
                return self.shown(f"await dx.map(self.{part.name}, {items})")
            case "each":
                field = "question" if part.input == "Ask" else "text"
                return self.shown(f"[await self.{part.name}({part.input}({field}=t)) for t in {self.list()}]")
            case "together":
                part = self.writer.one(gathered)
                field = "question" if part.input == "Ask" else "text"
                each = f"self.{part.name}({part.input}({field}=t)) for t in {self.list()}"
                return self.shown(f"await asyncio.gather(*({each}))")
            case "cond":
                others = [p for p in parts if (p.input, p.output) == (part.input, part.output)]
                other = self.writer.one(others)
                test, value = self.bool(), self.value(part.input)
                call = f"dx.cond({test}, self.{part.name}, self.{other.name}, {value})"
                return [f"{self.fresh(part.output)} = await {call}"]
            case "loop":
                same = [p for p in parts if p.input == p.output]
                if not same:
                    return self.bind()
                chosen = self.writer.one(same)
                first = self.value(chosen.input)
                over = pick("range(2)", "range(self.k)" if "self.k" in self.ints else "range(1)", '("a", "b")')
                name = self.fresh(chosen.output)
                return [f"{name} = {first}", f"for _ in {over}:", f"    {name} = await self.{chosen.name}({name})"]
            case "steps":
                first = self.value(self.steps)
                name = self.fresh(self.steps)
                return [f"{name} = {first}", "for step in self.steps:", f"    {name} = await step({name})"]
            case "flag":
                one, two = self.text(), self.text()
                name = self.fresh("str")
                return ["if self.flag:", f"    {name} = {one}", "else:", f"    {name} = {two}"]
            case "prefix":
                text = self.text()
                return [f"{self.fresh('str')} = self.prefix + {text}"]
            case "op":
                text = self.text()
                call = pick(f"note({text})", f"await fetch({text})", f"shout({text}, {self.int()})")
                return [f"{self.fresh('str')} = {call}"]
            case "grow":
                held = self.held()
                if not held:
                    return self.bind()
                call = f"grow({self.writer.one(held)}, {self.text()})"
                return [f"{self.fresh('str')} = {call}"]
            case "keep":
                drafts = self.known.get("Draft")
                if not drafts:
                    return self.bind()
                return [f"{self.fresh('int')} = kept({self.writer.one(drafts)})"]
            case "poke":
                return [f"{self.fresh('int')} = await poke()"]
            case "tool":
                query = f"query={self.text()}" + pick("", ", limit=3")
                return [f"{self.fresh('list[str]')} = await search({query})"]
            case "try":
                self.writer.opaque = True
                call = self.call(part)
                name = self.fresh(part.output)
                return ["try:", f"    {name} = await {call}", "except ValueError:", "    raise"]
            case "if":
                self.writer.opaque = True
                test, one, two = self.bool(), self.call(part), self.call(part)
                name = self.fresh(part.output)
                return [f"if {test}:", f"    {name} = await {one}", "else:", f"    {name} = await {two}"]
            case _:
                return self.bind()

    def shown(self, call: str) -> list[str]:
        """A list of outputs, and its text."""
        self.count += 1
        name = f"v{self.count}"
        text = f"{self.fresh('str')} = str(len({name})) + str({name})"
        return [f"{name} = {call}", text]

    def bind(self) -> list[str]:
        type = self.writer.pick("Ask", "Draft", "str", "list[str]")
        text = self.text() if type == "str" else self.list() if type == "list[str]" else self.value(type)
        return [f"{self.fresh(type)} = {text}"]


def written(seed: int, size: int, *, sober: bool = False) -> Written:
    """A module with a program `Root` from `Ask` to `Answer`.

    Args:
        seed: Equal seeds give equal programs.
        size: From 1, for one small program, to about 4.
        sober: Every value is used, and nothing is opaque.
    """
    writer = _Writer(seed, size, sober=sober)
    text = writer.module()
    return Written(text, "Root", writer.races, writer.opaque)


def programs(*, sober: bool = False) -> st.SearchStrategy[Written]:
    """`written` for any seed: one number for a whole program, so that examples differ much and shrink in size."""
    return st.builds(written, st.integers(0, 2**32 - 1), st.integers(1, 4), sober=st.just(sober))


@contextmanager
def imported(written: Written, folder: Path) -> Generator[ModuleType]:
    """The module of `written`, from a file in `folder`, as long as the context lasts."""
    name = f"generated_{next(_numbers)}"
    path = folder / f"{name}.py"
    path.write_text(written.text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]
        path.unlink()
