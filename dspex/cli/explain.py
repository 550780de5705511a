"""`dspex explain TARGET|CODE`: the compiled program for a person, or what an error code means."""

from __future__ import annotations

import re

import click

from dspex.cli.output import emit, envelope


@click.command("explain")
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(target: str, as_json: bool) -> None:
    """Explain TARGET: a program (module:name), an artifact, or an error code such as DX2104. Makes no call."""
    if re.fullmatch(r"(?i)dx\d+", target):
        from dspex.compiler.explain import explain_code

        text = explain_code(target.upper())
        if as_json:
            emit(envelope(code=target.upper(), text=text))
        else:
            click.echo(text)
        return
    from dspex.cli.targets import load_program
    from dspex.compiler import compile as compile_program

    explanation = compile_program(load_program(target)).explain()
    if as_json:
        emit(envelope(explanation=explanation.as_json()))
    else:
        click.echo(str(explanation))
