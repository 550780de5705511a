"""`dspex unpack` and `dspex pack`: an artifact as a folder of files, to read, to compare and to edit instructions."""

from __future__ import annotations

from pathlib import Path

import click

from dspex.cli.output import emit, envelope, must_be_writable, note


@click.command("unpack")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def unpack(file: Path, folder: Path, as_json: bool) -> None:
    """Write the parts of the artifact FILE into FOLDER, which is new or empty."""
    from dspex.compiler.artifact.archive import read_archive
    from dspex.compiler.artifact.packing import unpack as unpack_archive

    names = unpack_archive(read_archive(file), folder)
    if as_json:
        emit(envelope(artifact=str(file), folder=str(folder), files=names))
        return
    click.echo("\n".join(names))
    note(f"wrote {len(names)} files into {folder}; edit instructions in prompts/*.md, then dspex pack {folder} -o FILE")


@click.command("pack")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Artifact to write."
)
@click.option("--import", "imports", multiple=True, metavar="MODULE", help="Module that may be imported for its code.")
@click.option("--sign", type=click.Path(path_type=Path, dir_okay=False), help="Private key to sign the artifact with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def pack(folder: Path, output: Path, imports: tuple[str, ...], sign: Path | None, as_json: bool) -> None:
    """Make an artifact of FOLDER again; edited instructions are added to their Variables and bound."""
    from dspex.cli.targets import from_here, user_code
    from dspex.compiler.artifact.archive import replace_file
    from dspex.compiler.artifact.packing import packed

    must_be_writable(str(output))
    if imports:
        from_here()
    with user_code(f"the program of {folder}"):
        data, edited = packed(folder, imports=imports, sign=sign)
    replace_file(output, data)
    if as_json:
        emit(envelope(artifact=str(output), edited=list(edited)))
        return
    for module in edited:
        click.echo(f"new instruction of {module}")
    note(f"wrote {output}" + ("" if edited else ", unchanged"))
