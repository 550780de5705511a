"""The fuzzer's own mutations, some of each in every run of the tests: a result or a coded error."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fuzz import targets


@pytest.mark.parametrize("target", targets.TARGETS)
def test_mutated_inputs_are_accepted_or_refused_with_a_code(target: str) -> None:
    seeds = targets.seeds(target)
    outcomes = Counter(targets.one(target, seed) for seed in seeds)
    assert outcomes["ok"] >= len(seeds) - 3
    reached: Counter[str] = Counter()
    for number in range(400):
        seed = seeds[number % len(seeds)]
        reached[targets.one(target, targets.mutated(target, seed, number))] += 1
    assert reached["ok"], "no mutation is harmless: the seeds are refused before anything is reached"
    # Damage gets behind the hashes: there are many kinds of refusal.
    assert len(reached) >= {"artifact": 10, "graph": 3, "table": 5, "schemas": 2}[target], reached


def test_mutation_is_a_function_of_its_seed() -> None:
    for target in targets.TARGETS:
        data = targets.seeds(target)[0]
        assert targets.mutated(target, data, 7) == targets.mutated(target, data, 7)
