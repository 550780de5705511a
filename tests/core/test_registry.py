"""Every kernel: a strategy, compiled = Python, and a naive oracle."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dspex.core.kernels
from dspex.core import jit, rng, rules
from dspex.core.exercise import exercise
from tests.core.cases import CASES, Case
from tests.core.spaces import UNHURRIED

for _module in pkgutil.iter_modules(dspex.core.kernels.__path__, "dspex.core.kernels."):
    importlib.import_module(_module.name)
assert rng.mix
assert rules.activate
NAMES = sorted(jit.REGISTRY)


def call(function: Any, case: Case) -> list[Any]:
    args = deepcopy(case.args)
    with np.errstate(all="ignore"):
        returned = function(*args)
    written = [args[position] for position in case.writes]
    if case.part is not None:
        written = case.part(written)
    return written if returned is None else [*written, returned]


def different(found: list[Any], wanted: list[Any], tolerance: float) -> Iterator[str]:
    if len(found) != len(wanted):
        yield f"{len(found)} outputs, {len(wanted)} expected"
    for position, (one, other) in enumerate(zip(found, wanted, strict=False)):
        a, b = np.asarray(one), np.asarray(other)
        same = np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")
        if not same and not (tolerance and np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)):
            yield f"output {position}: {a} instead of {b}"


def test_every_kernel_has_a_case_and_an_oracle() -> None:
    assert sorted(CASES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_kernel_equals_its_oracle_and_its_python_form(name: str) -> None:
    entry = jit.REGISTRY[name]

    @settings(max_examples=40, deadline=None, suppress_health_check=UNHURRIED)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = CASES[name](cast("st.DrawFn", data.draw))
        compiled = call(entry.compiled, case)
        assert not list(different(compiled, case.expected(), case.tolerance))
        # Compiled code may contract and reorder where a kernel is not exact; an exact one may stand in for it.
        assert not list(different(compiled, call(entry.python, case), 0.0 if entry.exact else 1e-12))

    check()


def test_kernels_are_compiled_for_one_signature() -> None:
    exercise()
    assert [name for name in NAMES if jit.REGISTRY[name].signatures > 1] == []
