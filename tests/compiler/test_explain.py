"""Explanations: as text, JSON, Mermaid and a page; of programs, artifacts and codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import dspex as dx
from dspex.compiler import parse
from dspex.compiler.ir.nodes import Graph
from dspex.compiler.view.diagram import OUTPUT, boxes, diagram
from dspex.compiler.view.drawing import LARGEST, drawing
from dspex.compiler.view.mermaid import mermaid
from tests.compiler.library import Loops, Router

GRAPH = """program desk : Ask -> Reply {
  %0 = input : Ask
  %1 = python pure desk:look_up (%0.text, $shown) : list[Page]
  %2 = map %1 {
    %3 = input : Page
    %4 = lm Page -> Note (%3) @read
    output %4
  } : list[Note]
  %5 = lm Ask -> Sorted (%0) @sort
  %6 = cond %5.fault {
    %7 = lm Ask -> Reply (%0) @careful
    output %7
  } else {
    %8 = select $draft {
      direct: lm Ask -> Reply (%0) @draft.direct
      quick: {
        output %0
      }
    } : Reply
    output %8
  } : Reply
  %10 = after %1 python desk:log (%2) : None
  output %6
}
"""


@pytest.fixture
def graph() -> Graph:
    return parse(GRAPH)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href", "onclick", "onload"), (tag, name)
            assert value is None or "http" not in value, (tag, value)


def tags(html: str) -> list[str]:
    page = _Page()
    page.feed(html)
    return page.found


def test_page_holds_drawing_costs_variables_and_prompts_and_nothing_from_elsewhere() -> None:
    html = dx.compile(Router()).explain().as_html()
    found = tags(html)
    assert "script" not in found
    assert "link" not in found
    assert {"svg", "table", "pre", "h1", "h2", "details"} <= set(found)
    assert "@import" not in html
    assert "url(http" not in html
    assert "prefers-color-scheme:dark" in html
    for title in ("Graph", "Cost of one run", "Variables", "Rules", "Prompts"):
        assert f"<h2>{title}" in html


def test_page_says_once_what_is_opaque() -> None:
    explained = dx.compile(Loops()).explain()
    assert len(explained.opaque) == 1
    html = explained.as_html()
    assert html.count("<b>Remedy:</b>") == 1
    assert "Findings" not in html
    assert "DX2404" in str(explained)


def test_page_escapes_what_a_user_wrote() -> None:
    bound = dx.compile(Router()).bind({"solver.predict.instruction": "<script>alert('&')</script>"})
    html = bound.explain().as_html()
    assert "script" not in tags(html)
    assert "&lt;script&gt;" in html


def test_notebooks_show_compiled_graph_explanation_and_estimates() -> None:
    compiled = dx.compile(Router())
    for shown in (compiled, compiled.graph, compiled.explain(), compiled.estimate()):
        html = shown._repr_html_()  # pyright: ignore[reportPrivateUsage]
        assert "<html" not in html
        assert "script" not in tags(html)


def test_json_holds_costs_and_findings() -> None:
    data = dx.compile(Loops()).explain().as_json()
    assert json.loads(json.dumps(data)) == data
    assert data["estimates"]["lower_bound"]  # type: ignore[index]
    assert [found["code"] for found in data["diagnostics"]] == ["DX2404"]  # type: ignore[index,union-attr]


def test_an_artifact_without_its_program_is_explained_too(tmp_path: Path) -> None:
    path = tmp_path / "router.dspex"
    compiled = dx.compile(dx.Predict(Router.input_schema, Router.output_schema))
    compiled.save(path)
    loaded = dx.load_artifact(path)
    explained = loaded.explain()
    assert explained.graph == compiled.explain().graph
    assert [prompt.text for prompt in explained.prompts] == [prompt.text for prompt in compiled.explain().prompts]
    assert loaded.estimate(model="local/smollm2").run == compiled.estimate(model="local/smollm2").run


# --- the drawing --------------------------------------------------------------------------------


def test_every_node_is_a_box_and_arrows_stay_in_their_part(graph: Graph) -> None:
    whole = diagram(graph)
    assert sorted(box.number for box in boxes(whole)) == [OUTPUT, *range(11)]
    for part in (whole, *(part for box in boxes(whole) for part in box.parts)):
        here = {box.number for box in part.boxes}
        assert all({arrow.source, arrow.target} <= here for arrow in part.arrows)
    assert {(arrow.source, arrow.target) for arrow in whole.arrows if arrow.order} == {(1, 10)}


def test_boxes_of_a_drawing_do_not_overlap(graph: Graph) -> None:
    places = re.findall(
        r'<rect class="box (\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawing(graph)
    )
    assert len(places) == 12
    rects = [(kind, *map(float, rest)) for kind, *rest in places]
    plain = [rect for rect in rects if rect[0] not in ("map", "cond", "select")]
    for index, (_, x, y, width, height) in enumerate(plain):
        for _, other_x, other_y, other_width, other_height in plain[:index]:
            apart = (
                x + width <= other_x
                or other_x + other_width <= x
                or y + height <= other_y
                or other_y + other_height <= y
            )
            assert apart


def test_a_branch_that_does_not_run_is_faint(graph: Graph) -> None:
    assert drawing(graph).count('class="part off"') == 0
    assert drawing(graph, {"draft": "quick"}).count('class="part off"') == 1


def test_a_graph_that_nobody_could_read_is_not_drawn() -> None:
    lines = ["program long : Ask -> Ask {", "  %0 = input : Ask"]
    lines += [f"  %{n} = lm Ask -> Ask (%{n - 1}) @step{n}" for n in range(1, LARGEST + 2)]
    large = parse("\n".join([*lines, f"  output %{LARGEST + 1}", "}", ""]))
    html = large._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert "svg" not in tags(html)
    assert "too many to draw" in html


NASTY = ('"', "`", "#quot;", "]", "<b>", "end", "%%", "a\\nb", "graph TD", "--> x", "日本 ✓", "{}", "o--o", "/x/")


def labelled(text: str) -> Graph:
    """A graph with a node whose label is `text`."""
    shown = json.dumps(text, ensure_ascii=False)
    head = "program p : Ask -> Ask {\n  %0 = input : Ask\n"
    return parse(f'{head}  %1 = python m:f () expr {shown} source "aa" : str\n  output %0\n}}\n')


# --- Mermaid ------------------------------------------------------------------------------------


def test_mermaid_is_a_flowchart_of_the_graph(graph: Graph) -> None:
    text = mermaid(graph, {"draft": "direct"})
    assert text.startswith("flowchart TD\n")
    assert 'subgraph n6 ["%6 cond %5.fault"]' in text
    assert "n1 -.-> n10" in text
    assert "n6 --> result" in text
    assert "class n8b1 off" in text
    assert len(re.findall(r"^\s*subgraph ", text, re.M)) == len(re.findall(r"^\s*end$", text, re.M))


@pytest.mark.parametrize(
    "nasty", ['"', "`", "#quot;", "]", "<b>", "end", "%%", "a\\nb", "graph TD", "--> x", "日本 ✓", "{}"]
)
def test_mermaid_labels_hold_any_text(nasty: str) -> None:
    shown = json.dumps(nasty, ensure_ascii=False)
    graph = parse(
        "program p : Ask -> Ask {\n  %0 = input : Ask\n"
        f'  %1 = python m:f () expr {shown} source "aa" : str\n  output %0\n}}\n'
    )
    for line in mermaid(graph).splitlines():
        label = re.search(r'"(.*)"', line)
        assert label is None or not re.search(r'["`<>\[\]{}\\|](?!br/>)', label[1].replace("<br/>", "")), line


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_mermaid_is_accepted_by_mermaids_own_parser(graph: Graph, tmp_path: Path) -> None:
    """Runs where ``MERMAID_MODULES`` names a folder with node_modules that hold mermaid and jsdom."""
    import os

    modules = os.environ.get("MERMAID_MODULES")
    if not modules:
        pytest.skip("MERMAID_MODULES is not set")
    script = (
        'import {JSDOM} from "jsdom"; import fs from "fs";\n'
        'const dom = new JSDOM("<body></body>"); global.window = dom.window; global.document = dom.window.document;\n'
        'const mermaid = (await import("mermaid")).default;\n'
        "for (const file of process.argv.slice(2)) await mermaid.parse(fs.readFileSync(file, 'utf8'));\n"
    )
    place = Path(modules) / "dspex_mermaid_check.mjs"
    files: list[str] = []
    for number, text in enumerate(_flowcharts(graph)):
        file = tmp_path / f"{number}.mmd"
        file.write_text(text, encoding="utf-8")
        files.append(str(file))
    place.write_text(script, encoding="utf-8")
    try:
        subprocess.run(["node", str(place), *files], check=True, timeout=60)
    finally:
        place.unlink()


def _flowcharts(graph: Graph) -> list[str]:
    texts = [mermaid(graph), mermaid(graph, {"draft": "quick"}), dx.compile(Loops()).explain().as_mermaid()]
    texts += [mermaid(labelled(nasty)) for nasty in NASTY]
    return texts
