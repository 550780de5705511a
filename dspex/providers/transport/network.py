"""How a server is reached: whom to trust, as whom to appear, and through which proxy."""

from __future__ import annotations

import importlib
import os
import ssl
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from dspex.errors import UsageError


def proxy_for(url: str, proxy: str | None = None) -> str | None:
    """The proxy that requests to `url` go through, or None.

    Args:
        url: What will be asked for.
        proxy: An http or https proxy, ``""`` for none, or None for what the environment says (HTTPS_PROXY,
            HTTP_PROXY, ALL_PROXY, NO_PROXY); a loopback address then never goes through one.

    Raises:
        UsageError: DX8112, when it is no http or https proxy. A SOCKS proxy would need another package.
    """
    if proxy is not None:
        return _checked(proxy, "proxy=", 'give proxy="http://HOST:PORT", or proxy="" for none') if proxy else None
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return None
    proxies = getproxies_environment()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or proxy_bypass(host if parts.port is None else f"{host}:{parts.port}"):
        return None
    fix = "set HTTPS_PROXY to an http proxy, or add the host to NO_PROXY"
    return _checked(found, f"the environment, for {host},", fix)


def _checked(proxy: str, source: str, fix: str) -> str:
    # A proxy may hold a password, so it is never printed.
    whole = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(whole)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        scheme = whole.partition("://")[0].lower()
        wrong = "an unreadable" if scheme in ("http", "https") else f"a {scheme}"
        raise UsageError("DX8112", f"{source} names {wrong} proxy; only http and https proxies are supported", fix=fix)
    return whole


def tls_context(verify: bool | str = True, cert: str | tuple[str, str] | None = None) -> ssl.SSLContext:
    """A context that verifies servers.

    Args:
        verify: True for the system's certificates (SSL_CERT_FILE and SSL_CERT_DIR hold; else certifi's, where the
            system has none), or the file or folder of those to trust instead.
        cert: A client's certificate: a PEM file with certificate and key, or a file of each.

    Raises:
        UsageError: DX8160, when they cannot be used, or when verification is switched off.
    """
    if verify is True and cert is None:
        return _system(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    context = _trusting(verify)
    if cert is not None:
        own, key = (cert, None) if isinstance(cert, str) else cert
        try:
            # Without a function that gives a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(own, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise _unusable(f"cert= names {own!r}" + ("" if key is None else f" and {key!r}"), error) from error
    return context


@lru_cache(maxsize=4)
def _system(file: str | None, folder: str | None) -> ssl.SSLContext:
    # Kept, because reading the system's certificates takes some 20 ms.
    if file and not Path(file).is_file():
        # OpenSSL would go on in silence with nothing, and every server would fail.
        raise _unusable(f"SSL_CERT_FILE names {file!r}", FileNotFoundError("no such file"))
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not context.cert_store_stats()["x509"] and not (paths.capath and os.listdir(paths.capath)):
        try:
            bundle = importlib.import_module("certifi").where()
        except ImportError:
            bundle = None
        if bundle is not None:
            context.load_verify_locations(bundle)
    return _spoken(context)


def _trusting(verify: bool | str) -> ssl.SSLContext:
    if verify is False or verify == "":
        raise UsageError(
            "DX8160",
            "verify=False would send the key to whoever answers",
            fix="give the certificates to trust, verify='FILE.pem', or use http:// on a network of your own",
        )
    if verify is True:
        # A copy of its own, because a client's certificate goes into it.
        return _system.__wrapped__(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    path = Path(verify)
    try:
        context = ssl.create_default_context(
            cafile=None if path.is_dir() else verify, capath=verify if path.is_dir() else None
        )
    except OSError as error:
        raise _unusable(f"verify= names {verify!r}", error) from error
    return _spoken(context)


def _spoken(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _unusable(what: str, error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(
        "DX8160",
        f"{what}, which cannot be used: {reason}",
        fix="name a readable PEM file; a client's key must not be encrypted",
    )
