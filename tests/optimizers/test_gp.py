"""The Gaussian process learns, and is not fooled by noise, failures, outliers or scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.core.ascent import ascend
from dspex.core.gaussian import Features, Prior, Process
from dspex.core.surrogate import MOST
from dspex.core.warping import Warp
from dspex.errors import CoreError
from dspex.optimizers import create
from dspex.optimizers.snapshot import sealed
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Text
from tests.optimizers.test_conformance import mixed, score
from tests.optimizers.test_tpe import search

LOSSES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30).map(np.array)


def line() -> Space:
    return Space([Float("x", 0, 1)])


@pytest.mark.slow
def test_gp_beats_random_search_on_a_mixed_conditional_space() -> None:
    found = [[search(kind, mixed(), score, 40, seed) for seed in range(4)] for kind in ("gp", "random")]
    assert np.mean(found[0]) > np.mean(found[1]) + 0.2
    assert min(found[0]) > 1.0


@pytest.mark.slow
def test_a_smooth_function_is_solved_to_three_digits() -> None:
    space = Space([Float("x", -5, 5), Float("y", 1e-3, 1e3, log=True), Choice("c", tuple("abcd"))])

    def bowl(config: dict[str, Any]) -> float:
        return (config["x"] - 1.3) ** 2 + math.log(config["y"] / 7.0) ** 2 + (config["c"] != "c")

    assert search("gp", space, bowl, 40, 0, "minimize") < 1e-3


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_the_scale_of_the_objective_changes_nothing(scale: float) -> None:
    opt, scaled = create("gp", mixed(), seed=1), create("gp", mixed(), seed=1)
    for _ in range(16):
        one, other = opt.ask(), scaled.ask()
        assert one == other
        opt.tell(one, score(one.config))
        scaled.tell(other, score(other.config) * scale)


@pytest.mark.parametrize("scale", [1e-12, 1e12, 1e300])
def test_extreme_scales_are_searched(scale: float) -> None:
    assert search("gp", mixed(), lambda config: score(config) * scale, 25, 0) > 0.6 * scale


@pytest.mark.parametrize("value", [0.5, 0.0, math.nan])
def test_equal_values_and_failures_alone_are_survived(value: float) -> None:
    opt = create("gp", mixed(), seed=1)
    found: list[str] = []
    for _ in range(20):
        candidate = opt.ask()
        found.append(mixed().identity(candidate.config))
        opt.tell(candidate, value)
    assert len(set(found)) == 20


def test_an_outlier_does_not_hide_what_else_differs() -> None:
    opt = create("gp", line(), objectives=("minimize",))
    for turn in range(20):
        candidate = opt.ask()
        opt.tell(candidate, 1e30 if turn == 3 else (candidate.config["x"] - 0.3) ** 2)
    assert abs(opt.recommend().config["x"] - 0.3) < 0.02


@pytest.mark.slow
def test_failures_are_avoided() -> None:
    space = Space([Choice("c", tuple("abcd")), Float("x", 0, 1)])
    opt = create("gp", space, seed=0)
    failed = 0
    for turn in range(40):
        candidate = opt.ask()
        if candidate.config["c"] == "b":
            opt.fail(candidate, "does not parse")
            failed += turn >= 15
        else:
            opt.tell(candidate, candidate.config["x"])
    assert failed < 6  # of 25; a quarter of the space fails


def test_a_batch_spreads_over_the_space() -> None:
    opt = create("gp", line(), seed=2)
    for candidate in opt.ask(10):
        opt.tell(candidate, -abs(candidate.config["x"] - 0.5))
    places = sorted(candidate.config["x"] for candidate in opt.ask(5))
    assert np.diff(places).min() > 1e-4


def test_recommending_in_between_changes_nothing_that_is_asked() -> None:
    opt, watched = create("gp", mixed(), seed=4), create("gp", mixed(), seed=4)
    for _ in range(22):
        one, other = opt.ask(), watched.ask()
        assert one == other
        opt.tell(one, score(one.config))
        watched.tell(other, score(other.config))
        watched.recommend()
        watched.regret_bound()
    assert opt.state() == watched.state()


@pytest.mark.slow
def test_several_objectives_find_a_front() -> None:
    space = Space([Float("x", 0, 1), Float("y", 0, 1), Choice("c", tuple("abc"))])
    opt = create("gp", space, objectives=("minimize", "maximize"))
    for _ in range(40):
        candidate = opt.ask()
        x, y, c = candidate.config["x"], candidate.config["y"], candidate.config["c"]
        waste = (y - 0.5) ** 2 + 0.3 * (c != "a")
        opt.tell(candidate, (x**2 + waste, 2 * x - x**2 - waste))
    front = [candidate.config for candidate in opt.front()]
    assert len(front) >= 12
    assert {config["c"] for config in front} == {"a"}
    places = sorted(config["x"] for config in front)
    assert places[0] < 0.1
    assert places[-1] > 0.9
    assert np.diff(places).max() < 0.3
    assert math.isnan(opt.regret_bound())


@pytest.mark.slow
def test_the_regret_bound_holds_and_falls() -> None:
    opt = create("gp", Space([Float("x", 0, 1), Float("y", 0, 1), Bool("b")]), seed=0)

    def value(config: dict[str, Any]) -> float:
        return math.sin(5 * config["x"]) + math.sin(5 * config["y"]) + config["b"]

    bounds: list[float] = []
    assert math.isnan(opt.regret_bound())
    for turn in range(40):
        candidate = opt.ask()
        opt.tell(candidate, value(candidate.config))
        if turn in (8, 39):
            assert opt.regret_bound() >= 3 - value(opt.recommend().config)
            bounds.append(opt.regret_bound())
    assert 0 <= bounds[1] < 0.1 < bounds[0] < 10


@pytest.mark.slow
def test_long_histories_are_capped_and_continue() -> None:
    opt = create("gp", mixed(), seed=0)
    sampler = create("random", mixed(), seed=9)
    for turn in range(MOST + 30):
        config = sampler.ask().config
        opt.learn(config, math.nan if turn % 6 else score(config))
    waiting = opt.ask(3)
    other = create("gp", mixed(), state=opt.state())
    assert opt.recommend() == other.recommend()
    assert np.isfinite(opt.estimates()).sum() == (MOST + 30) // 6
    one = opt.ask()
    assert one == other.ask()
    assert one not in waiting
    assert score(one.config) > 0.5


def test_an_older_state_goes_on_over_a_grown_pool() -> None:
    text = Text("t", ("one",))
    opt = create("gp", Space([text, Float("x", 0, 1)]))
    for _ in range(12):
        candidate = opt.ask()
        opt.tell(candidate, candidate.config["x"])
    other = create("gp", Space([text.grown("two"), Float("x", 0, 1)]), state=opt.state())
    assert {other.ask().config["t"] for _ in range(12)} == {"one", "two"}


@pytest.mark.parametrize("search", [{}, {"fitted": 0}, {"thetas": "AAAA", "fitted": 3}, {"thetas": "", "fitted": -1}])
def test_hyperparameters_of_a_state_are_checked(search: dict[str, Any]) -> None:
    state = create("gp", mixed()).state()
    with pytest.raises(CoreError, match="DX3012"):
        create("gp", mixed(), state=sealed({**state, "search": search}))


def test_a_space_of_one_configuration_is_asked_again() -> None:
    opt = create("gp", Space([Choice("c", ("only",))]))
    for _ in range(12):
        opt.tell(opt.ask(), 1.0)
    assert opt.recommend().config == {"c": "only"}


@given(losses=LOSSES)
@settings(deadline=None)
def test_warping_keeps_order_and_has_an_inverse(losses: Any) -> None:
    warp = Warp.fit(losses)
    order = np.argsort(losses, kind="stable")
    warped = warp.forward(losses)
    assert np.isfinite(warped).all()
    assert (np.diff(warped[order]) >= 0).all()
    assert np.allclose(warp.inverse(warped), losses, rtol=1e-6, atol=1e-6 * max(warp.scale, float(np.ptp(losses))))
    step = 1e-6 * warp.scale
    slope = (warp.forward(losses + step) - warp.forward(losses - step)) / (2 * step)
    assert np.allclose(warp.slope(losses), slope, rtol=1e-3, atol=1e-3 * float(slope.max()))


def test_rows_that_are_appended_equal_those_of_a_whole_factor() -> None:
    features = Features(create("gp", mixed())._lowered.sampler)  # pyright: ignore[reportPrivateUsage]
    generator = np.random.default_rng(0)
    points, y = generator.random((features.count, 40)), generator.normal(size=40)
    grown, whole = Process(features, Prior()), Process(features, Prior())
    for n in (3, 17, 18, 40):
        grown.condition(grown.centre, np.ascontiguousarray(points[:, :n]), y[:n], np.full(n, 0.1))
    whole.condition(whole.centre, points, y, np.full(40, 0.1))
    for one, other in zip(grown.posterior(points), whole.posterior(points), strict=True):
        assert one.tobytes() == other.tobytes()


def test_ascent_stops_at_the_maximum_inside_its_box() -> None:
    peak, curvature = np.array([0.5, 3.0, -4.0]), np.array([1.0, 30.0, 0.1])

    def hill(point: Any) -> tuple[float, Any]:
        return float(-(curvature * (point - peak) ** 2).sum()), -2 * curvature * (point - peak)

    value, point = ascend(hill, np.zeros(3), np.full(3, -2.0), np.full(3, 2.0), 50)
    assert point == pytest.approx([0.5, 2.0, -2.0], abs=1e-2)
    assert value == hill(point)[0]
