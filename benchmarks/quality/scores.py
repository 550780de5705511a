"""From true values of recommendations to regret, rank, wins and significance. Lower is better everywhere.

Values are kept by (problem, seed). What compares several optimizers uses the pairs that all of them have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[str, int]
Values = Mapping[Pair, float]

RESAMPLES = 10_000


@dataclass(frozen=True)
class Versus:
    """One optimizer beside one peer.

    Attributes:
        rank_difference: Mean over pairs of the own rank less the peer's; negative = better.
        low, high: 95 % bootstrap interval of it, resampling problems and then seeds within them.
        wins: Share of the problems where the mean over seeds is lower; equal ones count half.
        p_value: Wilcoxon's signed-rank test of the regrets of all pairs, two-sided.
    """

    peer: str
    rank_difference: float
    low: float
    high: float
    wins: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """One optimizer in a field of peers.

    Attributes:
        name: Whose.
        pairs: (problem, seed) pairs that all of the field have.
        mean_rank: Of each in the field, 0 = always first … 1 = always last.
        mean_regret, median_regret: Of each, over problems of the mean over seeds.
        versus: Beside each peer.
    """

    name: str
    pairs: int
    mean_rank: dict[str, float]
    mean_regret: dict[str, float]
    median_regret: dict[str, float]
    versus: list[Versus]


def regrets(values: Values, best: Mapping[str, float], random: Values) -> dict[Pair, float]:
    """Normalised regret of each: 0 = the problem's optimum, 1 = random search's median over its seeds."""
    scale = {problem: median(random, problem) - best[problem] for problem in {problem for problem, _ in random}}
    found = [problem for problem, width in scale.items() if width <= 0.0]
    if found:
        raise ValueError(f"random search finds the optimum of {', '.join(sorted(found))}, so regret has no scale there")
    return {(problem, seed): (v - best[problem]) / scale[problem] for (problem, seed), v in values.items()}


def median(values: Values, problem: str) -> float:
    """The median over the seeds of one problem."""
    return float(np.median([value for (name, _), value in values.items() if name == problem]))


def by_problem(values: Values) -> dict[str, float]:
    """The mean over the seeds of each problem."""
    rows: dict[str, list[float]] = {}
    for (problem, _), value in values.items():
        rows.setdefault(problem, []).append(value)
    return {problem: float(np.mean(row)) for problem, row in rows.items()}


def ranks(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each of n optimizers in each of m pairs, (n, m) float64: 0 = first … 1 = last, ties share their mean."""
    below = (columns[None, :, :] < columns[:, None, :]).sum(axis=1)
    equal = (columns[None, :, :] == columns[:, None, :]).sum(axis=1) - 1
    return (below + equal / 2) / (len(columns) - 1)


def win_share(own: Values, peer: Values) -> float:
    """Share of problems where the own mean over seeds is the lower one; equal means count half."""
    a, b = by_problem(own), by_problem(peer)
    return float(np.mean([1.0 if a[name] < b[name] else 0.5 if a[name] == b[name] else 0.0 for name in a]))


def signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that differences are symmetric around zero.

    The normal approximation with the correction for ties; zeros are left out. Source: Wilcoxon (1945).
    """
    kept = np.asarray([d for d in differences if d != 0.0])
    n = len(kept)
    if n == 0:
        return 1.0
    _, place, counts = np.unique(np.abs(kept), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = (last - (counts - 1) / 2)[place]
    positive = float(mean_rank[kept > 0].sum())
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((counts**3 - counts).sum()) / 48
    z = (positive - n * (n + 1) / 4) / math.sqrt(variance)
    return math.erfc(abs(z) / math.sqrt(2))


def interval(differences: Values, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean difference: problems are drawn, and then seeds within each."""
    rows: dict[str, list[float]] = {}
    for (problem, _), value in differences.items():
        rows.setdefault(problem, []).append(value)
    generator = np.random.default_rng(seed)
    # Each problem's resampled mean, drawn once for each place that it may take in a resample.
    means = np.empty((len(rows), RESAMPLES, len(rows)))
    for i, row in enumerate(rows.values()):
        picks = generator.integers(len(row), size=(RESAMPLES, len(rows), len(row)))
        means[i] = np.asarray(row)[picks].mean(axis=2)
    chosen = generator.integers(len(rows), size=(RESAMPLES, len(rows)))
    places = np.arange(len(rows))
    totals = means[chosen, np.arange(RESAMPLES)[:, None], places].mean(axis=1)
    low, high = np.quantile(totals, [0.025, 0.975])
    return float(low), float(high)


def compare(
    name: str, peers: Sequence[str], values: Mapping[str, Values], best: Mapping[str, float], random: str
) -> Comparison:
    """`name` in the field of `peers`; `random` names the one whose median is regret 1, whether in the field or not."""
    field = (name, *peers)
    pairs = sorted(pair for pair in values[name] if all(pair in values[peer] for peer in peers))
    own_regret = {member: regrets(values[member], best, values[random]) for member in field}
    regret = {member: {pair: own_regret[member][pair] for pair in pairs} for member in field}
    rank = ranks(np.array([[values[member][pair] for pair in pairs] for member in field]))
    means = {member: list(by_problem(regret[member]).values()) for member in field}
    versus: list[Versus] = []
    for index, peer in enumerate(peers, 1):
        difference = rank[0] - rank[index]
        low, high = interval(dict(zip(pairs, difference.tolist(), strict=True)))
        p_value = signed_rank([regret[name][pair] - regret[peer][pair] for pair in pairs])
        versus.append(Versus(peer, float(difference.mean()), low, high, win_share(regret[name], regret[peer]), p_value))
    return Comparison(
        name,
        len(pairs),
        {member: float(row.mean()) for member, row in zip(field, rank, strict=True)},
        {member: float(np.mean(row)) for member, row in means.items()},
        {member: float(np.median(row)) for member, row in means.items()},
        versus,
    )
