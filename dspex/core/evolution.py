"""Populations that evolve, as arrays: NSGA-II for several losses, (μ + λ) with tournaments for one.

engine = NSGA2(lowered.sampler, 100, objectives=2, seed=0)
for _ in range(50):
    engine.tell(evaluate(engine.ask()))
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi, checks, pareto
from dspex.core.kernels import crossover, mutation, selection
from dspex.core.population import Sampler
from dspex.errors import CoreError

# Streams of random numbers that must not meet those of the sampler: added to a step, which stays below 2**40.
_CROSSOVER: Final = 4 << 44
_MUTATION: Final = 5 << 44


class Variation(NamedTuple):
    """How children are made.

    Attributes:
        crossover: Probability that a pair of parents crosses.
        mutation: Probability that an active entry changes; None = 1 / number of rows.
        blend: Numeric rows are crossed by SBX; otherwise they are exchanged like categories.
    """

    crossover: float = 0.9
    mutation: float | None = None
    blend: bool = True


class Generation(NamedTuple):
    """Everything an engine has to remember.

    Attributes:
        number: Generations told so far.
        population: (D, N) float64.
        losses: (M, N) float64; NaN = failed.
        fitness: (N,) float64, by which tournaments are held; lower is better.
    """

    number: int
    population: NDArray[np.float64]
    losses: NDArray[np.float64]
    fitness: NDArray[np.float64]


class NSGA2:
    """Elitist evolution by fronts and crowding; with one loss, by that loss.

    Everything asked is a function of the sampler's table, the arguments and what was told, for any number of threads.
    Children obey conditions and rules. A failed trial loses against every other one.

    Args:
        sampler: Draws and repairs candidates.
        size: N, at least 2.
        objectives: M, at least 1.
        seed: Key of the random numbers, below 2**63.
        variation: How children are made.

    Raises:
        CoreError: DX3025 for a size, objectives or probabilities out of range.

    Source: Deb, Pratap, Agarwal & Meyarivan (2002).
    """

    def __init__(
        self, sampler: Sampler, size: int, objectives: int = 2, seed: int = 0, variation: Variation | None = None
    ) -> None:
        self.variation = Variation() if variation is None else variation
        rate = self.variation.mutation
        shares = (self.variation.crossover, 0.5 if rate is None else rate)
        if size < 2 or size >= 1 << 31 or objectives < 1 or not all(0.0 <= share <= 1.0 for share in shares):
            raise CoreError(
                "DX3025",
                f"evolution takes 2 to 2**31 - 1 individuals, 1 or more objectives and probabilities in [0, 1], got "
                f"{size}, {objectives} and {self.variation}",
            )
        self.sampler, self.size, self.objectives, self.seed = sampler, size, objectives, seed
        rows = abi.dimension_count(sampler.table)
        self._generation = Generation(0, np.empty((rows, 0)), np.empty((objectives, 0)), np.empty(0))
        self._children: NDArray[np.float64] | None = None

    def ask(self) -> NDArray[np.float64]:
        """Candidates to evaluate next, (D, N) float64, the same until they are told; not to be changed.

        Raises:
            CoreError: DX3010 when no candidate obeys the rules.
        """
        if self._children is None:
            number, population, _, fitness = self._generation
            if number == 0:
                self._children = self.sampler.sample(self.size, self.seed)
            else:
                self._children = breed(self.sampler, population, fitness, self.size, self.seed, number, self.variation)
        return self._children

    def tell(self, losses: NDArray[np.float64]) -> None:
        """Take the losses of what `ask` returned; the better half of parents and children goes on.

        Args:
            losses: (M, N) float64, lower is better; NaN in a column = failed.

        Raises:
            CoreError: DX3026 for another shape.
        """
        losses = np.ascontiguousarray(losses, dtype=np.float64)
        if losses.shape != (self.objectives, self.size):
            raise CoreError("DX3026", f"a generation has ({self.objectives}, {self.size}) losses, got {losses.shape}")
        children = self.ask()
        number, population, told, _ = self._generation
        size = self.size
        if number == 0:
            population, told = children.copy(), losses.copy()
            fitness = _fitness(told, size)
        else:
            fitness = _fitness(np.concatenate([told, losses], axis=1), size)
            threshold = float(np.partition(fitness, size - 1)[size - 1])
            sources, places = np.empty(size, np.int64), np.empty(size, np.int64)
            come = selection.survivors(fitness, threshold, sources, places)
            sources, places = sources[:come], places[:come]
            selection.replace(children, sources, places, population)
            selection.replace(losses, sources, places, told)
            fitness[places] = fitness[size + sources]
            fitness = fitness[:size].copy()
        self._generation = Generation(number + 1, population, told, fitness)
        self._children = None

    @property
    def population(self) -> NDArray[np.float64]:
        """The individuals that went on, (D, N) float64; empty before the first tell."""
        return self._generation.population

    @property
    def losses(self) -> NDArray[np.float64]:
        """Their losses, (M, N) float64."""
        return self._generation.losses

    def front(self) -> NDArray[np.int64]:
        """The individuals that no other one dominates, ascending."""
        return pareto.front(self._generation.losses)

    def state(self) -> Generation:
        """What `restore` continues from, bit for bit."""
        number, *arrays = self._generation
        return Generation(number, *(array.copy() for array in arrays))

    def restore(self, state: Generation) -> None:
        """Go on from a state of an engine with the same arguments.

        Raises:
            CoreError: DX3025 when it is of another size, DX3007 when its population is not one of the table.
        """
        size = self.size if state.number else 0
        shapes = (state.population.shape[1], state.losses.shape, state.fitness.shape)
        if state.number < 0 or shapes != (size, (self.objectives, size), (size,)):
            raise CoreError("DX3025", f"generation {state.number} holds arrays for {shapes}, not {size} individuals")
        checks.population(self.sampler.table, state.population)
        self._generation = Generation(state.number, *(array.copy() for array in state[1:]))
        self._children = None


def breed(
    sampler: Sampler,
    parents: NDArray[np.float64],
    fitness: NDArray[np.float64],
    count: int,
    seed: int,
    step: int,
    variation: Variation,
) -> NDArray[np.float64]:
    """Children by tournament, crossover and mutation that obey conditions and rules, (D, count) float64.

    Args:
        sampler: Of the parents' table.
        parents: (D, N) float64.
        fitness: (N,) float64, lower is better.
        count: How many.
        seed: Key of the random numbers, below 2**63.
        step: Key of the random numbers, below 2**40.
        variation: How they are made.

    Raises:
        CoreError: DX3010 when no candidate obeys the rules.
    """
    table, rows, pairs = sampler.table, parents.shape[0], (count + 1) // 2
    mothers, fathers, mates = np.empty(pairs, np.int64), np.empty(pairs, np.int64), np.empty(pairs, np.uint8)
    selection.mate(fitness, seed, step, variation.crossover, mothers, fathers, mates)
    children = np.empty((rows, 2 * pairs))
    blend = int(variation.blend)
    crossover.cross(table, parents, mothers, fathers, mates, blend, seed, step + _CROSSOVER, children)
    rate = 1.0 / max(rows, 1) if variation.mutation is None else variation.mutation
    scratch = sampler.stack, np.empty(abi.BLOCK), np.empty(abi.BLOCK, np.int64)
    mutation.mutate(table, sampler.origin, sampler.width, rate, seed, step + _MUTATION, *scratch, children)
    if count < 2 * pairs:
        children = np.ascontiguousarray(children[:, :count])
    sampler.repair(children, seed, step)
    return children


def _fitness(losses: NDArray[np.float64], needed: int) -> NDArray[np.float64]:
    """The order of individuals, without NaN: failed ones and those not needed are infinite."""
    fitness = pareto.single(losses, needed)
    return np.where(np.isnan(fitness), np.inf, fitness)
