"""What a study found and what it cost: as an object, as JSON and as text (`page.py` makes it a page)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from dspex.evaluation.statistics import Gain, Interval
from dspex.lm.spend import NOTHING, Spend
from dspex.telemetry.events import Json

SCHEMA_VERSION = 1

_PLAIN = (
    "study",
    "seed",
    "strategy",
    "status",
    "stopped_because",
    "calls",
    "attempts",
    "tokens",
    "usd",
    "seconds",
    "cache_hits",
    "repeats_after_crash",
)

Status = Literal["complete", "partial", "interrupted", "failed"]


def _no_intervals() -> dict[str, Interval]:
    return {}


def _no_labels() -> dict[str, dict[str, int]]:
    return {}


def _no_counts() -> dict[str, int]:
    return {}


def _no_json() -> dict[str, Json]:
    return {}


@dataclass(frozen=True)
class Failure:
    """Why a study ended without a result, or which reason a failed part gave."""

    code: str
    message: str
    fix: str | None = None


@dataclass(frozen=True)
class Prompt:
    """The texts that won for one module."""

    module: str
    instruction: str
    demos: str
    settings: dict[str, Json] = field(default_factory=_no_json)


@dataclass(frozen=True)
class Report:
    """The outcome of one study. Scores are means of the metric with 95 % bootstrap intervals.

    Attributes:
        held_out: ``before`` (the default configuration), ``zero_shot`` (the best format without demonstrations and with
            the default instruction, chosen on validation) and ``after``, on the same held-out examples.
        gain: Paired difference of after and before on held-out examples.
        baselines: For classification, without any model: ``majority`` and ``nearest_neighbour``.
        labels: Counts of the labels answered before and after, and wanted, on held-out examples.
        validation: Means of the default and of the winner on the validation examples that they were evaluated on.
        calls: Calls answered, each paid for once.
        attempts: Requests sent, failed and repeated ones too.
        repeats_after_crash: Requests in flight at a crash that were sent again.
        settled, uncertain: Spending that is known, and the upper bound of what attempts without an outcome cost.
        seconds: Working seconds of all processes of the study.
    """

    study: str
    seed: int
    strategy: str
    status: Status = "complete"
    stopped_because: str = ""
    held_out: dict[str, Interval] = field(default_factory=_no_intervals)
    gain: Gain | None = None
    baselines: dict[str, Interval] = field(default_factory=_no_intervals)
    labels: dict[str, dict[str, int]] = field(default_factory=_no_labels)
    warnings: tuple[str, ...] = ()
    validation: dict[str, Interval] = field(default_factory=_no_intervals)
    calls: int = 0
    attempts: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0
    cache_hits: int = 0
    failures: dict[str, int] = field(default_factory=_no_counts)
    repeats_after_crash: int = 0
    settled: Spend = NOTHING
    uncertain: Spend = NOTHING
    configuration: dict[str, Json] = field(default_factory=_no_json)
    prompts: tuple[Prompt, ...] = ()
    splits: dict[str, Json] = field(default_factory=_no_json)
    search: dict[str, Json] = field(default_factory=_no_json)
    versions: dict[str, str] = field(default_factory=lambda: cast("dict[str, str]", {}))
    error: Failure | None = None

    def as_json(self) -> dict[str, Json]:
        """The report as a JSON object; the keys are a public interface."""
        scores = {name: _interval(self.held_out.get(name)) for name in ("before", "zero_shot", "after")}
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "stopped_because": self.stopped_because,
            "study": self.study,
            "seed": self.seed,
            "strategy": self.strategy,
            "held_out": scores,
            "gain": None if self.gain is None else _fields(self.gain, "mean", "low", "high", "p_value"),
            "baselines": {name: _interval(value) for name, value in self.baselines.items()},
            "labels": dict(self.labels),
            "warnings": list(self.warnings),
            "validation": {name: _interval(value) for name, value in self.validation.items()},
            "calls": self.calls,
            "attempts": self.attempts,
            "tokens": self.tokens,
            "usd": self.usd,
            "seconds": round(self.seconds, 3),
            "cache_hits": self.cache_hits,
            "failures": dict(self.failures),
            "repeats_after_crash": self.repeats_after_crash,
            "spent": {"settled": _spend(self.settled), "uncertain": _spend(self.uncertain)},
            "configuration": dict(self.configuration),
            "prompts": [cast("dict[str, Json]", dataclasses.asdict(prompt)) for prompt in self.prompts],
            "splits": dict(self.splits),
            "search": dict(self.search),
            "versions": dict(self.versions),
            "error": None if self.error is None else cast("dict[str, Json]", dataclasses.asdict(self.error)),
        }

    def without_texts(self, names: Collection[str]) -> Report:
        """The report without prompts and the values of the Variables `names`, for a log that is to keep no texts."""
        plain = {name: value for name, value in self.configuration.items() if name not in names}
        return dataclasses.replace(self, prompts=(), configuration=plain)

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Report:
        """The report that `as_json` wrote."""

        def mapping(name: str) -> Mapping[str, Json]:
            value = data.get(name)
            return value if isinstance(value, Mapping) else {}

        def intervals(name: str) -> dict[str, Interval]:
            return {k: Interval(**cast("dict[str, float]", v)) for k, v in mapping(name).items() if v is not None}  # pyright: ignore[reportArgumentType]

        spent = mapping("spent")
        gain = mapping("gain")
        error = mapping("error")
        return cls(
            **{name: data[name] for name in _PLAIN},  # pyright: ignore[reportArgumentType]
            held_out=intervals("held_out"),
            gain=Gain(**cast("dict[str, float]", gain)) if gain else None,
            baselines=intervals("baselines"),
            labels=cast("dict[str, dict[str, int]]", dict(mapping("labels"))),
            warnings=tuple(cast("list[str]", data.get("warnings") or ())),
            validation=intervals("validation"),
            failures=cast("dict[str, int]", dict(mapping("failures"))),
            settled=_spend_from(spent.get("settled")),
            uncertain=_spend_from(spent.get("uncertain")),
            configuration=dict(mapping("configuration")),
            prompts=tuple(Prompt(**p) for p in cast("list[dict[str, str]]", data.get("prompts") or ())),  # pyright: ignore[reportArgumentType]
            splits=dict(mapping("splits")),
            search=dict(mapping("search")),
            versions=cast("dict[str, str]", dict(mapping("versions"))),
            error=Failure(**cast("dict[str, str]", error)) if error else None,
        )

    def as_text(self) -> str:
        """The report as plain text of at most 60 lines."""
        lines = [f"study {self.study}: {self.status}" + (f" ({self.stopped_because})" if self.stopped_because else "")]
        if self.error is not None:
            lines += [f"  {self.error.code} {self.error.message}"] + (
                [f"  fix: {self.error.fix}"] if self.error.fix else []
            )
        lines += self._score_lines()
        lines += self._label_lines()
        lines += [f"  warning: {text}" for text in self.warnings[:8]]
        price = "no known price" if self.usd is None else f"${self.usd:.4f}"
        lines += [
            "",
            f"spent     {self.calls} calls ({self.attempts} attempts), {self.tokens} tokens, {price}, "
            f"{self.seconds:.1f} s, {self.cache_hits} cache hits",
        ]
        if self.uncertain.calls:
            lines.append(
                f"          {self.uncertain.calls} attempts of unknown outcome may have cost up to "
                f"{self.uncertain.tokens} tokens more; {self.repeats_after_crash} were sent again after a crash"
            )
        if self.failures:
            lines.append("failures  " + ", ".join(f"{count} × {code}" for code, count in sorted(self.failures.items())))
        if self.search:
            lines.append("search    " + ", ".join(f"{value} {name}" for name, value in self.search.items()))
        if self.splits:
            lines.append("data      " + ", ".join(f"{n} {_size(value)}" for n, value in self.splits.items()))
        for prompt in self.prompts[:6]:
            settings = ", ".join(f"{k}={v}" for k, v in prompt.settings.items())
            lines += ["", f"{prompt.module or 'prompt'}: {settings}", f"  instruction: {_short(prompt.instruction)}"]
            lines.append("  demonstrations: " + prompt.demos.replace("\n", "\n    "))
        others = {k: v for k, v in self.configuration.items() if not k.endswith((".instruction", ".demos"))}
        if others:
            lines += ["", "winning values"] + [f"  {k} = {_short(str(v))}" for k, v in list(others.items())[:12]]
        lines.append("")
        lines.append(f"seed {self.seed}, strategy {self.strategy}, study {self.study}")
        return "\n".join(lines)

    def _score_lines(self) -> list[str]:
        names = (("before", "default program"), ("zero_shot", "best zero-shot format"), ("after", "optimized"))
        lines = ["", "held-out examples, mean [95 % interval]"] if self.held_out else []
        for name, title in names:
            if (found := self.held_out.get(name)) is not None:
                lines.append(f"  {title:<26}{_score(found)}")
        for name, title in (("majority", "majority class"), ("nearest_neighbour", "TF-IDF nearest neighbour")):
            if (found := self.baselines.get(name)) is not None:
                lines.append(f"  {title:<26}{_score(found)}")
        if self.gain is not None:
            g = self.gain
            lines.append(f"  {'gain, paired':<26}{g.mean:+.3f} [{g.low:+.3f}, {g.high:+.3f}]  p = {g.p_value:.4g}")
        if self.validation:
            shown = ", ".join(f"{name} {v.mean:.3f} (n={v.n})" for name, v in self.validation.items())
            lines.append(f"  {'on validation':<26}{shown}")
        return lines

    def _label_lines(self) -> list[str]:
        if not self.labels:
            return []
        names = sorted({label for counts in self.labels.values() for label in counts})
        if len(names) > 12:
            return []
        title = "labels answered"
        width = max(len(title), *(len(name) + 2 for name in names))
        columns = list(self.labels)
        lines = ["", title.ljust(width + 2) + "".join(column.rjust(10) for column in columns)]
        for name in names:
            counts = "".join(str(self.labels[column].get(name, 0)).rjust(10) for column in columns)
            lines.append("  " + name.ljust(width) + counts)
        return lines

    def as_html(self) -> str:
        """The report as one self-contained HTML page."""
        from dspex.study.page import page

        return page(self)


def _interval(value: Interval | None) -> dict[str, Json] | None:
    return None if value is None else _fields(value, "mean", "low", "high", "n")


def _fields(value: object, *names: str) -> dict[str, Json]:
    return {name: cast(Json, getattr(value, name)) for name in names}


def _spend(spend: Spend) -> dict[str, Json]:
    return {"calls": spend.calls, "tokens": spend.tokens, "usd": spend.usd}


def _spend_from(value: Json) -> Spend:
    if not isinstance(value, Mapping):
        return NOTHING
    known = cast("Mapping[str, int]", value)
    return Spend(known.get("calls", 0), known.get("tokens", 0), 0, cast("float | None", value.get("usd")))


def _score(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]  n={value.n}"


def _size(value: Json) -> str:
    return str(value.get("size")) if isinstance(value, Mapping) else str(value)


def _short(text: str, limit: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
