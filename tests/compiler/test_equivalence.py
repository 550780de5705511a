"""A program means the same called directly, as a compiled plan and as a loaded artifact.

Programs are random source text (`programs.py`), bindings random members of their spaces, and the model answers, or
fails, by a hash of the request (`vocabulary.Model`): any difference in what is sent shows in what comes back.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import dspex as dx
from dspex.compiler import Compiled, compile, load_artifact, parse
from dspex.compiler.compiled import stages
from dspex.compiler.ir.nodes import Attribute, Graph, Lm, Opaque, Python, Tool, operands, walk
from dspex.errors import DspexError
from dspex.lm.types import LMRequest
from tests.compiler.programs import Written, imported, programs, written
from tests.compiler.vocabulary import KEPT, LOG, NEVER, Ask, Model

Program = dx.Program[Any, Any]
PROFILE = settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
INPUTS = (
    Ask(question="a"),
    Ask(question=" Größe und Farbe ", hints=["x", "", "yy"], deep=True),
    Ask(question="What is it?", hints=["one"]),
)
VALUES: dict[str, dict[str, Any]] = {
    "Ask": {"question": "Which?", "hints": [], "deep": False},
    "Draft": {"text": "That.", "score": 0.5, "tags": ["t"]},
    "Label": {"label": "blue"},
    "Answer": {"text": "That.", "draft": None, "items": [], "label": "red"},
}


@dataclass(frozen=True)
class Outcome:
    """What one run did: its output or its error, what was asked, what impure functions did."""

    output: object
    error: tuple[str, ...] | None
    requests: Counter[LMRequest]
    failures: int
    log: tuple[str, ...]


def outcome(call: Callable[[Any], Awaitable[Any]], x: Ask, failing: int = 0) -> Outcome:
    model = Model(failing)
    LOG.clear()
    KEPT.clear()
    # A program may change its input.
    x = x.model_copy(deep=True)
    output: object = None
    error: tuple[str, ...] | None = None
    with dx.using(lm=model.lm):
        try:
            output = asyncio.run(called(call, x))
        except DspexError as raised:
            error = (type(raised).__name__, raised.code, raised.message, str(raised.where))
    return Outcome(output, error, model.requests, model.failures, tuple(LOG))


async def called(call: Callable[[Any], Awaitable[Any]], x: object) -> object:
    return await call(x)


def configuration(program: Program, seed: int) -> dict[str, object]:
    """A random configuration; some texts and demonstrations are new to their pools."""
    space = program.space
    config = dict(space.sample(1, seed)[0])
    chance = random.Random(seed)
    for name, variable in space.variables.items():
        if variable.kind == "computed":
            del config[name]
        elif NEVER in variable.options:
            continue  # A branch that is refused has to stay so, or the winner of a race is a matter of time.
        elif variable.kind == "text" and name.endswith(".instruction") and chance.random() < 0.3:
            text = chance.choice(["Think, then say it.", "Say {tone} or {k}.", "Größe {x}"])
            config[name] = text if names_known(program, name, text) else text.replace("{", "{{").replace("}", "}}")
        elif variable.kind == "demos" and chance.random() < 0.3:
            module = program.modules().get(name.removesuffix(".demos"))
            if module is not None:
                shown = VALUES[module.input_schema.__name__], VALUES[module.output_schema.__name__]
                config[name] = dx.DemoSet((dx.Demo(*shown),))
    return config


def names_known(program: Program, name: str, text: str) -> bool:
    """Whether the instruction `name` may be `text`: what a person binds names no unknown Variable."""
    try:
        program.modules()[name.removesuffix(".instruction")].check_instruction({name: text})
    except dx.ProgramError:
        return False
    return True


def lost(program: Program) -> bool:
    """Whether the compiler takes calls of models out of `program`: dead ones, or equal ones."""
    counts: dict[str, int] = {}
    before = 0
    for name, graph in stages(program):
        found = sum(isinstance(node, Lm) for node in graph.nodes)
        counts[name] = before - found
        before = found
    return bool(counts.get("dead") or counts.get("merge"))


def needs_source(graph: Graph) -> bool:
    """Whether an artifact of `graph` has to find Python code again."""
    return any(
        isinstance(node, Python | Tool | Opaque) or any(isinstance(value, Attribute) for value in operands(node))
        for node in walk(graph.body)
    )


def agree(one: Outcome, other: Outcome, text: str) -> None:
    assert one.error == other.error, text
    assert one.output == other.output, text


@PROFILE
@given(source=programs(), seed=st.integers(0, 999), x=st.sampled_from(INPUTS))
def test_direct_call_plan_and_artifact_agree(source: Written, seed: int, x: Ask, tmp_path: Path) -> None:
    with imported(source, tmp_path) as module:
        program = getattr(module, source.name)()
        config = configuration(program, seed)
        bound = program.bind(config)
        compiled = compile(program).bind(config)
        direct, planned = outcome(bound, x), outcome(compiled, x)
        agree(direct, planned, source.text)
        if not source.opaque:
            assert compiled.graph.opaque == (), source.text
        if direct.error is None:
            assert direct.log == planned.log, source.text
        if direct.failures == 0 and not source.races:
            assert planned.requests <= direct.requests, source.text
            if not lost(program):
                assert planned.requests == direct.requests, source.text

        file = tmp_path / "program.dspex"
        compiled.save(file)
        loaded = load_artifact(file, program=getattr(module, source.name))
        assert loaded.graph == compiled.graph
        assert loaded.config == compiled.config
        ran = outcome(loaded, x)
        agree(planned, ran, source.text)
        assert ran.log == planned.log
        if not source.races:
            assert ran.requests == planned.requests
        alone = needs_source(compiled.graph)
    if not alone:
        # The module is gone; what is left is the file.
        ran = outcome(load_artifact(file), x)
        assert dumped(ran.output) == dumped(planned.output)
        assert ran.error == planned.error


def dumped(output: object) -> object:
    return output.model_dump() if isinstance(output, BaseModel) else output


@PROFILE
@given(source=programs(sober=True), seed=st.integers(0, 999), failing=st.integers(3, 12))
def test_errors_agree_when_calls_fail(source: Written, seed: int, failing: int, tmp_path: Path) -> None:
    with imported(source, tmp_path) as module:
        program = getattr(module, source.name)()
        config = configuration(program, seed)
        compiled = compile(program).bind(config)
        for x in INPUTS:
            agree(outcome(program.bind(config), x, failing), outcome(compiled, x, failing), source.text)


@PROFILE
@given(source=programs(), seed=st.integers(0, 999))
def test_compiling_is_stable_and_commutes_with_binding(source: Written, seed: int, tmp_path: Path) -> None:
    with imported(source, tmp_path) as module:
        program = getattr(module, source.name)()
        first, second = compile(program), compile(program)
        assert first.graph == second.graph
        assert first.graph.hash == second.graph.hash
        assert parse(str(first.graph)) == first.graph
        assert str(parse(str(first.graph))) == str(first.graph)
        fresh = compile(getattr(module, source.name)())
        assert fresh.graph == first.graph
        config = configuration(program, seed)
        early: Compiled[Any, Any] = compile(program.bind(config))
        late = first.bind(config)
        assert early.graph == late.graph
        assert early.config == late.config
        active = early.space.active(early.config)
        decoded = early.params.decode(early.params.encode(early.config))
        assert {name: decoded[name] for name in active} == {name: early.config[name] for name in active}
        for name, graph in stages(program):
            assert parse(str(graph)) == graph, name


def test_the_generator_writes_every_construct() -> None:
    """What the properties above are said to cover stands in the programs that they draw."""
    texts = "\n".join(written(seed, 4).text for seed in range(200))
    for construct in (
        "dx.select(a=dx.select(",
        " >> ",
        "dx.parallel(",
        "dx.fallback(",
        "dx.vote(",
        "dx.race(",
        "dx.when(",
        "dx.cond(",
        "dx.map(",
        "[await self.",
        "asyncio.gather(self.",
        "asyncio.gather(*(",
        "for _ in range(self.k)",
        "for step in self.steps",
        "if self.flag",
        "await search(",
        "await fetch(",
        "note(",
        "clean(",
        "shout(",
        "grow(",
        "kept(",
        "poke(",
        "model_copy(update=",
        "dx.computed(",
        ", when=tone",
        "rules = [",
        "{tone}",
        "demos_k=k",
        "temperature=heat",
        "= P0()",
        "try:",
        ".draft is None",
    ):
        assert construct in texts, construct


@pytest.mark.parametrize("seed", range(3))
def test_equal_seeds_write_equal_programs(seed: int) -> None:
    assert written(seed, 3) == written(seed, 3)
