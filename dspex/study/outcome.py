"""What a finished study found, bound to its program again without repeating anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from dspex.errors import StudyError
from dspex.program.demos import source_from_json
from dspex.program.program import Program
from dspex.stores.protocol import EventStore
from dspex.study.report import Report
from dspex.study.resume import History
from dspex.telemetry.events import Json, ProposalMade, from_dict

__all__ = ["winner_of"]

P = TypeVar("P", bound=Program[Any, Any])


def winner_of(store: EventStore, study: str, program: P) -> tuple[P, Report]:
    """`program` with the pools and the winning configuration of `study`, and the study's report.

    Raises:
        StudyError: DX6201 when there is no such study, DX6215 when it has no end, or its log does not hold its texts.
        ProgramError: When the configuration is not one of the program's.
    """
    history = History.read(store, study)
    finished = history.finished
    if finished is None:
        raise StudyError(
            "DX6215",
            f"the study {study!r} has no winner yet: it runs, or it was stopped",
            fix=f"finish it: dspex study resume {study}",
        )
    grown: dict[tuple[str, int], Json] = {}
    for event in store.read(study, kinds=(ProposalMade.kind,)):
        made = cast("ProposalMade", from_dict(event.kind, event.payload))
        grown[made.variable, made.index] = made.member
    variables = program.variables()
    config: dict[str, object] = {}
    new: dict[str, tuple[object, ...]] = {}
    for name, value in finished.best.items():
        variable = variables.get(name)
        if variable is None or variable.kind not in ("text", "demos"):
            if variable is None or variable.kind != "computed":
                config[name] = value if variable is None else variable.from_json(value)
        elif isinstance(value, int) and 0 <= value < len(variable.options):
            config[name] = variable.options[value]
        else:
            config[name] = _member(grown.get((name, cast("int", value))), study, name)
            new[name] = (config[name],)
    return program.with_pools(new).bind(config), Report.from_json(finished.report)


def _member(member: Json, study: str, name: str) -> object:
    """A member of a pool as the log keeps it: a text, or a set of demonstrations."""
    if isinstance(member, str):
        return member
    if isinstance(member, Mapping) and member.get("kind") == "set":
        return source_from_json(dict(member))
    raise StudyError(
        "DX6215",
        f"the log of the study {study!r} does not hold the winning value of {name}: it keeps no training data, and "
        "texts only under content='full'",
        fix=f"write the artifact from the study itself: dspex study resume {study} -o FILE",
    )
