"""The cache of answers: what is stored is found, by many processes, within its limit, and it never fails a call."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspex.errors import UsageError
from dspex.lm.types import LMResponse, Usage
from dspex.stores.cache import MemoryCache, ResponseCache, ResponseStore, default_cache, open_cache
from dspex.stores.codec import dumps, loads, response_from_json, response_to_json

ROOT = Path(__file__).parents[2]
FULL = LMResponse("text", Usage(10, 2, 3, 1), "length", "model", (-0.5, float("-inf")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "responses.db"


@pytest.fixture(params=["memory", "disk"])
def cache(request: pytest.FixtureRequest, path: Path) -> Iterator[ResponseStore]:
    made: ResponseStore = MemoryCache() if request.param == "memory" else ResponseCache(path)
    yield made
    made.close()


COUNTS = st.integers(0, 10**9)
RESPONSES = st.builds(
    LMResponse,
    st.text() | st.text(st.characters(categories=["Cs", "L"]), max_size=3),
    st.none() | st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS),
    st.sampled_from(["stop", "length", "content_filter", "unknown"]),
    st.text(max_size=5),
    st.none() | st.lists(st.floats(allow_nan=False), max_size=4).map(tuple),
)


@given(RESPONSES)
def test_any_response_comes_back_from_json(response: LMResponse) -> None:
    assert response_from_json(loads(dumps(response_to_json(response)))) == response


@pytest.mark.parametrize("value", [None, {}, {"redacted": "sha256:00"}, {"text": 1}, {"text": "", "usage": 3}, [1]])
def test_other_json_is_no_response(value: object) -> None:
    with pytest.raises(ValueError, match="not a stored response"):
        response_from_json(value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_an_answer_is_found_before_and_after_it_is_written(cache: ResponseStore) -> None:
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


def test_clear_removes_every_answer(cache: ResponseStore) -> None:
    for n in range(10):
        cache.put(str(n), FULL)
    cache.flush()
    cache.put("waiting", FULL)
    cache.clear()
    cache.flush()
    assert cache.stats().entries == 0
    assert [cache.get(key) for key in ("0", "waiting")] == [None, None]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(st.tuples(st.sampled_from("pgfc"), st.sampled_from("abc"), RESPONSES), max_size=12))
def test_the_cache_is_a_mapping(cache: ResponseStore, operations: list[tuple[str, str, LMResponse]]) -> None:
    cache.clear()
    model: dict[str, LMResponse] = {}
    for operation, key, response in operations:
        if operation == "p":
            cache.put(key, response)
            model[key] = response
        elif operation == "f":
            cache.flush()
        elif operation == "c":
            cache.clear()
            model.clear()
        assert cache.get(key) == model.get(key)


def test_answers_survive_closing(path: Path) -> None:
    with ResponseCache(path) as first:
        first.put("a", FULL)
    with ResponseCache(path) as second:
        assert second.get("a") == FULL
    assert second.get("a") is None  # closed: nothing is found, nothing fails


def test_the_least_recently_used_go_when_the_limit_is_reached(path: Path) -> None:
    now = [1000.0]
    with ResponseCache(path, max_bytes=400_000, clock=lambda: now[0]) as cache:
        for n in range(300):
            now[0] += 1
            cache.put(f"key{n}", LMResponse("x" * 2000))
            cache.flush()
            assert cache.get("key0") is not None  # in use all the time
        stats = cache.stats()
        assert stats.bytes <= 400_000
        assert stats.entries > 100
        assert cache.get("key1") is None
        assert cache.get("key299") is not None
        cache.put("huge", LMResponse("x" * 300_000))  # would push out all the others
        cache.flush()
        assert cache.get("huge") is None
        assert cache.get("key299") is not None
    assert path.stat().st_size < 500_000


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


def test_a_damaged_file_is_set_aside_and_the_cache_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, whatever its name says " * 200)
    with caplog.at_level(logging.WARNING, "dspex.stores"), ResponseCache(path) as cache:
        assert cache.get("a") is None
        cache.put("a", FULL)
        cache.flush()
        assert cache.get("a") == FULL
    assert "set aside" in caplog.text
    aside = [file for file in path.parent.iterdir() if ".damaged-" in file.name]
    assert len(aside) == 1
    assert aside[0].read_bytes().startswith(b"this is not")
    with ResponseCache(path) as cache:
        cache.clear()
    assert not aside[0].exists()


def test_damage_inside_the_file_is_found_while_it_is_in_use(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ResponseCache(path) as cache:
        for n in range(200):
            cache.put(f"key{n}", LMResponse("x" * 500))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 8192))
    with caplog.at_level(logging.WARNING, "dspex.stores"), ResponseCache(path) as cache:
        for n in range(200):
            cache.get(f"key{n}")
        cache.put("a", FULL)
        cache.flush()
        cache.put("b", FULL)
        cache.flush()
        assert cache.get("b") == FULL
    assert "set aside" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_fails_no_call(path: Path) -> None:
    script = """
        import resource, sys
        from dspex.lm.types import LMResponse
        from dspex.stores.cache import ResponseCache
        cache = ResponseCache(sys.argv[1])
        cache.put("early", LMResponse("kept"))
        cache.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for n in range(100):
            cache.put(f"key{n}", LMResponse("x" * 5000))
            cache.flush()
        print(cache.get("early").text)
        cache.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "kept\n"
    assert done.returncode == 0
    assert done.stderr.count("cannot be written") == 1


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
    assert isinstance(cache, ResponseCache)
    assert cache.path == default_cache() == tmp_path / "responses.db"
    cache.close()
    monkeypatch.setenv("DSPEX_CONTENT", "hash")
    assert isinstance(open_cache(), MemoryCache)
    monkeypatch.setenv("DSPEX_CONTENT", "some")
    with pytest.raises(UsageError, match="DX8211"):
        open_cache()


def test_memory_cache_drops_the_least_recently_used() -> None:
    cache = MemoryCache(max_entries=2)
    cache.put("a", FULL)
    cache.put("b", FULL)
    cache.get("a")
    cache.put("c", FULL)
    assert [cache.get(key) is None for key in "abc"] == [False, True, False]
