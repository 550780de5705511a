"""Ask and tell at growing histories, and what the estimator's settings are worth.

`pytest benchmarks/test_optimizers.py --benchmark-only` times; `python -m benchmarks.test_optimizers` prints the quality
of settings that differ in one value from the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dspex.core.exercise import exercise
from dspex.core.parzen import Settings
from dspex.optimizers import create, snapshot
from dspex.optimizers.optimizer import Optimizer
from dspex.optimizers.tpe import TPE
from dspex.program.space import Space
from dspex.program.variables import Choice, Float, Int, Var

Benchmark = Any
Objective = Callable[[dict[str, Any]], float]


def conditional(rows: int) -> Space:
    """A choice of three branches with numbers of their own, and shared numbers and categories."""
    branch: Choice[str] = Choice("branch", ("a", "b", "c"))
    variables: list[Var[Any]] = [branch]
    for index in range(rows - 1):
        when = branch.is_("abc"[index % 3]) if index % 2 else None
        name = f"v{index}"
        sort = index % 4
        if sort == 0:
            variables.append(Float(name, -5, 5, when=when))
        elif sort == 1:
            variables.append(Float(name, 1e-5, 1e-1, log=True, when=when))
        elif sort == 2:
            variables.append(Int(name, 1, 64, when=when))
        else:
            variables.append(Choice(name, tuple(range(5)), when=when))
    return Space(variables)


def value(config: dict[str, Any]) -> float:
    return -sum(abs(float(v)) for k, v in config.items() if k != "branch")


def after(kind: str, rows: int, trials: int) -> Optimizer:
    """An optimizer with a history of random trials."""
    optimizer = create("random", conditional(rows))
    for _ in range(trials):
        candidate = optimizer.ask()
        optimizer.tell(candidate, value(candidate.config))
    state = {**optimizer.state(), "optimizer": kind}
    return create(kind, conditional(rows), state=snapshot.sealed(state))


@pytest.mark.parametrize("rows", [20, 42])
@pytest.mark.parametrize("trials", [100, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_ask_and_tell(benchmark: Benchmark, kind: str, trials: int, rows: int) -> None:
    benchmark.group = f"ask + tell, {rows} rows"
    exercise()
    optimizer = after(kind, rows, trials)

    def step() -> None:
        optimizer.tell(optimizer.ask(), 0.5)

    benchmark.pedantic(step, rounds=200, warmup_rounds=5)


def _bowl(seed: int) -> tuple[Space, Objective]:
    generator = np.random.default_rng(seed)
    centre, tables = generator.uniform(-4, 4, 4), [generator.permutation(5) / 4 for _ in range(3)]
    variables: list[Var[Any]] = [Float(f"f{i}", -5, 5) for i in range(4)]
    variables += [Choice(f"c{i}", tuple(range(5))) for i in range(3)]

    def loss(config: dict[str, Any]) -> float:
        numbers = sum((config[f"f{i}"] - centre[i]) ** 2 for i in range(4)) / 25
        return float(numbers + 1.5 * sum(tables[i][config[f"c{i}"]] for i in range(3)))

    return Space(variables), loss


def _ripples(seed: int) -> tuple[Space, Objective]:
    centre = np.random.default_rng(seed).uniform(-4, 4, 6)

    def loss(config: dict[str, Any]) -> float:
        x = np.array([config[f"f{i}"] for i in range(6)]) - centre
        return float(x @ x - 0.9 * np.cos(2 * x).sum())

    return Space([Float(f"f{i}", -5, 5) for i in range(6)]), loss


def _branches(seed: int) -> tuple[Space, Objective]:
    generator = np.random.default_rng(seed)
    centre, offset = generator.uniform(-9, 0, (3, 4)), generator.uniform(0, 1, 3)
    branch: Choice[str] = Choice("branch", ("a", "b", "c"))
    variables: list[Var[Any]] = [branch, Int("n", 1, 64, log=True)]
    variables += [Float(f"{b}{i}", 1e-4, 1, log=True, when=branch.is_(b)) for b in "abc" for i in range(4)]

    def loss(config: dict[str, Any]) -> float:
        b = config["branch"]
        row = "abc".index(b)
        inner = sum((math.log(config[f"{b}{i}"]) - centre[row, i]) ** 2 for i in range(4)) / 10
        return float(offset[row] + inner + (math.log(config["n"]) - 2) ** 2 / 4)

    return Space(variables), loss


PROBLEMS = {"bowl": _bowl, "ripples": _ripples, "branches": _branches}


def quality(settings: Settings | None, problem: str, trials: int, seeds: int) -> float:
    """Mean loss of the recommendation after `trials`; None = random search."""
    losses: list[float] = []
    for seed in range(seeds):
        space, loss = PROBLEMS[problem](seed)
        optimizer = create("tpe" if settings else "random", space, seed=seed, objectives=("minimize",))
        if isinstance(optimizer, TPE) and settings:
            optimizer.configure(settings)
        for _ in range(trials):
            candidate = optimizer.ask()
            optimizer.tell(candidate, loss(candidate.config))
        losses.append(loss(optimizer.recommend().config))
    return float(np.mean(losses))


def main() -> None:
    """Print mean losses after 30 and 100 trials over 16 seeds."""
    base = Settings()
    variants: dict[str, Settings | None] = {
        "random": None,
        "default": base,
        "gamma 0.10": replace(base, gamma=0.10),
        "gamma 0.15": replace(base, gamma=0.15),
        "gamma 0.25": replace(base, gamma=0.25),
        "bandwidth 0.10": replace(base, bandwidth=0.10),
        "bandwidth 0.20": replace(base, bandwidth=0.20),
        "candidates 24": replace(base, candidates=24),
        "candidates 256": replace(base, candidates=256),
        "smoothing 0.5": replace(base, smoothing=0.5),
        "smoothing 2": replace(base, smoothing=2.0),
    }
    for problem in PROBLEMS:
        print(problem)
        for name, settings in variants.items():
            figures = [quality(settings, problem, trials, 16) for trials in (30, 100)]
            print(f"  {name:16s} {figures[0]:8.3f} {figures[1]:8.3f}", flush=True)


if __name__ == "__main__":
    main()
