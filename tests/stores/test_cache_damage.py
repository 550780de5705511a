"""The cache of answers when its file, its disk or its process fails: no wrong answer, no failed call, work goes on."""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from dspex.lm.types import LMResponse, Usage
from dspex.stores.cache import CacheCheck, ResponseCache

ROOT = Path(__file__).parents[2]
ANSWER = LMResponse("text", Usage(10, 2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "responses.db"


def answer(n: int) -> LMResponse:
    """Some of them are packed, some lie on pages of their own."""
    return LMResponse(f"answer {n} " * random.Random(n).choice((1, 30, 300, 3000)), Usage(n, n))


def filled(path: Path, count: int = 100) -> None:
    with ResponseCache(path) as cache:
        for n in range(count):
            cache.put(f"key{n}", answer(n))


def asides(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if ".damaged-" in file.name]


def script(body: str, *arguments: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    program = "import sys\nfrom dspex.lm.types import LMResponse\nfrom dspex.stores.cache import ResponseCache\n"
    command = [*prefix, sys.executable, "-c", program + textwrap.dedent(body), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_damaged_file_is_set_aside_and_the_cache_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, whatever its name says " * 200)
    with caplog.at_level(logging.WARNING, "dspex.stores"), ResponseCache(path) as cache:
        assert cache.get("a") is None
        cache.put("a", ANSWER)
        cache.flush()
        assert cache.get("a") == ANSWER
    assert "set aside" in caplog.text
    (aside,) = asides(path)
    assert aside.read_bytes().startswith(b"this is not")
    with ResponseCache(path) as cache:
        cache.clear()
    assert not aside.exists()


def test_damage_inside_the_file_is_found_while_it_is_in_use(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 8192))
    with caplog.at_level(logging.WARNING, "dspex.stores"), ResponseCache(path) as cache:
        for n in range(100):
            assert cache.get(f"key{n}") in (None, answer(n))
        cache.put("a", ANSWER)
        cache.flush()
        assert cache.get("a") == ANSWER
    assert "set aside" in caplog.text


@pytest.mark.parametrize("seed", range(24))
def test_no_damage_gives_another_answer(path: Path, tmp_path: Path, seed: int) -> None:
    """Random bytes of the file, and of its write-ahead log, are changed, or their ends are cut off."""
    rng = random.Random(seed)
    filled(path, 40)
    image = tmp_path / "image" / "responses.db"
    image.parent.mkdir()
    with ResponseCache(path) as cache:
        for n in range(40, 80):
            cache.put(f"key{n}", answer(n))
        cache.flush()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{image}{suffix}")
    for suffix in ("", "-wal"):
        file = Path(f"{image}{suffix}")
        data = bytearray(file.read_bytes())
        for _ in range(rng.choice((0, 1, 5, 100))):
            start = rng.randrange(len(data))
            for place in range(start, min(len(data), start + rng.choice((1, 8, 600)))):
                data[place] = rng.randrange(256)
        del data[rng.choice((len(data), len(data), rng.randrange(len(data)))) :]
        file.write_bytes(data)
    with ResponseCache(image) as cache:
        for n in range(80):
            assert cache.get(f"key{n}") in (None, answer(n))
        for n in range(80, 100):
            cache.put(f"key{n}", answer(n))
        cache.flush()
        cache.check()
        for n in range(100):
            assert cache.get(f"key{n}") in (None, answer(n))
        cache.put("new", ANSWER)
        cache.flush()
        assert cache.check().dropped == 0
        assert cache.get("new") == ANSWER


def test_a_check_drops_the_answers_that_are_damaged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(path, 20)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE responses SET body = replace(body, 'answer', 'ANSWER') WHERE key = ?", (b"key1",))
        connection.execute("UPDATE responses SET digest = 7, body = 8 WHERE key = ?", (b"key2",))
        connection.execute("UPDATE responses SET digest = (SELECT digest FROM responses WHERE key = ?)", (b"key0",))
        connection.commit()
    with ResponseCache(path) as cache:
        assert cache.get("key1") is None
        assert cache.get("key0") == answer(0)
        assert cache.check() == CacheCheck(1, 18)
        assert cache.check() == CacheCheck(1, 0)
    assert caplog.text.count("was damaged") == 1
    assert not asides(path)


def test_a_check_sets_a_damaged_file_aside(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * 4096)
    with ResponseCache(path) as cache:
        found = cache.check()
        assert found.aside == asides(path)[0]
        assert cache.check() == CacheCheck(0, 0)


@pytest.mark.parametrize("used", ["x'ff'", "'text'", str(2**63 - 1), "1e300"])
def test_a_damaged_order_of_use_is_damage(path: Path, used: str) -> None:
    filled(path, 3)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE responses SET used = {used}, size = x'00' WHERE key = ?", (b"key1",))
        connection.commit()
    with ResponseCache(path) as cache:
        cache.put("a", ANSWER)
        cache.flush()
        cache.put("b", ANSWER)
        cache.flush()
        assert cache.check() == CacheCheck(1, 0)
        assert cache.get("b") == ANSWER
    assert len(asides(path)) == 1


def test_processes_that_find_the_damage_at_once_set_the_file_aside_once(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database " * 1000)
    body = """
        print("ready", flush=True)
        sys.stdin.readline()
        with ResponseCache(sys.argv[1]) as cache:
            cache.get("a")
            for n in range(20):
                cache.put(f"{sys.argv[2]}{n}", LMResponse(str(n)))
                cache.flush()
    """
    processes: list[subprocess.Popen[str]] = []
    program = "import sys\nfrom dspex.lm.types import LMResponse\nfrom dspex.stores.cache import ResponseCache\n"
    for name in "abcd":
        command = [sys.executable, "-c", program + textwrap.dedent(body), str(path), name]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outcomes = [process.communicate("go\n", timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outcomes
    assert len(asides(path)) == 1
    with ResponseCache(path) as cache:
        assert cache.check() == CacheCheck(80, 0)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_a_process_killed_while_writing_leaves_whole_answers(path: Path) -> None:
    written = 0
    for round in range(4):
        process = script(
            """
            cache = ResponseCache(sys.argv[1], linger=0.0)
            for n in range(int(sys.argv[2]), 10**9):
                cache.put(f"key{n}", LMResponse(f"answer {n} " * (1 + n % 500)))
                if n % 50 == 0:
                    cache.flush()
                    print(n, flush=True)
            """,
            str(path),
            str(written),
        )
        assert process.stdout is not None
        flushed = 0
        for _ in range(2 + round):
            flushed = int(process.stdout.readline())
        process.kill()
        process.communicate()
        with ResponseCache(path) as cache:
            found = cache.check()
            assert (found.dropped, found.aside) == (0, None)
            for n in range(flushed + 1):
                assert cache.get(f"key{n}") == LMResponse(f"answer {n} " * (1 + n % 500))
        written = flushed + 1
    assert not asides(path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_processes_that_write_and_evict_survive_the_death_of_others(path: Path) -> None:
    body = """
        cache = ResponseCache(sys.argv[1], max_bytes=300_000, linger=0.0)
        for n in range(int(sys.argv[3])):
            key = f"{sys.argv[2]}{n % 300}"
            known = cache.get(key)
            assert known is None or known.text == f"{key} " * (1 + n % 300)
            cache.put(key, LMResponse(f"{key} " * (1 + n % 300)))
            if n % 20 == 0:
                cache.flush()
                print(n, flush=True)
        cache.close()
    """
    lasting = [script(body, str(path), name, "900") for name in "ab"]
    for victim in range(6):
        process = script(body, str(path), "c", str(10**9))
        assert process.stdout is not None
        for _ in range(2 + victim):
            process.stdout.readline()
        process.kill()
        process.communicate()
    outcomes = [process.communicate(timeout=60) for process in lasting]
    assert [(process.returncode, err) for process, (_, err) in zip(lasting, outcomes, strict=True)] == [(0, "")] * 2
    with ResponseCache(path, max_bytes=300_000) as cache:
        found = cache.check()
        assert (found.dropped, found.aside) == (0, None)
        assert found.sound > 50
        assert cache.stats().bytes <= 300_000


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_file_that_may_not_grow_fails_no_call(path: Path) -> None:
    process = script(
        """
        import random, resource
        cache = ResponseCache(sys.argv[1])
        cache.put("early", LMResponse("kept"))
        cache.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for n in range(100):
            cache.put(f"key{n}", LMResponse(random.Random(n).randbytes(5000).hex()))
            cache.flush()
        print(cache.get("early").text)
        cache.close()
        """,
        str(path),
    )
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("kept\n", 0), err
    assert err.count("cannot be written") == 1


def _may_mount() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="no file system may be mounted here")
def test_a_full_disk_fails_no_call_and_answers_are_stored_again_once_it_has_room(path: Path) -> None:
    path.parent.mkdir()
    process = script(
        """
        import os, random, subprocess
        folder = sys.argv[1]
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
        cache = ResponseCache(f"{folder}/responses.db")
        cache.put("early", LMResponse("kept"))
        cache.flush()
        filler = os.open(f"{folder}/filler", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(filler, b"x" * 4096)
        except OSError:
            os.close(filler)
        for n in range(50):
            cache.put(f"key{n}", LMResponse(random.Random(n).randbytes(5000).hex()))
            cache.flush()
        print(cache.get("early").text, cache.get("key49"))
        os.unlink(f"{folder}/filler")
        cache.put("late", LMResponse("kept too"))
        cache.close()
        with ResponseCache(f"{folder}/responses.db") as cache:
            print(cache.get("early").text, cache.get("late").text, cache.check().dropped)
        """,
        str(path.parent),
        prefix=["unshare", "--user", "--map-root-user", "--mount"],
    )
    out, err = process.communicate(timeout=60)
    assert out.splitlines() == ["kept None", "kept kept too 0"], err
    assert err.count("cannot be written") == 1


def test_answers_are_kept_in_bounded_memory_when_none_can_be_written(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()
    with ResponseCache(path) as cache:
        cache.put("first", ANSWER)
        cache.flush()
        for n in range(20_000):
            cache.put(f"key{n}", ANSWER)
        assert cache.get("key19999") == ANSWER
        assert cache.stats().entries < 10_000
