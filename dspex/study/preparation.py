"""What a search is given before it begins: the models it may call and what they can do, and pools that have grown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dspex.errors import StudyError
from dspex.evaluation.dataset import Dataset
from dspex.evaluation.labels import distribution
from dspex.executor.models import Gate, gate_for
from dspex.lm.model import LMLike
from dspex.program.context import resolve_lm
from dspex.program.program import Program
from dspex.proposers.instructions import labels
from dspex.proposers.proposal import Proposal
from dspex.study.calibration import label_shares
from dspex.study.journal import StudyLog
from dspex.study.resume import History
from dspex.study.strategy import ModuleNames
from dspex.telemetry.events import ProposalMade

DEFAULT_WIDTH = 32
IN_WORK = 2
"""Evaluations in work for each call that the model takes: as many again are written to the log, wait for their turn, or
are scored. A disk that syncs beside a busy event loop takes milliseconds, of which a slot is to see none."""


def lm_of(program: Program[Any, Any]) -> LMLike | None:
    """The context's model, unless every module names one.

    Raises:
        NoLMError: DX4001: a module names none, and no model was chosen.
    """
    without = [path for path, module in program.modules().items() if module.settings.lm is None]
    return resolve_lm(None, without[0]) if without else None


async def gates_of(program: Program[Any, Any], lm: LMLike | None, proposer_lm: LMLike | None) -> dict[str, Gate]:
    """Every model that the program may call, by name."""
    found: dict[str, Gate] = {}
    models: list[LMLike | None] = [lm, proposer_lm]
    for module in program.modules().values():
        models += [module.settings.lm, *module.models.values()]
    for model in models:
        if model is not None:
            gate = await gate_for(model)
            for one in (gate, *gate.fallback):
                found.setdefault(one.name, one)
    return found


def width_of(gates: Mapping[str, Gate], chosen: int | None) -> Callable[[], int]:
    """How many evaluations may be in work: what keeps the widest model busy, where nobody says.

    Raises:
        StudyError: DX6208: `chosen` is less than one.
    """
    if chosen is not None:
        if chosen < 1:
            raise StudyError("DX6208", f"concurrency is at least 1, got {chosen}", where="concurrency")
        return lambda: chosen

    def width() -> int:
        return IN_WORK * max((width for gate in gates.values() if (width := gate.width)), default=DEFAULT_WIDTH)

    return width


def frozen_by(
    gates: Mapping[str, Gate], program: Program[Any, Any], modules: Sequence[ModuleNames]
) -> dict[str, object]:
    """Values of the Variables that are not searched: formats, scorings and forms that some model cannot serve."""
    config = program.config
    frozen: dict[str, object] = {}
    raw = all(gate.capabilities.raw_prompt for gate in gates.values())
    scores = all(gate.capabilities.score_choices for gate in gates.values())
    forms = {
        "schema": all(gate.capabilities.json_schema for gate in gates.values()),
        "tool": all(gate.capabilities.tools for gate in gates.values()),
    }
    for module in modules:
        if module.answers is not None:
            options = program.space.variables[module.answers].options
            if not all(forms.get(str(option), True) for option in options):
                frozen[module.answers] = config[module.answers]
        # A prior is measured, never searched.
        for name, able in ((module.format, raw), (module.scoring, scores), (module.prior, False)):
            if name is not None and not able:
                frozen[name] = config[name]
    return frozen


def shares_of(program: Program[Any, Any], train: Dataset[Any, Any]) -> dict[str, tuple[float, ...]]:
    """How often each choice of a module that gives the program's own labels is wanted in the training part."""
    found: dict[str, tuple[float, ...]] = {}
    if train.labels is None:
        return found
    counts = distribution([example.want for example in train], train.output_schema, train.labels)
    for path, module in program.modules().items():
        fields = list(module.settings.output.model_fields)
        if fields == [train.labels]:
            found[path] = label_shares(counts, labels(module.settings.output, train.labels))
    return found


def with_pools(
    program: Program[Any, Any],
    groups: Sequence[Sequence[Proposal]],
    log: StudyLog,
    history: History,
    *,
    changed: bool,
) -> Program[Any, Any]:
    """The program with all proposals in its pools; they are logged, or compared with what the log says.

    Raises:
        StudyError: DX6204: the log has another proposal, and nobody accepted a change.
    """
    pools: dict[str, list[object]] = {}
    for group in groups:
        for proposal in group:
            pools.setdefault(proposal.variable, []).append(proposal.member)
    program = program.with_pools(pools)
    for group in groups:
        for proposal in group:
            variable = program.space.variables[proposal.variable]
            index = list(variable.options).index(variable.canonical(proposal.member))
            recorded = history.proposals.get((proposal.variable, index))
            if recorded is None:
                event = ProposalMade(
                    proposal.variable,
                    index,
                    proposal.proposer,
                    proposal.digest,
                    proposal.as_json(),
                    proposal.details,
                )
                log.note(event)
                history.proposals[proposal.variable, index] = proposal.digest
            elif recorded != proposal.digest and not changed:
                raise StudyError(
                    "DX6204",
                    f"a proposal for {proposal.variable} is another one than the log says: this study cannot be "
                    "repeated exactly",
                    where=log.study,
                    fix="the model answers differently for equal requests; begin a new study",
                )
    return program
