"""Demonstrations straight from the training data: fixed sets, and the nearest ones of an input.

They need no call of a model. Sets for a closed choice are balanced over its values, because a small
model answers mostly with the labels that it has just seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from dspex.program.demos import Demo, DemoSet, Nearest
from dspex.program.schema import Schema
from dspex.proposers.proposal import Proposal

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dspex.evaluation.dataset import Example

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

NEAREST_SIZES = (4, 8, 16)
PLAIN_SIZES = (4, 8)
MOST_CLASSES = 12
MOST_POOL = 5_000


def can_label(module_input: type[Schema], module_output: type[Schema], example: Example[I, O]) -> bool:
    """Whether an example of the program is one of the module too: the fields of both have the same names."""
    return set(module_input.model_fields) <= set(type(example.input).model_fields) and set(
        module_output.model_fields
    ) <= set(type(example.want).model_fields)


def demo_of(example: Example[I, O], module_input: type[Schema], module_output: type[Schema]) -> Demo:
    """The example as a demonstration for a module."""
    return Demo(_part(example.input, module_input), _part(example.want, module_output))


def _part(record: Schema, schema: type[Schema]) -> Mapping[str, JsonValue]:
    values: Mapping[str, JsonValue] = record.model_dump(mode="json", include=set(schema.model_fields))
    return {name: values[name] for name in schema.model_fields}


def token_estimate(demo: Demo) -> int:
    """About how many tokens a demonstration takes in a prompt, rather too many."""
    return (len(demo.input_json.encode()) + len(demo.output_json.encode())) // 3 + 8


def fitting(demos: Sequence[Demo], room: int | None) -> int:
    """How many demonstrations of this kind fit into `room` tokens."""
    if room is None or not demos:
        return len(demos)
    sizes = sorted((token_estimate(demo) for demo in demos), reverse=True)
    typical = max(1, sum(sizes[: max(1, len(sizes) // 4)]) // max(1, len(sizes) // 4))
    return min(len(demos), room // typical)


def labelled_sets(variable: str, demos: Sequence[Demo], *, seed: int, room: int | None = None) -> list[Proposal]:
    """Fixed sets of training examples, the most useful first.

    For up to `MOST_CLASSES` different outputs the sets hold one and two of each, shuffled; else 4 and 8 examples.

    Args:
        variable: The Demos Variable.
        demos: Every training example as a demonstration.
        seed: Chooses and orders the members.
        room: Tokens that demonstrations may take.
    """
    most = fitting(demos, room)
    by_output: dict[str, list[Demo]] = {}
    for demo in demos:
        by_output.setdefault(demo.output_json, []).append(demo)
    classes = len(by_output)
    balanced = 2 <= classes <= MOST_CLASSES and classes * 2 <= len(demos)
    if balanced:
        plan = [(classes, 0), (classes, 1), (2 * classes, 2), (classes, 3), (2 * classes, 4)]
        if classes <= 3:
            plan = [(4 * classes, 0), (2 * classes, 1), (classes, 2), (4 * classes, 3), (2 * classes, 4)]
    else:
        plan = [(PLAIN_SIZES[0], 0), (PLAIN_SIZES[1], 1), (PLAIN_SIZES[0], 2), (PLAIN_SIZES[1], 3)]
    found: list[Proposal] = []
    seen: set[str] = set()
    for size, shuffle in plan:
        count = min(size, most, len(demos))
        if count < 1:
            continue
        rng = random.Random(f"{seed}:{variable}:{shuffle}")
        chosen = _balanced(by_output, count, rng) if balanced else rng.sample(list(demos), count)
        source = DemoSet(chosen, f"{'balanced' if balanced else 'labelled'} {count}, shuffle {shuffle}")
        if source.hash not in seen:
            seen.add(source.hash)
            found.append(Proposal(variable, source, "labelled", {"size": count, "shuffle": shuffle}))
    return found


def _balanced(by_output: Mapping[str, list[Demo]], count: int, rng: random.Random) -> list[Demo]:
    """`count` demonstrations, as equally many of each output as there are, in random order."""
    piles = {output: rng.sample(members, len(members)) for output, members in sorted(by_output.items())}
    chosen: list[Demo] = []
    while len(chosen) < count:
        order = rng.sample(sorted(piles), len(piles))
        before = len(chosen)
        for output in order:
            if piles[output] and len(chosen) < count:
                chosen.append(piles[output].pop())
        if len(chosen) == before:
            break
    rng.shuffle(chosen)
    return chosen


def nearest(variable: str, demos: Sequence[Demo], *, room: int | None = None) -> list[Proposal]:
    """Per-input demonstrations: the nearest of each output where these are few, then of all, fewest first."""
    pool = tuple(demos[:MOST_POOL])
    most = min(fitting(pool, room), len(pool) - 1)
    outputs = len({demo.output_json for demo in pool})
    spread: list[Proposal] = []
    if 2 <= outputs <= min(MOST_CLASSES, most) and outputs * 2 <= len(pool):
        source = Nearest(pool, outputs, "nearest of each output", spread=True)
        spread.append(Proposal(variable, source, "nearest", {"k": outputs, "pool": len(pool), "spread": True}))
    sizes = [k for k in NEAREST_SIZES if k <= most] or ([most] if most >= 1 else [])
    return [
        *spread,
        *(Proposal(variable, Nearest(pool, k, f"nearest {k}"), "nearest", {"k": k, "pool": len(pool)}) for k in sizes),
    ]
