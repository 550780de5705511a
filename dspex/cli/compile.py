"""`dspex compile TARGET -o FILE`: a program, checked and written as an artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import click

from dspex.cli.output import emit, envelope, must_be_writable, note
from dspex.errors import UsageError


@click.command("compile")
@click.argument("target")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Artifact to write.")
@click.option(
    "--config", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="JSON file of values to bind."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(target: str, output: Path | None, config: Path | None, as_json: bool) -> None:
    """Compile TARGET (module:name), report what is wrong with it, and write an artifact with -o."""
    from dspex.cli.targets import load_program
    from dspex.compiler import compile as compile_program

    must_be_writable(None if output is None else str(output))
    compiled = compile_program(load_program(target))
    if config is not None:
        try:
            values = json.loads(config.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UsageError("DX8303", f"not a JSON file: {error}", where=str(config)) from None
        if not isinstance(values, dict):
            raise UsageError("DX8303", "the file holds no JSON object of Variable names and values", where=str(config))
        compiled = compiled.bind(cast("dict[str, object]", values))
    if output is not None:
        compiled.save(output)
    if as_json:
        emit(envelope(graph=str(compiled.graph), artifact=None if output is None else str(output)))
        return
    click.echo(str(compiled.graph))
    if output is not None:
        note(f"wrote {output}")
