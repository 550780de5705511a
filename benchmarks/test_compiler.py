"""Compiling, binding, calling, saving and loading programs.

Goals: a program of 20 nodes and 40 Variables compiles within 10 ms after import; one of 2,000 nodes within a second, in
time that grows linearly; an artifact loads within 20 ms with its hashes checked; 40 Variables are bound within 50 µs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import dspex as dx
from benchmarks.compiler_growth import FORMS, Form, measured, program, source
from dspex.compiler import compile, load_artifact, parse
from dspex.testing import ScriptedLM

MOST_BIND = 50e-6
MOST_LOAD = 0.020


class Ask(dx.Schema):
    question: str


class Draft(dx.Schema):
    text: str


class Answer(dx.Schema):
    text: str


class Two(dx.Program[Ask, Answer]):
    k: dx.Var[int] = dx.var(4, lo=1, hi=8)
    draft = dx.Predict(Ask, Draft, demos_k=k)
    finish = dx.ChainOfThought(Draft, Answer)

    async def __call__(self, x: Ask, /) -> Answer:
        draft = await self.draft(Ask(question=x.question.strip()))
        return await self.finish(draft)


class Plain(dx.Program[Ask, Answer]):
    """Needs no source once it is saved."""

    k: dx.Var[int] = dx.var(4, lo=1, hi=8)
    draft = dx.Predict(Ask, Draft, demos_k=k)
    finish = dx.select(direct=dx.Predict(Draft, Answer), reasoned=dx.ChainOfThought(Draft, Answer))

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.finish(await self.draft(x))


class Wide(dx.Program[Ask, Answer]):
    """Twenty nodes; ten modules with 30 automatic Variables and ten of its own, with rules."""

    a0: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
    a1: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
    a2: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
    a3: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
    a4: dx.Var[float] = dx.var(0.5, lo=0.0, hi=1.0)
    b0: dx.Var[int] = dx.var(4, lo=1, hi=8)
    b1: dx.Var[int] = dx.var(4, lo=1, hi=8)
    b2: dx.Var[int] = dx.var(4, lo=1, hi=8)
    b3: dx.Var[int] = dx.var(4, lo=1, hi=8)
    b4: dx.Var[int] = dx.var(4, lo=1, hi=8)
    rules = [b0 + b1 <= 12, a0 <= 0.9]

    def __init__(self) -> None:
        super().__init__()
        self.steps = [dx.Predict(Ask, Ask) for _ in range(10)]

    async def __call__(self, x: Ask, /) -> Answer:
        a = await self.steps[0](x)
        b = await self.steps[1](a)
        c = await self.steps[2](b)
        d = await self.steps[3](c)
        e = await self.steps[4](Ask(question=d.question + a.question))
        f = await self.steps[5](Ask(question=e.question.strip()))
        g = await self.steps[6](f)
        h = await self.steps[7](Ask(question=f"{g.question} {b.question}"))
        i = await self.steps[8](h)
        j = await self.steps[9](Ask(question=i.question.strip()))
        return Answer(text=j.question + h.question)


def within(benchmark: Any, seconds: float) -> None:
    """Hold the median against a goal; nothing is measured under ``--benchmark-disable``."""
    if benchmark.stats is not None:
        assert benchmark.stats.stats.median <= seconds


def answered() -> ScriptedLM:
    return ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "a"))


@pytest.mark.parametrize("cls", [Two, Wide])
def test_compile(benchmark: Any, cls: type[dx.Program[Ask, Answer]]) -> None:
    root = cls()
    compiled = benchmark(lambda: compile(root))
    assert compiled.graph.opaque == ()
    if cls is Wide:
        assert len(compiled.space.variables) == 40
        assert len(compiled.graph.nodes) >= 20


def test_compile_with_its_table(benchmark: Any) -> None:
    root = Wide()
    assert len(benchmark(lambda: compile(root).params).names) == 40


def test_compile_what_was_just_imported(benchmark: Any, tmp_path: Path) -> None:
    text = source(20, "chain", modules=10)

    def fresh() -> tuple[tuple[dx.Program[Any, Any]], dict[str, Any]]:
        return (program(text, tmp_path),), {}

    benchmark.pedantic(compile, setup=fresh, rounds=30)


@pytest.mark.parametrize("form", FORMS)
def test_compile_grows_with_the_nodes(benchmark: Any, form: Form, tmp_path: Path) -> None:
    found, exponent = benchmark.pedantic(measured, (form, tmp_path), rounds=1)
    benchmark.extra_info.update({f"{nodes} nodes, ms": round(took * 1e3, 1) for nodes, took in found.items()})
    _, plain = measured(form, tmp_path, collected=False)
    benchmark.extra_info.update({"exponent": round(exponent, 2), "exponent without collections": round(plain, 2)})
    print(form, benchmark.extra_info)


def test_bind_forty_variables(benchmark: Any) -> None:
    compiled = compile(Wide())
    config = compiled.config
    benchmark(lambda: compiled.bind(config))
    within(benchmark, MOST_BIND)


def test_print_and_parse(benchmark: Any) -> None:
    graph = compile(Wide()).graph
    assert benchmark(lambda: parse(str(graph))) == graph


@pytest.mark.parametrize("way", ["direct", "plan"])
@pytest.mark.parametrize("cls", [Two, Wide])
def test_call(benchmark: Any, way: str, cls: type[dx.Program[Ask, Answer]]) -> None:
    """A whole call with a model that answers at once: what a plan costs beside calling the program itself."""
    root = cls()
    call = root if way == "direct" else compile(root)
    x = Ask(question="q")

    async def many() -> None:
        for _ in range(100):
            await call(x)

    with dx.using(lm=answered()), asyncio.Runner() as runner:
        runner.run(many())
        benchmark.extra_info["calls"] = 100
        benchmark(lambda: runner.run(many()))


@pytest.mark.parametrize("cls", [Two, Plain])
def test_load_artifact(benchmark: Any, cls: type[dx.Program[Ask, Answer]], tmp_path: Path) -> None:
    path = tmp_path / "two.dspex"
    compile(cls()).save(path)
    given = cls if cls is Two else None
    assert benchmark(lambda: load_artifact(path, program=given)).graph.name == cls.__name__
    within(benchmark, MOST_LOAD)


def test_save_artifact(benchmark: Any, tmp_path: Path) -> None:
    compiled = compile(Plain())
    benchmark(lambda: compiled.save(tmp_path / "plain.dspex"))
