"""Cases of the polynomial exponential and logarithm."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from tests.core.cases.registry import Case, case
from tests.core.naive import elementary

EDGES = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 2.3e-308, 1.7e308, 1.0])


@case("elementary.exp")
def _(draw: st.DrawFn) -> Case:
    x = draw(st.floats(-708.0, 709.7) | st.floats(-1.0, 1.0) | EDGES)
    return Case((x,), (), lambda: [elementary.exp(x)], 2.3e-16)


@case("elementary.log")
def _(draw: st.DrawFn) -> Case:
    x = draw(st.floats(0.0, 1.7e308) | st.floats(0.5, 2.0) | st.floats(-1.0, 0.0) | EDGES)
    return Case((x,), (), lambda: [elementary.log(x)], 2.3e-16)
