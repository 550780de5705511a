"""The last evaluation, on examples that nothing before has seen, and what a report says about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from dspex.evaluation.baselines import majority, tfidf_nearest
from dspex.evaluation.labels import distribution, label_text, one_label_warning
from dspex.evaluation.statistics import Interval, counted, interval, paired
from dspex.program.demos import DemoSource, Nearest
from dspex.program.schema import Schema
from dspex.study.evaluations import Candidate, Evaluations, Job
from dspex.study.plan import Plan
from dspex.study.report import Prompt, Report
from dspex.study.search import Search
from dspex.telemetry.events import Json

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


class Finals(Generic[I, O]):
    """Default, best zero-shot format and winner on the held-out examples.

    Attributes:
        complete: Whether each of them was evaluated on every example.
        warnings: What a reader of the scores should know.
    """

    def __init__(self, search: Search[I, O], evaluations: Evaluations[I, O], plan: Plan[I, O], seed: int) -> None:
        self.complete = False
        self.warnings: list[str] = []
        self._search = search
        self._evaluations = evaluations
        self._plan = plan
        self._seed = seed
        self._winner = search.winner()
        self._parts: dict[str, Candidate[I, O]] = {
            "before": search.default,
            "zero_shot": search.best_zero_shot(),
            "after": self._winner,
        }
        self._baselines: dict[str, Interval] = {}

    async def run(self) -> None:
        """Evaluate all three, one after the other so that each keeps its prompt's prefix warm."""
        jobs = [
            Job(candidate, "held_out", example) for candidate in self._parts.values() for example in self._plan.held_out
        ]
        self.complete = await self._evaluations.run(jobs, capped=False)

    async def judge_baselines(self, metric: Any) -> None:
        """Score what needs no model, for classification."""
        split = self._plan.split
        if split.train.labels is None:
            return
        known = split.train.but([*split.train, *split.validation])
        held_out = split.held_out.but(self._plan.held_out)
        for name, baseline in (("majority", majority(known)), ("nearest_neighbour", tfidf_nearest(known))):
            outcomes = await baseline.evaluate(held_out, metric)
            scores = counted([outcome.score for outcome in outcomes], self._policy)
            if scores:
                self._baselines[name] = interval(scores, seed=self._seed)

    @property
    def _policy(self) -> Any:
        # A study that stops at failures has ended before; a baseline's failure must not end it.
        return "worst" if self._evaluations.policy == "stop" else self._evaluations.policy

    def _scores(self, candidate: Candidate[I, O]) -> dict[str, float]:
        """Held-out scores by example, as the failure policy counts them."""
        found: dict[str, float] = {}
        for example in self._plan.held_out:
            score = self._evaluations.score(candidate, "held_out", example)
            if score is not None:
                found[example.hash] = score
        return found

    def filled(self, report: Report) -> Report:
        """The report with scores, labels and prompts."""
        scores = {name: self._scores(candidate) for name, candidate in self._parts.items()}
        both = [h for h in scores["before"] if h in scores["after"]]
        gain = None
        if both:
            gain = paired([scores["before"][h] for h in both], [scores["after"][h] for h in both], seed=self._seed)
        labels = self._labels()
        return dataclasses.replace(
            report,
            held_out={n: interval(list(s.values()), seed=self._seed) for n, s in scores.items() if s},
            gain=gain,
            baselines=self._baselines,
            labels=labels,
            warnings=(*report.warnings, *self._warnings(labels)),
            validation=self._validation(),
            configuration=self._configuration(),
            prompts=self._prompts(),
            search=self._search_figures(),
        )

    def _validation(self) -> dict[str, Interval]:
        found: dict[str, Interval] = {}
        for name, candidate in self._parts.items():
            scores = self._search.scores(candidate)
            if scores:
                found[name] = interval(scores, seed=self._seed)
        return found

    def _labels(self) -> dict[str, dict[str, int]]:
        """How often each label was answered, and wanted, on held-out examples."""
        data = self._plan.split.train
        name = data.labels
        answered = {"before": self._search.default, "after": self._winner}
        if name is None or not any(self._scores(candidate) for candidate in answered.values()):
            return {}
        want = distribution([example.want for example in self._plan.held_out], data.output_schema, name)
        found: dict[str, dict[str, int]] = {}
        for part, candidate in answered.items():
            counts = dict.fromkeys(want, 0)
            for example in self._plan.held_out:
                settled = self._evaluations.known.get((candidate.identity, "held_out", example.hash))
                output = None if settled is None else settled.output
                if isinstance(output, Mapping) and name in output:
                    label = label_text(output[name])
                    counts[label] = counts.get(label, 0) + 1
            found[part] = counts
        return {**found, "want": want}

    def _warnings(self, labels: Mapping[str, Mapping[str, int]]) -> list[str]:
        found: list[str] = []
        for part, title in (("before", "the default program"), ("after", "the optimized program")):
            if part in labels:
                text = one_label_warning(labels[part], title, expected=labels["want"])
                if text is not None:
                    found.append(text)
        if self._winner is self._search.default:
            found.append("no configuration was better than the default on validation, so the default is kept")
        if self._evaluations.history.unread:
            found.append(
                f"{self._evaluations.history.unread} answers were not kept in the log and had to come from the cache "
                "or be bought again"
            )
        return found

    def _search_figures(self) -> dict[str, Json]:
        search = self._search
        done = sum(1 for _, part, _ in self._evaluations.known if part == "validation")
        return {
            "trials": sum(1 for c in search.candidates.values() if search.scores(c)),
            "rungs": len(search.rungs),
            "evaluations": done,
            "winner": self._winner.origin,
            "zero-shot format": self._parts["zero_shot"].origin,
        }

    def _configuration(self) -> dict[str, Json]:
        space, config = self._search.program.space, self._winner.config
        active = space.active(config)
        found: dict[str, Json] = {}
        for name, variable in space.variables.items():
            if name in active:
                value = config[name]
                found[name] = (
                    source_text(cast(DemoSource, value))
                    if variable.kind == "demos"
                    else cast(Json, variable.to_json(value))
                )
        return found

    def _prompts(self) -> tuple[Prompt, ...]:
        active = self._search.program.space.active(self._winner.config)
        names = {names.path: names for names in self._search.modules}
        prompts: list[Prompt] = []
        for path, module in self._winner.program.modules().items():
            own = names[path]
            if any(n is not None and n not in active for n in (own.instruction, own.demos)):
                continue
            settings = module.settings
            shown: dict[str, Json] = {"format": settings.format, "scoring": settings.scoring}
            if settings.temperature:
                shown["temperature"] = settings.temperature
            if settings.demos_k is not None:
                shown["demos_k"] = settings.demos_k
            prompts.append(Prompt(path, settings.instruction, source_text(settings.demos, settings.demos_k), shown))
        return tuple(prompts)


def source_text(source: DemoSource, last: int | None = None, most: int = 32) -> str:
    """Demonstrations for people to read; of a fixed set only the `last` ones, when a module uses no more."""
    if isinstance(source, Nearest):
        each = ", those of different outputs first" if source.spread else ""
        return f"for each input the {source.k} nearest of {len(source.pool)} examples{each}"
    if not source.demos:
        return "none"
    shown = source.demos if last is None else source.demos[max(0, len(source.demos) - last) :]
    lines = [f"{_flat(demo.input)} -> {_flat(demo.output)}" for demo in shown[:most]]
    if len(shown) > most:
        lines.append(f"(and {len(shown) - most} more)")
    return "\n".join(lines)


def _flat(values: Mapping[str, object]) -> str:
    shown: Sequence[object] = list(values.values())
    if len(shown) == 1:
        return str(shown[0])
    return ", ".join(f"{name}: {value}" for name, value in values.items())
