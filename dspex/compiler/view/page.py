"""An explanation as one HTML page: no scripts, nothing from elsewhere, light and dark."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dspex.compiler.view.drawing import LARGEST, drawing

if TYPE_CHECKING:
    from dspex.compiler.explain import Explanation
    from dspex.compiler.ir.nodes import Graph

__all__ = ["fragment", "graph_fragment", "page"]

PALETTE = """
.dspex{--ink:#1b1f24;--soft:#57606a;--paper:#fff;--pane:#f5f7f9;--line:#d0d7de;--lm:#ddf4ff;--lm-line:#218bff;
--py:#fff8c5;--py-line:#bf8700;--opaque:#ffebe9;--opaque-line:#cf222e;--select:#fbefff;--select-line:#8250df;
--join:#dafbe1;--join-line:#2da44e;--bad:#cf222e;--warn:#9a6700;color:var(--ink);background:var(--paper);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
@media(prefers-color-scheme:dark){.dspex{--ink:#e6edf3;--soft:#9198a1;--paper:#0d1117;--pane:#161b22;--line:#3d444d;
--lm:#0c2d4d;--lm-line:#4493f8;--py:#33290b;--py-line:#d29922;--opaque:#3c1618;--opaque-line:#f85149;--select:#271a3d;
--select-line:#ab7df8;--join:#0f2d17;--join-line:#3fb950;--bad:#f85149;--warn:#d29922}}
.dspex h1{font-size:1.6rem;margin:0}.dspex h2{font-size:1.15rem;margin:2rem 0 .5rem}.dspex h3{font-size:1rem;
margin:1.2rem 0 .3rem}
.dspex p{margin:.3rem 0}.dspex .soft,.dspex th{color:var(--soft);font-weight:400}
.dspex pre,.dspex code{font:13px/1.45 ui-monospace,"SF Mono",Menlo,Consolas,monospace}
.dspex pre{background:var(--pane);border:1px solid var(--line);border-radius:6px;padding:.8rem;overflow:auto;
white-space:pre-wrap;overflow-wrap:anywhere}
.dspex .scroll{overflow:auto}.dspex table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.dspex th,.dspex td{padding:.25rem 1rem .25rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
.dspex tr.off td{color:var(--soft)}.dspex tfoot td{font-weight:600}
.dspex summary{cursor:pointer}.dspex .error{color:var(--bad)}.dspex .warning{color:var(--warn)}
.dspex svg.graph{max-width:100%;height:auto;background:var(--pane);border:1px solid var(--line);border-radius:6px}
.dspex svg text{font:12px ui-monospace,"SF Mono",Menlo,Consolas,monospace;fill:var(--ink)}
.dspex svg .more,.dspex svg .label{fill:var(--soft)}
.dspex svg .box{fill:var(--paper);stroke:var(--soft)}.dspex svg .lm{fill:var(--lm);stroke:var(--lm-line)}
.dspex svg .python,.dspex svg .tool{fill:var(--py);stroke:var(--py-line)}
.dspex svg .opaque{fill:var(--opaque);stroke:var(--opaque-line);stroke-dasharray:5 3}
.dspex svg .select,.dspex svg .cond,.dspex svg .map,.dspex svg .fallback,.dspex svg .race,
.dspex svg .together{fill:var(--select);stroke:var(--select-line)}
.dspex svg .join{fill:var(--join);stroke:var(--join-line)}
.dspex svg .frame{fill:var(--pane);stroke:var(--line)}.dspex svg .off{opacity:.45}
.dspex svg .arrow{fill:none;stroke:var(--soft);stroke-width:1.3}.dspex svg .order{stroke-dasharray:4 3}
.dspex svg .tip{fill:var(--soft)}
"""


def page(explanation: Explanation) -> str:
    """The whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(explanation.name)}</title>"
        "<style>body{margin:0}.dspex{padding:1.5rem;min-height:100vh;box-sizing:border-box}"
        ".dspex>*{max-width:72rem;margin-left:auto;margin-right:auto}</style></head><body>"
        f"{fragment(explanation)}</body></html>\n"
    )


def fragment(explanation: Explanation) -> str:
    """The same as a part of another page, such as a notebook."""
    e = explanation
    head = (
        f"<header><h1>{escape(e.name)}</h1><p>{escape(e.signature)} "
        f'<span class="soft">graph <code>{escape(e.hash[:12])}</code></span></header>'
    )
    sections = [
        _section("Findings", _findings(e)),
        _section("Graph", _graph(e.drawn, e.graph, e.config)),
        _section("Cost of one run", _costs(e)),
        _section("Opaque", _opaque(e)),
        _section(f"Variables ({len(e.variables)})", _variables(e)),
        _section(f"Rules ({len(e.rules)})", "".join(f"<p><code>{escape(rule)}</code>" for rule in e.rules)),
        _section("Prompts", _prompts(e)),
    ]
    return f'<div class="dspex"><style>{PALETTE}</style>{head}{"".join(sections)}</div>'


def graph_fragment(graph: Graph) -> str:
    """A graph alone, for a notebook."""
    return f'<div class="dspex"><style>{PALETTE}</style>{_graph(graph, str(graph), {})}</div>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _graph(graph: Graph | None, text: str, config: dict[str, object]) -> str:
    drawn = ""
    if graph is not None:
        count = len(graph.nodes)
        if count <= LARGEST:
            drawn = f'<div class="scroll">{drawing(graph, config)}</div>'
        else:
            drawn = f'<p class="soft">{count} nodes, too many to draw'
    return f"{drawn}<details{'' if drawn else ' open'}><summary>as text</summary><pre>{escape(text)}</pre></details>"


def _findings(e: Explanation) -> str:
    return "".join(
        f'<p><b class="{d.severity}">{d.severity}</b> <code>{escape(d.code)}</code> {escape(d.message)}'
        + (f' <span class="soft">at {escape(d.where)}</span>' if d.where else "")
        + (f'<br><span class="soft">fix: {escape(d.fix)}</span>' if d.fix else "")
        for d in e.diagnostics
        # The section on opaque programs says the same, and more.
        if d.code != "DX2404"
    )


def _costs(e: Explanation) -> str:
    if e.estimates is None:
        return ""
    head, *body = e.estimates.rows
    last = body.pop()
    cells = "".join(f"<th>{escape(cell)}" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in body)
    foot = "".join(f"<td>{escape(cell)}" for cell in last)
    notes = "".join(f'<p class="soft">{escape(line)}' for line in e.estimates.remarks)
    return (
        f'<div class="scroll"><table><thead><tr>{cells}<tbody>{rows}<tfoot><tr>{foot}</table></div>{notes}'
        '<p class="soft">Without examples; <code>estimate(inputs)</code> says more.'
    )


def _opaque(e: Explanation) -> str:
    return "".join(
        f"<p><code>{escape(o.program or e.name)}</code> at <code>{escape(o.where)}</code>: {escape(o.reason)}."
        f" <b>Remedy:</b> {escape(o.remedy)}"
        + (f'<br><span class="soft">modules: {escape(", ".join(o.modules))}</span>' if o.modules else "")
        for o in e.opaque
    )


def _variables(e: Explanation) -> str:
    from dspex.compiler.explain import short

    rows = "".join(
        f"<tr{'' if v.active else ' class=off'}><td><code>{escape(v.name)}</code><td>{escape(v.domain)}"
        f"<td>{escape(short(v.value))}<td>{escape(v.when or '')}{'' if v.active else ' (inactive)'}"
        for v in e.variables
    )
    return f'<div class="scroll"><table><thead><tr><th>name<th>domain<th>value<th>when<tbody>{rows}</table></div>'


def _prompts(e: Explanation) -> str:
    return "".join(
        f"<h3><code>{escape(p.module)}</code></h3>"
        + (f'<p class="soft">{escape(p.note)}' if p.note else "")
        + f"<pre>{escape(p.text)}</pre>"
        for p in e.prompts
    )
