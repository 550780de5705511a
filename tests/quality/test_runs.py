"""What is kept of runs, and the neutral spaces. No peer is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.testing import assert_allclose

from benchmarks.quality import collected, evolution, ours, overhead, runs
from benchmarks.quality.space import AtMost, Category, Integer, Real, Space

SPACE = Space(
    (
        Category("kind", ("a", "b")),
        Integer("i", 0, 9),
        Integer("j", 0, 9),
        Real("x", 1e-3, 1.0, log=True, when=("kind", "a")),
        Category("c", ("u", "v"), ("kind", "b")),
    ),
    (AtMost((("i", 1), ("j", -1)), 2), AtMost((("j", 1),), 4, ("kind", "a"))),
)


def test_runs_are_the_same_after_the_folder_and_after_the_file(tmp_path: Path) -> None:
    kept = [
        runs.Run("catcma", "p", 0, [10, 20, 30], [3.0, 2.0, 1.25], 0.5),
        runs.Run("dspex-gp", "p", 0, [20, 30], [1.0, 1e-12], 0.25),
        runs.Run("dspex-gp", "p", 1, [10], [-7.5], 0.25),
    ]
    for run in kept:
        runs.keep(tmp_path / "runs", run)
    assert list(runs.kept(tmp_path / "runs")) == kept
    collected.write(kept, {"p": -8.0}, tmp_path / "results" / "quality.json")
    read = collected.read(tmp_path / "results" / "quality.json")
    assert (read.runs, read.best) == (kept, {"p": -8.0})


def test_only_every_tenth_evaluation_is_collected(tmp_path: Path) -> None:
    run = runs.Run("catcma", "p", 0, list(range(5, 26)), [float(n) for n in range(5, 26)], 0.5)
    collected.write([run], {"p": 0.0}, tmp_path / "quality.json")
    (read,) = collected.read(tmp_path / "quality.json").runs
    assert (read.at, read.truth) == ([10, 20], [10.0, 20.0])


def test_every_candidate_of_a_converted_space_obeys_and_has_its_active_parameters() -> None:
    search = ours.Ours("random", SPACE, 3, 40)
    kinds: set[str] = set()
    for number in range(40):
        config = search.ask()
        assert SPACE.obeys(config)
        assert list(config) == ["kind", "i", "j", "x" if config["kind"] == "a" else "c"]
        kinds.add(str(config["kind"]))
        search.tell(float(number), None)
    assert kinds == {"a", "b"}
    assert search.recommend() == ours.Ours("random", SPACE, 3, 40).ask()


def test_a_rule_says_by_how_much_it_is_broken() -> None:
    config = {"kind": "a", "i": 9, "j": 5}
    assert [rule.excess(config) for rule in SPACE.rules] == [2.0, 1.0]
    assert [rule.excess(config | {"kind": "b"}) for rule in SPACE.rules] == [2.0, 0.0]
    assert not SPACE.obeys(config)


def test_the_space_of_the_overhead_has_forty_two_variables_and_three_branches() -> None:
    space = overhead.conditional()
    assert len(space.parameters) == 42
    assert {p.when[1] for p in space.parameters if p.when is not None} == {"a", "b", "c"}


def test_exponents_are_slopes_of_logarithms() -> None:
    assert_allclose(overhead.exponent({10: 3.0, 100: 30.0, 1000: 300.0}), 1.0)
    assert_allclose(overhead.exponent({10: 5.0, 1000: 5.0}), 0.0, atol=1e-12)


def test_the_front_of_the_evolved_problem_is_the_unit_sphere() -> None:
    x = np.random.default_rng(0).uniform(size=(20, evolution.VARIABLES))
    for objectives in evolution.OBJECTIVES:
        x[:, objectives - 1 :] = 0.5
        assert_allclose((evolution.dtlz2(x, objectives) ** 2).sum(axis=1), 1.0)
