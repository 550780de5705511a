"""`dspex demo`: compile a real program, optimize it on the real local model, report on held-out tickets."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dspex.cli.output import channel, must_be_writable, note
from dspex.errors import UsageError

if TYPE_CHECKING:
    from dspex.program.program import Program
    from dspex.study.study import Study

MODEL = "local/smollm2"
CALLS = 900
SAFETY_STOP = "10m"
RULE = "─" * 72
PROMPT_LINES = 80


def tickets_folder() -> Path:
    """The demo's program and data.

    Raises:
        UsageError: DX8307: they are neither in a checkout nor in the installed package.
    """
    from dspex.cli.targets import examples_folder

    folder = examples_folder("support_tickets")
    if not (folder / "tickets.jsonl").is_file() or not (folder / "router.py").is_file():
        raise UsageError("DX8307", "the demo's files are not there", where=str(folder), fix="install dspex again")
    return folder


def heading(title: str) -> str:
    """A line above a part of what the demo shows."""
    return f"\n── {title} {RULE[: max(0, 68 - len(title))]}\n"


def prompts_text(best: Program[Any, Any]) -> str:
    """The prompts of the modules that the winning configuration uses, as they are sent."""
    from dspex.compiler import compile as compile_program

    study: Study = best.study
    used = {prompt.module for prompt in study.report.prompts}
    parts: list[str] = []
    for prompt in compile_program(best).explain().prompts:
        if prompt.module in used or not used:
            lines = prompt.text.splitlines()
            shown = lines[:PROMPT_LINES] + ([f"… {len(lines) - PROMPT_LINES} lines more"] * (len(lines) > PROMPT_LINES))
            parts.append("\n".join([f"{prompt.module}:", *(f"  | {line}" for line in shown)]))
    return "\n\n".join(parts)


@click.command("demo")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--budget-calls", type=click.IntRange(min=1), default=CALLS, show_default=True, help="Calls at most.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="A model file that is already here.")
@click.option("--output-dir", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to write.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(seed: int, budget_calls: int, source: Path | None, output_dir: Path, as_json: bool) -> int:
    """Optimize a ticket router on the real local model and report how much better it became on held-out tickets.

    Fetches the model at the first run; needs no network after that, and never a key.
    """
    from dspex.cli.optimize import finish, run_study
    from dspex.cli.targets import load_callable, load_program
    from dspex.compiler import compile as compile_program
    from dspex.evaluation.dataset import load
    from dspex.lm.spend import Budget
    from dspex.providers.local_files import pull
    from dspex.stores.sqlite import SqliteEventStore
    from dspex.study.loop import optimize_async
    from dspex.study.records import Origin

    channel().seed = seed
    artifact, page = str(output_dir / "demo.dspex"), str(output_dir / "demo-report.html")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "DX8309", f"{output_dir} cannot be made: {error.strerror}", fix="name another folder"
        ) from None
    must_be_writable(artifact, page)
    folder = tickets_folder()
    target, metric = f"{folder / 'router.py'}:Router", f"{folder / 'router.py'}:accuracy"

    started = time.monotonic()
    model = pull("smollm2", source=source, progress=note)
    fetched = round(time.monotonic() - started, 1)
    note(f"model: {model.name} ({fetched:.1f} s to find or fetch; the study's time does not hold that)")

    program = load_program(target)
    if not as_json:
        click.echo(heading("the program, as the compiler sees it"))
        click.echo(str(compile_program(program).graph))
        click.echo(heading("the search"))
    rows = load(folder / "tickets.jsonl", program.input_schema, program.output_schema)
    origin = Origin(
        target,
        str(folder / "tickets.jsonl"),
        metric,
        os.getcwd(),
        lm=MODEL,
        artifact=os.path.abspath(artifact),
        page=os.path.abspath(page),
    )
    with SqliteEventStore() as store:
        best = run_study(
            lambda stop, progress: optimize_async(
                program,
                rows,
                load_callable(metric),
                budget=Budget(calls=budget_calls, wall=SAFETY_STOP),
                seed=seed,
                lm=MODEL,
                store=store,
                origin=origin.as_json(),
                stop=stop,
                progress=progress,
            ),
            quiet=as_json,
        )
        if not as_json:
            click.echo(heading("the prompt that won"))
            click.echo(prompts_text(best))
            click.echo(heading("the report"))
        more = {"fetch_seconds": fetched}
        return finish(best, as_json=as_json, artifact=artifact, page=page, more=more)
