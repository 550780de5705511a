"""Auto chooses by what it is told about, says why, and hands everything over."""

from __future__ import annotations

import json
from typing import Any

import pytest

import dspex as dx
from dspex.core import streams
from dspex.errors import CoreError
from dspex.optimizers import create
from dspex.optimizers.auto import DISTRIBUTION_VARIABLES, GP_TRIALS, GP_VARIABLES, TINY, Auto
from dspex.optimizers.optimizer import Direction
from dspex.optimizers.snapshot import sealed

BOTH: tuple[Direction, Direction] = ("minimize", "maximize")


def mixed() -> dx.Space:
    mode = dx.Choice("mode", tuple("abc"))
    return dx.Space([mode, dx.Float("x", 0, 1), dx.Float("y", 0, 1, when=mode.is_not("a")), dx.Int("k", 1, 9)])


def plain() -> dx.Space:
    return dx.Space([dx.Float(f"x{index}", -1, 1) for index in range(5)])


def learn(opt: Auto, trials: int, noise: float | None = None) -> None:
    """Trials of an earlier search over `x`, or over `x0`."""
    name = "x" if "x" in opt.candidate(opt.learn({}, [0.0] * len(opt.objectives))).config else "x0"
    for index in range(trials - 1):
        u = streams.uniform(5, 0, 0, index)
        opt.learn({name: u}, [u] * len(opt.objectives), noise=noise)


def test_few_trials_are_modelled_by_a_gaussian_process() -> None:
    opt = create("auto", mixed())
    assert opt.current == "gp"
    assert "0 trials with a value" in opt.explain()
    assert f"from {GP_TRIALS} on" in opt.explain()
    assert "then genetic goes on" in opt.explain()
    assert "then cmaes goes on" in create("auto", plain()).explain()


def test_many_trials_are_not() -> None:
    opt = create("auto", mixed())
    learn(opt, GP_TRIALS - 1)
    assert opt.current == "gp"
    opt.learn({"x": 0.5}, 0.5)
    assert opt.current == "genetic"
    assert opt.explain().startswith("genetic: 300 trials with a value; ")
    config = opt.ask().config
    assert mixed().validate(config) == config
    flat = create("auto", plain(), seed=1)
    learn(flat, GP_TRIALS)
    assert flat.current == "cmaes"
    assert flat.ask().id == GP_TRIALS


def test_a_tiny_space_is_evaluated_in_full_and_again_where_values_are_noisy() -> None:
    space = dx.Space([dx.Choice("c", tuple("abcdef")), dx.Bool("b")])
    opt = create("auto", space)
    assert (opt.current, opt.explain()) == (
        "grid",
        f"grid: there are {TINY} configurations, so all of them are evaluated.",
    )
    opt.tell(opt.ask(), 0.5, noise=20)
    assert opt.current == "bandit"
    assert "noisy" in opt.explain()
    opt.tell(0, 0.5)
    assert opt.current == "grid"
    assert create("auto", dx.Space([dx.Choice("c", tuple("abcdefg")), dx.Bool("b")])).current == "gp"


def test_many_variables_are_not_modelled_together() -> None:
    variables = [dx.Choice(f"c{index}", tuple("ab")) for index in range(DISTRIBUTION_VARIABLES + 1)]
    opt = create("auto", dx.Space(variables[: GP_VARIABLES + 1]))
    assert opt.current == "cmaes"
    assert "101 Variables" in opt.explain()
    assert create("auto", dx.Space(variables)).current == "tpe"
    fixed = [dx.Int(f"k{index}", 1, 1) for index in range(50)]  # of one value: nothing to search
    assert create("auto", dx.Space([*variables[:GP_VARIABLES], *fixed])).current == "gp"


def test_several_objectives_end_in_a_genetic_search() -> None:
    opt = create("auto", mixed(), objectives=BOTH)
    assert opt.current == "gp"
    learn(opt, GP_TRIALS)
    assert opt.current == "genetic"
    assert "front" in opt.explain()
    assert opt.ask().id == GP_TRIALS


def test_quick_evaluations_are_not_kept_waiting() -> None:
    assert create("auto", mixed(), evaluation_seconds=60).current == "gp"
    assert create("auto", mixed(), evaluation_seconds=0.001).current == "genetic"
    assert create("auto", plain(), evaluation_seconds=0.001).current == "cmaes"
    assert create("auto", plain(), evaluation_seconds=1e-5).current == "genetic"
    between = create("auto", mixed(), evaluation_seconds=0.0085)
    assert between.current == "gp"
    assert "takes longer than the 0.0085 s of an evaluation" in between.explain()
    learn(between, 120)
    assert between.current == "genetic"


def test_the_choice_and_the_time_are_in_the_state() -> None:
    opt = create("auto", plain(), seed=3, evaluation_seconds=0.001)
    for _ in range(9):
        candidate = opt.ask()
        opt.tell(candidate, candidate.config["x0"])
    other = create("auto", plain(), state=json.loads(json.dumps(opt.state())))
    assert (other.evaluation_seconds, other.current, other.explain()) == (0.001, "cmaes", opt.explain())
    for _ in range(30):
        one, two = opt.ask(), other.ask()
        assert one == two
        opt.tell(one, one.config["x0"])
        other.tell(two, two.config["x0"])
    assert opt.state() == other.state()


@pytest.mark.parametrize("space", [mixed(), plain()])
def test_a_state_of_any_step_around_a_handover_continues(space: dx.Space) -> None:
    def told(target: Auto) -> Any:
        candidate = target.ask()
        target.tell(candidate, candidate.config["k"] if "k" in candidate.config else candidate.config["x0"], noise=0.1)
        return candidate

    opt = create("auto", space, seed=1, evaluation_seconds=0.00792)  # a Gaussian process for the first trials
    kinds: list[str] = []
    for _ in range(24):
        kinds.append(opt.current)
        other = create("auto", space, state=opt.state())
        assert other.current == opt.current
        assert other.recommend() == opt.recommend() if len(kinds) > 1 else True
        assert told(opt) == told(other)
        assert opt.state() == other.state()
    assert len(set(kinds)) == 2
    assert kinds[0] == "gp"


def test_nothing_is_asked_twice_across_a_handover() -> None:
    opt = create("auto", mixed(), seed=1, evaluation_seconds=0.00792)
    found: list[str] = []
    while len(found) < 40:
        candidate = opt.ask()
        found.append(mixed().identity(candidate.config))
        opt.tell(candidate, candidate.config["x"])
    assert opt.current == "genetic"
    assert len(set(found)) == 40


def test_recommendations_are_those_of_the_model_at_work() -> None:
    auto, gp = create("auto", mixed(), seed=2), create("gp", mixed(), seed=2)
    for turn in range(14):
        one, two = auto.ask(), gp.ask()
        assert one == two
        for opt in (auto, gp):
            opt.tell(turn, one.config["x"] + (turn % 3) / 2, noise=0.25)
    assert auto.recommend() == gp.recommend()
    assert auto.estimates().tolist() == gp.estimates().tolist()
    assert auto.regret_bound() == gp.regret_bound()


def test_pools_that_grow_change_the_choice() -> None:
    text = dx.Text("t", ("one", "two"))
    opt = create("auto", dx.Space([text, dx.Bool("b")]))
    opt.tell(opt.ask(), 0.5)
    assert opt.current == "grid"
    grown = dx.Space([text.grown(*map(str, range(20))), dx.Bool("b")])
    again = create("auto", grown, state=opt.state())
    opt.grow(grown)
    assert opt.current == again.current == "gp"
    assert opt.ask() == again.ask()


def test_a_search_of_no_known_optimizer_is_refused() -> None:
    opt = create("auto", mixed())
    good = opt.state()["search"]
    for search in ({**good, "kind": "annealing"}, {**good, "search": 3}, {**good, "evaluation_seconds": "1"}, {}):
        with pytest.raises(CoreError, match="DX3012"):
            create("auto", mixed(), state=sealed({**opt.state(), "search": search}))
    with pytest.raises(CoreError, match="DX3011"):
        create("auto", mixed(), state=sealed({**opt.state(), "search": {**good, "evaluation_seconds": -1}}))
