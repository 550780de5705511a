"""The cache of answers: what is stored is found, by many processes, within its limit, and it never fails a call."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dspex.errors import UsageError
from dspex.lm.types import LMResponse, TokenLogprob, ToolCall, Usage
from dspex.stores.cache import ResponseCache, default_cache, open_cache
from dspex.stores.codec import dumps, loads, response_from_json, response_to_json
from dspex.stores.packing import pack, unpack

ROOT = Path(__file__).parents[2]
FULL = LMResponse(
    "text",
    Usage(10, 2, 3, 1, 2),
    "length",
    "model",
    (-0.5, float("-inf")),
    (ToolCall("id", "search", '{"q": "x"}'),),
    "thought",
    (TokenLogprob("text", -0.1, (("text", -0.1), ("other", -2.5))),),
    '{"signature": "s"}',
)


def noise(seed: int, size: int = 2000) -> LMResponse:
    """An answer that cannot be packed smaller."""
    return LMResponse(random.Random(seed).randbytes(size // 2).hex())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "responses.db"


@pytest.fixture
def cache(path: Path) -> Iterator[ResponseCache]:
    with ResponseCache(path) as made:
        yield made


COUNTS = st.integers(0, 10**9)
LOGPROBS = st.floats(allow_nan=False, max_value=0)
RESPONSES = st.builds(
    LMResponse,
    st.text()
    | st.text(st.characters(categories=["Cs", "L"]), max_size=3)
    | st.text("ab", min_size=1200, max_size=1300),
    st.none() | st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
    st.sampled_from(["stop", "length", "content_filter", "tool_calls", "unknown"]),
    st.text(max_size=5),
    st.none() | st.lists(st.floats(allow_nan=False), max_size=4).map(tuple),
    st.lists(st.builds(ToolCall, st.text(max_size=3), st.text(max_size=3), st.text(max_size=5)), max_size=2).map(tuple),
    st.text(max_size=5),
    st.none()
    | st.lists(
        st.builds(
            TokenLogprob,
            st.text(max_size=3),
            LOGPROBS,
            st.lists(st.tuples(st.text(max_size=3), LOGPROBS), max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    st.text(max_size=5),
)


@given(RESPONSES)
def test_any_response_comes_back_from_json(response: LMResponse) -> None:
    assert response_from_json(loads(dumps(response_to_json(response)))) == response


@pytest.mark.parametrize("value", [None, {}, {"redacted": "sha256:00"}, {"text": 1}, {"text": "", "usage": 3}, [1]])
def test_other_json_is_no_response(value: object) -> None:
    with pytest.raises(ValueError, match="not a stored response"):
        response_from_json(value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@given(st.text(max_size=300) | st.text("ab{", max_size=3000))
def test_any_text_is_unpacked_as_it_was(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    assert unpack(pack(text)) == text.encode()


def test_long_texts_are_packed_small_and_short_ones_are_not() -> None:
    assert len(pack("The answer is forty-two. " * 200)) < 500
    assert pack("The answer is forty-two.") == b"The answer is forty-two."
    with pytest.raises(ValueError, match="frame"):
        unpack(pack("The answer is forty-two. " * 200)[:40])


def test_an_answer_is_found_before_and_after_it_is_written(cache: ResponseCache) -> None:
    assert cache.get("a") is None
    cache.put("a", FULL)
    assert cache.get("a") == FULL
    cache.flush()
    assert cache.get("a") == FULL
    cache.put("a", LMResponse("newer"))
    assert cache.get("a") == LMResponse("newer")
    cache.flush()
    assert cache.get("a") == LMResponse("newer")
    assert cache.stats().entries == 1


def test_clear_removes_every_answer(cache: ResponseCache) -> None:
    for n in range(10):
        cache.put(str(n), FULL)
    cache.flush()
    cache.put("waiting", FULL)
    cache.clear()
    cache.flush()
    assert cache.stats().entries == 0
    assert [cache.get(key) for key in ("0", "waiting")] == [None, None]


class CacheMachine(RuleBasedStateMachine):
    """Two handles on one file, as of two processes: each finds what it put, and what either has written."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.handles = [self.opened(), self.opened()]
        self.written: dict[str, LMResponse] = {}
        self.waiting: list[dict[str, LMResponse]] = [{}, {}]

    def opened(self) -> ResponseCache:
        # Nothing is written but by `flush` and `close`.
        return ResponseCache(Path(self.folder.name) / "responses.db", linger=1e6)

    @rule(handle=st.integers(0, 1), key=st.sampled_from("abc"), response=RESPONSES)
    def put(self, handle: int, key: str, response: LMResponse) -> None:
        self.handles[handle].put(key, response)
        self.waiting[handle][key] = response

    @rule(handle=st.integers(0, 1))
    def flush(self, handle: int) -> None:
        self.handles[handle].flush()
        self.written |= self.waiting[handle]
        self.waiting[handle] = {}

    @rule(handle=st.integers(0, 1))
    def reopen(self, handle: int) -> None:
        self.handles[handle].close()
        self.handles[handle] = self.opened()
        self.written |= self.waiting[handle]
        self.waiting[handle] = {}

    @rule(handle=st.integers(0, 1))
    def clear(self, handle: int) -> None:
        self.handles[handle].clear()
        self.written = {}
        self.waiting[handle] = {}

    @rule(handle=st.integers(0, 1))
    def check(self, handle: int) -> None:
        self.flush(handle)
        found = self.handles[handle].check()
        assert (found.sound, found.dropped, found.aside) == (len(self.written), 0, None)

    @invariant()
    def each_handle_finds_what_is_there(self) -> None:
        for handle, waiting in zip(self.handles, self.waiting, strict=True):
            for key in "abc":
                assert handle.get(key) == waiting.get(key, self.written.get(key))

    def teardown(self) -> None:
        for handle in self.handles:
            handle.close()
        self.folder.cleanup()


CacheMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
TestCacheMachine = cast(Any, CacheMachine).TestCase


def test_answers_survive_closing(path: Path) -> None:
    with ResponseCache(path) as first:
        first.put("a", FULL)
    with ResponseCache(path) as second:
        assert second.get("a") == FULL
    assert second.get("a") is None  # closed: nothing is found, nothing fails


def test_the_least_recently_used_go_when_the_limit_is_reached(path: Path) -> None:
    with ResponseCache(path, max_bytes=400_000) as cache:
        for n in range(300):
            cache.put(f"key{n}", noise(n))
            cache.flush()
            assert cache.get("key0") is not None  # in use all the time
        stats = cache.stats()
        assert stats.bytes <= 400_000
        assert stats.entries > 100
        assert cache.get("key1") is None
        assert cache.get("key299") is not None
        cache.put("huge", noise(300, 300_000))  # would push out all the others
        cache.flush()
        assert cache.get("huge") is None
        assert cache.get("key299") is not None
    assert path.stat().st_size < 500_000


def test_the_order_of_use_is_kept_when_the_clock_jumps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = (4e9, 1e9, 2e9, 0.0)
    with ResponseCache(path, max_bytes=400_000) as cache:
        for n in range(300):
            monkeypatch.setattr("time.time", lambda n=n: clocks[n // 75])
            cache.put(f"key{n}", noise(n))
            cache.flush()
        kept = [n for n in range(300) if cache.get(f"key{n}") is not None]
    assert kept == list(range(kept[0], 300))


def test_answers_of_an_earlier_form_are_dropped_and_of_a_later_one_left_alone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE responses (id INTEGER PRIMARY KEY, key TEXT)")
        connection.execute("PRAGMA user_version = 1")
    with ResponseCache(path) as cache:
        cache.put("a", FULL)
        cache.flush()
        assert cache.get("a") == FULL
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with ResponseCache(path) as cache:
        assert cache.get("a") is None
        cache.put("b", FULL)
        cache.flush()
        assert cache.get("b") == FULL
    assert "version 99" in caplog.text
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM responses").fetchone() == (1,)


def test_many_processes_share_one_file(path: Path) -> None:
    script = """
        import sys
        from dspex.lm.types import LMResponse
        from dspex.stores.cache import ResponseCache
        with ResponseCache(sys.argv[1]) as cache:
            for n in range(200):
                cache.put(f"{sys.argv[2]}{n}", LMResponse(f"{n}"))
                if n % 50 == 0:
                    cache.flush()
    """
    processes = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path), name], cwd=ROOT) for name in "abc"
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    with ResponseCache(path) as cache:
        assert cache.stats().entries == 600
        assert [cache.get(f"{name}199") for name in "abc"] == [LMResponse("199")] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_reads_and_writes(path: Path) -> None:
    script = """
        import os, sys
        from dspex.lm.types import LMResponse
        from dspex.stores.cache import ResponseCache
        cache = ResponseCache(sys.argv[1])
        cache.put("parent", LMResponse("p"))
        cache.flush()
        for child in range(3):
            if os.fork() == 0:
                assert cache.get("parent") == LMResponse("p")
                cache.put(f"child{child}", LMResponse("c"))
                cache.close()
                os._exit(0)
            cache.put(f"own{child}", LMResponse("o"))
        for child in range(3):
            assert os.wait()[1] == 0
        cache.flush()
        print(cache.stats().entries)
    """
    # Python 3.12 and later warn of every fork beside threads, of which this cache has one.
    quiet = "ignore:This process:DeprecationWarning"
    done = subprocess.run(
        [sys.executable, "-W", quiet, "-c", textwrap.dedent(script), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")


def test_network_file_system_keeps_answers_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nfs(path: Path) -> str:
        return "nfs4"

    monkeypatch.setattr("dspex.stores.cache.network_file_system", nfs)
    with caplog.at_level(logging.WARNING, "dspex.stores"), ResponseCache(path) as cache:
        cache.put("a", FULL)
        cache.flush()
        assert cache.get("a") == FULL
    assert "DSPEX_CACHE_DIR" in caplog.text
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_the_file_is_private(path: Path) -> None:
    with ResponseCache(path) as cache:
        cache.put("a", FULL)
        cache.flush()
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_the_settings_choose_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    cache = open_cache()
    assert cache is not None
    assert cache.path == default_cache() == tmp_path / "responses.db"
    cache.close()
    monkeypatch.setenv("DSPEX_CONTENT", "hash")
    assert open_cache() is None
    monkeypatch.setenv("DSPEX_CONTENT", "some")
    with pytest.raises(UsageError, match="DX8211"):
        open_cache()
