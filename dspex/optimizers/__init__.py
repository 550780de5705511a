"""Pure ask/tell over a parameter table: no model call, no I/O, seeded, serialisable.

opt = create("tpe", space, seed=0, objectives=("maximize",))
candidate = opt.ask()
opt.tell(candidate, 0.42, noise=35)      # the mean over 35 examples
opt.recommend()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from dspex.errors import CoreError

if TYPE_CHECKING:
    from dspex.compiler.lower.lowering import Lowered
    from dspex.optimizers.auto import Auto
    from dspex.optimizers.optimizer import Candidate, Direction, Optimizer
    from dspex.optimizers.paired_race import PairedRace
    from dspex.optimizers.racing import Race, Standing
    from dspex.program.space import Space

__all__ = ["Candidate", "Optimizer", "PairedRace", "Race", "Standing", "create", "names"]

_HOME = {
    "Candidate": "dspex.optimizers.optimizer",
    "Optimizer": "dspex.optimizers.optimizer",
    "PairedRace": "dspex.optimizers.paired_race",
    "Race": "dspex.optimizers.racing",
    "Standing": "dspex.optimizers.racing",
}


_KINDS = {
    "random": "dspex.optimizers.random.Random",
    "grid": "dspex.optimizers.grid.Grid",
    "qmc": "dspex.optimizers.qmc.QMC",
    "tpe": "dspex.optimizers.tpe.TPE",
    "gp": "dspex.optimizers.gp.GP",
    "genetic": "dspex.optimizers.genetic.Genetic",
    "cmaes": "dspex.optimizers.cmaes.CMAES",
    "bandit": "dspex.optimizers.bandit.Bandit",
    "auto": "dspex.optimizers.auto.Auto",
}


def names() -> tuple[str, ...]:
    """The optimizers that `create` knows."""
    return tuple(_KINDS)


@overload
def create(
    name: Literal["auto"],
    space: Space | Lowered,
    *,
    seed: int = 0,
    objectives: Sequence[Direction] = ("maximize",),
    budget: int | None = None,
    state: Mapping[str, Any] | None = None,
    evaluation_seconds: float | None = None,
) -> Auto: ...
@overload
def create(
    name: str,
    space: Space | Lowered,
    *,
    seed: int = 0,
    objectives: Sequence[Direction] = ("maximize",),
    budget: int | None = None,
    state: Mapping[str, Any] | None = None,
) -> Optimizer: ...
def create(
    name: str,
    space: Space | Lowered,
    *,
    seed: int = 0,
    objectives: Sequence[Direction] = ("maximize",),
    budget: int | None = None,
    state: Mapping[str, Any] | None = None,
    evaluation_seconds: float | None = None,
) -> Optimizer:
    """An optimizer over `space`.

    Args:
        name: One of `names()`.
        space: The Variables and rules.
        seed: Everything asked is a function of the space, the seed and what was told.
        objectives: The direction, "maximize" or "minimize", of each number that is told.
        budget: Trials planned, when known; the random beginning is shorter for a short search.
        state: From `Optimizer.state()`: continues bit for bit. Everything else but the space is then the state's.
        evaluation_seconds: For "auto" alone: what one evaluation takes, when known.

    Raises:
        CoreError: DX3011 for an unknown name or settings, DX3012 when the state is not this optimizer's or does not
            fit the space.
    """
    if name not in _KINDS:
        raise CoreError("DX3011", f"no optimizer is named {name!r}", fix=f"choose one of {', '.join(_KINDS)}")
    if evaluation_seconds is not None and name != "auto":
        raise CoreError("DX3011", f"evaluation_seconds is for 'auto', not for {name!r}", fix="leave it out")
    module, _, kind = _KINDS[name].rpartition(".")
    optimizer = cast("type[Optimizer]", getattr(import_module(module), kind))
    from dspex.optimizers.warm import warm

    warm(optimizer)
    if state is not None:
        return optimizer.resume(space, state)
    if evaluation_seconds is not None:
        auto = cast("type[Auto]", optimizer)
        return auto(space, seed=seed, objectives=objectives, budget=budget, evaluation_seconds=evaluation_seconds)
    return optimizer(space, seed=seed, objectives=objectives, budget=budget)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
