"""`dspex explain TARGET|CODE`: the compiled program for a person, or what an error code means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dspex.cli.output import emit, envelope, must_be_writable, note
from dspex.errors import UsageError

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.compiler.estimate.estimates import Estimates
    from dspex.compiler.explain import Explanation
    from dspex.lm.model import LMLike

_EXAMPLES = 100
"""Rows of a data set that an estimate looks at."""

_LAST = ("estimate", "lower")


@click.command("explain")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET")
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json", "mermaid", "html")),
    help="What to write; `text` when it is left out.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write to.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--after", metavar="PASS", help="Only the graph as it is after PASS: read, inline, ..., estimate, lower.")
@click.option("--print-between-passes", "between", is_flag=True, help="The graph as it was read and after each pass.")
@click.option("--diff", "differ", is_flag=True, help="How the second TARGET's graph differs from the first's.")
@click.option("--data", type=click.Path(path_type=Path, dir_okay=False), help="Data set whose rows the estimate uses.")
@click.option("--lm", help="Model to estimate for, for example local/smollm2 or openai/gpt-4.1-mini.")
@click.option("--import", "imports", multiple=True, metavar="MODULE", help="Module that an artifact may import.")
def command(
    targets: tuple[str, ...],
    form: str | None,
    output: Path | None,
    as_json: bool,
    after: str | None,
    between: bool,
    differ: bool,
    data: Path | None,
    lm: str | None,
    imports: tuple[str, ...],
) -> None:
    """Explain TARGET: a program (module:name), an artifact, or an error code such as DX2104. Makes no call."""
    must_be_writable(None if output is None else str(output))
    if len(targets) != (2 if differ else 1):
        raise click.UsageError(f"--diff takes two targets, got {len(targets)}" if differ else "one target is explained")
    target = targets[0]
    if re.fullmatch(r"(?i)dx\d+", target):
        from dspex.compiler.explain import explain_code

        text = explain_code(target.upper())
        _write(text, output, envelope(code=target.upper(), text=text) if as_json else None)
        return
    from dspex.cli.targets import load_compiled

    compiled = load_compiled(target, imports=imports)
    if differ:
        from dspex.compiler.explain import difference

        found = difference(compiled, load_compiled(targets[1], imports=imports))
        _write(str(found), output, envelope(diff=found.as_json()) if as_json else None)
        return
    if after is not None or between:
        stages = dict(_stages(compiled, target, lm))
        shown = stages if between and after is None else {str(after): _stage(stages, str(after))}
        text = "\n".join(f"# {name}\n{text}" for name, text in shown.items()) if between else next(iter(shown.values()))
        _write(text, output, envelope(stages=shown) if as_json else None)
        return
    estimates = None if data is None and lm is None else _estimates(compiled, data, lm)
    explanation = compiled.explain()
    if estimates is not None:
        explanation = replace(explanation, estimates=estimates)
    if as_json and form is None:
        form = "json"
    _write(
        _formed(explanation, form or "text"), output, envelope(explanation=explanation.as_json()) if as_json else None
    )


def _formed(explanation: Explanation, form: str) -> str:
    if form == "mermaid":
        return explanation.as_mermaid()
    if form == "html":
        return explanation.as_html()
    if form == "json":
        import json

        return json.dumps(explanation.as_json(), ensure_ascii=False, indent=2) + "\n"
    return str(explanation)


def _write(text: str, output: Path | None, document: dict[str, object] | None) -> None:
    """The text to a file or to stdout; under ``--json`` the document goes to stdout."""
    if output is not None:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError("DX8309", f"{output} cannot be written: {error.strerror}", where=str(output)) from error
        note(f"wrote {output}")
    if document is not None:
        emit(document)
    elif output is None:
        click.echo(text, nl=not text.endswith("\n"))


def _stages(compiled: Compiled[Any, Any], target: str, lm: LMLike | None) -> Iterator[tuple[str, str]]:
    """The graph's text after each pass, and the parameter table's."""
    from dspex.compiler.compiled import stages
    from dspex.compiler.estimate.estimating import estimated

    program = compiled.code.program
    if program is None:
        raise UsageError(
            "DX8331",
            f"{target} holds the graph after its last pass only",
            fix="name the program that it was compiled from, module:name",
        )
    for name, graph in stages(program):
        yield name, str(graph)
    yield "estimate", str(estimated(compiled, model=lm))
    yield "lower", str(compiled.params)


def _stage(stages: dict[str, str], name: str) -> str:
    if name not in stages:
        near = difflib.get_close_matches(name, stages, n=1)
        raise UsageError(
            "DX8330",
            f"there is no pass {name!r}; passes are {', '.join(stages)}",
            fix=f"did you mean {near[0]}?" if near else None,
        )
    return stages[name]


def _estimates(compiled: Compiled[Any, Any], data: Path | None, lm: str | None) -> Estimates:
    if data is None:
        return compiled.estimate(model=lm)
    from dspex.evaluation.dataset import load

    rows = list(load(data, compiled.input_schema, compiled.output_schema))[:_EXAMPLES]
    return compiled.estimate([row.input for row in rows], expected=[row.want for row in rows], model=lm)
