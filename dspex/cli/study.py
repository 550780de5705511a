"""`dspex study`: what was searched, what it found, and going on with it."""

from __future__ import annotations

import time

import click

from dspex.cli.output import emit, envelope


@click.group("study")
def command() -> None:
    """List, show, resume and delete studies."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_studies(as_json: bool) -> None:
    """List the studies in the store, newest first."""
    from dspex.stores.sqlite import SqliteEventStore
    from dspex.study.records import summaries

    with SqliteEventStore() as store:
        rows = summaries(store)
    if as_json:
        emit(envelope(studies=[row.as_json() for row in rows]))
        return
    if not rows:
        click.echo("no studies yet; dspex demo makes one")
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.created))
        click.echo(f"{row.study}  {when}  {row.status:<11}  seed {row.seed}  {row.program}")


@command.command("show")
@click.argument("study")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def show(study: str, as_json: bool) -> None:
    """Show the report of STUDY, or how far it has come."""
    from dspex.stores.sqlite import SqliteEventStore
    from dspex.study.records import report_of

    with SqliteEventStore() as store:
        report = report_of(store, study)
    if as_json:
        emit(report.as_json())
    else:
        click.echo(report.as_text())


@command.command("delete")
@click.argument("study")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def delete(study: str, as_json: bool) -> None:
    """Delete every event of STUDY: its prompts, answers and report."""
    from dspex.stores.sqlite import SqliteEventStore
    from dspex.study.resume import History

    with SqliteEventStore() as store:
        History.read(store, study)
        events = store.delete(study)
    if as_json:
        emit(envelope(study=study, deleted_events=events))
    else:
        click.echo(f"deleted {events} events of {study}")


@command.command("resume")
@click.argument("study")
@click.option("--accept-changes", is_flag=True, help="Go on although program, data, metric or versions changed.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Artifact to write.")
@click.option("--html", type=click.Path(dir_okay=False), help="HTML report to write.")
@click.option("--lm", help="Model to use instead of the one that the study began with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def resume(
    study: str, accept_changes: bool, output: str | None, html: str | None, lm: str | None, as_json: bool
) -> int:
    """Go on with STUDY where it stopped. Calls that were answered are not made again."""
    from dspex.cli.optimize import resume_study

    return resume_study(study, accept_changes=accept_changes, lm=lm, artifact=output, page=html, as_json=as_json)
