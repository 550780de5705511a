"""The search: brackets of candidates raced over validation examples, and what is believed of each afterwards.

A bracket begins with many candidates on few examples; the better half goes on to twice as many. Results are
told to the optimizer, whose candidates fill the next bracket together with the best so far. Every decision is
a function of the seed, the results in logical order and the logical budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar

from dspex.errors import StudyError
from dspex.evaluation.dataset import Example
from dspex.lm.spend import NOTHING, Spend
from dspex.optimizers.optimizer import Optimizer
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.study.aside import Aside
from dspex.study.bracket import Bracket, Races, entrants_for
from dspex.study.calibration import fitted_prior
from dspex.study.evaluations import Candidate, Evaluations, Job
from dspex.study.ledger import scaled
from dspex.study.plan import AMPLE, FIRST_RUNG
from dspex.study.resume import EvaluationKey
from dspex.study.strategy import ModuleNames, Seed, calls_per_example, is_zero_shot
from dspex.study.study import Trial
from dspex.telemetry.events import Json, TrialAsked, TrialTold

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

FIRST_SHARE = 0.7
"""Share of the search budget that the first bracket may take; the rest lets the optimizer act on what it saw."""

FEW, MANY = FIRST_RUNG, 2 * FIRST_RUNG
"""Examples of a first rung, under a small and under a large budget; on 8, noise and a poor prior decided."""

PLENTY = 1_500
"""Evaluations from which a budget counts as large."""

AHEAD = 20
"""One in so many evaluations of an ample budget stands in the queue at any time: while fewer do, one more bracket
begins, so that no server waits for a decision. What the optimizer has seen when it asks lacks the results of these."""

MOST_ENTRANTS = 24
LATER_ENTRANTS = 12
LEAST_ENTRANTS = 4
"""Of a bracket under an ample budget. Candidates one by one would spend the end of it, each waiting for the last."""

SHRINKAGE = 4.0
"""Examples' worth of the common mean in a candidate's posterior mean."""

DUPLICATES = 8
"""So many candidates in a row that are known already mean that the space is exhausted."""


def _silent(_: str) -> None:
    """Nobody watches."""


class Search(Generic[I, O]):
    """The search over one program.

    Args:
        program: With grown pools, at its default configuration.
        optimizer: Over the Variables that are searched.
        fixed: Values of the Variables that are not.
        modules: Names of every module's Variables.
        seeds: The first candidates, the most promising first.
        examples: Validation examples in the one order in which every candidate sees them.
        held_out: How many examples the final evaluation has.
        shares: How often each choice of a module is wanted, by the module's path.
        evaluations: Buys the evaluations.
        watch: Told the best mean so far and a message.
    """

    def __init__(
        self,
        program: Program[I, O],
        optimizer: Optimizer | None,
        fixed: Mapping[str, object],
        modules: Sequence[ModuleNames],
        seeds: Sequence[Seed],
        examples: Sequence[Example[I, O]],
        held_out: int,
        evaluations: Evaluations[I, O],
        *,
        shares: Mapping[str, Sequence[float]] | None = None,
        watch: Callable[[str], None] | None = None,
    ) -> None:
        self.program = program
        self.modules = modules
        self.examples = tuple(examples)
        self.candidates: dict[str, Candidate[I, O]] = {}
        self.rungs: list[dict[str, Json]] = []
        self.exhausted = False
        self._optimizer = optimizer
        self._fixed = dict(fixed)
        self._seeds = list(seeds)
        other_formats = any(
            seed.overrides and is_zero_shot({**program.config, **seed.overrides}, program.config, modules)
            for seed in seeds
        )
        self._shares = dict(shares or {})
        self._priors = {names.path: str(names.prior) for names in modules}
        self._evaluations = evaluations
        self._watch = watch or _silent
        self._told: dict[int, tuple[float, int]] = {}
        self._times: dict[int, int] = {}
        # Ranking looks at every candidate after every rung: only those with news are looked at again.
        self._scores: dict[int, tuple[int, list[float]]] = {}
        self._zero_shot: list[Candidate[I, O]] = []
        self._default_config = dict(program.config)
        self.default = self._admit("default", self._default_config)
        self.aside = Aside(
            evaluations,
            self.default,
            self._zero_shot,
            held_out,
            other_formats=other_formats,
            searching=optimizer is not None,
        )
        self._races = Races[I, O]()
        self._waiting: list[Candidate[I, O]] = []
        if optimizer is not None:
            # An optimizer asks its space's own default first, which a program bound to other values differs from.
            ticket = optimizer.ask()
            first = self._admit("the Variables' defaults", {**self._default_config, **ticket.config, **fixed}, ticket)
            if first is not self.default:
                self._waiting.append(first)

    # --- candidates -----------------------------------------------------------------------------

    def _admit(self, origin: str, config: Mapping[str, object], ticket: object = None) -> Candidate[I, O]:
        """The candidate of a configuration, new or known."""
        # Configurations are put together of parts: what follows from the others is computed anew.
        config = self.program.space.completed(config)
        identity = self.program.space.identity(config)
        known = self.candidates.get(identity)
        if known is not None:
            if known.ticket is None:
                known.ticket = ticket
            return known
        bound = self.program.bind(config)
        candidate = Candidate[I, O](
            len(self.candidates),
            origin,
            config,
            identity,
            bound,
            calls_per_example(self.program, config, self.modules),
            ticket,
        )
        self.candidates[identity] = candidate
        if is_zero_shot(config, self._default_config, self.modules):
            self._zero_shot.append(candidate)
        self._log_asked(candidate)
        return candidate

    def _log_asked(self, candidate: Candidate[I, O]) -> None:
        evaluations = self._evaluations
        recorded = evaluations.history.asked.get(candidate.number)
        if recorded is None or recorded.identity != candidate.identity:
            if recorded is not None and not evaluations.changed:
                raise StudyError(
                    "DX6204",
                    f"trial {candidate.number} is another one than the log says: this study cannot be repeated exactly",
                    where=evaluations.log.study,
                    fix="program, metric or model answer differently for equal requests; begin a new study",
                )
            asked = TrialAsked(candidate.number, candidate.number, self.indexed(candidate.config), candidate.identity)
            evaluations.history.asked[candidate.number] = asked
            evaluations.log.note(asked)

    def indexed(self, config: Mapping[str, object]) -> dict[str, Json]:
        """A configuration as the log keeps it: members of pools by index."""
        found: dict[str, Json] = {}
        for name, variable in self.program.space.variables.items():
            value = config[name]
            if variable.kind in ("text", "demos"):
                found[name] = list(variable.options).index(variable.canonical(value))
            else:
                found[name] = variable.to_json(value)  # pyright: ignore[reportArgumentType]
        return found

    def _ask(self, count: int, seeds: int) -> list[Candidate[I, O]]:
        """Up to `count` candidates that are not evaluated on every example yet, at most `seeds` of them seeds."""
        found = {candidate.identity: candidate for candidate in self._waiting}
        self._waiting.clear()
        while self._seeds and len(found) < min(count, seeds):
            seed = self._seeds.pop(0)
            config = self.program.space.completed({**self._default_config, **self._fixed, **seed.overrides})
            ticket = None
            known = self.candidates.get(self.program.space.identity(config))
            if self._optimizer is not None and (known is None or known.ticket is None):
                self._optimizer.enqueue({name: value for name, value in config.items() if name not in self._fixed})
                ticket = self._optimizer.ask()
            candidate = self._admit(seed.origin, config, ticket)
            found.setdefault(candidate.identity, candidate)
        repeats = 0
        while self._optimizer is not None and len(found) < count and repeats < DUPLICATES:
            ticket = self._optimizer.ask()
            config = {**self._default_config, **ticket.config, **self._fixed}
            candidate = self._admit(self._optimizer.name, config, ticket)
            if candidate.identity in found or self._complete(candidate):
                repeats += 1
                self._tell(candidate, ticket)
                continue
            found[candidate.identity] = candidate
        self.exhausted = self._optimizer is None or repeats >= DUPLICATES
        return list(found.values())

    def _complete(self, candidate: Candidate[I, O]) -> bool:
        return all(self._evaluations.has(candidate, "validation", example) for example in self.examples)

    # --- the search -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Race brackets until the budget for the search is used, the space is exhausted or somebody stops it."""
        evaluations = self._evaluations
        self.aside.hold([self.default])
        # What the default costs is known before anything is planned; its first rung is needed in any case.
        await evaluations.run([Job(self.default, "validation", example) for example in self.examples[:FEW]])
        self.aside.hold([self.default])
        left = evaluations.ledger.evaluations_left(evaluations.upper(self.default))
        first = MANY if left is None or left >= PLENTY else FEW
        share = None if left is None else int(left * FIRST_SHARE)
        count = max(2, entrants_for(share, first, len(self.examples), min(MOST_ENTRANTS, len(self._seeds) + 4)))
        ahead = 1 if left is None or left < AMPLE else left // AHEAD
        await self._race(Bracket(self._ask(count, count), first, self.examples), ahead)
        if evaluations.halt.reason is None:
            await self._race(self._last(), 0)

    async def _race(self, bracket: Bracket[I, O], ahead: int) -> None:
        """Race `bracket`, and beside it another one whenever fewer than `ahead` evaluations are queued.

        Each rung is decided as its last result counts, whatever of other brackets is under way then.
        """
        evaluations, races = self._evaluations, self._races
        evaluations.learned = self.aside.learned
        first, least = bracket.used, LEAST_ENTRANTS if ahead > 1 else 1

        def fill() -> None:
            while races.ahead < ahead and (more := self._next(first, least)) is not None:
                races.brackets.append(more)
                self._begin(more)

        races.brackets.append(bracket)
        self._begin(bracket)
        fill()
        async with aclosing(evaluations.settling(races.queue)) as results:
            async for job, outcome in results:
                ready = races.settled(job, outcome)
                for each in ready:
                    self._go_on(each)
                if ready or races.ahead == ahead - 1:
                    fill()
        self._learn(races.candidates)

    def _begin(self, bracket: Bracket[I, O]) -> None:
        """Queue what the bracket's rung takes, the fitting of priors first; decide it where all is known already."""
        races, known = self._races, self._evaluations.known
        while not bracket.done:
            self.aside.follow(races.candidates)
            races.wait(bracket, self._fitting(bracket) or bracket.jobs(known))
            if bracket.missing:
                return
            self._decide(bracket)

    def _go_on(self, bracket: Bracket[I, O]) -> None:
        """All that the bracket waited for is known."""
        if bracket.fitting:
            self._fit(bracket)
        else:
            self._decide(bracket)
        self._begin(bracket)

    def _decide(self, bracket: Bracket[I, O]) -> None:
        """End the bracket's rung, which is evaluated."""
        self._learn(bracket.alive)
        self.rungs.append({"examples": bracket.used, "candidates": len(bracket.alive)})
        bracket.decide(self._evaluations)
        if bracket.done:
            self._races.brackets.remove(bracket)

    def _learn(self, candidates: Sequence[Candidate[I, O]]) -> None:
        """Tell the optimizer of `candidates`, and whoever watches of the best."""
        for candidate in candidates:
            self._tell(candidate, candidate.ticket)
        self._watch(f"best so far: {self.ranked()[0].origin}")
        self._check_failures()

    def _next(self, first: int, least: int) -> Bracket[I, O] | None:
        """One more bracket beside those under way, where the budget, the space and whoever may stop it let it begin."""
        evaluations, races = self._evaluations, self._races
        if evaluations.halt.reason is not None or self.exhausted:
            return None
        best = self.ranked()[:2]
        self.aside.hold([*best, *races.candidates])
        left = evaluations.ledger.evaluations_left(self._typical())
        if left is not None:
            left = max(0, left - sum(bracket.cost for bracket in races.brackets))
        count = entrants_for(left, first, len(self.examples), LATER_ENTRANTS)
        if count < least:
            return None
        # The optimizer has seen something now: it gets at least every other place.
        for candidate in races.candidates:
            self._tell(candidate, candidate.ticket)
        entrants = self._ask(count, count // 2)
        if not entrants:
            return None
        return Bracket([*best, *(c for c in entrants if c not in best)], first, self.examples)

    def _typical(self) -> Spend:
        """What the next evaluation of a candidate of unknown cost may be expected to take."""
        seen = [c for c in self.candidates.values() if c.settled]
        if not seen:
            return Spend(self.default.calls)
        total, count = NOTHING, 0
        for candidate in seen:
            total, count = total + candidate.spent, count + candidate.settled
        usd = None if total.usd is None else total.usd / count
        return Spend(max(1, round(total.calls / count)), total.input_tokens // count, total.output_tokens // count, usd)

    def _fitting(self, bracket: Bracket[I, O]) -> list[Job[I, O]]:
        """What measures the priors of the bracket's candidates that calibrate, on the inputs of its rung.

        The requests are those of the evaluations that follow, so this buys nothing that they would not.
        """
        evaluations = self._evaluations
        jobs: dict[EvaluationKey, Job[I, O]] = {}
        fitting: dict[int, list[str]] = {}
        for candidate in bracket.alive:
            modules = self._calibrates(candidate)
            if not modules or candidate.fitted_on >= bracket.used:
                continue
            fitting[candidate.number] = [names.path for names in modules]
            scored = {str(names.scoring): "logprob" for names in modules}
            plain = self.program.space.completed({**candidate.config, **scored})
            number, identity, calls = candidate.number, candidate.identity, candidate.calls
            scoring = Candidate[I, O](number, "calibration", plain, identity, self.program.bind(plain), calls)
            for example in bracket.examples:
                job = Job(scoring, "calibration", example)
                jobs.setdefault(job.key, job)
        new = sum(1 for key in jobs if key not in evaluations.known)
        if evaluations.halt.reason is not None or not evaluations.ledger.fits(scaled(self._typical(), new)):
            return []
        bracket.fitting = fitting
        return list(jobs.values())

    def _fit(self, bracket: Bracket[I, O]) -> None:
        """Replace candidates that calibrate by such with the priors that were measured."""
        found: list[Candidate[I, O]] = []
        for candidate in bracket.alive:
            config = dict(candidate.config)
            for path in bracket.fitting.get(candidate.number, ()):
                prior = fitted_prior(bracket.rows.get((candidate.number, path), []), self._shares.get(path))
                if prior is not None:
                    config[self._priors[path]] = prior
            fitted = self._admit(candidate.origin, config, candidate.ticket)
            if candidate.number in bracket.fitting:
                fitted.fitted_on = max(fitted.fitted_on, bracket.used)
            found.append(fitted)
        bracket.alive = list(dict.fromkeys(found))
        bracket.fitting, bracket.rows = {}, {}

    def _calibrates(self, candidate: Candidate[I, O]) -> list[ModuleNames]:
        """The modules of a candidate whose prior is to be measured: not those whose author gave one."""
        found: list[ModuleNames] = []
        active = self.program.space.active(candidate.config)
        for names in self.modules:
            if names.prior is None or names.scoring is None or names.scoring not in active:
                continue
            if candidate.config[names.scoring] == "calibrated" and self._default_config[names.prior] is None:
                found.append(names)
        return found

    def _check_failures(self) -> None:
        """A first rung in which nothing got a score says that something other than the candidates is wrong."""
        evaluations = self._evaluations
        if self.rungs or not evaluations.known:
            return
        if any(settled.score is not None for settled in evaluations.known.values()):
            return
        first = next(iter(evaluations.known.values()))
        raise StudyError(
            "DX6214",
            f"none of the first {len(evaluations.known)} evaluations gave a score; the first ended with "
            f"{first.code} {first.failure}",
            where=evaluations.log.study,
            fix="see whether the program runs on one example: program.run(example.input)",
        )

    def _tell(self, candidate: Candidate[I, O], ticket: object) -> None:
        scores = self.scores(candidate)
        if not scores:
            return
        value = sum(scores) / len(scores)
        if self._optimizer is not None and ticket is not None:
            self._optimizer.tell(ticket, value, noise=len(scores))  # pyright: ignore[reportArgumentType]
        evaluations = self._evaluations
        if self._told.get(candidate.number) != (value, len(scores)):
            self._told[candidate.number] = (value, len(scores))
            times = self._times[candidate.number] = self._times.get(candidate.number, 0) + 1
            if times > evaluations.history.told.get(candidate.number, 0):
                evaluations.log.note(TrialTold(candidate.number, candidate.number, value, len(scores)))

    def _last(self) -> Bracket[I, O]:
        """What is left goes to the examples that the best candidates have not seen."""
        finalists = self.ranked()[:3]
        if self.default not in finalists:
            finalists.append(self.default)
        self.aside.hold(finalists)
        return Bracket(finalists, len(self.examples), self.examples)

    def trials(self) -> tuple[Trial, ...]:
        """Every candidate, for people."""
        found: list[Trial] = []
        for candidate in self.candidates.values():
            scores = self.scores(candidate)
            mean = math.fsum(scores) / len(scores) if scores else None
            found.append(Trial(candidate.number, candidate.origin, self.indexed(candidate.config), mean, len(scores)))
        return tuple(found)

    # --- what is believed -----------------------------------------------------------------------

    def scores(self, candidate: Candidate[I, O]) -> list[float]:
        """Scores on the validation examples that it was evaluated on, as the failure policy counts them."""
        known = self._scores.get(candidate.number)
        if known is None or known[0] != candidate.settled:
            found: list[float] = []
            for example in self.examples:
                # Every candidate sees the examples in their order.
                if not self._evaluations.has(candidate, "validation", example):
                    break
                score = self._evaluations.score(candidate, "validation", example)
                if score is not None:
                    found.append(score)
            known = self._scores[candidate.number] = (candidate.settled, found)
        return known[1]

    def posterior(self, candidate: Candidate[I, O], common: float) -> float:
        """Mean score drawn towards `common`, the more so the fewer examples stand behind it."""
        scores = self.scores(candidate)
        return (math.fsum(scores) + SHRINKAGE * common) / (len(scores) + SHRINKAGE)

    def ranked(self, *, among: Sequence[Candidate[I, O]] | None = None) -> list[Candidate[I, O]]:
        """Evaluated candidates, the best first; those with far fewer examples than others come after them."""
        evaluated = [c for c in (self.candidates.values() if among is None else among) if self.scores(c)]
        if not evaluated:
            return [self.default]
        counts = {c.number: len(self.scores(c)) for c in evaluated}
        means = [math.fsum(self.scores(c)) / counts[c.number] for c in evaluated]
        common = math.fsum(means) / len(means)
        enough = max(counts.values()) / 2
        return sorted(
            evaluated,
            key=lambda c: (counts[c.number] < enough, -round(self.posterior(c, common), 12), c.number),
        )

    def zero_shot(self) -> list[Candidate[I, O]]:
        """Candidates that differ from the default in formats alone and show no demonstrations."""
        return list(self._zero_shot)

    def best_zero_shot(self) -> Candidate[I, O]:
        """The best format without demonstrations and with the default instruction, on validation."""
        return self.ranked(among=self.zero_shot())[0]

    def winner(self) -> Candidate[I, O]:
        """The best candidate, or the default unless the best is better on the examples that both were evaluated on."""
        best = self.ranked()[0]
        if best is self.default:
            return best
        pairs = [
            (before, after)
            for example in self.examples
            if (before := self._evaluations.score(self.default, "validation", example)) is not None
            and (after := self._evaluations.score(best, "validation", example)) is not None
        ]
        if pairs and math.fsum(after - before for before, after in pairs) <= 0.0:
            return self.default
        return best
