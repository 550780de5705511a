"""The upward calls: the one file of this package that reaches higher ranks, each import inside its function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dspex.program.schema import Schema

if TYPE_CHECKING:
    from types import CoroutineType

    from dspex.compiler.compiled import Compiled
    from dspex.compiler.lower.lowering import Lowered
    from dspex.compiler.plan import Binding
    from dspex.executor.budget import BudgetAccount
    from dspex.executor.live import Stream
    from dspex.lm.model import LM, LanguageModel
    from dspex.lm.spend import Budget
    from dspex.program.context import Account
    from dspex.program.modules import Module
    from dspex.program.program import Program
    from dspex.program.space import Space

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741
P = TypeVar("P", bound="Program[Any, Any]")


def call_module(module: Module[I, O], x: I) -> CoroutineType[Any, Any, O]:
    """One call of one module under the current context."""
    from dspex.executor.modules import call_module as target

    return target(module, x)


def open_model(lm: LM) -> LanguageModel:
    """The model that `lm` names; nothing is sent."""
    from dspex.providers.open import open_model as target

    return target(lm)


def entered(budget: Budget | BudgetAccount, around: Account | None) -> tuple[Account, float | None]:
    """The account that a block spends from, and when its wall cap ends."""
    from dspex.executor.budget import entered as target

    return target(budget, around)


def run_plan(binding: Binding, x: Any) -> Awaitable[Any]:
    """The output of a compiled program for `x`, under the current context."""
    from dspex.executor.plan import run_plan as target

    return target(binding, x)


def run(program: Callable[[I], Awaitable[O]], x: I, timeout: float | None, budget: Budget | None) -> O:
    """Call `program` from synchronous code, inside a running loop or outside."""
    from dspex.executor.runner import run as target

    return target(program, x, timeout, budget)


def stream(program: Callable[[I], Awaitable[O]], x: I, timeout: float | None, budget: Budget | None) -> Stream[O]:
    """A run of `program`, read while it goes on."""
    from dspex.executor.live import Stream as target

    return target(program, x, timeout, budget)


def batch(
    program: Callable[[I], Awaitable[O]],
    xs: Iterable[I],
    on_error: str,
    concurrency: int | None,
    timeout: float | None,
    budget: Budget | None,
) -> list[Any]:
    """Call `program` on many inputs; outputs in the order of the inputs."""
    from dspex.executor.runner import batch as target

    return target(program, xs, on_error, concurrency, timeout, budget)  # pyright: ignore[reportArgumentType]


def batch_async(
    program: Callable[[I], Awaitable[O]],
    xs: Iterable[I],
    on_error: str,
    concurrency: int | None,
    timeout: float | None,
    budget: Budget | None,
) -> Awaitable[list[Any]]:
    """`batch`, awaited."""
    from dspex.executor.runner import batch_async as target

    return target(program, xs, on_error, concurrency, timeout, budget)  # pyright: ignore[reportArgumentType]


def optimize(program: P, data: Any, maximize: Any, **options: Any) -> P:
    """Search the program's Variables for the best score; returns the same class with the winner bound."""
    from dspex.study.loop import optimize as target

    return target(program, data, maximize, **options)


def optimize_async(program: P, data: Any, maximize: Any, **options: Any) -> Awaitable[P]:
    """`optimize`, awaited."""
    from dspex.study.loop import optimize_async as target

    return target(program, data, maximize, **options)


def compile(program: Program[I, O]) -> Compiled[I, O]:
    """The program's graph and flat parameter table."""
    from dspex.compiler import compile as target

    return target(program)


def lower(space: Space) -> Lowered:
    """The flat parameter table of a space."""
    from dspex.compiler.lower.lowering import lower as target

    return target(tuple(space.variables.values()), space.rules)


def sample(space: Space, n: int, seed: int) -> Sequence[dict[str, object]]:
    """`n` configurations that satisfy the rules, drawn by the core."""
    return lower(space).sample(n, seed)
