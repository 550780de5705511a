"""The proposal phase: pools of texts and demonstrations grow before the search begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from dspex.errors import BudgetExceeded, LMError
from dspex.evaluation.dataset import Example
from dspex.lm.model import LMLike
from dspex.lm.spend import Spend
from dspex.program.context import current, trace, using
from dspex.program.demos import Demo
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.proposers import bootstrap, instructions, labelled
from dspex.proposers.proposal import Proposal
from dspex.study.evaluations import Candidate, Evaluations, Job
from dspex.study.plan import AMPLE
from dspex.study.strategy import ModuleNames

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

BATCH, LARGE_BATCH = 8, 24
"""Runs of the program before it is asked whether they suffice, under a small and under an ample budget."""

MOST_RUNS = 48
ENOUGH_DEMOS = 8
RUNS_SHARE = 8
"""One in so many evaluations of the search may go into bootstrapping where nothing else gives demonstrations."""

SPARE_EVALUATIONS = 1_000
"""From here on a program whose demonstrations can come from the data bootstraps as well."""

WRITING_FROM = 150
"""Evaluations in the budget below which no model is asked for instructions."""

DEFAULT_CONTEXT = 4_096
DEMOS_SHARE = 0.6
"""Share of a model's context that demonstrations may take."""


class Proposing(Generic[I, O]):
    """Asks the proposers for one program.

    Attributes:
        groups: What was proposed; members of one group belong together.
        notes: What failed, for the report.
    """

    def __init__(
        self,
        default: Candidate[I, O],
        modules: Sequence[ModuleNames],
        train: Sequence[Example[I, O]],
        evaluations: Evaluations[I, O],
        *,
        seed: int,
        context_tokens: int | None,
        writer_lm: LMLike | None,
        affordable: int | None,
    ) -> None:
        self.groups: list[list[Proposal]] = []
        self.notes: list[str] = []
        self._default = default
        self._program: Program[I, O] = default.program
        self._modules = {names.path: names for names in modules}
        self._train = list(train)
        self._evaluations = evaluations
        self._seed = seed
        self._room = int((context_tokens or DEFAULT_CONTEXT) * DEMOS_SHARE)
        self._writer_lm = writer_lm
        self._affordable = affordable
        self._by_module: dict[str, list[Demo]] = {}

    async def run(self, watch: Callable[[str], None]) -> None:
        """Fill `groups`: from the data first, then from the program's own runs, then from a model.

        The model writes while the program runs.
        """
        self._from_data()
        wanted = self._wanted() if self._affordable is None or self._affordable >= WRITING_FROM else []
        writing = asyncio.gather(*(self._written(each.asked) for each in wanted))
        try:
            if self._wants_bootstrap():
                watch("bootstrapping demonstrations")
                await self._bootstrap()
            if wanted:
                watch("writing instructions")
            for each, answer in zip(wanted, await writing, strict=True):
                self._take(each, answer)
        finally:
            writing.cancel()

    def _from_data(self) -> None:
        sets: dict[str, list[Proposal]] = {}
        near: dict[str, list[Proposal]] = {}
        for path, module in self._program.modules().items():
            settings, names = module.settings, self._modules[path]
            if names.instruction is not None:
                default = str(self._default.config[names.instruction])
                for proposal in instructions.grounded(names.instruction, default, settings.input, settings.output):
                    self.groups.append([proposal])
            if names.demos is None or not self._train:
                continue
            if not labelled.can_label(settings.input, settings.output, self._train[0]):
                continue
            demos = [labelled.demo_of(example, settings.input, settings.output) for example in self._train]
            self._by_module[path] = demos
            sets[path] = labelled.labelled_sets(names.demos, demos, seed=self._seed, room=self._room)
            near[path] = labelled.nearest(names.demos, demos, room=self._room)
        self._together(sets)
        self._together(near)

    def _together(self, by_module: Mapping[str, Sequence[Proposal]]) -> None:
        """One group a rank: the first proposal of every module, then the second, and so on."""
        for rank in range(max((len(found) for found in by_module.values()), default=0)):
            group = [found[rank] for found in by_module.values() if rank < len(found)]
            unique = {proposal.variable: proposal for proposal in group}
            self.groups.append(list(unique.values()))

    def _wants_bootstrap(self) -> bool:
        """Whether runs of the program can give demonstrations that the data cannot."""
        wanted = [path for path, names in self._modules.items() if names.demos is not None]
        if not wanted or not self._train:
            return False
        lacking = [
            path
            for path, module in self._program.modules().items()
            if path in wanted and (path not in self._by_module or module.settings.reasoning)
        ]
        return bool(lacking) or self._affordable is None or self._affordable >= SPARE_EVALUATIONS

    async def _bootstrap(self) -> None:
        most = MOST_RUNS if self._affordable is None else min(MOST_RUNS, max(BATCH, self._affordable // RUNS_SHARE))
        batch = BATCH if self._affordable is None or self._affordable < AMPLE else LARGE_BATCH
        examples = self._train[: most - most % batch or most]
        runs: list[bootstrap.TracedRun] = []
        for start in range(0, len(examples), batch):
            try:
                jobs = [Job(self._default, "train", example) for example in examples[start : start + batch]]
                for _, outcome in [pair async for pair in self._evaluations.traced(jobs)]:
                    if outcome.score is not None:
                        runs.append(bootstrap.TracedRun(outcome.score, tuple(outcome.trace.calls)))
            except BudgetExceeded as error:
                self.notes.append(f"bootstrapping ended early: {error.message}")
                break
            if len(bootstrap.accepted(runs)) >= ENOUGH_DEMOS or self._evaluations.stop.reason is not None:
                break
        demos = bootstrap.demos_of(runs)
        variables = {path: names.demos for path, names in self._modules.items() if names.demos is not None}
        self.groups += bootstrap.bootstrapped(variables, demos, seed=self._seed)
        if not demos:
            self.notes.append(f"no run of the program on {len(examples)} training examples was accepted by the metric")

    def _wanted(self) -> list[_Wanted]:
        """The instructions to ask for, in the order in which they are taken."""
        wanted: list[_Wanted] = []
        for path, module in self._program.modules().items():
            name = self._modules[path].instruction
            if name is None:
                continue
            settings = module.settings
            default = str(self._default.config[name])
            shown = self._by_module.get(path, [])
            for number, tip in enumerate(instructions.TIPS[: 1 if len(self._modules) > 2 else 2]):
                sample = shown[number * 3 : number * 3 + 3] or shown[:3]
                asked = instructions.request(default, settings.input, settings.output, sample, tip)
                wanted.append(_Wanted(name, default, tip, asked))
        return wanted

    def _take(self, wanted: _Wanted, written: _Written) -> None:
        """Account for what a model wrote at its place, and propose it if it is sound."""
        self._evaluations.charge(written.charges)
        if written.failure is not None:
            self.notes.append(f"no instruction was written: {written.failure}")
        if written.text is None:
            return
        known = [str(p.member) for group in self.groups for p in group if p.variable == wanted.variable]
        reason = instructions.refusal(written.text, wanted.default, known)
        if reason is None:
            self.groups.append([Proposal(wanted.variable, written.text, "lm", {"tip": wanted.tip})])
        else:
            self.notes.append(f"a written instruction for {wanted.variable} was refused: {reason}")

    async def _written(self, asked: instructions.InstructionRequest) -> _Written:
        """What the model writes; that it fails is no reason to end a study."""
        lm = self._writer_lm or current().lm
        if lm is None:
            return _Written(None, {}, None)
        text = failure = None
        with using(lm=lm), trace() as opened:
            try:
                text = (await instructions.writer()(asked)).instruction.strip()
            except BudgetExceeded:
                pass
            except LMError as error:
                failure = f"{error.code} {error.message:.200}"
        return _Written(text, self._evaluations.charges(opened, f"instruction {asked.tip} {asked.fields}"), failure)


class _Wanted(NamedTuple):
    """An instruction to ask a model for."""

    variable: str
    default: str
    tip: str
    asked: instructions.InstructionRequest


class _Written(NamedTuple):
    """What a model wrote, what that cost, and why it wrote nothing."""

    text: str | None
    charges: dict[str, Spend]
    failure: str | None
