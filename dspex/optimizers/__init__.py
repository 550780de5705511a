"""Pure ask/tell over a parameter table: no model call, no I/O, seeded, serialisable.

opt = create("tpe", space, seed=0, objectives=("maximize",))
candidate = opt.ask()
opt.tell(candidate, 0.42, noise=35)      # the mean over 35 examples
opt.recommend()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspex.errors import CoreError

if TYPE_CHECKING:
    from dspex.compiler.lower.lowering import Lowered
    from dspex.optimizers.optimizer import Candidate, Direction, Optimizer
    from dspex.optimizers.racing import PairedRace
    from dspex.program.space import Space

__all__ = ["Candidate", "Optimizer", "PairedRace", "create", "names"]

_HOME = {
    "Candidate": "dspex.optimizers.optimizer",
    "Optimizer": "dspex.optimizers.optimizer",
    "PairedRace": "dspex.optimizers.racing",
}


def names() -> tuple[str, ...]:
    """The optimizers that `create` knows."""
    return ("random", "tpe")


def create(
    name: str,
    space: Space | Lowered,
    *,
    seed: int = 0,
    objectives: Sequence[Direction] = ("maximize",),
    budget: int | None = None,
    state: Mapping[str, Any] | None = None,
) -> Optimizer:
    """An optimizer over `space`.

    Args:
        name: One of `names()`.
        space: The Variables and rules.
        seed: Everything asked is a function of the space, the seed and what was told.
        objectives: The direction, `("maximize",)` or `("minimize",)`.
        budget: Trials planned, when known; the random beginning is shorter for a short search.
        state: From `Optimizer.state()`: continues bit for bit. Seed, objectives and budget are then the state's.

    Raises:
        CoreError: DX3011 for an unknown name or objectives, DX3012 when the state is not this optimizer's or does not
            fit the space.
    """
    from dspex.optimizers.random import Random
    from dspex.optimizers.tpe import TPE

    kinds: dict[str, type[Optimizer]] = {"random": Random, "tpe": TPE}
    if name not in kinds:
        raise CoreError("DX3011", f"no optimizer is named {name!r}", fix=f"choose one of {', '.join(names())}")
    if state is not None:
        return kinds[name].resume(space, state)
    return kinds[name](space, seed=seed, objectives=objectives, budget=budget)


def __getattr__(name: str) -> object:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
