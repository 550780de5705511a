"""Compiling, binding, explaining and loading programs.

Goals: a program of two modules compiles in under 10 ms after import, and so does one of 40 Variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dspex as dx
from dspex.compiler import compile, load_artifact
from dspex.compiler.ir.parser import parse
from dspex.compiler.ir.printer import print_graph


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


class Wide(dx.Program[Ask, Answer]):
    """Ten modules, 30 automatic Variables and ten of its own, with rules."""

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
        e = await self.steps[4](d)
        f = await self.steps[5](e)
        g = await self.steps[6](f)
        h = await self.steps[7](g)
        i = await self.steps[8](h)
        j = await self.steps[9](i)
        return Answer(text=j.question)


@pytest.mark.parametrize("cls", [Two, Wide])
def test_compile(benchmark: Any, cls: type[dx.Program[Ask, Answer]]) -> None:
    program = cls()
    compiled = benchmark(lambda: compile(program))
    assert compiled.graph.opaque == ()
    assert len(compiled.params.names) == (40 if cls is Wide else 7)


def test_compile_a_fresh_instance(benchmark: Any) -> None:
    benchmark(lambda: compile(Two()))


def test_bind_forty_variables(benchmark: Any) -> None:
    compiled = compile(Wide())
    config = compiled.config
    benchmark(lambda: compiled.bind(config))


def test_print_and_parse(benchmark: Any) -> None:
    graph = compile(Wide()).graph
    assert benchmark(lambda: parse(print_graph(graph))) == graph


def test_load_artifact(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "two.dspex"
    compile(Two()).save(path)
    assert benchmark(lambda: load_artifact(path)).graph.name == "Two"
