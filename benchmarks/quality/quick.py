"""A table to tune by: an optimizer's runs made now beside the finished runs of the peers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.quality import collected, groups, runs, scores


def show(own: Sequence[runs.Run], finished: Sequence[runs.Run], group: groups.Group, evaluations: int) -> None:
    """Print normalised regret by problem, the cost of a trial, and mean ranks in the field of the peers."""
    problems = list(dict.fromkeys(run.problem for run in own))
    seeds = sorted({run.seed for run in own})
    optimizers = list(dict.fromkeys(run.optimizer for run in own))
    best = {name: groups.load(name).best for name in problems}
    theirs = runs.values_at(finished, evaluations)
    random = {pair: value for pair, value in theirs[group.peers[0]].items() if pair[0] in best}
    chosen = {(name, seed) for name in problems for seed in seeds}
    values = {peer: {p: v for p, v in theirs.get(peer, {}).items() if p in chosen} for peer in group.peers}
    peers = [peer for peer in group.peers if values[peer]]
    values |= runs.values_at(own, evaluations)
    field = [*optimizers, *peers]
    regret = {member: scores.regrets(values[member], best, random) for member in field}
    means = {member: scores.by_problem(regret[member]) for member in field}

    print(
        f"normalised regret after {evaluations} evaluations, mean of {len(seeds)} seeds (* = not all seeds finished)\n"
    )
    wide = max(len(member) for member in field) + 2
    print(f"{'':24}" + "".join(f"{member:>{wide - 1}} " for member in field))
    for name in problems:
        print(
            f"{name:24}"
            + "".join(_cell(means[member], regret[member], name, len(seeds)).rjust(wide) for member in field)
        )
    print(f"{'mean':24}" + "".join(f"{statistics.mean(means[member].values()):>{wide - 1}.3f} " for member in field))
    cost = [collected.cost(own, name) for name in optimizers]
    print(f"{'ms a trial':24}" + "".join(f"{each:>{wide - 1}.2f} " for each in cost))
    whole = [peer for peer in peers if set(values[peer]) == chosen]
    for name in optimizers:
        for among in dict.fromkeys((tuple(whole), tuple(peers))):
            _ranks(scores.compare(name, among, {**values, "": random}, best, ""))


def _cell(means: dict[str, float], regret: dict[scores.Pair, float], name: str, seeds: int) -> str:
    if name not in means:
        return "– "
    return f"{means[name]:.3f}" + (" " if sum(problem == name for problem, _ in regret) == seeds else "*")


def _ranks(found: scores.Comparison) -> None:
    ranks = ", ".join(f"{member} {rank:.3f}" for member, rank in found.mean_rank.items())
    print(f"\nmean rank over {found.pairs} (problem, seed) pairs, 0 = first, 1 = last: {ranks}")
    for beside in found.versus:
        print(
            f"  {found.name} less {beside.peer}: {beside.rank_difference:+.3f} "
            f"[{beside.low:+.3f}, {beside.high:+.3f}], wins {beside.wins:.0%} of problems, p = {beside.p_value:.2g}"
        )
