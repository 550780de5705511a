"""Which arm is best, with a budget of single-example evaluations: `python -m benchmarks.racing [REPETITIONS]`.

Arms are programs, an evaluation is one example right or wrong. Right has the probability of an item-response model:
a logistic function of the arm's ability less the example's difficulty, abilities N(0, 0.8²), difficulties N(0, 1), 300
examples. What counts is the regret in accuracy points: the true accuracy of the best arm less that of the arm chosen.
Every policy sees the same tables. MIPRO's schedule draws minibatches of 35 for arms in random order and, after every
fourth of them, scores the best arm by minibatches on 100 examples; the best fully scored one wins.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from dspex.optimizers.racing import Policy, Race

SETTINGS = ((20, 500), (20, 1500), (50, 1000), (50, 3000))
EXAMPLES = 300
ABILITY, DIFFICULTY = 0.8, 1.0
REPETITIONS = 100

Array = NDArray[np.float64]
Chooser = Callable[[Array, int, np.random.Generator], int]


def table(arms: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Right or wrong, (arms, examples), and the true accuracies, (arms,)."""
    ability: Array = generator.normal(0.0, ABILITY, (arms, 1))
    difficulty: Array = generator.normal(0.0, DIFFICULTY, (1, EXAMPLES))
    chance: Array = 1.0 / (1.0 + np.exp(difficulty - ability))
    return (generator.random(chance.shape) < chance).astype(np.float64), chance.mean(axis=1)


def mean(scores: Array) -> float:
    return float(scores.mean())


def best(means: Array, generator: np.random.Generator) -> int:
    """The highest mean, one of them at random when several are equal."""
    return int(generator.choice(np.flatnonzero(means == means.max())))


def uniform(right: Array, budget: int, generator: np.random.Generator) -> int:
    arms = len(right)
    return best(np.array([mean(row[generator.permutation(EXAMPLES)[: budget // arms]]) for row in right]), generator)


def uniform_paired(right: Array, budget: int, generator: np.random.Generator) -> int:
    return best(right[:, : budget // len(right)].mean(axis=1), generator)


def halving(right: Array, budget: int, generator: np.random.Generator) -> int:
    """Sequential halving with every rung's results counted on; the textbook, apart from our own code."""
    alive, used = list(range(len(right))), 0
    rounds = math.ceil(math.log2(len(alive)))
    for _ in range(rounds):
        used = min(EXAMPLES, used + max(1, budget // (rounds * len(alive))))
        means = {arm: mean(right[arm, :used]) + 1e-9 * generator.random() for arm in alive}
        alive = sorted(alive, key=lambda arm: -means[arm])[: math.ceil(len(alive) / 2)]
    return alive[0]


def mipro(right: Array, budget: int, generator: np.random.Generator) -> int:
    small: list[list[float]] = [[] for _ in right]
    full: dict[int, float] = {}
    spent, turn = 0, 0
    while True:
        turn += 1
        waiting = [arm for arm, scores in enumerate(small) if scores and arm not in full]
        if turn % 5 == 0 and waiting:
            if spent + 100 > budget:
                break
            arm = max(waiting, key=lambda each: fmean(small[each]))
            full[arm] = mean(right[arm, :100])
            spent += 100
        else:
            if spent + 35 > budget:
                break
            arm = int(generator.integers(len(right)))
            small[arm].append(mean(right[arm, generator.permutation(100)[:35]]))
            spent += 35
    ranked = full or {arm: fmean(scores) for arm, scores in enumerate(small) if scores}
    return max(ranked, key=lambda each: ranked[each])


def raced(policy: Policy, lag: int = 1) -> Chooser:
    def choose(right: Array, budget: int, generator: np.random.Generator) -> int:
        seed = int(generator.integers(1 << 62))
        race = Race(range(len(right)), EXAMPLES, budget=budget, policy=policy, lag=lag, seed=seed)
        while not race.done:
            for arm, example in race.next(lag):
                race.report(arm, example, float(right[arm, example]))
        return race.winner()

    return choose


PUBLISHED: dict[str, Chooser] = {
    "uniform": uniform,
    "uniform paired": uniform_paired,
    "halving paired": halving,
    "MIPRO": mipro,
}
OURS: dict[str, Chooser] = {
    "race halving": raced("halving"),
    "race hyperband": raced("hyperband"),
    "race top-two": raced("top-two"),
    "race auto": raced("auto"),
    "auto, 16 at once": raced("auto", 16),
}


def summary(values: list[float]) -> str:
    return f"{fmean(values):.2f} ± {stdev(values) / math.sqrt(len(values)):.2f}"


def main(repetitions: int) -> None:
    choosers = PUBLISHED | OURS
    print(
        f"regret in accuracy points ± standard error over {repetitions} tables; last, auto less the best other column"
    )
    print(f"{'arms, budget':>14}" + "".join(f"{name:>17}" for name in (*choosers, "difference")))
    for arms, budget in SETTINGS:
        regrets: dict[str, list[float]] = {name: [] for name in choosers}
        for repetition in range(repetitions):
            right, truth = table(arms, np.random.default_rng([repetition, arms]))
            for name, choose in choosers.items():
                chosen = choose(right, budget, np.random.default_rng([repetition, arms, budget]))
                regrets[name].append(100.0 * float(truth.max() - truth[chosen]))
        rival = min((name for name in choosers if "auto" not in name), key=lambda name: fmean(regrets[name]))
        less = [own - other for own, other in zip(regrets["race auto"], regrets[rival], strict=True)]
        cells = [*(summary(each) for each in regrets.values()), summary(less)]
        print(f"{f'{arms}, {budget}':>14}" + "".join(f"{cell:>17}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else REPETITIONS)
