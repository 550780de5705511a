from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex.stores.memory import MemoryEventStore
from dspex.stores.protocol import EventStore
from dspex.stores.sqlite import SqliteEventStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    """Every event store: the conformance suite runs over each."""
    made: EventStore = MemoryEventStore() if request.param == "memory" else SqliteEventStore(tmp_path / "log.db")
    yield made
    made.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteEventStore]:
    with SqliteEventStore(tmp_path / "home" / "log.db") as made:
        yield made
