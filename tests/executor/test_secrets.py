"""No secret is left anywhere: not in what is printed, logged, stored, recorded or saved, whatever goes wrong."""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from dspex.stores.packing import unpack
from dspex.testing import Fault, MockServer
from tests.executor.secret_runs import CANARY, ENVIRONMENT, PROVIDERS, secret
from tests.kernels import share

ROOT = Path(__file__).parents[2]

FAULTS = (
    Fault("status", status=429, retry_after=0, share=0.1),
    Fault("status", status=500, retry_after=0, share=0.08),
    Fault("status", status=401, message=f"Incorrect API key provided: {secret('openai')}", share=0.08),
    Fault("context_length", share=0.05),
    Fault("content_filter", share=0.05),
    Fault("close", share=0.05),
    Fault("reset_body", share=0.05),
    Fault("truncate", share=0.05),
    Fault("error_event", status=401, message=f"Incorrect API key provided: {secret('anthropic')}", share=0.05),
    Fault("no_end", share=0.03),
    Fault("not_json", share=0.05),
    Fault("shape", share=0.05),
    Fault("not_http", share=0.03),
    Fault("redirect", share=0.05),
)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the process wrote and printed."""
    folder = tmp_path_factory.mktemp("secrets")
    with MockServer(faults=FAULTS) as server:
        places = {"DSPEX_HOME": "home", "DSPEX_CACHE_DIR": "cache", "TMPDIR": "tmp", "HOME": "user"}
        for place in ("home", "tmp", "user"):
            (folder / place).mkdir()
        share(folder / "cache")
        servers = {
            "OPENAI_BASE_URL": server.url,
            "ANTHROPIC_BASE_URL": server.root,
            "GOOGLE_GEMINI_BASE_URL": server.root,
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.root,
            "AWS_REGION": "us-east-1",
        }
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "default", "-m", "tests.executor.secret_runs", folder, server.root],
            cwd=ROOT,
            env={
                **{name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ},
                **{name: str(folder / place) for name, place in places.items()},
                **{name: secret(name.lower()) for name in ENVIRONMENT},
                **servers,
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            timeout=110,
        )
        (folder / "stdout").write_bytes(done.stdout)
        (folder / "stderr").write_bytes(done.stderr)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        # The keys were really sent.
        assert {secret(name) for name in PROVIDERS} <= {request.key for request in server.requests}
        assert secret("openai_api_key") in {request.key for request in server.requests}
        assert secret("resolved") in {request.key for request in server.requests}
    return folder


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, and what lies packed in one."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(folder))
        yield name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    yield f"{name}/{member}", archive.read(member)
        if path.suffix == ".db":
            connection = sqlite3.connect(path)
            try:
                tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                for table in tables:
                    for row in connection.execute(f"SELECT * FROM {table}"):
                        for value in row:
                            yield f"{name}/{table}", unpack(value) if isinstance(value, bytes) else str(value).encode()
            finally:
                connection.close()


def forms(text: str) -> Iterator[bytes]:
    """The ways in which a secret may be written down."""
    yield text.encode()
    yield quote(text, safe="").encode()
    yield text.encode().hex().encode()
    yield text.encode("utf-16-le")
    for shift in range(3):
        # Base64 of any text around it: the first and the last group may hold other letters too.
        yield base64.b64encode(b"x" * shift + text.encode())[4:-4]


def test_no_secret_is_left_anywhere(left: Path) -> None:
    found = [(name, data) for name, data in contents(left)]
    written = [name for name, _ in found]
    for kind in ("stdout", "debug.log", "recording.jsonl", "studies.db", "cache/responses.db", "desk.dspex"):
        assert any(name.startswith(kind) for name in written), kind
    assert sum(len(data) for _, data in found) > 200_000
    wanted = [CANARY.encode(), *forms(secret("").rpartition("-")[2])]
    leaks = {
        f"{name}: …{data[max(0, (place := data.find(form)) - 80) : place + 60]!r}"
        for name, data in found
        for form in wanted
        if form in data
    }
    assert not leaks, "\n".join(sorted(leaks)[:20])


def test_errors_of_every_kind_were_shown(left: Path) -> None:
    shown = (left / "stdout").read_text(encoding="utf-8", errors="replace")
    for code in ("DX4101", "DX4202", "DX4207", "DX4208", "DX4209", "DX4301", "DX8113"):
        assert code in shown, code
