"""A program on a whole data set: the outcome of every row, and what they say together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dspex.errors import BudgetExceeded, CompileError, DataError, UsageError
from dspex.evaluation.dataset import Dataset, Example, Rows, load
from dspex.evaluation.evaluator import Outcome, outcome_of
from dspex.evaluation.statistics import FAILURE_POLICIES, FailurePolicy, Interval, counted, interval
from dspex.executor.batches import Batches
from dspex.executor.call import TOO_LATE
from dspex.executor.models import gate_for
from dspex.executor.runner import DEFAULT_CONCURRENCY, wait_for
from dspex.lm.spend import NOTHING, Budget, Spend
from dspex.program.context import current, resolve_lm, using
from dspex.program.metric import MetricLike, as_metric
from dspex.program.program import Program
from dspex.program.schema import Schema

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.executor.budget import BudgetAccount
    from dspex.lm.model import LMLike
    from dspex.telemetry.events import Json

__all__ = ["Evaluation", "evaluate", "evaluate_async"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

_CAP = "DX4502"


@dataclass(frozen=True, slots=True)
class Evaluation(Generic[I, O]):
    """What a data set gave.

    Attributes:
        dataset: The rows.
        outcomes: One a row, in order.
        score: Their mean with its 95 % interval; None where no row counts.
    """

    dataset: Dataset[I, O]
    outcomes: tuple[Outcome[O], ...]
    score: Interval | None

    @property
    def spent(self) -> Spend:
        """What all calls cost; what was known already cost nothing."""
        return sum((outcome.spent for outcome in self.outcomes), NOTHING)

    @property
    def failures(self) -> list[tuple[Example[I, O], Outcome[O]]]:
        """The rows without a score, each with its reason."""
        rows = zip(self.dataset, self.outcomes, strict=True)
        return [(example, outcome) for example, outcome in rows if outcome.score is None]

    def rows(self) -> list[dict[str, Json]]:
        """One JSON object a row: where it stands, its score, output and cost, or why there is none."""
        return [_row(example.where, outcome) for example, outcome in zip(self.dataset, self.outcomes, strict=True)]

    def __str__(self) -> str:
        """A summary for people: the score, and how often which failure occurred."""
        found = self.score
        lines = ["no score" if found is None else f"{found.mean:.4g} [{found.low:.4g}, {found.high:.4g}]"]
        lines[0] += f" over {0 if found is None else found.n} of {len(self.outcomes)} rows"
        reasons: dict[str, list[Example[I, O]]] = {}
        for example, outcome in self.failures:
            reasons.setdefault(f"{outcome.code} {outcome.failure}", []).append(example)
        for reason, examples in sorted(reasons.items(), key=lambda item: -len(item[1])):
            lines.append(f"  {len(examples)} failed, first {examples[0].where}: {reason}")
        return "\n".join(lines)


def _row(where: str, outcome: Outcome[Any]) -> dict[str, Json]:
    got: Mapping[str, Json] | None = None if outcome.got is None else outcome.got.model_dump(mode="json")
    spent = outcome.spent
    return {
        "where": where,
        "score": outcome.score,
        "error": None if outcome.code is None else {"code": outcome.code, "message": outcome.failure},
        "output": got,
        "calls": spent.calls,
        "tokens": spent.tokens,
        "usd": spent.usd,
    }


async def evaluate_async(
    program: Program[I, O] | Compiled[I, O],
    data: str | Path | Rows[I, O],
    metric: MetricLike[I, O],
    *,
    lm: LMLike | None = None,
    budget: Budget | BudgetAccount | None = None,
    concurrency: int | None = None,
    on_failure: FailurePolicy = "worst",
    batch: Batches | str | Path | None = None,
    seed: int = 0,
) -> Evaluation[I, O]:
    """Run `program` on every row of `data` and score what it gives.

    With `batch` the calls of all rows gather, and go to the provider as batches: for half the price, within a day. Run
    again with the same folder, after the process ended or rows failed, the batches that were handed in are taken up,
    and only what has no answer is handed in. See `Batches`.

    Args:
        program: Compiled or not.
        data: A file, or rows; see `dspex.evaluation.dataset.load`.
        metric: Of the output and the wanted one.
        lm: The model of whatever names none itself.
        budget: Caps on what the evaluation may spend.
        concurrency: Rows in work at once; 64, and with `batch` all of them.
        on_failure: What a row without a score counts as: the worst score (0, or the lowest seen if that is less),
            nothing (``exclude``), or the end of the evaluation (``stop``).
        batch: Folder of the batches, or all settings of them.
        seed: Of the interval's bootstrap.

    Raises:
        CompileError: DX2008: `program` is none.
        ProgramError: DX1520, DX1521: the metric is none, or one for other schemas.
        DataError: DX5101 to DX5112: the data; DX5323: `on_failure` is unknown.
        UsageError: DX8103: `concurrency` is less than 1; DX4711: a model has no batch endpoint; DX4716: a setting of
            the batches.
        BudgetExceeded: A cap would be broken. With `batch` the calls of all rows are reserved together.
        DspexError: What concerns every row: no model, a log that cannot be written; with ``stop`` the first failure.
    """
    judge = _judge(program, metric)
    dataset = load(data, program.input_schema, program.output_schema)
    if on_failure not in FAILURE_POLICIES:
        raise DataError("DX5323", f"a failure policy is one of {', '.join(FAILURE_POLICIES)}, got {on_failure!r}")
    if concurrency is not None and concurrency < 1:
        raise UsageError("DX8103", f"concurrency is at least 1, got {concurrency}")
    batches = batch if batch is None or isinstance(batch, Batches) else Batches(batch)
    width = concurrency or (DEFAULT_CONCURRENCY if batches is None else len(dataset))
    with using(lm=lm, budget=budget):
        async with nullcontext() if batches is None else batches.deferring() as deferral:
            if deferral is not None:
                for model in _models(program):
                    deferral.gate(await gate_for(model))
            try:
                outcomes = await _outcomes(program, dataset, judge, width, on_failure == "stop")
            except BudgetExceeded as error:
                if deferral is not None and error.code == _CAP:
                    error.fix = (
                        "raise the cap: all calls that wait are reserved, each at its upper bound, and a lower "
                        "concurrency lets fewer wait; what was handed in is taken up with the same folder"
                    )
                raise
    scores = [outcome.score for outcome in outcomes]
    worst = min((score for score in scores if score is not None), default=0.0)
    counts = counted(scores, on_failure, worst=min(0.0, worst))
    return Evaluation(dataset, tuple(outcomes), interval(counts, seed=seed) if counts else None)


def _judge(program: Program[I, O] | Compiled[I, O], metric: MetricLike[I, O]) -> MetricLike[I, O]:
    """The metric, checked before anything is paid for."""
    given: object = program
    if isinstance(given, type) or not hasattr(given, "input_schema"):
        name = given.__name__ if isinstance(given, type) else type(given).__name__
        raise CompileError(
            "DX2008",
            f"evaluate takes a program, got {'the class' if isinstance(given, type) else 'an object of'} {name}",
            fix="make an instance first, or write a dx.Program around it",
        )
    if not isinstance(program, Program) and program.code.rebuilt:
        # Its schemas are not the classes that the metric's annotations name.
        return metric
    return as_metric(metric, program.input_schema, program.output_schema)


def _models(program: Program[Any, Any] | Compiled[Any, Any]) -> list[LMLike]:
    """Every model that the program may call."""
    if isinstance(program, Program):
        settings = [module.settings for module in program.modules().values()]
    else:
        settings = list(program.settings.values())
    return [resolve_lm(one.lm, one.path) for one in settings]


async def _outcomes(
    program: Program[I, O] | Compiled[I, O],
    dataset: Sequence[Example[I, O]],
    metric: MetricLike[I, O],
    width: int,
    stops: bool,
) -> list[Outcome[O]]:
    rows = enumerate(dataset)
    account = current().account
    outcomes: dict[int, Outcome[O]] = {}

    async def work() -> None:
        # Workers draw from one iterator: as many tasks as may run, not as many as there are rows.
        for place, example in rows:
            outcome = outcomes[place] = await outcome_of(program, example, metric)
            if outcome.code == TOO_LATE and account is not None:
                # The end of a budget's time is no failure of the rows that it found in the air.
                account.reserve(NOTHING).release()
            if stops and outcome.error is not None:
                raise outcome.error

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(width, len(dataset))):
                group.create_task(work())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [outcomes[place] for place in range(len(dataset))]


def evaluate(
    program: Program[I, O] | Compiled[I, O],
    data: str | Path | Rows[I, O],
    metric: MetricLike[I, O],
    *,
    lm: LMLike | None = None,
    budget: Budget | BudgetAccount | None = None,
    concurrency: int | None = None,
    on_failure: FailurePolicy = "worst",
    batch: Batches | str | Path | None = None,
    seed: int = 0,
) -> Evaluation[I, O]:
    """`evaluate_async`, from synchronous code."""
    return wait_for(
        lambda: evaluate_async(
            program,
            data,
            metric,
            lm=lm,
            budget=budget,
            concurrency=concurrency,
            on_failure=on_failure,
            batch=batch,
            seed=seed,
        )
    )
