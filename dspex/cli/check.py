"""`dspex check PATH…`: every program in files, folders, modules and artifacts, compiled and looked over; no call."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dspex.cli.output import emit, envelope, note


@click.command("check")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(paths: Sequence[str], strict: bool, as_json: bool) -> int:
    """Check every program under each PATH: a Python file, a folder, a module or an artifact. Makes no call.

    Exit code 0: nothing is wrong; 1: errors, with --strict warnings too; 2: the command line is wrong.
    """
    from dspex.cli.linter import check

    found = check(paths)
    counts = found.counts
    failing = counts["error"] + (counts["warning"] if strict else 0)
    if as_json:
        emit(
            envelope(
                findings=[finding.as_json() for finding in found.findings],
                files=found.files,
                programs=found.programs,
                counts=counts,
            )
        )
        return 1 if failing else 0
    for finding in found.findings:
        click.echo(str(finding))
    said = ", ".join(f"{count} {name}{'' if count == 1 or name == 'info' else 's'}" for name, count in counts.items())
    note(f"{_count(found.programs, 'program')} in {_count(found.files, 'file')}: {said}", error=bool(failing))
    return 1 if failing else 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
