"""The proposal phase: pools of texts and demonstrations grow before the search begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

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
from dspex.study.strategy import ModuleNames

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

BATCH = 8
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
        """Fill `groups`: from the data first, then from the program's own runs, then from a model."""
        self._from_data()
        if self._wants_bootstrap():
            watch("bootstrapping demonstrations")
            await self._bootstrap()
        if self._affordable is None or self._affordable >= WRITING_FROM:
            watch("writing instructions")
            await self._write()

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
        examples = self._train[: most - most % BATCH or most]
        runs: list[bootstrap.TracedRun] = []
        for start in range(0, len(examples), BATCH):
            try:
                jobs = [Job(self._default, "train", example) for example in examples[start : start + BATCH]]
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

    async def _write(self) -> None:
        """Instructions by a model, all asked for at once and taken in a fixed order."""
        wanted: list[tuple[str, str, str, instructions.InstructionRequest]] = []
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
                wanted.append((name, default, tip, asked))
        answers = await asyncio.gather(*(self._written(asked) for *_, asked in wanted))
        for (name, default, tip, _), (text, charges) in zip(wanted, answers, strict=True):
            self._evaluations.charge(charges)
            if text is None:
                continue
            known = [str(p.member) for group in self.groups for p in group if p.variable == name]
            reason = instructions.refusal(text, default, known)
            if reason is None:
                self.groups.append([Proposal(name, text, "lm", {"tip": tip})])
            else:
                self.notes.append(f"a written instruction for {name} was refused: {reason}")

    async def _written(self, asked: instructions.InstructionRequest) -> tuple[str | None, dict[str, Spend]]:
        """What the model writes, None when it fails, which is no reason to end a study; and what that cost."""
        lm = self._writer_lm or current().lm
        if lm is None:
            return None, {}
        with using(lm=lm), trace() as opened:
            try:
                answer = await instructions.writer()(asked)
            except BudgetExceeded:
                answer = None
            except LMError as error:
                self.notes.append(f"no instruction was written: {error.code} {error.message:.200}")
                answer = None
        charges = self._evaluations.charges(opened, f"instruction {asked.tip} {asked.fields}")
        return None if answer is None else answer.instruction.strip(), charges
