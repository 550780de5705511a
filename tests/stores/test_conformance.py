"""What holds for every event store."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dspex.errors import StudyError
from dspex.stores.memory import MemoryEventStore
from dspex.stores.protocol import EventStore, StreamLock
from dspex.stores.sqlite import SqliteEventStore
from dspex.telemetry.events import Json


def test_events_come_back_in_order_when_appended_from_both_sides(store: EventStore) -> None:
    async def appending() -> list[int]:
        first = [store.append("a", "x", {"n": n}, durable=n % 2 == 0) for n in range(20)]
        return list(await asyncio.gather(*first))

    one = store.append_now("a", "x", {"n": -1})
    ids = [one, *asyncio.run(appending()), store.append_now("a", "y", {"n": 20})]
    assert ids == sorted(set(ids))
    events = list(store.read("a"))
    assert [event.id for event in events] == ids
    assert [event.payload["n"] for event in events] == list(range(-1, 21))
    assert {event.stream for event in events} == {"a"}
    assert [event.kind for event in events][-1] == "y"


def test_read_leaves_out_what_was_not_asked_for(store: EventStore) -> None:
    ids = [store.append_now(stream, kind, {}) for stream in "ab" for kind in ("x", "y", "z")]
    assert [e.id for e in store.read("a")] == ids[:3]
    assert [e.id for e in store.read("a", after=ids[0])] == ids[1:3]
    assert [e.kind for e in store.read("b", kinds={"z", "x"})] == ["x", "z"]
    assert list(store.read("b", kinds=())) == []
    assert list(store.read("nobody")) == []
    assert store.streams() == ["a", "b"]


def test_read_pages_when_a_stream_is_long(store: EventStore) -> None:
    async def appending() -> None:
        await asyncio.gather(*(store.append("a", "x", {"n": n}) for n in range(2500)))

    asyncio.run(appending())
    assert [event.payload["n"] for event in store.read("a")] == list(range(2500))


def test_delete_removes_one_stream_and_never_reuses_ids(store: EventStore) -> None:
    store.append_now("keep", "x", {})
    last = [store.append_now("gone", "x", {}) for _ in range(3)][-1]
    assert store.delete("gone") == 3
    assert store.delete("gone") == 0
    assert store.streams() == ["keep"]
    assert store.append_now("gone", "x", {}) > last


def test_lock_refuses_a_second_holder_and_names_the_first(store: EventStore) -> None:
    import os

    with store.lock("a") as held:
        assert held.stream == "a"
        with store.lock("b"), pytest.raises(StudyError) as caught:
            store.lock("a")
        assert caught.value.code == "DX6105"
        assert str(os.getpid()) in caught.value.message
        with pytest.raises(StudyError, match="DX6105"):
            store.delete("a")
    store.lock("a").release()


def test_append_fails_at_once_when_the_payload_is_not_json(store: EventStore) -> None:
    bad: dict[str, Json] = {"x": object()}  # type: ignore[dict-item]  # pyright: ignore[reportAssignmentType]
    with pytest.raises(StudyError, match="DX6107"):
        store.append_now("a", "x", bad)
    assert list(store.read("a")) == []


def test_a_closed_store_says_so(store: EventStore) -> None:
    store.append_now("a", "x", {})
    store.flush()
    store.close()
    store.close()
    with pytest.raises(StudyError, match="DX6108"):
        store.append_now("a", "x", {})
    with pytest.raises(StudyError, match="DX6108"):
        list(store.read("a"))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(st.characters(categories=["Cs", "L"]), max_size=3),  # a model may emit lone surrogates
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_any_json_comes_back_as_it_was(store: EventStore, payload: dict[str, Json]) -> None:
    number = store.append_now("any", "x", payload)
    assert [event.payload for event in store.read("any", after=number - 1)] == [payload]


class StoreMachine(RuleBasedStateMachine):
    """Any history of operations leaves the same as in a plain list; SQLite is reopened in between."""

    streams = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.store = self.open()
        self.model: list[tuple[int, str, str, int]] = []
        self.locks: dict[str, StreamLock] = {}
        self.top = 0

    def open(self) -> EventStore:
        raise NotImplementedError

    @rule(stream=streams, kind=st.sampled_from(["x", "y"]), n=st.integers())
    def append_now(self, stream: str, kind: str, n: int) -> None:
        number = self.store.append_now(stream, kind, {"n": n})
        assert number > self.top
        self.top = number
        self.model.append((number, stream, kind, n))

    @rule(stream=streams, items=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=5))
    def append_many(self, stream: str, items: list[tuple[int, bool]]) -> None:
        async def appending() -> list[int]:
            return list(await asyncio.gather(*(self.store.append(stream, "x", {"n": n}, d) for n, d in items)))

        for number, (n, _) in zip(asyncio.run(appending()), items, strict=True):
            assert number > self.top
            self.top = number
            self.model.append((number, stream, "x", n))

    @rule(stream=streams)
    def delete(self, stream: str) -> None:
        if stream in self.locks:
            with pytest.raises(StudyError, match="DX6105"):
                self.store.delete(stream)
            return
        assert self.store.delete(stream) == sum(item[1] == stream for item in self.model)
        self.model = [item for item in self.model if item[1] != stream]

    @rule(stream=streams)
    def lock(self, stream: str) -> None:
        if stream in self.locks:
            with pytest.raises(StudyError, match="DX6105"):
                self.store.lock(stream)
        else:
            self.locks[stream] = self.store.lock(stream)

    @precondition(lambda self: self.locks)
    @rule()
    def unlock(self) -> None:
        self.locks.popitem()[1].release()

    @rule(stream=streams, after=st.integers(0, 30), kind=st.sampled_from([None, "x", "y"]))
    def read(self, stream: str, after: int, kind: str | None) -> None:
        events = self.store.read(stream, after, None if kind is None else {kind})
        found = [(e.id, e.stream, e.kind, e.payload["n"]) for e in events]
        assert found == [m for m in self.model if m[1] == stream and m[0] > after and kind in (None, m[2])]

    @invariant()
    def streams_are_those_with_events(self) -> None:
        assert self.store.streams() == list(dict.fromkeys(item[1] for item in self.model))

    def teardown(self) -> None:
        for held in self.locks.values():
            held.release()
        self.store.close()


class MemoryMachine(StoreMachine):
    def open(self) -> EventStore:
        return MemoryEventStore()


class SqliteMachine(StoreMachine):
    def open(self) -> EventStore:
        self.folder = tempfile.TemporaryDirectory()
        return SqliteEventStore(Path(self.folder.name) / "log.db")

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = SqliteEventStore(Path(self.folder.name) / "log.db")

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


@pytest.mark.parametrize(("machine", "histories"), [(MemoryMachine, 25), (SqliteMachine, 15)])
def test_any_history_matches_the_model(machine: type[StoreMachine], histories: int) -> None:
    stateful.run_state_machine_as_test(  # pyright: ignore[reportUnknownMemberType]
        machine, settings=settings(max_examples=histories, stateful_step_count=20, deadline=None)
    )
