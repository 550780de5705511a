"""A study from beginning to end: split, propose, search, evaluate on held-out examples, report.

Resuming runs the same thing again over what the log holds, see `resume.py`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from dspex._version import __version__
from dspex.errors import StudyError
from dspex.evaluation.dataset import Dataset, load
from dspex.evaluation.statistics import FAILURE_POLICIES, FailurePolicy
from dspex.executor.runner import wait_for
from dspex.lm.model import LMLike
from dspex.lm.spend import Budget, check_budget
from dspex.optimizers import names
from dspex.program.demos import content_hash
from dspex.program.metric import Metric, MetricLike, as_metric
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.program.variables import Var
from dspex.settings import setting
from dspex.stores.protocol import EventStore
from dspex.study.journal import StudyLog
from dspex.study.plan import Plan, make_plan
from dspex.study.progress import Watcher
from dspex.study.resume import History, check
from dspex.study.run import Options, StudyRun
from dspex.study.stop import StopToken
from dspex.study.strategy import ModuleNames, calls_per_example
from dspex.telemetry.events import (
    ContentMode,
    Json,
    StudyCreated,
    StudyResumed,
    content_mode,
)

__all__ = ["StopToken", "optimize", "optimize_async", "resume", "resume_async"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741
P = TypeVar("P", bound="Program[Any, Any]")
Q = ParamSpec("Q")
R = TypeVar("R")


async def optimize_async(
    program: P | type[P],
    data: Dataset[I, O] | Iterable[Any],
    maximize: MetricLike[I, O],
    *,
    budget: Budget | None = None,
    seed: int = 0,
    strategy: str = "auto",
    held_out: Dataset[I, O] | Iterable[Any] | None = None,
    lm: LMLike | None = None,
    proposer_lm: LMLike | None = None,
    store: EventStore | None = None,
    study_id: str | None = None,
    on_failure: FailurePolicy = "worst",
    content: ContentMode | None = None,
    concurrency: int | None = None,
    stop: StopToken | None = None,
    progress: Watcher | None = None,
    origin: Mapping[str, Json] | None = None,
) -> P:
    """Search a program's Variables for the best metric; returns the same class with the winner bound.

    Args:
        program: An instance, whose configuration is the one to beat, or a class.
        data: Examples, or rows for `dspex.load`; divided into train, validation and held-out parts.
        maximize: A function of (got, want), or a `dx.metric`.
        budget: Caps on everything that the study spends, held-out evaluations included. At least one is needed.
        seed: Everything random follows from it: equal seeds give equal results, whatever the concurrency.
        strategy: ``auto`` (TPE with paired racing), or the name of another optimizer in its place.
        held_out: A held-out part of one's own.
        lm: The model of modules that name none.
        proposer_lm: The model that writes instructions; the program's by default.
        store: Where events go; a file in `dspex.settings.home` by default.
        study_id: Name of the study; a new one by default.
        on_failure: What a failed example counts as: ``worst`` (0, or the lowest score if that is below 0), ``exclude``,
            or ``stop``.
        content: What the log keeps of prompts and answers: ``full``, ``hash`` or ``off``.
        concurrency: Evaluations in flight at most; the model's own limit by default.
        stop: Ends the study early.
        progress: Called after each step.
        origin: Import paths of program, data and metric, for `dspex study resume`.

    Returns:
        The program with the winning configuration; its `study` holds the report.

    Raises:
        DataError: The data are too few or not sound.
        StudyError: DX6203: the budget is missing or too small; DX6211 to DX6214: nothing can be evaluated; DX6101 to
            DX6104: the log cannot be written. What was bought stays in the log, and the study can be resumed.
    """
    check_budget(budget)
    options = Options(
        budget if budget is not None else Budget(),
        _seed(seed),
        _strategy(strategy),
        held_out,
        lm,
        proposer_lm,
        _policy(on_failure),
        content_mode(content or setting("content") or "full"),
        concurrency,
        stop or StopToken(),
        progress,
        origin or {},
    )
    name = study_id or f"{time.strftime('%Y%m%d')}-{secrets.token_hex(4)}"
    return await _study(program, data, maximize, name, options, store, resumed=False)


async def resume_async(
    study_id: str,
    program: P | type[P],
    data: Dataset[I, O] | Iterable[Any],
    maximize: MetricLike[I, O],
    *,
    held_out: Dataset[I, O] | Iterable[Any] | None = None,
    budget: Budget | None = None,
    lm: LMLike | None = None,
    proposer_lm: LMLike | None = None,
    store: EventStore | None = None,
    accept_changes: bool = False,
    concurrency: int | None = None,
    stop: StopToken | None = None,
    progress: Watcher | None = None,
) -> P:
    """Take up a study that ended early, or give the result of one that is finished.

    What was paid for is not bought again, and the result is the one that the uninterrupted study would have had.

    Args:
        study_id: Its name in the store.
        program: As when it began; so are `data`, `maximize` and `held_out`.
        budget: Another budget than it began with.
        accept_changes: Go on although program, data, metric or versions differ.

    Raises:
        StudyError: DX6201: there is no such study; DX6105: another process works on it.
        ResumeRefused: DX6202: something differs; the message says what.
    """
    check_budget(budget)
    opened = store if store is not None else _default_store()
    history = History.read(opened, study_id)
    created = cast(StudyCreated, history.created)
    recorded = created.details.get("options")
    known: Mapping[str, Json] = recorded if isinstance(recorded, Mapping) else {}
    options = Options(
        budget if budget is not None else Budget(**cast("dict[str, Any]", dict(created.budget))),
        created.seed,
        created.strategy,
        held_out,
        lm,
        proposer_lm,
        _policy(cast(FailurePolicy, known.get("on_failure", "worst"))),
        content_mode(str(known.get("content", "full"))),
        concurrency,
        stop or StopToken(),
        progress,
        cast("Mapping[str, Json]", created.details.get("origin") or {}),
    )
    return await _study(
        program,
        data,
        maximize,
        study_id,
        options,
        opened,
        resumed=True,
        accept_changes=accept_changes,
        rebudgeted=budget is not None,
    )


def _synchronous(function: Callable[Q, Coroutine[Any, Any, R]]) -> Callable[Q, R]:
    """`function` from synchronous code, inside a running loop too."""

    @functools.wraps(function)
    def waiting(*args: Q.args, **kwargs: Q.kwargs) -> R:
        return wait_for(lambda: function(*args, **kwargs))

    return waiting


optimize = _synchronous(optimize_async)
resume = _synchronous(resume_async)


def _default_store() -> EventStore:
    from dspex.stores.sqlite import SqliteEventStore

    return SqliteEventStore()


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise StudyError(
            "DX6210", f"a seed is a whole number, got {value!r:.80}", where="seed", fix="for example seed=0"
        )
    return value


def _strategy(name: str) -> str:
    if name not in names():
        raise StudyError("DX6205", f"a strategy is one of {', '.join(names())}, got {name!r}", where="strategy")
    return name


def _policy(name: FailurePolicy) -> FailurePolicy:
    if name not in FAILURE_POLICIES:
        raise StudyError(
            "DX6206", f"on_failure is one of {', '.join(FAILURE_POLICIES)}, got {name!r}", where="on_failure"
        )
    return name


async def _study(
    program: P | type[P],
    data: Any,
    maximize: Any,
    name: str,
    options: Options,
    store: EventStore | None,
    *,
    resumed: bool,
    accept_changes: bool = False,
    rebudgeted: bool = False,
) -> P:
    instance: P = program() if isinstance(program, type) else program
    instance.dx_check_rules()
    given, wanted = instance.input_schema, instance.output_schema
    dataset: Dataset[Any, Any] = load(data, given, wanted)
    theirs = None if options.held_out is None else load(options.held_out, given, wanted)
    metric = as_metric(maximize, given, wanted)
    modules = [ModuleNames.of(module, instance.space) for module in instance.modules().values()]
    each = calls_per_example(instance, instance.config, modules)
    plan = make_plan(dataset, theirs, options.budget, options.seed, each)
    opened = store if store is not None else _default_store()
    with opened.lock(name):
        # The log is read only now: before the lock was ours, another process may have been writing.
        history = History.of(opened.read(name)) if resumed else History()
        created = _created(name, instance, dataset, theirs, metric, options, plan)
        accepted: tuple[str, ...] = ()
        log = StudyLog(opened, name, options.content)
        if resumed:
            accepted = check(cast(StudyCreated, history.created), created, accept_changes)
            if accepted or rebudgeted:
                history.stop = history.finished = None
        else:
            _refuse_existing(opened, name)
        run = StudyRun(instance, metric, modules, plan, options, log, history, created, bool(accepted))
        await run.open_models()
        if history.finished is None:
            if resumed:
                log.commit_now(StudyResumed(os.getpid(), history.in_flight, accepted))
            else:
                log.commit_now(created)
        return await run.result()


def _refuse_existing(store: EventStore, name: str) -> None:
    if name in store.streams():
        raise StudyError(
            "DX6207",
            f"the store holds a study {name!r} already",
            where=name,
            fix=f"dspex study resume {name}, or choose another study_id",
        )


def _created(
    name: str,
    program: Program[Any, Any],
    data: Dataset[Any, Any],
    held_out: Dataset[Any, Any] | None,
    metric: Metric[Any, Any],
    options: Options,
    plan: Plan[Any, Any],
) -> StudyCreated:
    budget = options.budget
    caps: dict[str, Json] = {
        key: value
        for key, value in (
            ("calls", budget.calls),
            ("tokens", budget.tokens),
            ("usd", budget.usd),
            ("wall", budget.wall),
            ("unpriced", "allow" if budget.unpriced == "allow" else None),
        )
        if value is not None
    }
    program_parts: dict[str, Json] = {
        variable.name: _signature(variable, options.content) for variable in program.variables().values()
    }
    rows: dict[str, Json] = {"rows": len(data), "hash": data.hash[:12]}
    if held_out is not None:
        rows["held_out"] = f"{len(held_out)} rows {held_out.hash[:12]}"
    return StudyCreated(
        name,
        program.identity(),
        data.hash + ("" if held_out is None else held_out.hash),
        metric.identity(),
        options.seed,
        options.strategy,
        versions(),
        caps,
        plan.split.hashes,
        {
            "program": {"class": f"{type(program).__module__}:{type(program).__qualname__}", **program_parts},
            "data": rows,
            "metric": {"name": metric.name},
            "options": {"on_failure": options.on_failure, "content": options.content},
            "origin": dict(options.origin),
        },
    )


def _signature(variable: Var[Any], content: ContentMode) -> str:
    """What a Variable is, for the difference that a refused resume shows; a pool's texts only where they may stand."""
    text = variable.signature()
    return text[:300] if content == "full" else f"{variable.kind} {content_hash(text)[:12]}"


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"dspex": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("numpy", "numba", "pydantic"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
