"""`dspex optimize TARGET DATA --metric M`: a study from the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dspex.cli.budget import budget_options
from dspex.cli.output import BUDGET, DONE, FAULT, INTERRUPTED, channel, emit, must_be_writable, note
from dspex.optimizers import names

if TYPE_CHECKING:
    from dspex.cli.progress import Show
    from dspex.lm.spend import Budget
    from dspex.program.program import Program
    from dspex.study.report import Report
    from dspex.study.stop import StopToken
    from dspex.study.study import Study
    from dspex.telemetry.events import ContentMode, Json


def run_study(
    start: Callable[[StopToken, Show], Coroutine[object, object, Program[Any, Any]]], *, quiet: bool
) -> Program[Any, Any]:
    """Run a study to its end, with progress on stderr and the three signals."""
    from dspex.cli.progress import showing
    from dspex.cli.signals import run_interruptible
    from dspex.study.stop import StopToken

    stop = StopToken()
    with showing(quiet) as show:
        return run_interruptible(start(stop, show), stop, show.say)


def resume_study(
    study: str, *, accept_changes: bool, lm: str | None, artifact: str | None, page: str | None, as_json: bool
) -> int:
    """Go on with a recorded study; its program, data and metric are found where they were."""
    from dspex.cli.targets import load_callable, load_program
    from dspex.evaluation.dataset import load
    from dspex.stores.sqlite import SqliteEventStore
    from dspex.study.loop import resume_async
    from dspex.study.records import origin_of

    with SqliteEventStore() as store:
        origin = origin_of(store, study)
        channel().study = study
        artifact, page = artifact or origin.artifact, page or origin.page
        must_be_writable(artifact, page)
        program = load_program(origin.program, folder=origin.folder)
        metric = load_callable(origin.metric, folder=origin.folder)
        schemas = program.input_schema, program.output_schema
        data = load(Path(origin.data), *schemas)
        held_out = None if origin.held_out is None else load(Path(origin.held_out), *schemas)
        best = run_study(
            lambda stop, progress: resume_async(
                study,
                program,
                data,
                metric,
                held_out=held_out,
                store=store,
                lm=lm or origin.lm,
                accept_changes=accept_changes,
                stop=stop,
                progress=progress,
            ),
            quiet=as_json,
        )
        return finish(best, as_json=as_json, artifact=artifact, page=page)


def finish(
    best: Program[Any, Any],
    *,
    as_json: bool,
    artifact: str | None,
    page: str | None = None,
    more: Mapping[str, object] | None = None,
) -> int:
    """Write what was asked for, print the report and choose the exit code.

    Args:
        best: What the study gave.
        as_json: Whether a JSON object is the result.
        artifact: Where the program goes.
        page: Where the HTML report goes.
        more: Further keys of the JSON object.
    """
    study: Study = best.study
    report = study.report
    channel().study, channel().seed = report.study, report.seed
    if artifact is not None:
        from dspex.compiler import compile as compile_program

        compile_program(best).save(artifact, provenance=provenance(report))
    if page is not None:
        Path(page).write_text(report.as_html(), encoding="utf-8")
    if as_json:
        emit({**report.as_json(), "artifact": artifact, "report": page, **(more or {})})
    else:
        click.echo(report.as_text())
        if artifact:
            click.echo(f"artifact  {artifact}")
        if page:
            click.echo(f"report    {page}")
    if report.status == "interrupted":
        note(f"go on with: dspex study resume {report.study}")
    return report_exit_code(report.status)


def provenance(report: Report) -> dict[str, Json]:
    """What an artifact says of where its configuration came from."""
    document = report.as_json()
    return {key: document[key] for key in ("study", "seed", "splits", "held_out", "gain", "calls", "usd", "versions")}


def report_exit_code(status: str) -> int:
    """0 complete, 130 interrupted, 3 for a partial result, 1 failed."""
    match status:
        case "complete":
            return DONE
        case "interrupted":
            return INTERRUPTED
        case "partial":
            return BUDGET
        case _:
            return FAULT


@click.command("optimize")
@click.argument("target")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--metric", required=True, help="module:function taking (got, want).")
@budget_options(calls="Calls at most, the held-out evaluation included.")
@click.option(
    "--held-out", type=click.Path(path_type=Path), help="Held-out data of your own; otherwise a part of DATA."
)
@click.option("--lm", help="Model to use, for example local/smollm2.")
@click.option("--strategy", type=click.Choice(names()), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--concurrency", type=click.IntRange(min=1), help="Evaluations in flight; by default what the model allows."
)
@click.option("--content", type=click.Choice(["full", "hash", "off"]), help="What the log keeps of texts.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Artifact to write.")
@click.option("--html", type=click.Path(dir_okay=False), help="HTML report to write.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    target: str,
    data: Path,
    metric: str,
    budget: Budget,
    held_out: Path | None,
    lm: str | None,
    strategy: str,
    seed: int,
    concurrency: int | None,
    content: ContentMode | None,
    output: str | None,
    html: str | None,
    as_json: bool,
) -> int:
    """Search the Variables of TARGET (module:name) on DATA (JSONL or CSV) for the best score of the metric."""
    from dspex.cli.targets import load_callable, load_program
    from dspex.errors import UsageError
    from dspex.evaluation.dataset import load
    from dspex.stores.sqlite import SqliteEventStore
    from dspex.study.loop import optimize_async
    from dspex.study.records import Origin

    if not budget:
        raise UsageError("DX8306", "a study needs a budget", fix="for example --budget-calls 500")
    channel().seed = seed
    must_be_writable(output, html)
    program = load_program(target)
    rows = load(data, program.input_schema, program.output_schema)
    apart = None if held_out is None else load(held_out, program.input_schema, program.output_schema)
    score = load_callable(metric)
    apart_path = None if held_out is None else str(held_out.resolve())
    origin = Origin(
        target,
        str(data.resolve()),
        metric,
        str(Path.cwd()),
        held_out=apart_path,
        lm=lm,
        artifact=None if output is None else os.path.abspath(output),
        page=None if html is None else os.path.abspath(html),
    )
    with SqliteEventStore() as store:
        best = run_study(
            lambda stop, progress: optimize_async(
                program,
                rows,
                score,
                budget=budget,
                seed=seed,
                strategy=strategy,
                held_out=apart,
                lm=lm,
                store=store,
                concurrency=concurrency,
                content=content,
                origin=origin.as_json(),
                stop=stop,
                progress=progress,
            ),
            quiet=as_json,
        )
        return finish(best, as_json=as_json, artifact=output, page=html)
