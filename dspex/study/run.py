"""One process's work on one study: from the proposals to the report, over what the log holds already."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from dspex.errors import DspexError, LMError, StudyError
from dspex.evaluation.statistics import FailurePolicy
from dspex.executor.budget import BudgetAccount, unpriced
from dspex.executor.models import Gate
from dspex.lm.model import LMLike
from dspex.lm.spend import Budget
from dspex.optimizers import create
from dspex.program.context import Context, current, within
from dspex.program.metric import Metric
from dspex.program.program import Program
from dspex.study.evaluations import Evaluations
from dspex.study.finals import Finals
from dspex.study.journal import StudyJournal, StudyLog
from dspex.study.ledger import Caps, Ledger
from dspex.study.plan import FINALISTS, Plan
from dspex.study.preparation import frozen_by, gates_of, lm_of, shares_of, width_of, with_pools
from dspex.study.progress import Left, Phase, Progress, Watcher
from dspex.study.proposing import Proposing
from dspex.study.report import Failure, Report
from dspex.study.resume import POSITIONED, UNREACHABLE, History
from dspex.study.search import Search
from dspex.study.stop import StopToken
from dspex.study.strategy import ModuleNames, Seeds
from dspex.study.study import Study
from dspex.telemetry.events import ContentMode, Json, StudyCreated, StudyFinished, StudyStopped

MOST_FINAL_TIME = 0.5
"""Share of a wall cap that is kept for the final evaluation at most."""


@dataclass
class Options:
    """What a caller may choose, beside program, data and metric."""

    budget: Budget
    seed: int = 0
    strategy: str = "auto"
    held_out: Any = None
    lm: LMLike | None = None
    proposer_lm: LMLike | None = None
    on_failure: FailurePolicy = "worst"
    content: ContentMode = "full"
    concurrency: int | None = None
    stop: StopToken = field(default_factory=StopToken)
    progress: Watcher | None = None
    origin: Mapping[str, Json] = field(default_factory=lambda: cast("dict[str, Json]", {}))


class StudyRun:
    """One process's work on one study."""

    def __init__(
        self,
        program: Program[Any, Any],
        metric: Metric[Any, Any],
        modules: list[ModuleNames],
        plan: Plan[Any, Any],
        options: Options,
        log: StudyLog,
        history: History,
        created: StudyCreated,
        changed: bool,
    ) -> None:
        self.program = program
        self.metric = metric
        self.modules = modules
        self.plan = plan
        self.options = options
        self.log = log
        self.history = history
        self.created = created
        self.changed = changed
        self.began = time.monotonic()
        self.phase: Phase = "split"
        self.best: float | None = None
        self.message = ""
        self.warnings: list[str] = [*plan.split.notices]
        self.lm: LMLike | None = None
        self.gates: dict[str, Gate] = {}
        self.journal = StudyJournal(log, history)
        # What a crash left in doubt may have been paid; the cap yields by that much, or the study could not end.
        self.account = BudgetAccount(
            _widened(options.budget, history),
            settled=history.settled + history.refused,
            uncertain=history.uncertain,
            parent=current().account,
        )
        self.evaluations: Evaluations[Any, Any] | None = None
        self.search: Search[Any, Any] | None = None

    @property
    def seconds(self) -> float:
        """Working seconds of this process and of earlier ones."""
        return self.history.seconds + time.monotonic() - self.began

    async def result(self) -> Any:
        """Work to the end; what is in flight is cancelled when the stop token says so."""
        work = asyncio.ensure_future(self._work())
        loop = asyncio.get_running_loop()
        stop = self.options.stop
        timers: list[asyncio.TimerHandle] = []

        def told() -> None:
            if stop.cancelled:
                work.cancel()
            elif stop.reason is not None and not timers:
                timers.append(loop.call_later(stop.grace, work.cancel))

        def listen() -> None:
            loop.call_soon_threadsafe(told)

        remove = stop.listen(listen)
        try:
            return await work
        except asyncio.CancelledError:
            if stop.reason is None:
                self._stopped("interrupted", "cancelled")
                raise
            return self._finish("interrupted", stop.reason)
        except DspexError as error:
            self._failed(error)
            raise
        finally:
            remove()
            for timer in timers:
                timer.cancel()
            if not work.done():
                work.cancel()

    async def open_models(self) -> None:
        """Open every model that the program may call; a study that has none is not begun.

        Raises:
            NoLMError: DX4001: no model was chosen.
            BudgetExceeded: DX4503: dollars are capped and a model has no known price.
        """
        self.lm = self.options.lm or current().lm or lm_of(self.program)
        self.gates = await gates_of(self.program, self.lm, self.options.proposer_lm)
        budget = self.options.budget
        if budget.usd is not None and budget.unpriced == "refuse":
            for name, gate in self.gates.items():
                if gate.price is None:
                    raise unpriced(budget, name)

    async def _work(self) -> Any:
        lm, gates = self.lm, self.gates
        outer = current()
        # Studies that share a model's limits take turns, unless the caller says for whom they work.
        context = Context(
            lm,
            (),
            self.account,
            self.journal,
            priority=outer.priority,
            tenant=outer.tenant or self.log.study,
            ledgers=outer.ledgers,
        )
        if self.history.finished is not None:
            return await self._recorded(context, gates)
        with within(context):
            search = await self._prepared(gates)
        with within(context.replace(account=self._search_account(search))):
            self._now("search")
            await search.run()
            evaluations = cast("Evaluations[Any, Any]", self.evaluations)
            halt = evaluations.halt
            if halt.reason in POSITIONED and self.history.stop is None:
                self.log.note(StudyStopped(halt.reason, len(search.candidates), halt.position, halt.message))
            if halt.reason == "interrupted":
                return self._finish("interrupted", halt.message)
        with within(context.replace(account=self.account)):
            self._now("held-out")
            finals = Finals(search, evaluations, self.plan, self.options.seed)
            await finals.run()
            if evaluations.halt.reason == "interrupted":
                return self._finish("interrupted", evaluations.halt.message)
            await finals.judge_baselines(self.metric)
            return self._finish("complete" if finals.complete else "partial", self._reason(search), finals)

    def _search_account(self, search: Search[Any, Any]) -> BudgetAccount:
        """The part of the account that failed attempts and retries may use up: not the final evaluation's.

        It must not bind before the ledger does, which decides in logical order.
        """
        calls = _widened(self.options.budget, self.history).calls
        budget = Budget() if calls is None else Budget(calls=max(1, calls - search.aside.least))
        return BudgetAccount(
            budget, settled=self.account.settled, uncertain=self.account.uncertain, parent=self.account
        )

    async def _prepared(self, gates: Mapping[str, Gate]) -> Search[Any, Any]:
        """Pools filled, space frozen where the models have no choice, and the search over it."""
        from dspex.optimizers.tpe import TPE
        from dspex.optimizers.warm import warm

        warm(TPE)
        options, plan = self.options, self.plan
        wall = options.budget.wall_seconds
        evaluations = self.evaluations = Evaluations[Any, Any](
            self.metric,
            self.log,
            self.journal,
            self.history,
            Ledger(Caps.of(options.budget)),
            {name: gate.price for name, gate in gates.items()},
            options.stop,
            width_of(gates, options.concurrency),
            options.on_failure,
            changed=self.changed,
            notice=self._step,
        )
        if wall is not None:
            final_share = FINALISTS * len(plan.held_out) / (FINALISTS * len(plan.held_out) + 4 * len(plan.validation))
            left = (wall - self.history.seconds) * (1 - min(MOST_FINAL_TIME, final_share))
            evaluations.deadline = self.began + max(0.0, left)
        self._now("propose")
        frozen = frozen_by(gates, self.program, self.modules)
        first = Search(self.program, None, frozen, self.modules, [], plan.validation, len(plan.held_out), evaluations)
        first.aside.hold([first.default])
        contexts = [g.capabilities.context_tokens for g in gates.values() if g.capabilities.context_tokens is not None]
        proposing = Proposing(
            first.default,
            self.modules,
            tuple(plan.split.train),
            evaluations,
            seed=options.seed,
            context_tokens=min(contexts) if contexts else None,
            writer_lm=options.proposer_lm,
            affordable=evaluations.ledger.evaluations_left(evaluations.upper(first.default)),
        )
        await proposing.run(self._say)
        self.warnings += proposing.notes
        program = with_pools(self.program, proposing.groups, self.log, self.history, changed=self.changed)
        space = program.space.freeze(frozen) if frozen else program.space
        seeds = Seeds(program.space, dict(program.config), self.modules, proposing.groups, frozen).all()
        kind = "tpe" if options.strategy == "auto" else options.strategy
        optimizer = create(kind, space, seed=options.seed) if len(space) else None
        search = Search(
            program,
            optimizer,
            frozen,
            self.modules,
            seeds,
            plan.validation,
            len(plan.held_out),
            evaluations,
            shares=shares_of(self.program, self.plan.split.train),
            watch=self._say,
        )
        self.search = search
        return search

    async def _recorded(self, context: Context, gates: Mapping[str, Gate]) -> Any:
        """The result of a finished study: only its pools are made again, out of answers that are paid for."""
        finished = cast(StudyFinished, self.history.finished)
        with within(context):
            search = await self._prepared(gates)
        config: dict[str, object] = {}
        for name, variable in search.program.space.variables.items():
            value = finished.best[name]
            if variable.kind in ("text", "demos"):
                config[name] = variable.options[cast(int, value)]
            elif variable.kind != "computed":
                config[name] = variable.from_json(value)
        return self._bound(search.program.bind(config), Report.from_json(finished.report), search)

    # --- the end --------------------------------------------------------------------------------

    def _reason(self, search: Search[Any, Any]) -> str:
        evaluations = cast("Evaluations[Any, Any]", self.evaluations)
        return {
            None: "the space is exhausted" if search.exhausted else "the budget is used",
            "budget": "the budget is used",
            "account": "the budget is used, repeats and retries included",
            "wall": "the time is over",
        }.get(evaluations.halt.reason, evaluations.halt.message)

    def _finish(self, status: Any, reason: str, finals: Finals[Any, Any] | None = None) -> Any:
        search = self.search
        if search is None:
            report = self._report(status, reason, None, None)
            self._stopped("interrupted", reason)
            return self._bound(self.program, report, None)
        winner = search.winner()
        report = self._report(status, reason, search, finals)
        if status in ("complete", "partial"):
            kept = report
            if self.log.content != "full":
                variables = search.program.space.variables.values()
                kept = report.without_texts([v.name for v in variables if v.kind in ("text", "demos")])
            self.log.commit_now(StudyFinished(search.indexed(winner.config), kept.as_json()))
            self.log.store.flush()
        else:
            self._stopped("interrupted", reason)
        return self._bound(winner.program, report, search)

    def _bound(self, program: Program[Any, Any], report: Report, search: Search[Any, Any] | None) -> Any:
        best = program.bind({})
        trials = () if search is None else search.trials()
        object.__setattr__(best, "study", Study(self.log.study, report, trials, self.log.store))
        return best

    def _report(
        self, status: Any, reason: str, search: Search[Any, Any] | None, finals: Finals[Any, Any] | None
    ) -> Report:
        journal, account, evaluations = self.journal, self.account, self.evaluations
        spent = journal.settled_spend
        report = Report(
            study=self.log.study,
            seed=self.options.seed,
            strategy=self.options.strategy,
            status=status,
            stopped_because=reason,
            calls=spent.calls,
            attempts=journal.attempts,
            tokens=spent.tokens,
            usd=spent.usd,
            seconds=self.seconds,
            cache_hits=0 if evaluations is None else evaluations.cache_hits,
            failures=dict(sorted(journal.failures.items())),
            repeats_after_crash=journal.repeats,
            settled=spent,
            uncertain=account.uncertain,
            splits=self.plan.described(),
            versions=dict(self.created.versions),
            warnings=tuple(self.warnings),
        )
        if search is None:
            return report
        if finals is None:
            finals = Finals(search, cast("Evaluations[Any, Any]", evaluations), self.plan, self.options.seed)
        return finals.filled(report)

    def _stopped(self, reason: str, message: str) -> None:
        # Whoever ends a study because its log cannot be written cannot log that.
        with contextlib.suppress(StudyError):
            trials = 0 if self.search is None else len(self.search.candidates)
            self.log.commit_now(StudyStopped(reason, trials, 0, message))
            self.log.store.flush()

    def _failed(self, error: DspexError) -> None:
        """Say in the log how the study ended, and put the report at the error."""
        down = error.code == "DX6211" or isinstance(error, LMError)
        self._stopped(UNREACHABLE if down else "failed", f"{error.code} {error.message}")
        report = self._report("failed", error.message, self.search, None)
        failure = Failure(error.code, error.message, error.fix)
        error.__dict__["study"] = self.log.study
        error.__dict__["report"] = _with_error(report, failure)

    # --- progress -------------------------------------------------------------------------------

    def _now(self, phase: Phase) -> None:
        self.phase = phase
        self._step()

    def _say(self, message: str) -> None:
        self.message = message
        if self.options.progress is not None and self.search is not None:
            best = self.search.ranked()[0]
            scores = self.search.scores(best)
            self.best = sum(scores) / len(scores) if scores else None
        self._step()

    def _step(self) -> None:
        watch, evaluations = self.options.progress, self.evaluations
        if watch is None:
            return
        spent, budget = self.journal.settled_spend, self.options.budget
        elapsed = self.seconds
        left = Left(
            None if budget.calls is None else max(0, budget.calls - spent.calls),
            None if budget.tokens is None else max(0, budget.tokens - spent.tokens),
            None if budget.usd is None or spent.usd is None else max(0.0, budget.usd - spent.usd),
            None if budget.wall_seconds is None else max(0.0, budget.wall_seconds - elapsed),
        )
        done = 0 if evaluations is None else evaluations.done
        total = None
        if evaluations is not None and budget.calls is not None:
            used = evaluations.ledger.spent.calls
            total = done + max(0, budget.calls - used)
        eta = elapsed * (total - done) / spent.calls if total is not None and spent.calls else left.wall
        hits = 0 if evaluations is None else evaluations.cache_hits
        watch(Progress(self.log.study, self.phase, done, total, self.best, spent, left, eta, hits, self.message))


def _with_error(report: Report, failure: Failure) -> Report:
    return dataclasses.replace(report, error=failure)


def _widened(budget: Budget, history: History) -> Budget:
    """The budget as the account holds it: without the time, and wider by what a crash left in doubt."""
    doubt = history.crashed
    return Budget(
        None if budget.calls is None else budget.calls + doubt.calls + history.unread,
        None if budget.tokens is None else budget.tokens + doubt.tokens,
        None if budget.usd is None else budget.usd + (doubt.usd or 0.0),
        unpriced=budget.unpriced,
    )
