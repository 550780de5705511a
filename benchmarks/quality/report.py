"""The report on all that was measured: Markdown, plots and the scores as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.quality import collected, overhead, plots, scores, timings
from benchmarks.quality.collected import Collected
from benchmarks.quality.groups import GROUPS, Group
from benchmarks.quality.runs import EVERY, Run, values_at
from benchmarks.quality.tabulate import markdown

MAIN = "dspex-auto"
"""What the comparison is about; the other optimizers of dspex each take its place in the same field."""


_OVERHEAD_NOTE = """42 variables of four kinds, half of them under one of three branches; the same settings as above.
Medians of the time of the processor. dspex is timed on its own history, peers on one of random trials.
"""
_EVOLUTION_NOTE = """DTLZ2 with 40 floats; breeding and survival, without the evaluation. Medians of the time of the
processor. A dash where a generation would take longer than a minute, or where none was asked for.
"""


def write(results: Path) -> None:
    """Write `optimizers.md`, its plots and `scores.json` beside the results."""
    data = collected.read(results / "quality.json")
    sections: list[str] = [_head(data)]
    summary: dict[str, Any] = {}
    for key, group in GROUPS.items():
        runs = [run for run in data.runs if run.problem in group.problems]
        own = _own(runs)
        if own:
            sections.append(_section(results, key, group, runs, own, data, summary))
    sections += _overhead(results) + _evolution(results)
    (results / "scores.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (results / "optimizers.md").write_text("\n".join(sections), encoding="utf-8")


def _own(runs: Sequence[Run]) -> list[str]:
    names = sorted({run.optimizer for run in runs if run.optimizer.startswith("dspex-")})
    return sorted(names, key=lambda name: name != MAIN)


def _head(data: Collected) -> str:
    machine = data.machine
    packages = ", ".join(f"{name} {number}" for name, number in data.versions.items())
    seeds = sorted({run.seed for run in data.runs})
    return f"""# Optimizers beside their peers

Made by `nox -s peers -- optimizers`; `quality.json` holds every run and `scores.json` the figures of this page.

- Machine: {machine["cpu"]}, {machine["cores"]} cores, {machine["system"]}, Python {machine["python"]}
- Packages: {packages}
- Seeds: {seeds[0]} to {seeds[-1]}

Every run is scored on the **true** value of what its optimizer recommends: for a peer its best observed trial, for
dspex what `recommend()` returns. Regret is normalised by problem: 0 is the optimum, 1 the median of random search after
as many evaluations. Ranks are within each pair of problem and seed, from 0 (first) to 1 (last), ties sharing a rank.
Each optimizer of dspex is ranked in a field with the peers alone. Intervals are 95 % bootstrap intervals over problems
and seeds within them, p-values Wilcoxon's signed-rank test over the pairs. Peers run with the settings that come with
them (TPE multivariate, CatCMA with margin), on one thread; ms a trial are of the processor.
"""


def _section(
    results: Path, key: str, group: Group, runs: Sequence[Run], own: list[str], data: Collected, summary: dict[str, Any]
) -> str:
    parts = [f"## {group.title}\n", group.note]
    peers = [peer for peer in group.peers if any(run.optimizer == peer for run in runs)]
    for evaluations in group.reported:
        values = values_at(runs, evaluations)
        random = group.peers[0]
        found = [scores.compare(name, peers, values, data.best, random) for name in own if name in values]
        summary.setdefault(key, {})[str(evaluations)] = [asdict(each) for each in found]
        regret = {name: scores.by_problem(scores.regrets(values[name], data.best, values[random])) for name in values}
        parts += [
            f"### After {evaluations} evaluations\n",
            _field(found[0], runs),
            f"{found[0].pairs} pairs of problem and seed. Each optimizer of dspex beside each peer:\n",
            _beside(found),
            "Normalised regret by problem, mean over seeds:\n",
            markdown(
                ["", *own, *peers],
                [
                    [problem, *(_number(regret.get(name, {}).get(problem), ".3f") for name in (*own, *peers))]
                    for problem in group.problems
                ],
            ),
        ]
    parts += _curves(results, key, group, runs, own[0], peers, data)
    return "\n".join(parts)


def _field(found: scores.Comparison, runs: Sequence[Run]) -> str:
    return markdown(
        ["", "mean rank", "mean regret", "median regret", "ms a trial"],
        [
            [
                name,
                f"{found.mean_rank[name]:.3f}",
                f"{found.mean_regret[name]:.3f}",
                f"{found.median_regret[name]:.3f}",
                f"{collected.cost(runs, name):.2f}",
            ]
            for name in sorted(found.mean_rank, key=lambda name: found.mean_rank[name])
        ],
    )


def _beside(found: Sequence[scores.Comparison]) -> str:
    return markdown(
        ["", "peer", "mean rank, less the peer's", "95 % interval", "better on", "p"],
        [
            [
                each.name,
                beside.peer,
                f"{beside.rank_difference:+.3f}",
                f"{beside.low:+.3f} … {beside.high:+.3f}",
                f"{beside.wins:.0%} of problems",
                f"{beside.p_value:.2g}",
            ]
            for each in found
            for beside in each.versus
        ],
    )


def _curves(
    results: Path, key: str, group: Group, runs: Sequence[Run], name: str, peers: list[str], data: Collected
) -> list[str]:
    steps = list(range(EVERY, group.evaluations + 1, EVERY))
    field = (name, *peers)
    ranks: dict[str, plots.Curve] = {member: ([], []) for member in field}
    medians: dict[str, plots.Curve] = {member: ([], []) for member in field}
    panels: dict[str, dict[str, plots.Curve]] = {problem: {} for problem in group.problems}
    last = values_at(runs, steps[-1])
    for step in steps:
        values = values_at(runs, step)
        # Under rules some have nothing to recommend at first.
        if any(set(values.get(member, {})) != set(last[member]) for member in field):
            continue
        found = scores.compare(name, peers, values, data.best, peers[0])
        for member in field:
            _add(ranks[member], step, found.mean_rank[member])
            _add(medians[member], step, found.median_regret[member])
            for problem, mean in scores.by_problem(values[member]).items():
                _add(panels[problem].setdefault(member, ([], [])), step, mean - data.best[problem])
    overall = {"mean rank (0 = first, 1 = last)": ranks, "median normalised regret (random = 1)": medians}
    plots.lines(results / f"{key}-overall.svg", overall, across="evaluations", up="")
    plots.lines(
        results / f"{key}-problems.svg",
        panels,
        across="evaluations",
        up="regret",
        log="y",
        columns=4,
        size=(2.8, 2.2),
    )
    return [f"![Mean rank and regret]({key}-overall.svg)\n", f"![Regret on each problem]({key}-problems.svg)\n"]


def _overhead(results: Path) -> list[str]:
    rows = timings.read(results / timings.OVERHEAD)
    if not rows:
        return []
    sizes = sorted({size for row in rows.values() for size in row})
    names = [name for name in (*overhead.OURS, *overhead.PEERS) if name in rows]
    curves: dict[str, plots.Curve] = {name: (list(map(float, rows[name])), list(rows[name].values())) for name in names}
    panels = {"ms per ask and tell": curves}
    plots.lines(results / "overhead.svg", panels, across="trials before", up="ms", log="xy", size=(6.0, 3.4))
    table = markdown(
        ["ms per ask + tell at n =", *(f"{size:,}" for size in sizes), "grows as"],
        [
            [name, *(_number(rows[name].get(size), ".3g") for size in sizes), f"n^{overhead.exponent(rows[name]):.2f}"]
            for name in names
        ],
    )
    return ["## What an ask and a tell cost\n", _OVERHEAD_NOTE, table, "![Cost by trials](overhead.svg)\n"]


def _evolution(results: Path) -> list[str]:
    rows = timings.read(results / timings.EVOLUTION)
    if not rows:
        return []
    sizes = sorted({size for row in rows.values() for size in row})
    table = markdown(
        ["individuals/s at a population of", *(f"{size:,}" for size in sizes)],
        [
            [f"{name} objectives", *(_number(row.get(size), ",.0f") for size in sizes)]
            for name, row in sorted(rows.items(), key=lambda item: item[0].split(", ")[::-1])
        ],
    )
    return ["## NSGA-II\n", _EVOLUTION_NOTE, table]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _add(curve: plots.Curve, x: float, y: float) -> None:
    curve[0].append(x)
    curve[1].append(y)
