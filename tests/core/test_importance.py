"""Importance: shares that are known, and nothing where nothing can be said."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from dspex.core import jit, rng, streams
from dspex.core.importance import FEWEST, MOST
from dspex.optimizers import Optimizer, create
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Int, Var

pytestmark = pytest.mark.skipif(not jit.ENABLED, reason="forests in plain Python take minutes")

Objective = Callable[[dict[str, Any]], float]


def told(
    variables: list[Var[Any]],
    objective: Objective,
    trials: int,
    *,
    noise: float = 0.0,
    kind: str = "random",
    seed: int = 1,
) -> Optimizer:
    opt = create(kind, Space(variables), seed=seed)
    for turn in range(trials):
        candidate = opt.ask()
        deviation = noise * rng.normal_quantile(streams.uniform(seed, 0, 0, turn))
        opt.tell(candidate, objective(candidate.config) + deviation, noise=noise**2 if noise else None)
    return opt


def numbers(count: int) -> list[Var[Any]]:
    return [Float(f"x{index}", 0, 1) for index in range(count)]


def linear(config: dict[str, Any]) -> float:
    return 3 * config["x0"] + 2 * config["x1"] + config["x2"]


def test_an_additive_function_has_the_shares_of_its_terms() -> None:
    shares = told(numbers(5), linear, 200).importance()
    assert list(shares)[:3] == ["x0", "x1", "x2"]
    assert sum(shares.values()) == pytest.approx(1)
    for name, share in (("x0", 9 / 14), ("x1", 4 / 14), ("x2", 1 / 14), ("x3", 0), ("x4", 0)):
        assert shares[name] == pytest.approx(share, abs=0.07)


def test_an_interaction_counts_for_both_variables() -> None:
    shares = told(numbers(4), lambda config: (config["x0"] - 0.5) * (config["x1"] - 0.5), 300).importance()
    assert shares["x0"] == pytest.approx(0.5, abs=0.1)
    assert shares["x1"] == pytest.approx(0.5, abs=0.1)


def test_a_condition_divides_between_what_decides_and_what_is_decided() -> None:
    mode = Choice("mode", ("on", "off"))
    x = Float("x", 0, 1, when=mode.is_("on"))
    variables: list[Var[Any]] = [mode, x, Float("y", 0, 1), Choice("c", tuple("pqrs"))]

    def objective(config: dict[str, Any]) -> float:
        return (2 * config["x"] if config["mode"] == "on" else 1) + config["y"] + (config["c"] == "q")

    shares = told(variables, objective, 250).importance()
    # Half of the expected squared change when one Variable is drawn again: 1/12, 1/6, 1/12 and 3/16.
    for name, share in (("mode", 4 / 25), ("x", 8 / 25), ("y", 4 / 25), ("c", 9 / 25)):
        assert shares[name] == pytest.approx(share, abs=0.06)


def test_noise_is_left_out() -> None:
    shares = told(numbers(5), linear, 300, noise=1.0).importance()
    assert shares["x0"] == pytest.approx(9 / 14, abs=0.12)
    assert shares["x3"] + shares["x4"] < 0.06


def test_a_scale_of_any_size_changes_nothing() -> None:
    plain = told(numbers(3), linear, 40).importance()
    for scale in (2.0**-40, 2.0**40):  # exact: rounding may turn a tie of two cuts
        assert told(numbers(3), lambda config, scale=scale: scale * linear(config), 40).importance() == plain


def test_whole_numbers_logarithms_and_switches_are_rows_like_others() -> None:
    variables: list[Var[Any]] = [Int("k", 1, 8), Float("rate", 1e-5, 1e-1, log=True), Bool("flag"), Float("x", 0, 1)]

    def objective(config: dict[str, Any]) -> float:
        return config["k"] / 8 + math.log10(config["rate"]) + 2 * config["flag"]

    shares = told(variables, objective, 200).importance()
    assert list(shares)[:2] == ["rate", "flag"]  # variances 4/3 and 1
    assert shares["x"] < 0.02


def test_rules_leave_the_shares_of_what_they_allow() -> None:
    k, m, x = Int("k", 0, 9), Int("m", 0, 9), Float("x", 0, 1)
    opt = create("random", Space([k, m, x], [k <= 4, k + m <= 9]), seed=2)
    for _ in range(120):
        candidate = opt.ask()
        opt.tell(candidate, candidate.config["k"])
    shares = opt.importance()
    assert shares["k"] > 0.9


def test_nothing_is_said_of_too_few_of_equal_and_of_failed_trials() -> None:
    assert told(numbers(3), linear, FEWEST - 1).importance() == {}
    assert told(numbers(2), lambda config: 0.5, 30).importance() == {}
    assert told(numbers(2), lambda config: math.nan, 30).importance() == {}
    assert create("random", Space(numbers(2))).importance() == {}


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_said_of_noise_alone(seed: int) -> None:
    assert told(numbers(4), lambda config: 0.0, 150, noise=1.0, seed=seed).importance() == {}


def test_failures_are_passed_over() -> None:
    shares = told(numbers(3), lambda config: math.nan if config["x1"] > 0.8 else config["x0"], 120).importance()
    assert shares["x0"] > 0.9


def test_the_same_trials_give_the_same_shares() -> None:
    opt = told(numbers(3), linear, 60, kind="tpe")
    again = create("tpe", Space(numbers(3)), state=opt.state())
    assert opt.importance() == again.importance() == opt.importance()


def test_several_objectives_have_the_mean_of_their_shares() -> None:
    opt = create("random", Space(numbers(3)), objectives=("minimize", "maximize", "maximize"))
    for _ in range(150):
        candidate = opt.ask()
        opt.tell(candidate, [candidate.config["x0"], 10 * candidate.config["x1"], 7.0])
    shares = opt.importance()
    assert shares["x0"] == pytest.approx(0.5, abs=0.03)
    assert shares["x1"] == pytest.approx(0.5, abs=0.03)


def test_a_long_history_and_many_variables_are_sampled() -> None:
    opt = create("random", Space(numbers(2)), seed=0)
    for index in range(MOST + 500):
        u = streams.uniform(0, 0, 0, index)
        opt.learn({"x0": u}, u)
    assert opt.importance()["x0"] > 0.99
    wide = create("random", Space(numbers(300)), seed=0)
    for candidate in wide.ask(60):
        wide.tell(candidate, candidate.config["x0"])
    assert next(iter(wide.importance())) == "x0"
