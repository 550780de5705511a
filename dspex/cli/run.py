"""`dspex run TARGET [INPUT]`: one input through a program."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dspex.cli.output import channel, emit, envelope, note
from dspex.errors import UsageError

if TYPE_CHECKING:
    from dspex.program.schema import Schema


def parse_input(schema: type[Schema], text: str) -> Schema:
    """An instance of `schema` from JSON text, or from plain text when the schema has one text field."""
    from pydantic import ValidationError

    required = list(schema.model_fields)
    if not text.strip():
        raise UsageError(
            "DX8301",
            f"there is no input; {schema.__name__} has the fields {', '.join(required)}",
            fix="give it as an argument or on standard input",
        )
    try:
        data: object = json.loads(text)
    except ValueError:
        data = text
    if not isinstance(data, dict):
        if len(required) != 1:
            raise UsageError(
                "DX8301",
                f"the input is a JSON object with the fields {', '.join(required)}; got {text[:80]!r}",
                fix=f"for example '{json.dumps(dict.fromkeys(required, '…'), ensure_ascii=False)}'",
            )
        data = {required[0]: _plain(schema, required[0], text, data)}
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or schema.__name__
        raise UsageError("DX8302", f"the input does not fit {schema.__name__}: {first['msg']}", where=place) from None


def _plain(schema: type[Schema], name: str, text: str, data: object) -> object:
    """The text itself for a field of text (`42` is a question too), else what it says as JSON."""
    return text if schema.model_fields[name].annotation is str else data


@click.command("run")
@click.argument("target")
@click.argument("text", metavar="[INPUT]", required=False)
@click.option("--lm", help="Model to use, for example local/smollm2 or openai/gpt-4.1-mini.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for the whole run.")
@click.option("--import", "imports", multiple=True, metavar="MODULE", help="Module that an artifact may import.")
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="Public key that has to have signed the artifact."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    target: str,
    text: str | None,
    lm: str | None,
    timeout: float | None,
    imports: tuple[str, ...],
    key: Path | None,
    as_json: bool,
) -> None:
    """Run TARGET (module:name, file.py:name or an artifact) on INPUT, or on standard input.

    INPUT is a JSON object of the input schema's fields, or plain text when there is one field. An artifact needs no
    source; where it has code, --import says which module to take it from.
    """
    from dspex.cli.targets import load_compiled, user_code
    from dspex.program.context import trace, using

    program = load_compiled(target, imports=imports, key=key)
    if text is None and sys.stdin.isatty():
        note("reading the input from standard input (Ctrl-D ends it)")
    given = sys.stdin.read().strip() if text is None else text
    value = parse_input(program.input_schema, given)
    chosen = nullcontext() if lm is None else using(lm=lm)
    with chosen, trace() as taken:
        try:
            with user_code(f"the program {target}"):
                out = program.run(value, timeout=timeout)
        finally:
            sent = len(taken.calls) - taken.cached
            channel().settled = {"calls": sent, "tokens": taken.usage.total_tokens, "usd": taken.usd}
    if as_json:
        reasoning = [call.reasoning for call in taken.calls if call.reasoning]
        emit(envelope(output=out.model_dump(mode="json"), trace=taken.id, reasoning=reasoning))
    else:
        click.echo(json.dumps(out.model_dump(mode="json"), ensure_ascii=False, indent=2))
