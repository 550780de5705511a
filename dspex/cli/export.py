"""`dspex export FILE`: the prompts of an artifact for people and for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dspex.cli.output import emit, envelope, must_be_writable, note
from dspex.errors import UsageError

if TYPE_CHECKING:
    from dspex.compiler.compiled import Compiled

_NAMELESS = "MODEL"


@click.command("export")
@click.argument("target")
@click.option(
    "--format",
    "form",
    type=click.Choice(("prompt", "openai", "json")),
    default="prompt",
    show_default=True,
    help="Markdown, request bodies of chat completions, or everything as JSON.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write to.")
@click.option("--import", "imports", multiple=True, metavar="MODULE", help="Module that may be imported for its code.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(target: str, form: str, output: Path | None, imports: tuple[str, ...], as_json: bool) -> None:
    """Export the prompts of TARGET, an artifact or a program, with {field} where inputs come."""
    from dspex.cli.targets import load_compiled

    must_be_writable(None if output is None else str(output))
    compiled = load_compiled(target, imports=imports)
    content: object
    if form == "prompt":
        content = "\n".join(_markdown(compiled))
    elif form == "openai":
        content = {path: _body(compiled, path) for path in compiled.settings}
    else:
        content = _everything(compiled)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    if output is not None:
        try:
            output.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(
                "DX8309", f"{output} cannot be written: {error.strerror or error}", fix="name another file"
            ) from None
        note(f"wrote {output}")
    if as_json:
        emit(envelope(format=form, output=None if output is None else str(output), content=content))
    elif output is None:
        click.echo(text, nl=False)


def _markdown(compiled: Compiled[Any, Any]) -> list[str]:
    from dspex.compiler.artifact.prompts import prompt_markdown

    return [prompt_markdown(compiled, path) for path in compiled.settings]


def _body(compiled: Compiled[Any, Any], path: str) -> dict[str, object]:
    """One module's request as the body of a chat completion, its input's fields as ``{field}``."""
    from dspex.compiler.artifact.prompts import prompt_request
    from dspex.lm.types import Capabilities
    from dspex.providers.openai.schema import response_format

    settings = compiled.settings[path]
    request, problem = prompt_request(settings, Capabilities(json_schema=True, choices=True))
    if request is None:
        raise UsageError(
            "DX8313",
            f"{path} cannot be a chat completion: {problem}",
            where=path,
            fix='bind its scoring to "generate", or export as prompt or json',
        )
    model = settings.lm if isinstance(settings.lm, str) else getattr(settings.lm, "model", None)
    body: dict[str, object] = {
        "model": model.partition("/")[2] if isinstance(model, str) else _NAMELESS,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "temperature": request.temperature,
        "max_completion_tokens": request.max_tokens,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    found = response_format(request)
    if found is not None:
        body["response_format"] = found
    return body


def _everything(compiled: Compiled[Any, Any]) -> dict[str, object]:
    from dspex.compiler.artifact.prompts import instruction_of, prompt_request, request_text

    modules: dict[str, object] = {}
    for path in compiled.settings:
        settings = compiled.settings[path]
        request, note_ = prompt_request(settings)
        instruction, variable = instruction_of(compiled, path)
        modules[path] = {
            "input": settings.input.__name__,
            "output": settings.output.__name__,
            "instruction": instruction,
            "instruction_variable": variable,
            "demos": settings.demos.to_json(),
            "demos_k": settings.demos_k,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "format": settings.format,
            "scoring": settings.scoring,
            "answers": settings.answers,
            "repairs": settings.repairs,
            "reasoning": settings.reasoning,
            "prompt": None if request is None else request_text(request),
            "note": note_,
        }
    space = compiled.space
    return {
        "name": compiled.graph.name,
        "input": str(compiled.graph.input),
        "output": str(compiled.graph.output),
        "graph": str(compiled.graph),
        "modules": modules,
        "variables": space.describe() if hasattr(space, "describe") else sorted(space.variables),
        "configuration": {name: variable.to_json(compiled.config[name]) for name, variable in space.variables.items()},
        "schemas": {name: cls.model_json_schema() for name, cls in compiled.schemas.items()},
        "provenance": dict(compiled.provenance),
    }
