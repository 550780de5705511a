"""Signatures: who an artifact is from, checked before anything of it is read."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from dspex.compiler import compile, load_artifact
from dspex.compiler.artifact.archive import Archive, archive_bytes, checked_manifest, read_archive
from dspex.compiler.artifact.signing import fingerprint, new_keys, signature_of, signer_of, verify_signature
from dspex.errors import CompileError
from tests.compiler import library


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        new_keys(folder / f"{name}.pem", folder / f"{name}.pub")
    return folder


@pytest.fixture
def signed(keys: Path, tmp_path: Path) -> Path:
    path = tmp_path / "signed.dspex"
    compile(library.route).save(path, sign=keys / "mine.pem")
    return path


def code(path: Path, key: Any) -> str:
    with pytest.raises(CompileError) as refused:
        load_artifact(path, key=key)
    assert refused.value.fix is not None
    assert "PRIVATE" not in str(refused.value)
    return refused.value.code


def test_signed_artifact_loads_with_its_key(signed: Path, keys: Path) -> None:
    public = (keys / "mine.pub").read_bytes()
    for key in (keys / "mine.pub", str(keys / "mine.pub"), public):
        assert load_artifact(signed, key=key).graph == compile(library.route).graph
    assert load_artifact(signed).graph == compile(library.route).graph
    name = verify_signature(read_archive(signed), keys / "mine.pub")
    assert name == signer_of(read_archive(signed))
    assert len(name) == 32


def test_signatures_are_deterministic_and_from_contents(signed: Path, keys: Path, tmp_path: Path) -> None:
    compile(library.route).save(tmp_path / "again.dspex", sign=(keys / "mine.pem").read_bytes())
    assert (tmp_path / "again.dspex").read_bytes() == signed.read_bytes()


def test_unsigned_and_foreign_artifacts_are_refused(signed: Path, keys: Path, tmp_path: Path) -> None:
    compile(library.route).save(tmp_path / "plain.dspex")
    assert signer_of(read_archive(tmp_path / "plain.dspex")) is None
    assert code(tmp_path / "plain.dspex", keys / "mine.pub") == "DX2209"
    assert code(signed, keys / "other.pub") == "DX2211"


@pytest.mark.parametrize("part", ["configuration.json", "manifest.json", "graph.txt", "prompts/route.md"])
def test_any_change_breaks_the_signature(part: str, signed: Path, keys: Path) -> None:
    archive = read_archive(signed)
    manifest, members = dict(archive.manifest), dict(archive.members)
    manifest.pop("members")
    if part == "manifest.json":
        manifest["provenance"] = {"study": "another"}
    else:
        members[part] += b"\n"
    raw = checked_manifest(manifest, members)
    signed.write_bytes(archive_bytes(raw, members, archive.signature))
    assert code(signed, keys / "mine.pub") == "DX2211"


@pytest.mark.parametrize(
    "signature",
    [
        b"{}",
        b"[]",
        b'{"algorithm": "none", "public_key": "", "signature": ""}',
        b'{"algorithm": "Ed25519", "public_key": "zz", "signature": "zz"}',
        b'{"algorithm": "Ed25519", "public_key": "' + b"0" * 64 + b'", "signature": "' + b"0" * 128 + b'"}',
    ],
)
def test_damaged_signatures_are_refused(signature: bytes, signed: Path, keys: Path) -> None:
    archive = read_archive(signed)
    signed.write_bytes(archive_bytes(archive.raw_manifest, archive.members, signature))
    assert code(signed, keys / "mine.pub") == "DX2211"


def test_keys_that_are_none_are_refused(signed: Path, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
    for key in (tmp_path / "none.pub", tmp_path / "text.pem", keys / "mine.pem", b"", b"x" * 32 + b"y", tmp_path):
        assert code(signed, key) == "DX2212"
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    curve = generate_private_key(SECP256R1())
    public = curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert code(signed, public) == "DX2212"
    private = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for key in (private, tmp_path / "none.pem", keys / "mine.pub", b"secret"):
        with pytest.raises(CompileError) as refused:
            compile(library.route).save(tmp_path / "p.dspex", sign=key)
        assert refused.value.code == "DX2212"
        assert "secret" not in str(refused.value)
        assert not (tmp_path / "p.dspex").exists()


def test_a_key_is_never_overwritten(keys: Path) -> None:
    before = (keys / "mine.pem").read_bytes()
    with pytest.raises(CompileError) as refused:
        new_keys(keys / "mine.pem", keys / "new.pub")
    assert refused.value.code == "DX2212"
    assert (keys / "mine.pem").read_bytes() == before
    assert (keys / "mine.pem").stat().st_mode & 0o077 == 0


def test_missing_package_is_named(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert code(signed, keys / "mine.pub") == "DX2213"
    with pytest.raises(CompileError) as refused:
        signature_of(b"", keys / "mine.pem")
    assert refused.value.code == "DX2213"
    with pytest.raises(CompileError) as refused:
        new_keys(keys / "x.pem", keys / "x.pub")
    assert refused.value.code == "DX2213"


def test_raw_public_keys_are_taken(signed: Path, keys: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    raw = load_pem_public_key((keys / "mine.pub").read_bytes()).public_bytes_raw()  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    assert isinstance(raw, bytes)
    assert verify_signature(read_archive(signed), raw) == fingerprint(raw)
    assert isinstance(read_archive(signed), Archive)
