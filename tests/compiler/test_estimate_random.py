"""On random programs: estimates and pictures are made of all of them, and a run's calls are in the range foretold."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspex.compiler import compile
from dspex.compiler.view.diagram import boxes, diagram
from tests.compiler.programs import Written, imported, programs
from tests.compiler.test_equivalence import INPUTS, outcome

PROFILE = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@PROFILE
@given(programs(), st.integers(0, 2**16))
def test_calls_of_a_run_are_in_the_range(tmp_path_factory: pytest.TempPathFactory, source: Written, seed: int) -> None:
    with imported(source, tmp_path_factory.mktemp("random")) as module:
        compiled = compile(getattr(module, source.name)())
        compiled = compiled.bind(compiled.space.sample(1, seed)[0])
        estimates = compiled.estimate(INPUTS, model="local/smollm2")
        for x, run in zip(INPUTS, estimates.runs, strict=True):
            ended = outcome(compiled, x)
            if ended.error is not None:
                # A run that stops early asks for less.
                continue
            made = sum(ended.requests.values())
            assert run.calls.low <= made, estimates
            assert run.calls.high is None or made <= run.calls.high, estimates


@PROFILE
@given(programs())
def test_every_program_is_explained_and_drawn(tmp_path_factory: pytest.TempPathFactory, source: Written) -> None:
    with imported(source, Path(tmp_path_factory.mktemp("random"))) as module:
        compiled = compile(getattr(module, source.name)())
        explained = compiled.explain()
        assert explained.estimates is not None
        assert str(explained)
        HTMLParser().feed(explained.as_html())
        assert explained.as_mermaid().startswith("flowchart TD\n")
        assert len(list(boxes(diagram(compiled.graph)))) == len(compiled.graph.nodes) + 1
