"""CatCMA with margin: a joint Gaussian and categorical distribution, for many cheap evaluations."""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from dspex.core import pareto
from dspex.core.catcma import MOST_DRAWS, MOST_POPULATION, CatCMA
from dspex.core.history import PENDING
from dspex.optimizers import snapshot
from dspex.optimizers.optimizer import Optimizer

DRAWS: Final = 128
"""Draws in search of a candidate that was not asked before."""


class CMAES(Optimizer):
    """Asks draws from a distribution that moves towards good candidates, a generation at a time.

    A generation is the next so many results, in whatever order they arrive and whichever distribution they were drawn
    from; asking more than that while results are pending draws more from the same distribution. A draw that was
    evaluated before is not asked again: the value that it has counts at once. Failures rank last. With several
    objectives a generation is ranked by fronts and crowding.

    Rules are obeyed by repair, and what is learnt is the repaired candidate: it is what was evaluated, and learning it
    moves the distribution to where repair is not needed.

    Sources: see `core.catcma`.
    """

    name = "cmaes"

    def _prepare(self) -> None:
        before: CatCMA | None = getattr(self, "_engine", None)
        self._engine = CatCMA(self._lowered.sampler, self.seed)
        if before is None:
            self._members: list[tuple[int, int]] = []  # trial, and what it was drawn as
            self._origins: dict[int, int] = {}  # the same of trials that are pending
            self._fresh = False
            self._drawn = 0
        else:
            self._engine.adopt(before.arrays())
        self._block = np.empty((0, len(self._lowered.variables)))
        self._cursor = 0
        self._known: dict[bytes, int] = {}
        self._counted = 0

    def _ranked(self, step: int) -> NDArray[np.float64]:
        for index in range(self._counted, step):
            self._known.setdefault(_key(self._history.columns[:, index]), index)
        self._counted = step
        asked = self._lowered.default
        for _ in range(DRAWS):
            column = self._draw()
            index = self._known.get(_key(column))
            number = self._drawn - self._block.shape[0] + self._cursor - 1
            if index is None:
                self._origins[step] = number
                return column[:, np.newaxis]
            if self._history.status[index] != PENDING:
                asked = column
                self._join(index, number)
        return asked[:, np.newaxis]

    def _observe(self, index: int, again: bool) -> None:
        if not again:
            self._fresh = True
            self._join(index, self._origins.pop(index, MOST_DRAWS + index))

    def _search_state(self) -> dict[str, Any]:
        arrays = {name: snapshot.save_array(array) for name, array in self._engine.arrays().items()}
        return arrays | {
            "members": [list(each) for each in self._members],
            "origins": [list(each) for each in self._origins.items()],
            "fresh": self._fresh,
            "drawn": self._drawn,
            "block": self._block.shape[0],
            "cursor": self._cursor,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        engine = self._engine
        sizes = snapshot.load_array(state.get("sizes"), "<f8", engine.sizes.size, "sizes")
        if not ((sizes >= 1.0) & (sizes <= engine.sizes)).all():
            snapshot.reject("its categories are more than the space has")
        lengths = engine.lengths(sizes)
        engine.adopt({name: snapshot.load_array(state.get(name), "<f8", size, name) for name, size in lengths.items()})
        flaw = engine.flaw()
        if flaw is not None:
            snapshot.reject(flaw)
        count, status = self._history.count, self._history.status
        members, origins = _pairs(state.get("members"), count), _pairs(state.get("origins"), count)
        if len(members) >= engine.population or any(status[index] == PENDING for index, _ in members):
            snapshot.reject("the generation that it collects is not one of told trials")
        drawn, block, cursor = _whole([state.get(name) for name in ("drawn", "block", "cursor")], MOST_DRAWS)
        if not cursor <= block <= min(drawn, MOST_POPULATION):
            snapshot.reject("its counts of draws contradict each other")
        self._members, self._origins, self._fresh = members, dict(origins), bool(state.get("fresh"))
        self._fill(drawn - block, block)
        self._cursor = cursor

    def _draw(self) -> NDArray[np.float64]:
        if self._cursor == self._block.shape[0]:
            self._fill(self._drawn, self._engine.population)
        self._cursor += 1
        return self._block[self._cursor - 1]

    def _fill(self, first: int, count: int) -> None:
        self._block = np.ascontiguousarray(self._engine.draw(first, count).T)
        self._drawn = first + count
        self._cursor = 0

    def _join(self, index: int, number: int) -> None:
        """Count the result of a trial; a whole generation moves the distribution."""
        self._members.append((index, number))
        if len(self._members) < self._engine.population:
            return
        members, numbers = np.array(self._members).T.copy()
        losses = pareto.single(self._history.estimates(columns=members))
        columns = np.ascontiguousarray(self._history.columns[:, members])
        self._engine.tell(columns, numbers, losses, self._fresh, len(self.objectives) == 1)
        self._members.clear()
        self._fresh = False
        self._block = self._block[:0]
        self._cursor = 0


def _key(column: NDArray[np.float64]) -> bytes:
    return (column + 0.0).tobytes()


def _whole(numbers: object, end: int) -> list[int]:
    """`numbers` when they are whole and in [0, end)."""
    found = cast("list[object]", numbers) if isinstance(numbers, list) else [numbers]
    whole = [number for number in found if isinstance(number, int) and 0 <= number < end]
    if len(whole) != len(found):
        snapshot.reject(f"{found!s:.60} are not whole numbers below {end}")
    return whole


def _pairs(pairs: object, count: int) -> list[tuple[int, int]]:
    """`pairs` when they are trials below `count` and draws."""
    found = cast("list[object]", pairs) if isinstance(pairs, list) else [None]
    whole = [_whole(pair, 2 * MOST_DRAWS) for pair in found]
    if any(len(pair) != 2 or pair[0] >= count for pair in whole):
        snapshot.reject("it counts trials that its history lacks")
    return [(index, number) for index, number in whole]
