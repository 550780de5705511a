"""The kinds of event that a study writes, as typed frozen dataclasses.

An event holds only what its fields name: there is no place in which a key or a header could slip through. Fields
that carry what people or models wrote are marked as content, and `to_dict` redacts them before anything reaches a
store:

| content | what a store keeps of answers, proposals, feedback and error messages |
|---|---|
| ``full`` | all of it |
| ``hash`` | the SHA-256 of each |
| ``off`` | nothing |

What a resume then loses: with ``hash`` and ``off`` a committed answer cannot be read back, so that a call which
the running process's cache does not hold is paid again, and a pool that grew by proposals cannot be rebuilt; with
``off`` equal answers cannot be recognised as equal either.

Costs, scores, configurations (pool members as their index) and hashes of examples are never redacted.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args, get_origin, get_type_hints

from dspex.errors import StudyError, UsageError

__all__ = [
    "KINDS",
    "AttemptFailed",
    "AttemptStarted",
    "CallCommitted",
    "ContentMode",
    "EvaluationSettled",
    "Json",
    "ProposalMade",
    "StudyCreated",
    "StudyEvent",
    "StudyFinished",
    "StudyResumed",
    "StudyStopped",
    "TrialAsked",
    "TrialTold",
    "content_mode",
    "digest",
    "from_dict",
    "to_dict",
]

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""A value that JSON can hold; NaN and infinities are allowed."""

ContentMode = Literal["full", "hash", "off"]
_CONTENT = {"content": True}


def _no_details() -> Mapping[str, Json]:
    return {}


@dataclass(frozen=True, slots=True)
class StudyCreated:
    """A search began.

    Attributes:
        program, data, metric: Content hashes that a resume compares.
        versions: Versions of dspex, Python and the libraries that results depend on.
        budget: The caps, by name; only those that were set.
        splits: Hash of each part of the data, by name.
        details: Whatever else a resume needs.
    """

    kind: ClassVar[str] = "study.created"
    study: str
    program: str
    data: str
    metric: str
    seed: int
    strategy: str
    versions: Mapping[str, str]
    budget: Mapping[str, Json]
    splits: Mapping[str, str]
    details: Mapping[str, Json] = field(default_factory=_no_details)


@dataclass(frozen=True, slots=True)
class StudyResumed:
    """A process took the study up again; ``uncertain`` attempts were in flight when the one before it ended."""

    kind: ClassVar[str] = "study.resumed"
    pid: int
    uncertain: int = 0
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialAsked:
    """The optimizer proposed a candidate. ``config`` names pool members by index, never by text."""

    kind: ClassVar[str] = "trial.asked"
    trial: int
    candidate: int
    config: Mapping[str, Json]
    identity: str = ""


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A request is about to be sent; ``calls`` … ``usd`` are the upper bound reserved for it (usd None: unpriced)."""

    kind: ClassVar[str] = "attempt.started"
    key: str
    model: str
    calls: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0


@dataclass(frozen=True, slots=True)
class CallCommitted:
    """An attempt was answered: response, usage and settlement in one record. ``attempt`` is the id of its start."""

    kind: ClassVar[str] = "call.committed"
    attempt: int
    key: str
    model: str
    response: Json = field(metadata=_CONTENT)
    calls: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt gave no answer. It cost ``calls`` … ``usd``, or, if ``uncertain``, at most what it had reserved.

    Without a ``code`` it was not sent after all.
    """

    kind: ClassVar[str] = "attempt.failed"
    attempt: int
    key: str
    code: str
    message: Json = field(metadata=_CONTENT)
    retryable: bool = False
    sent: Literal["no", "maybe", "yes"] = "maybe"
    uncertain: bool = False
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0


@dataclass(frozen=True, slots=True)
class EvaluationSettled:
    """One candidate on one example: a score, or a failure with its code and reason, never both.

    ``charges`` holds what each call that it used costs, by the call's key: [calls, input, output, usd].
    """

    kind: ClassVar[str] = "evaluation.settled"
    trial: int
    candidate: int
    example: str
    part: str
    score: float | None
    code: str | None = None
    failure: Json = field(default=None, metadata=_CONTENT)
    feedback: Json = field(default=None, metadata=_CONTENT)
    output: Json = field(default=None, metadata=_CONTENT)
    cached: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0
    charges: Mapping[str, Json] = field(default_factory=_no_details)


@dataclass(frozen=True, slots=True)
class TrialTold:
    """The optimizer was told a trial's value, in trial order; None is a failed trial with its reason."""

    kind: ClassVar[str] = "trial.told"
    trial: int
    candidate: int
    value: float | None
    examples: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ProposalMade:
    """A proposer added a member to a Text or Demos pool, at ``index``."""

    kind: ClassVar[str] = "proposal.made"
    variable: str
    index: int
    proposer: str
    digest: str
    member: Json = field(metadata=_CONTENT)
    details: Mapping[str, Json] = field(default_factory=_no_details)


@dataclass(frozen=True, slots=True)
class StudyStopped:
    """The search stopped before its end: ``reason`` is for example budget, wall, interrupted or failed.

    ``position`` counts the evaluations that had started; a resumed study stops at the same one.
    """

    kind: ClassVar[str] = "study.stopped"
    reason: str
    trials: int = 0
    position: int = 0
    message: Json = field(default=None, metadata=_CONTENT)


@dataclass(frozen=True, slots=True)
class StudyFinished:
    """The study is complete; ``report`` holds figures, ``best`` the winning configuration by pool index."""

    kind: ClassVar[str] = "study.finished"
    best: Mapping[str, Json]
    report: Mapping[str, Json]


StudyEvent = (
    StudyCreated
    | StudyResumed
    | TrialAsked
    | AttemptStarted
    | CallCommitted
    | AttemptFailed
    | EvaluationSettled
    | TrialTold
    | ProposalMade
    | StudyStopped
    | StudyFinished
)

_CLASSES: tuple[type[StudyEvent], ...] = get_args(StudyEvent)
KINDS: dict[str, type[StudyEvent]] = {cls.kind: cls for cls in _CLASSES}
"""Every event class by its kind."""

_NAMES: dict[str, tuple[str, ...]] = {cls.kind: tuple(f.name for f in fields(cls)) for cls in _CLASSES}
_VALUES: dict[str, Callable[[StudyEvent], tuple[Json, ...]]] = {
    kind: attrgetter(*names) for kind, names in _NAMES.items()
}
_CONTENT_NAMES: dict[str, tuple[str, ...]] = {
    cls.kind: tuple(f.name for f in fields(cls) if f.metadata.get("content")) for cls in _CLASSES
}


def content_mode(value: str) -> ContentMode:
    """`value` as a content mode.

    Raises:
        UsageError: DX8211: it is none.
    """
    if value in ("full", "hash", "off"):
        return value
    raise UsageError(
        "DX8211",
        f"content is one of full, hash, off, got {value!r}",
        where="content",
        fix="see content=, --content and the setting DSPEX_CONTENT",
    )


def digest(value: Json) -> str:
    """SHA-256 of a value's canonical JSON text, as it stands in a log with ``content="hash"``."""
    import json

    text = json.dumps(value, sort_keys=True, separators=(",", ":"))  # ASCII: lone surrogates are escaped
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def to_dict(event: StudyEvent, content: ContentMode = "full") -> dict[str, Json]:
    """The event's payload for a store, redacted. Content that is None stays None in every mode."""
    kind = event.kind
    payload: dict[str, Json] = dict(zip(_NAMES[kind], _VALUES[kind](event), strict=True))
    if content != "full":
        for name in _CONTENT_NAMES[kind]:
            value = payload[name]
            if value is not None:
                payload[name] = {"redacted": digest(value) if content == "hash" else None}
    return payload


def from_dict(kind: str, payload: Mapping[str, Json]) -> StudyEvent:
    """The event that `to_dict` made, redactions in place.

    Raises:
        StudyError: DX6121, DX6122: an unknown kind or field, a missing field, or a value of another type.
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise StudyError(
            "DX6121", f"the event log holds an event of unknown kind {kind!r}", fix="use the dspex that wrote the log"
        )
    checks = _checks(kind)
    values: dict[str, object] = {}
    for name, value in payload.items():
        check = checks.get(name)
        if check is None or not check(value):
            what = "has an unknown field" if check is None else "has a value of another type in its field"
            raise StudyError("DX6122", f"the event {kind} {what} {name}: {value!r:.80}")
        # JSON has no tuples; the only sequences among the typed fields are tuples of text.
        values[name] = tuple(cast("list[object]", value)) if name == "accepted" else value
    missing = [n for n in _required(kind) if n not in values]
    if missing:
        raise StudyError("DX6122", f"the event {kind} lacks its field {missing[0]}")
    return cast("Callable[..., StudyEvent]", cls)(**values)


_required_cache: dict[str, tuple[str, ...]] = {}
_check_cache: dict[str, dict[str, Callable[[object], bool]]] = {}


def _required(kind: str) -> tuple[str, ...]:
    found = _required_cache.get(kind)
    if found is None:
        found = _required_cache[kind] = tuple(
            f.name for f in fields(KINDS[kind]) if f.default is MISSING and f.default_factory is MISSING
        )
    return found


def _checks(kind: str) -> dict[str, Callable[[object], bool]]:
    found = _check_cache.get(kind)
    if found is None:
        cls = KINDS[kind]
        hints = get_type_hints(cls)
        found = _check_cache[kind] = {
            f.name: _anything if f.metadata.get("content") else _check(hints[f.name]) for f in fields(cls)
        }
    return found


def _anything(value: object) -> bool:
    return True


def _check(hint: Any) -> Callable[[object], bool]:
    origin = get_origin(hint)
    if origin is Literal:
        allowed = get_args(hint)
        return lambda value: value in allowed
    if origin is types.UnionType:
        options = [_check(option) for option in get_args(hint)]
        return lambda value: any(option(value) for option in options)
    if hint is type(None):
        return lambda value: value is None
    if hint is float:
        return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if hint is bool or hint is str:
        return lambda value: isinstance(value, hint)
    if origin is tuple:
        return lambda value: (
            isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in cast("Sequence[object]", value))
        )
    return lambda value: isinstance(value, Mapping)
