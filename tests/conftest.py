"""No test talks to anything but this machine: whatever needs the network is fetched before the suite begins."""

from __future__ import annotations

import gc
import ipaddress
import signal
import socket
from collections.abc import Generator
from typing import Any

import pytest

# Finds where kernels are kept, before a test moves that.
import tests.kernels  # noqa: F401  # pyright: ignore[reportUnusedImport]

# A runner started in the background ignores SIGINT, and the processes that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _keep_what_is_left() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    # Modules, compiled kernels and reports stay to the end; every full collection would look at all of them again.
    yield
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    # What holds a resource and was never closed is still found.
    gc.unfreeze()


def _is_near(address: object) -> bool:
    """Whether a socket address is a file's or a loopback one; names that are not addresses count as far."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0]).partition("%")[0]  # pyright: ignore[reportUnknownArgumentType]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_near(address):
            raise AssertionError(f"a test connects to {address!r}, which is not this machine")
        connect(self, address)

    def guarded_ex(self: socket.socket, address: Any) -> int:
        if not _is_near(address):
            raise AssertionError(f"a test connects to {address!r}, which is not this machine")
        return connect_ex(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket.socket, "connect_ex", guarded_ex)
        yield
