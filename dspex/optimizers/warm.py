"""Has the kernels of an optimizer compiled in the background, before a search needs them."""

from __future__ import annotations

import threading
from typing import Final

from dspex.core import exercise, jit
from dspex.core.native import library, stamp
from dspex.optimizers.optimizer import Direction, Optimizer
from dspex.optimizers.racing import Race
from dspex.program.space import Space
from dspex.program.variables import Bool, Choice, Float, Int

_TRIALS: Final = 24
_threads: Final[dict[str, threading.Thread | None]] = {}
_starting: Final = threading.Lock()


def warm(kind: type[Optimizer]) -> threading.Thread | None:
    """Have everything compiled that a study with this kind of optimizer calls.

    Returns:
        The thread that does it, the same for later calls; None where all of it is compiled already.
    """
    with _starting:
        if kind.name not in _threads:
            _threads[kind.name] = None if _is_ready(kind.name) else _start(kind)
        return _threads[kind.name]


def _is_ready(name: str) -> bool:
    """Whether libraries hold everything that exercising this kind called the last time."""
    if not jit.ENABLED or jit.BOUNDSCHECK:
        return True
    shipped = library.shipped()
    if shipped is not None and all(shipped.serves(each.module) for each in jit.REGISTRY.values()):
        return True
    place = stamp.folder("native")
    noted = None if place is None else place / f"{name}.txt"
    if noted is None or not noted.exists():
        return False
    called = [jit.REGISTRY.get(each) for each in noted.read_text().split()]
    return all(
        each is not None and (path := library.cached(each.name, each.module)) and path.exists() for each in called
    )


def _start(kind: type[Optimizer]) -> threading.Thread:
    def run() -> None:
        search(kind)
        exercise.statistics()
        if jit.ending():
            return
        place = stamp.folder("native")
        if place is not None:
            called = [each.name for each in jit.REGISTRY.values() if each.called]
            library.write(place / f"{kind.name}.txt", "\n".join(called).encode())

    return jit.aside(run, f"dspex-warm-{kind.name}")


def search(kind: type[Optimizer]) -> None:
    """Let an optimizer of this kind search tiny spaces, with one objective and with several; results do not matter."""
    mode, k, share = Choice("mode", ("a", "b", "c")), Int("k", 1, 64, log=True), Float("share", 0.0, 1.0)
    rate = Float("rate", 1e-3, 1.0, log=True, when=mode.is_("b"))
    part, flag = Float("part", 0.0, 1.0, step=0.25, when=k >= 2), Bool("flag")
    mixed = Space([mode, k, share, rate, part, flag], rules=[share + part <= 1.5])
    for objectives in range(1, 4):
        _search(kind, mixed, ("minimize", "maximize", "minimize")[:objectives])
    _search(kind, Space([mode, flag]), ("minimize",))


def _search(kind: type[Optimizer], space: Space, objectives: tuple[Direction, ...]) -> None:
    optimizer = kind(space, objectives=objectives, budget=_TRIALS)
    for number in range(_TRIALS // 2):
        if jit.ending():
            return
        for candidate in optimizer.ask(2):
            score = float(candidate.config["flag"]) - 0.1 * (number % 5)
            # Numbers of examples at first, then variances.
            noise = 20 if number < _TRIALS // 3 else 0.01
            optimizer.tell(candidate, [score + part for part in range(len(objectives))], noise=noise)
    optimizer.fail(optimizer.ask())
    optimizer.ask()
    optimizer.recommend()
    optimizer.front()


def race() -> None:
    """Run tiny races by every policy; the results do not matter."""
    for policy in ("halving", "hyperband", "top-two"):
        running = Race(range(4), 12, budget=40, policy=policy, gate=0.1)
        while pairs := running.next(2):
            for candidate, example in pairs:
                running.report(candidate, example, (candidate + example % 3) / 6)
        running.posterior(64)
        running.winner()
