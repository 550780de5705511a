"""`dspex compile TARGET -o FILE`: a program, checked and written as an artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from dspex.cli.output import emit, envelope, must_be_writable, note
from dspex.errors import UsageError

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled
    from dspex.program.program import Program


@click.command("compile")
@click.argument("target")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Artifact to write.")
@click.option(
    "--config", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="JSON file of values to bind."
)
@click.option("--study", metavar="ID", help="Finished study whose winning configuration to bind.")
@click.option("--sign", type=click.Path(path_type=Path, dir_okay=False), help="Private key to sign the artifact with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    target: str, output: Path | None, config: Path | None, study: str | None, sign: Path | None, as_json: bool
) -> None:
    """Compile TARGET (module:name), report what is wrong with it, and write an artifact with -o."""
    from dspex.cli.targets import load_program

    if sign is not None and output is None:
        raise UsageError("DX8312", "--sign signs an artifact, and none is written", fix="name it with -o FILE")
    must_be_writable(None if output is None else str(output))
    compiled, provenance = _compiled(load_program(target), study)
    if config is not None:
        compiled = compiled.bind(_values(config))
    if output is not None:
        _save(compiled, output, target, provenance, sign)
    if as_json:
        emit(envelope(graph=str(compiled.graph), artifact=None if output is None else str(output)))
        return
    click.echo(str(compiled.graph))
    if output is not None:
        note(f"wrote {output}")


def _save(
    compiled: Compiled[Any, Any], output: Path, target: str, provenance: dict[str, object], sign: Path | None
) -> None:
    """Write the artifact; a program whose class does not lead back to it is named as the command line names it."""
    from dspex.cli.targets import import_path
    from dspex.errors import CompileError

    try:
        compiled.save(output, provenance=provenance, sign=sign)
    except CompileError as error:
        named = import_path(target)
        if error.code != "DX2206" or named is None:
            raise
        compiled.save(output, provenance=provenance, sign=sign, import_path=named)


def _compiled(program: Program[Any, Any], study: str | None) -> tuple[Compiled[Any, Any], dict[str, object]]:
    from dspex.compiler import compile as compile_program

    if study is None:
        return compile_program(program), {}
    from dspex.cli.optimize import provenance
    from dspex.cli.output import channel
    from dspex.stores.sqlite import SqliteEventStore
    from dspex.study.outcome import winner_of

    channel().study = study
    with SqliteEventStore() as store:
        best, report = winner_of(store, study, program)
    return compile_program(best), dict(provenance(report))


def _values(config: Path) -> dict[str, object]:
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError("DX8303", f"not a JSON file: {error}", where=str(config)) from None
    if not isinstance(values, dict):
        raise UsageError("DX8303", "the file holds no JSON object of Variable names and values", where=str(config))
    return cast("dict[str, object]", values)
