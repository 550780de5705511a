"""`dspex keygen`, `dspex sign` and `dspex verify`: who an artifact is from."""

from __future__ import annotations

from pathlib import Path

import click

from dspex.cli.output import emit, envelope, must_be_writable, note

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("keygen")
@click.argument("name", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def keygen(name: Path, as_json: bool) -> None:
    """Write a new pair of keys: NAME.pem signs artifacts and stays secret, NAME.pub verifies them."""
    from dspex.compiler.artifact.signing import new_keys

    private, public = name.with_name(name.name + ".pem"), name.with_name(name.name + ".pub")
    fingerprint = new_keys(private, public)
    if as_json:
        emit(envelope(private_key=str(private), public_key=str(public), fingerprint=fingerprint))
        return
    click.echo(fingerprint)
    note(f"wrote {private} (keep it secret) and {public} (give it to those who verify)")


@click.command("sign")
@click.argument("file", type=_FILE)
@click.option("--key", type=_FILE, required=True, help="Private key, a PEM file.")
@click.option("-o", "--output", type=_FILE, help="Where to write; FILE itself when it is left out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def sign(file: Path, key: Path, output: Path | None, as_json: bool) -> None:
    """Sign the artifact FILE; an earlier signature is replaced."""
    from dspex.compiler.artifact.archive import Archive, archive_bytes, read_archive, replace_file
    from dspex.compiler.artifact.signing import signature_of, signer_of

    target = output or file
    must_be_writable(str(target))
    archive = read_archive(file)
    signature = signature_of(archive.raw_manifest, key)
    replace_file(target, archive_bytes(archive.raw_manifest, archive.members, signature))
    signer = signer_of(Archive(archive.manifest, archive.members, archive.raw_manifest, signature))
    if as_json:
        emit(envelope(artifact=str(target), signer=signer))
        return
    click.echo(f"{target} is signed with the key {signer}")


@click.command("verify")
@click.argument("file", type=_FILE)
@click.option("--key", type=_FILE, help="Public key that has to have signed it; without it, hashes are checked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(file: Path, key: Path | None, as_json: bool) -> None:
    """Check every hash of the artifact FILE, its signature with --key, and say what it needs."""
    from dspex.compiler.artifact.archive import read_archive
    from dspex.compiler.artifact.signing import signer_of, verify_signature

    archive = read_archive(file)
    signer = signer_of(archive) if key is None else verify_signature(archive, key)
    manifest = archive.manifest
    said = {
        name: manifest.get(name)
        for name in ("format", "dspex", "name", "input", "output", "needs", "models", "provenance")
    }
    if as_json:
        emit({**envelope(artifact=str(file), signer=signer, verified=key is not None), **said})
        return
    click.echo(f"{file}: every hash is right (format {said['format']}, written by dspex {said['dspex']})")
    if key is not None:
        click.echo(f"signed with the key {signer}")
    elif signer is not None:
        click.echo(f"says that it is signed with the key {signer}; give that key with --key to verify it")
    else:
        click.echo("not signed")
    needs = said["needs"]
    for need in needs if isinstance(needs, list) else []:  # pyright: ignore[reportUnknownVariableType]
        if isinstance(need, dict):
            click.echo(f"needs {need.get('kind')} {need.get('what')}: {need.get('why')}")  # pyright: ignore[reportUnknownMemberType]
