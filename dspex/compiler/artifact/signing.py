"""Signatures of artifacts: Ed25519 over the manifest, which carries the hash of every other member.

The library is `cryptography`, of the extra ``dspex[sign]``; it is imported when something is signed or verified.
Messages name files and fingerprints of public keys, never a private key.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from dspex.compiler.artifact.archive import Archive, json_bytes, json_of
from dspex.errors import CompileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Key", "fingerprint", "new_keys", "signature_of", "signer_of", "verify_signature"]

Key = str | os.PathLike[str] | bytes
"""A key file in PEM form, or its contents; a public key may also be its 32 bytes."""

ALGORITHM: Final = "Ed25519"
_CONTEXT: Final = b"dspex artifact manifest\0"
_MAX_KEY: Final = 1 << 16


def _missing(error: ImportError) -> CompileError:
    return CompileError(
        "DX2213",
        "signing and verifying need the package cryptography, which is not installed",
        fix='pip install "dspex[sign]"',
    ).with_traceback(error.__traceback__)


def _bytes(key: Key, what: str) -> bytes:
    if isinstance(key, bytes):
        return key
    try:
        with open(key, "rb") as file:
            return file.read(_MAX_KEY)
    except (OSError, ValueError) as error:
        raise CompileError(
            "DX2212",
            f"the {what} key cannot be read: {getattr(error, 'strerror', None) or error}",
            where=os.fspath(key),
            fix="`dspex keygen NAME` writes a pair of keys",
        ) from None


def _wrong(key: Key, what: str) -> CompileError:
    return CompileError(
        "DX2212",
        f"that is no {what} Ed25519 key in PEM form without a password",
        where=None if isinstance(key, bytes) else os.fspath(key),
        fix="`dspex keygen NAME` writes a pair: NAME.pem signs, NAME.pub verifies",
    )


def _private(key: Key) -> Ed25519PrivateKey:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise _missing(error) from None
    data = _bytes(key, "private")
    try:
        found = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the cause: a parser's message may quote what it read.
        raise _wrong(key, "private") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise _wrong(key, "private")
    return found


def _public(key: Key) -> Ed25519PublicKey:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise _missing(error) from None
    data = _bytes(key, "public")
    try:
        found = Ed25519PublicKey.from_public_bytes(data) if len(data) == 32 else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _wrong(key, "public") from None
    if not isinstance(found, Ed25519PublicKey):
        raise _wrong(key, "public")
    return found


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes_raw()


def fingerprint(raw: bytes) -> str:
    """The name of a public key: the first 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(raw).hexdigest()[:32]


def signature_of(raw_manifest: bytes, key: Key) -> bytes:
    """The signature member for a manifest.

    Raises:
        CompileError: DX2212 for a key that is none, DX2213 without the package cryptography.
    """
    private = _private(key)
    return json_bytes(
        {
            "algorithm": ALGORITHM,
            "public_key": _raw(private.public_key()).hex(),
            "signature": private.sign(_CONTEXT + raw_manifest).hex(),
        }
    )


def signer_of(archive: Archive) -> str | None:
    """Fingerprint of the key that an artifact says it is signed with, not verified; None for an unsigned one.

    Raises:
        CompileError: DX2203 when the signature member is damaged.
    """
    parts = _parts(archive)
    return None if parts is None else fingerprint(parts[0])


def verify_signature(archive: Archive, key: Key) -> str:
    """Checks that `key` signed the artifact, and gives the key's fingerprint.

    Raises:
        CompileError: DX2209 for an unsigned artifact, DX2211 for another signature than the key's, DX2212 for a key
            that is none, DX2213 without the package cryptography.
    """
    public = _public(key)
    parts = _parts(archive)
    if parts is None:
        raise CompileError(
            "DX2209",
            "the artifact is not signed",
            fix="sign it: `dspex sign FILE --key KEY.pem`; or load it without a key, when you trust where it is from",
        )
    from cryptography.exceptions import InvalidSignature

    own = fingerprint(_raw(public))
    try:
        public.verify(parts[1], _CONTEXT + archive.raw_manifest)
    except InvalidSignature:
        signer = fingerprint(parts[0])
        why = (
            "its contents are not what was signed"
            if signer == own
            else f"it says that it is signed with the key {signer}, and the key given is {own}"
        )
        raise CompileError(
            "DX2211",
            f"the signature is not right: {why}",
            fix="get the artifact again from who signed it, or give that key",
        ) from None
    return own


def _parts(archive: Archive) -> tuple[bytes, bytes] | None:
    if archive.signature is None:
        return None
    found = json_of(archive.signature, "signature.json")
    record = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    public, signature = record.get("public_key"), record.get("signature")
    try:
        if record.get("algorithm") == ALGORITHM and isinstance(public, str) and isinstance(signature, str):
            raw, signed = bytes.fromhex(public), bytes.fromhex(signature)
            if len(raw) == 32 and len(signed) == 64:
                return raw, signed
    except ValueError:
        pass
    raise CompileError("DX2211", "the signature is not right: it cannot be read", fix="sign the artifact again")


def new_keys(private: Path, public: Path) -> str:
    """Writes a new pair of keys, the private one readable by its owner only; gives the fingerprint.

    Raises:
        CompileError: DX2212 when a file exists already or cannot be written, DX2213 without the package cryptography.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
    except ImportError as error:
        raise _missing(error) from None
    made = Ed25519PrivateKey.generate()
    secret = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for path, data, mode in ((private, secret, 0o600), (public, shown, 0o644)):
        try:
            # Never over a key that is there: it may be the only one that signs.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
        except OSError as error:
            raise CompileError(
                "DX2212",
                f"the key cannot be written: {error.strerror or error}",
                where=str(path),
                fix="choose another name; a key that exists is never overwritten",
            ) from None
    return fingerprint(_raw(made.public_key()))
