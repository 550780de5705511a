"""A study's report as one HTML page: no script, nothing fetched, light and dark, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from dspex.evaluation.statistics import Interval

if TYPE_CHECKING:
    from dspex.study.report import Report

_STYLE = """
:root { color-scheme: light dark; --bg: #fbfbfa; --fg: #1d1f21; --dim: #6a6f76; --line: #d9dce0; --bar: #3b6fb6;
        --warn: #8a5a00; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #16181b; --fg: #e4e6e9; --dim: #9aa1aa; --line: #33383e; --bar: #7aa7e0; --warn: #e0b060; }
}
body { background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; max-width: 56rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p.dim, td.dim, .dim { color: var(--dim); } .warn { color: var(--warn); }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem .3rem 0;
       border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: color-mix(in srgb, var(--fg) 6%, transparent);
      padding: .8rem; border-radius: 6px; font-size: 13px; }
svg { display: block; width: 100%; height: 1.1rem; }
"""

_TITLES = {
    "before": "default program",
    "zero_shot": "best zero-shot format",
    "after": "optimized",
    "majority": "majority class",
    "nearest_neighbour": "TF-IDF nearest neighbour",
}


def page(report: Report) -> str:
    """The whole page."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Study {escape(report.study)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Study {escape(report.study)}</h1>",
        f"<p class='dim'>{escape(report.status)}"
        + (f": {escape(report.stopped_because)}" if report.stopped_because else "")
        + f" · strategy {escape(report.strategy)} · seed {report.seed}</p>",
    ]
    if report.error is not None:
        parts.append(f"<p class='warn'>{escape(report.error.code)} {escape(report.error.message)}</p>")
        if report.error.fix:
            parts.append(f"<p>Fix: {escape(report.error.fix)}</p>")
    parts += [f"<p class='warn'>{escape(text)}</p>" for text in report.warnings]
    parts += _scores(report)
    parts += _labels(report)
    parts += _costs(report)
    parts += _winner(report)
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def _scores(report: Report) -> Iterable[str]:
    rows = [(name, value, True) for name, value in report.held_out.items()]
    rows += [(name, value, False) for name, value in report.baselines.items()]
    if not rows:
        return
    yield "<h2>Held-out score</h2><table><tr><th></th><th class='n'>mean</th><th class='n'>95 % interval</th>"
    yield "<th class='n'>n</th><th style='width:38%'></th></tr>"
    low = min(0.0, *(value.low for _, value, _ in rows))
    high = max(1.0, *(value.high for _, value, _ in rows))
    for name, value, ours in rows:
        yield (
            f"<tr><td>{escape(_TITLES.get(name, name))}</td><td class='n'>{value.mean:.3f}</td>"
            f"<td class='n'>{value.low:.3f} – {value.high:.3f}</td><td class='n'>{value.n}</td>"
            f"<td>{_bar(value, low, high, ours)}</td></tr>"
        )
    yield "</table>"
    if report.gain is not None:
        gain = report.gain
        yield (
            f"<p>Paired gain {gain.mean:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}, "
            f"p = {gain.p_value:.4g}.</p>"
        )
    if report.validation:
        shown = ", ".join(
            f"{escape(name)} {value.mean:.3f} (n = {value.n})" for name, value in report.validation.items()
        )
        yield f"<p class='dim'>On validation examples: {shown}.</p>"


def _bar(value: Interval, low: float, high: float, ours: bool) -> str:
    def at(score: float) -> float:
        return 100 * (score - low) / (high - low)

    fill = "var(--bar)" if ours else "var(--dim)"
    return (
        "<svg viewBox='0 0 100 10' preserveAspectRatio='none' aria-hidden='true'>"
        f"<rect x='0' y='2' width='{at(value.mean):.2f}' height='6' fill='{fill}' opacity='.55'/>"
        f"<rect x='{at(value.low):.2f}' y='4.2' width='{max(0.4, at(value.high) - at(value.low)):.2f}' height='1.6' "
        "fill='var(--fg)'/></svg>"
    )


def _labels(report: Report) -> Iterable[str]:
    if not report.labels:
        return
    names = sorted({label for counts in report.labels.values() for label in counts})[:40]
    columns = list(report.labels)
    yield "<h2>Labels on held-out examples</h2><table><tr><th></th>"
    yield "".join(f"<th class='n'>{escape(_TITLES.get(column, column))}</th>" for column in columns) + "</tr>"
    for name in names:
        cells = "".join(f"<td class='n'>{report.labels[column].get(name, 0)}</td>" for column in columns)
        yield f"<tr><td>{escape(name)}</td>{cells}</tr>"
    yield "</table>"


def _costs(report: Report) -> Iterable[str]:
    usd = "no known price" if report.usd is None else f"${report.usd:.4f}"
    rows: list[tuple[str, object]] = [
        ("calls", report.calls),
        ("attempts", report.attempts),
        ("tokens", report.tokens),
        ("dollars", usd),
        ("working seconds", f"{report.seconds:.1f}"),
        ("cache hits", report.cache_hits),
        ("attempts of unknown outcome", report.uncertain.calls),
        ("sent again after a crash", report.repeats_after_crash),
        *((f"failed attempts {code}", count) for code, count in sorted(report.failures.items())),
        *report.search.items(),
    ]
    yield "<h2>Cost</h2><table>"
    for name, value in rows:
        yield f"<tr><td>{escape(name)}</td><td class='n'>{escape(str(value))}</td></tr>"
    yield "</table>"


def _winner(report: Report) -> Iterable[str]:
    if report.prompts:
        yield "<h2>The prompt that won</h2>"
    for prompt in report.prompts:
        settings = " · ".join(f"{escape(name)} {escape(str(value))}" for name, value in prompt.settings.items())
        yield f"<p><b>{escape(prompt.module or 'program')}</b> <span class='dim'>{settings}</span></p>"
        yield f"<pre>{escape(prompt.instruction)}</pre><pre>{escape(prompt.demos)}</pre>"
    if report.configuration:
        yield "<h2>Winning configuration</h2><table>"
        for name, value in report.configuration.items():
            yield f"<tr><td>{escape(name)}</td><td>{escape(str(value)[:2000])}</td></tr>"
        yield "</table>"
    if report.splits:
        yield "<h2>Data</h2><table>"
        for name, value in report.splits.items():
            yield f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
        yield "</table>"
    if report.versions:
        shown = " · ".join(f"{escape(name)} {escape(value)}" for name, value in report.versions.items())
        yield f"<p class='dim'>{shown}</p>"
