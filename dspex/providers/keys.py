"""Where a provider's address and key come from, and where a key may not go.

A key of the environment belongs to the provider's own server, or to the server that the provider's own environment
variable names. A server named in code gets the key that is given in code, or none, so that no key reaches a host that
nobody meant it for. A key stands in no repr, error, fingerprint or log.
"""

from __future__ import annotations

import importlib
import os
import re
from typing import cast
from urllib.parse import urlsplit

from dspex.errors import RequestRejected, UsageError
from dspex.lm.model import LM
from dspex.providers.transport import place

_KEYRING = "keyring:"


def base_url_for(lm: LM, variable: str, own: str) -> str:
    """The root of the API: ``base_url=``, else the environment's `variable`, else the provider's `own`.

    Args:
        lm: What was configured.
        variable: Environment variable that may name another server, ``""`` for none.
        own: Where the provider itself serves, ``""`` for one that has no fixed address.

    Returns:
        It without a slash at its end.

    Raises:
        UsageError: DX8114, it is no http or https URL, has a query, or is missing.
    """
    url = lm.base_url if lm.base_url is not None else (variable and os.environ.get(variable)) or own
    url = url.rstrip("/")
    if not _is_base_url(url):
        fix = "for example http://127.0.0.1:9000/v1"
        # As it was written where nothing secret can stand in it: of an address without scheme `place` makes another.
        shown = place(url) if re.search(r"[@?#]", url) else url or "none"
        raise UsageError(
            "DX8114",
            f"base_url is an http or https URL without query, got {shown!r}",
            where=lm.model,
            fix=fix if own else f"give base_url= or set {variable}; {fix}",
        )
    return url


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    # The address is part of fingerprints and errors: nothing secret may stand in it.
    named = named and parts.username is None
    return named and parts.scheme in ("http", "https") and not parts.query and not re.search(r"[\s#?]", url)


def key_for(lm: LM, variables: tuple[str, ...], needed: bool) -> str:
    """The key to send, ``""`` for none.

    ``api_key=`` is the key itself, ``keyring:SERVICE/USER`` for one that the system's keyring holds (package
    `keyring`), or a function without arguments that returns it. Without ``api_key=`` and without ``base_url=``
    the first of `variables` that the environment sets is taken.

    Args:
        lm: What was configured.
        variables: The provider's own environment variables.
        needed: Whether the server that will be asked refuses to answer without a key.

    Raises:
        UsageError: DX8111 none was found though it is needed; DX8113 a header cannot carry it; DX8117 the keyring
            has none or cannot be asked; DX8118 the function returned something else.
        RequestRejected: DX4218 the function raised.
    """
    given = cast("object", lm.api_key)
    if given is None:
        key = ""
        if lm.base_url is None:
            key = next((value for name in variables if (value := os.environ.get(name, "").strip())), "")
    elif isinstance(given, str):
        key = _from_keyring(given, lm) if given.startswith(_KEYRING) else given
    else:
        key = _resolved(given, lm)
    key = key.strip()
    if not all("!" <= c <= "~" for c in key):
        raise UsageError(
            "DX8113", "the API key holds spaces, line ends or characters that no header may carry", where=lm.model
        )
    if needed and not key:
        named = f"set {' or '.join(variables)}, give api_key=" if lm.base_url is None else "give api_key="
        raise UsageError(
            "DX8111",
            f"{lm.model} needs a key and none was given",
            fix=f"{named}, or use dx.LM('local/smollm2'), which needs none",
        )
    return key


def _from_keyring(entry: str, lm: LM) -> str:
    service, _, user = entry.removeprefix(_KEYRING).rpartition("/")
    if not service or not user:
        raise UsageError(
            "DX8117", "a key of the keyring is named keyring:SERVICE/USER, and a part is missing", where=lm.model
        )
    try:
        keyring = importlib.import_module("keyring")
    except ImportError as error:
        raise UsageError(
            "DX8117",
            "api_key= names an entry of the system's keyring, and the package keyring is not installed",
            where=lm.model,
            fix="pip install keyring",
        ) from error
    try:
        found: object = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        raise UsageError(
            "DX8117", f"the keyring cannot be asked: {type(error).__name__}", where=lm.model, fix="unlock the keyring"
        ) from error
    if not isinstance(found, str) or not found.strip():
        raise UsageError(
            "DX8117",
            f"the keyring has no entry of service {service!r} and user {user!r}",
            where=lm.model,
            fix=f"keyring set {service} {user}",
        )
    return found


def _resolved(resolver: object, lm: LM) -> str:
    try:
        key: object = resolver() if callable(resolver) else None
    except Exception as error:
        # A supervision boundary: it is the user's own code, and the words of its error may hold the key.
        raise RequestRejected(
            "DX4218",
            f"the function that is to give the key raised {type(error).__name__}",
            where=lm.model,
            fix="see its own error, which this one was raised from",
            retryable=True,
        ) from error
    if not isinstance(key, str):
        kind = type(key).__name__ if callable(resolver) else type(resolver).__name__
        raise UsageError("DX8118", f"api_key= is a text or a function that returns one, got {kind}", where=lm.model)
    return key
