"""The default transport and the network around it: certificates, proxies, and the settings that name them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import traceback
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspex.errors import ConnectError, LMError, UsageError
from dspex.lm.model import LM
from dspex.lm.types import LMRequest, Message
from dspex.providers import open_model
from dspex.providers.http import Client
from dspex.providers.openai.chat import open_openai
from dspex.providers.transport import DirectWire, Reply, Timeouts, proxy_for, tls_context

from .raw_server import CERTIFICATES, RawConnection, RawServer, answering, server_tls, tunnelling
from .wires import BODY, HEADERS, Make, every_wire, opened

AUTHORITY = str(CERTIFICATES / "authority.pem")
CLIENT = str(CERTIFICATES / "client.pem")


def wire_to(url: str, **settings: Any) -> DirectWire:
    return DirectWire(headers=HEADERS, limit=8, timeouts=Timeouts(total=20), base_url=url, **settings)


def ask(url: str, **settings: Any) -> Reply:
    async def work() -> Reply:
        wire = wire_to(url, **settings)
        try:
            return await wire.send(url, BODY)
        finally:
            await wire.aclose()

    return asyncio.run(work())


def refusal(url: str, **settings: Any) -> LMError:
    with pytest.raises(LMError) as caught:
        ask(url, **settings)
    return caught.value


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


# ----------------------------------------------------------------- whom to trust


@every_wire
def test_an_untrusted_certificate_is_refused_before_anything_is_sent(make: Make) -> None:
    async def work(server: RawServer) -> None:
        async with opened(make, server.url) as wire:
            with pytest.raises(ConnectError) as caught:
                await wire.send(server.url, BODY)
        assert (caught.value.code, caught.value.sent, caught.value.retryable) == ("DX4102", "no", False)

    with RawServer(answering, tls=server_tls()) as server:
        asyncio.run(work(server))
        assert not server.requests


def test_the_environments_certificates_are_trusted(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("SSL_CERT_FILE", AUTHORITY)
    with RawServer(answering, tls=server_tls()) as server:
        assert ask(server.url).body == b"{}"


def test_a_file_of_certificates_is_trusted() -> None:
    with RawServer(answering, tls=server_tls()) as server:
        assert ask(server.url, verify=AUTHORITY).body == b"{}"
        # It is trusted for this model alone.
        assert refusal(server.url).code == "DX4102"


def test_a_folder_of_certificates_is_trusted(tmp_path: Path) -> None:
    # OpenSSL finds a certificate in a folder by the hash of its subject.
    from shutil import copy, which
    from subprocess import run

    if which("openssl") is None:
        pytest.skip("openssl names the file")
    done = run(["openssl", "x509", "-hash", "-noout", "-in", AUTHORITY], capture_output=True, text=True, check=True)
    copy(AUTHORITY, tmp_path / f"{done.stdout.strip()}.0")
    with RawServer(answering, tls=server_tls()) as server:
        assert ask(server.url, verify=str(tmp_path)).body == b"{}"


def test_a_certificate_of_somebody_else_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CLIENT)
    with RawServer(answering, tls=context) as server:
        error = refusal(server.url, verify=AUTHORITY)
        assert not server.requests
    assert (error.code, error.sent) == ("DX4102", "no")


@pytest.mark.parametrize("verify", [False, ""])
def test_verification_is_not_switched_off(verify: Any) -> None:
    with pytest.raises(UsageError, match="DX8160") as caught:
        tls_context(verify)
    assert "verify=" in (caught.value.fix or "")


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.pem"
    other.write_text("no certificate")
    for settings in ({"verify": str(tmp_path / "missing.pem")}, {"verify": str(other)}, {"cert": str(other)}):
        with pytest.raises(UsageError, match="DX8160") as caught:
            tls_context(**settings)
        assert str(tmp_path) in caught.value.message
    clean.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        tls_context()


def test_certificates_are_refused_where_none_are_shown() -> None:
    url = "http://models.example/v1"
    for lm in (LM("openai/m", url, "key", cert=CLIENT), LM("openai/m", url, "key", verify=AUTHORITY)):
        with pytest.raises(UsageError, match="DX8160") as caught:
            open_model(lm)
        assert "https://" in (caught.value.fix or "")
    open_model(LM("openai/m", url, "key", verify=False))


# ----------------------------------------------------------------- as whom to appear


def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    whole = Path(CLIENT).read_text()
    start = whole.index("-----BEGIN EC PRIVATE KEY")
    own, key = tmp_path / "own.pem", tmp_path / "key.pem"
    own.write_text(whole[:start])
    key.write_text(whole[start:])
    with RawServer(answering, tls=server_tls(client_needed=True)) as server:
        assert ask(server.url, verify=AUTHORITY, cert=CLIENT).body == b"{}"
        assert ask(server.url, verify=AUTHORITY, cert=(str(own), str(key))).body == b"{}"


def test_a_server_that_misses_a_client_certificate_has_refused() -> None:
    with RawServer(answering, tls=server_tls(client_needed=True)) as server:
        error = refusal(server.url, verify=AUTHORITY)
        assert not server.requests
    assert (error.code, error.sent, error.retryable) == ("DX4102", "no", False)


def test_an_encrypted_key_is_refused_without_asking_for_a_password() -> None:
    with pytest.raises(UsageError, match="encrypted") as caught:
        tls_context(True, str(CERTIFICATES / "client_encrypted.pem"))
    assert caught.value.code == "DX8160"


# ----------------------------------------------------------------- proxies


def test_a_proxy_of_the_environment_is_used(clean: pytest.MonkeyPatch) -> None:
    with RawServer(tunnelling) as proxy:
        clean.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        ask("http://models.example/v1")
    assert proxy.requests[0].startswith(b"POST http://models.example/v1 HTTP/1.1\r\n")


def test_a_tunnel_hides_the_key_from_the_proxy() -> None:
    with RawServer(answering, tls=server_tls()) as server, RawServer(tunnelling) as proxy:
        through = f"http://user:word@127.0.0.1:{proxy.port}"
        assert ask(server.url, verify=AUTHORITY, proxy=through).body == b"{}"
        (tunnel,), (request,) = proxy.requests, server.requests
    assert tunnel.startswith(b"CONNECT 127.0.0.1:%d " % server.port)
    assert b"canary" not in tunnel
    assert b"proxy-authorization: basic dXNlcjp3b3Jk".lower() in tunnel.lower()
    assert b"proxy-authorization" not in request.lower()
    assert b"canary" in request


def test_a_proxy_may_be_reached_over_tls() -> None:
    with RawServer(answering, tls=server_tls()) as server, RawServer(tunnelling, tls=server_tls()) as proxy:
        through = f"https://127.0.0.1:{proxy.port}"
        assert ask(server.url, verify=AUTHORITY, proxy=through).body == b"{}"
        assert proxy.requests[0].startswith(b"CONNECT ")


def test_no_proxy_at_all_is_a_setting(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("http_proxy", "http://127.0.0.1:9")
    assert proxy_for("http://models.example/v1") == "http://127.0.0.1:9"
    assert proxy_for("http://models.example/v1", "") is None


@pytest.mark.parametrize(("status", "retryable"), [(407, False), (403, False), (502, True)])
def test_a_proxy_that_refuses_has_sent_nothing(status: int, retryable: bool) -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 %d Not today\r\nContent-Length: 0\r\n\r\n" % status)

    with RawServer(play) as proxy:
        error = refusal("https://models.example/v1", proxy=f"http://user:canary@127.0.0.1:{proxy.port}")
    assert (error.code, error.sent, error.retryable) == ("DX4110", "no", retryable)
    assert f"{status} Not today" in error.message
    assert "canary" not in "".join(traceback.format_exception(error))


def test_a_proxy_that_is_not_there_has_sent_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        through = f"http://user:canary@127.0.0.1:{free.getsockname()[1]}"
        error = refusal("https://models.example/v1", proxy=through)
    assert (error.code, error.sent, error.retryable) == ("DX4112", "no", True)
    assert "canary" not in "".join(traceback.format_exception(error))


def test_proxy_rules(clean: pytest.MonkeyPatch) -> None:
    assert proxy_for("https://models.example/v1") is None
    clean.setenv("https_proxy", "http://proxy.example:3128")
    assert proxy_for("https://models.example/v1") == "http://proxy.example:3128"
    assert proxy_for("http://models.example/v1") is None
    for loopback in ("https://127.0.0.1:9000/v1", "https://localhost/v1", "https://[::1]:8/v1"):
        assert proxy_for(loopback) is None
    clean.setenv("no_proxy", "models.example,.inner.example,other.example:8443")
    assert proxy_for("https://models.example/v1") is None
    assert proxy_for("https://a.inner.example/v1") is None
    assert proxy_for("https://other.example:8443/v1") is None
    assert proxy_for("https://other.example/v1") == "http://proxy.example:3128"
    clean.setenv("no_proxy", "*")
    assert proxy_for("https://other.example/v1") is None
    # What is named in code holds everywhere.
    assert proxy_for("https://127.0.0.1/v1", "proxy.example:80") == "http://proxy.example:80"


@pytest.mark.parametrize("proxy", ["socks5://user:canary@proxy.example:1080", "http://", "http://[canary", "ftp://x"])
def test_other_proxies_are_refused(proxy: str, clean: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="DX8112") as caught:
        proxy_for("https://models.example/v1", proxy)
    assert "canary" not in str(caught.value)
    clean.setenv("all_proxy", proxy)
    with pytest.raises(UsageError, match="DX8112") as caught:
        proxy_for("https://models.example/v1")
    assert "canary" not in str(caught.value)


# ----------------------------------------------------------------- the settings of a model


def test_a_models_settings_reach_its_connections() -> None:
    answer = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'

    def play(server: RawServer, connection: RawConnection) -> None:
        while connection.request():
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

    async def work(server: RawServer, proxy: RawServer) -> str:
        through = f"http://127.0.0.1:{proxy.port}"
        lm = LM("openai/m", server.url, "key", verify=AUTHORITY, cert=CLIENT, proxy=through)
        model = open_openai(lm)
        try:
            return (await model.complete(LMRequest((Message("user", "hello"),)))).text
        finally:
            await model.aclose()

    with RawServer(play, tls=server_tls(client_needed=True)) as server, RawServer(tunnelling) as proxy:
        assert asyncio.run(work(server, proxy)) == "hi"
        assert len(proxy.requests) == 1


def test_a_proxy_is_never_printed() -> None:
    assert "canary" not in repr(LM("openai/m", proxy="http://user:canary@proxy.example"))


def test_settings_of_a_connection_do_not_go_with_a_transport_of_ones_own() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    url = "http://127.0.0.1:1/v1"
    for lm in (
        LM("openai/m", url, verify=AUTHORITY),
        LM("openai/m", url, cert=CLIENT),
        LM("openai/m", url, proxy="http://proxy.example"),
        LM("openai/m", url, proxy=""),
    ):
        with pytest.raises(UsageError, match="DX8161"):
            Client(lm, url, headers={}, transport=transport)
