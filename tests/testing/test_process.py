"""The server as a process: `ServerProcess`, `dspex mock-server`, its ledger's file, TLS."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import urllib.request
from datetime import datetime
from http.client import IncompleteRead
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dspex.cli.main import run
from dspex.errors import UsageError
from dspex.testing import Fault, MockRequest, MockServer, RateLimit, ServerProcess


def ask(url: str, text: str = "hello", context: ssl.SSLContext | None = None, **headers: str) -> tuple[int, Any]:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    request = urllib.request.Request(url + "/chat/completions", body, headers)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _Keep()
    )
    with opener.open(request, timeout=20) as response:
        return response.status, json.loads(response.read())


class _Keep(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def capital(request: MockRequest) -> str:
    """Named by a test below."""
    return "Paris"


def test_a_process_of_its_own_keeps_a_ledger(tmp_path: Path) -> None:
    faults = [Fault("status", status=500, at=1), Fault("truncate", at=2)]
    with ServerProcess(fields={"label": ["a"]}, faults=faults, ledger=tmp_path / "ledger.jsonl") as server:
        answered = ask(server.url, "one")[1]
        assert json.loads(answered["choices"][0]["message"]["content"]) == {"label": "a"}
        assert ask(server.url, "two")[0] == 500
        with pytest.raises(IncompleteRead):
            ask(server.url, "three")
        ledger = server.ledger()
    assert [(entry["event"], entry["number"]) for entry in ledger] == [
        ("received", 0),
        ("answered", 0),
        ("received", 1),
        ("answered", 1),
        ("received", 2),
        ("cut", 2),
    ]
    assert ledger[0]["body"]["messages"][0]["content"] == "one"
    assert ledger[0]["protocol"] == "openai"
    assert [entry["status"] for entry in ledger if entry["event"] == "answered"] == [200, 500]
    assert ledger[1]["input_tokens"] == 1


def test_settings_reach_the_process(tmp_path: Path) -> None:
    answer = f"{__name__}:capital"
    with ServerProcess(answer=answer, limit=RateLimit(requests=3), capacity=5, queue=0, api_key="k") as server:
        assert ask(server.url, Authorization="Bearer wrong")[0] == 401
        assert ask(server.url, Authorization="Bearer k")[1]["choices"][0]["message"]["content"] == "Paris"
        server.change(faults=[Fault("status", status=529)])
        assert ask(server.url, Authorization="Bearer k")[0] == 529
        server.change(faults=[])
        statuses = [ask(server.url, str(n), Authorization="Bearer k")[0] for n in range(3)]
        assert statuses == [200, 200, 429]
        server.release()
        totals = server.totals(protocol="openai", key="k")
        assert (totals.requests, totals.completed, totals.refused) == (5, 3, 2)
        assert totals.usage.output_tokens == 3
        assert server.totals().requests == 6
        with pytest.raises(UsageError):
            server.change(capacity=0)
    assert (server.url, server.pid) == ("", 0)


def self_signed(path: Path) -> Path:
    """A PEM file with a new key and a certificate of it for 127.0.0.1, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mock")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, datetime(2020, 1, 1), datetime(2120, 1, 1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "mock.pem")
    context = ssl.create_default_context(cafile=certificate)
    with MockServer(certificate=certificate, faults=[Fault("half_close", at=1)]) as server:
        assert server.url.startswith("https://")
        assert ask(server.url, context=context)[0] == 200
        assert ask(server.url, context=context)[0] == 200
    with ServerProcess(certificate=certificate) as process:
        assert ask(process.url, context=context)[0] == 200
        assert process.totals().completed == 1


def test_the_process_ends_with_the_one_that_started_it() -> None:
    script = """
import os, signal, sys
from dspex.testing import ServerProcess
server = ServerProcess().__enter__()
print(server.url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    # Standard output is inherited by nobody but the two, so it ends when both have ended.
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == -9
    port = int(done.stdout.strip().rsplit(":", 1)[1][:-3])
    with ServerProcess(port=port) as again:
        assert again.url.endswith(f":{port}/v1")


def test_the_command_says_where_it_listens() -> None:
    command = [sys.executable, "-c", "from dspex.cli.main import main; main()", "mock-server", "--while-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        url = first.removeprefix("listening ").strip()
        assert second.strip().endswith(url.removesuffix("/v1"))
        assert ask(url)[0] == 200
        process.terminate()
        assert process.wait() in (0, 130)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--faults", "[{}]"], "DX8140"),
        (["--capacity", "0"], "DX8141"),
        (["--certificate", "none.pem"], "DX8142"),
        (["--ledger", "no/such/folder"], "DX8142"),
        (["--fields", "{"], "DX8143"),
        (["--fields", '{"label": []}'], "DX8143"),
        (["--answer", f"{__name__}:__doc__"], "DX8143"),
        (["--answer", f"{__name__}:nothing"], "DX8223"),
        (["--port", "99999"], "DX8001"),
        (["--port", "abc"], "DX8001"),
        (["--no-such"], "DX8001"),
    ],
)
def test_wrong_command_lines_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["mock-server", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["mock-server", "--port", str(port)]) == 2
        assert "DX8142" in capsys.readouterr().err
        with pytest.raises(UsageError) as caught, ServerProcess(port=port):
            pass
        assert caught.value.code == "DX8142"
