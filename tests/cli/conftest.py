"""Every test of this directory works in a folder of its own and leaves no module of it behind."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from dspex.testing import MockServer
from tests.cli.commands import Invoke, capital, invoke_with
from tests.kernels import share


@pytest.fixture(autouse=True)
def _own_folder(  # pyright: ignore[reportUnusedFunction]
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[None]:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("DSPEX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(share(tmp_path / "cache")))
    for name in ("DSPEX_LM", "OPENAI_BASE_URL", "OPENAI_API_KEY", "DSPEX_MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and (Path(file).is_relative_to(tmp_path) or name == "router"):
            del sys.modules[name]


@pytest.fixture
def dspex(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Runs a command line in this process."""
    return invoke_with(capsys)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Generator[MockServer]:
    """A model server that knows capitals better the more examples it is shown, chosen by the environment."""
    with MockServer(capital) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        # A process opens a model once; another server is another model.
        monkeypatch.setenv("DSPEX_LM", "openai/mock-" + running.url.rpartition(":")[2].removesuffix("/v1"))
        yield running


@pytest.fixture
def project(dspex: Invoke, server: MockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``dspex new`` makes, as the current folder; its model is the mock server's."""
    assert dspex("new", "mybot").code == 0
    monkeypatch.chdir("mybot")
