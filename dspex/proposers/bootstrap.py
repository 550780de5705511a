"""Bootstrapped demonstrations: the program's own runs on training examples that the metric accepts.

Source: BootstrapFewShot of Khattab et al. (2023), §4; here in batches of fixed size, so that how many
runs are made does not depend on how many calls are in flight.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.schema import Schema
from dspex.program.trace import CallRecord
from dspex.proposers.proposal import Proposal

ACCEPTED_SHARE = 0.9
"""A run is accepted when its score lies in this upper part of the range seen, or is that range's upper end."""


@dataclass(frozen=True)
class TracedRun:
    """One run of the program on a training example: its score, and its calls when it did not fail."""

    score: float
    calls: tuple[CallRecord, ...]


def threshold(scores: Sequence[float]) -> float:
    """The least score that is accepted, for a metric of any scale."""
    low, high = min(scores), max(scores)
    if low == high:
        return high if high > 0 else float("inf")
    return low + ACCEPTED_SHARE * (high - low)


def accepted(runs: Sequence[TracedRun]) -> list[TracedRun]:
    """The runs whose traces may become demonstrations, in order."""
    if not runs:
        return []
    least = threshold([run.score for run in runs])
    return [run for run in runs if run.score >= least]


def demos_of(runs: Sequence[TracedRun]) -> dict[str, list[Demo]]:
    """Demonstrations for each module by its path, from accepted runs, in order and each once."""
    found: dict[str, dict[str, Demo]] = {}
    for run in accepted(runs):
        for call in run.calls:
            given, output = call.input, call.output
            if isinstance(given, Schema) and isinstance(output, Schema):
                demo = Demo(given, output, call.reasoning, bootstrapped=True)
                found.setdefault(call.module, {}).setdefault(demo.hash, demo)
    return {path: list(demos.values()) for path, demos in found.items()}


def bootstrapped(
    variables: Mapping[str, str], demos: Mapping[str, Sequence[Demo]], *, seed: int, sizes: Sequence[int] = (4, 8)
) -> list[list[Proposal]]:
    """Fixed sets and nearest demonstrations out of accepted runs, as groups that belong together over modules.

    Args:
        variables: Demos Variable of each module by its path.
        demos: Accepted demonstrations of each module by its path.
        seed: Chooses the members of sets that hold fewer than there are.
        sizes: Sizes of the sets.
    """
    groups: list[list[Proposal]] = []
    done: set[tuple[int, ...]] = set()
    for shuffle, size in enumerate(sizes):
        group: list[Proposal] = []
        for path, variable in variables.items():
            known = list(demos.get(path, ()))
            if not known:
                continue
            count = min(size, len(known))
            rng = random.Random(f"{seed}:{variable}:bootstrap:{shuffle}")
            chosen = known[:count] if shuffle == 0 else rng.sample(known, count)
            name = f"bootstrapped {count}"
            group.append(Proposal(variable, DemoSet(chosen, name), "bootstrap", {"size": count, "of": len(known)}))
        shape = tuple(len(p.member.demos) for p in group if isinstance(p.member, DemoSet))
        if group and shape not in done:
            done.add(shape)
            groups.append(group)
    near: list[Proposal] = []
    for path, variable in variables.items():
        known = demos.get(path, ())
        if len(known) > 2 * sizes[0]:
            source = Nearest(known, sizes[0], f"nearest {sizes[0]} bootstrapped")
            near.append(Proposal(variable, source, "bootstrap", {"k": sizes[0], "of": len(known)}))
    if near:
        groups.append(near)
    return groups
