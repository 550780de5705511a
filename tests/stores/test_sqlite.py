"""Durability, faults and privacy of the event log in SQLite, with the faults really injected."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dspex.errors import StudyError
from dspex.stores.files import network_file_system
from dspex.stores.sqlite import SqliteEventStore, default_log

ROOT = Path(__file__).parents[2]


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def finish(script: str, *arguments: str) -> str:
    process = start(script, *arguments)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return out


async def settled(waiting: asyncio.Future[int]) -> asyncio.Future[int]:
    await asyncio.wait([waiting])
    return waiting


APPENDER = """
    import asyncio, sys
    from dspex.stores.sqlite import SqliteEventStore

    async def worker(store, n):
        i = 0
        while True:
            number = await store.append("s", "x", {"worker": n, "i": i, "pad": "p" * 300})
            print(number, n, i, flush=True)
            i += 1

    async def main():
        store = SqliteEventStore(sys.argv[1])
        await asyncio.gather(*(worker(store, n) for n in range(16)))

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("after", [1, 40, 333])
def test_acknowledged_events_survive_when_the_process_is_killed(tmp_path: Path, after: int) -> None:
    path = tmp_path / "log.db"
    process = start(APPENDER, str(path))
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.communicate()
    acknowledged = {tuple(map(int, line.split())) for line in lines if line.endswith("\n")}
    with SqliteEventStore(path) as store:
        events = list(store.read("s"))
        kept = {(e.id, e.payload["worker"], e.payload["i"]) for e in events}
        assert acknowledged <= kept
        for worker in range(16):  # nothing is missing in between, nothing is there twice
            mine = [e.payload["i"] for e in events if e.payload["worker"] == worker]
            assert mine == list(range(len(mine)))
        assert store.append_now("s", "x", {}) > events[-1].id


def test_many_appenders_share_a_commit(log: SqliteEventStore) -> None:
    async def appending() -> None:
        await log.append("s", "x", {})
        before = log.commits
        log.before_fork()  # hold the writer as a fork would, so that all of them are waiting
        waiting = [log.append("s", "x", {"n": n}) for n in range(300)]
        log.after_fork_in_parent()
        ids = await asyncio.gather(*waiting)
        assert log.commits == before + 1
        assert ids == list(range(ids[0], ids[0] + 300))

    asyncio.run(appending())


def test_an_event_is_stored_when_its_appender_is_cancelled(log: SqliteEventStore) -> None:
    async def appending() -> None:
        log.before_fork()
        log.append("s", "x", {"n": 1}).cancel()
        log.after_fork_in_parent()
        await log.append("s", "x", {"n": 2})

    asyncio.run(appending())
    assert [event.payload["n"] for event in log.read("s")] == [1, 2]


def test_an_event_is_stored_when_its_loop_is_gone(log: SqliteEventStore) -> None:
    async def appending() -> None:
        log.append("s", "x", {"n": 1})

    log.append_now("s", "x", {"n": 0})
    asyncio.run(appending())
    log.flush()
    assert [event.payload["n"] for event in log.read("s")] == [0, 1]


def test_events_nobody_awaits_are_stored_when_the_process_ends(tmp_path: Path) -> None:
    finish(
        """
        import asyncio, sys
        from dspex.stores.sqlite import SqliteEventStore
        store = SqliteEventStore(sys.argv[1], linger=1000.0)
        async def main():
            store.append("s", "x", {"n": 1}, durable=False)
        asyncio.run(main())
        """,
        str(tmp_path / "log.db"),
    )
    with SqliteEventStore(tmp_path / "log.db") as store:
        assert [event.payload["n"] for event in store.read("s")] == [1]


def test_size_limit_gives_an_error_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    async def appending(store: SqliteEventStore) -> int:
        kept = 0
        while (waiting := await settled(store.append("s", "x", {"n": kept, "pad": "p" * 1000}))).exception() is None:
            kept += 1
        with pytest.raises(StudyError) as caught:
            waiting.result()
        assert caught.value.code == "DX6102"
        assert caught.value.fix is not None
        return kept

    with SqliteEventStore(tmp_path / "log.db", max_bytes=200_000) as store:
        kept = asyncio.run(appending(store))
        assert kept > 20
        assert [event.payload["n"] for event in store.read("s")] == list(range(kept))
        assert store.delete("s") == kept  # and room is there again
        store.append_now("s", "x", {"pad": "p" * 1000})


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_full_disk_gives_an_error_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    out = finish(
        """
        import asyncio, resource, sys
        from dspex.errors import StudyError
        from dspex.stores.sqlite import SqliteEventStore

        async def main():
            store = SqliteEventStore(sys.argv[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
            kept = 0
            try:
                while True:
                    await store.append("s", "x", {"n": kept, "pad": "p" * 1000})
                    kept += 1
            except StudyError as error:
                readable = sum(1 for _ in store.read("s"))
                print(error.code, kept, readable, bool(error.fix))
            store.append("s", "x", {"pad": "p" * 9000}, durable=False)
            try:
                store.flush()
            except StudyError as error:
                print(error.code)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print(await store.append("s", "x", {"n": kept}))

        asyncio.run(main())
        """,
        str(path),
    )
    first, second, third = out.splitlines()
    code, kept, readable, fix = first.split()
    assert code in ("DX6101", "DX6103")
    assert fix == "True"
    assert second == code
    assert int(kept) == int(readable) > 5
    assert int(third) == int(kept) + 1
    with SqliteEventStore(path) as store:
        assert [event.payload["n"] for event in store.read("s")] == list(range(int(kept) + 1))


def test_second_process_is_refused_and_told_the_holder(log: SqliteEventStore) -> None:
    holder = start(
        """
        import sys
        from dspex.stores.sqlite import SqliteEventStore
        with SqliteEventStore(sys.argv[1]).lock("s"):
            print("held", flush=True)
            sys.stdin.read()
        """,
        str(log.path),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StudyError) as caught:
        log.lock("s")
    assert caught.value.code == "DX6105"
    assert str(holder.pid) in caught.value.message
    with pytest.raises(StudyError, match="DX6105"):
        log.delete("s")
    holder.kill()  # the lock ends with its process, however that ends
    holder.communicate()
    log.lock("s").release()


def test_two_processes_append_to_one_file(log: SqliteEventStore) -> None:
    script = """
        import asyncio, sys
        from dspex.stores.sqlite import SqliteEventStore
        async def main():
            with SqliteEventStore(sys.argv[1]) as store:
                await asyncio.gather(*(store.append(sys.argv[2], "x", {"n": n}) for n in range(200)))
        asyncio.run(main())
    """
    processes = [start(script, str(log.path), name) for name in "ab"]
    assert [process.communicate(timeout=60)[1] for process in processes] == [None, None]
    for name in "ab":
        assert [event.payload["n"] for event in log.read(name)] == list(range(200))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_appends_and_holds_no_lock_of_its_parent(tmp_path: Path) -> None:
    out = finish(
        """
        import asyncio, os, sys
        from dspex.errors import StudyError
        from dspex.stores.sqlite import SqliteEventStore

        store = SqliteEventStore(sys.argv[1])
        held = store.lock("s")

        async def main():
            waiting = [store.append("s", "x", {"from": "parent", "n": n}) for n in range(50)]
            for child in range(4):
                if os.fork() == 0:
                    store.append_now("s", "x", {"from": "child", "n": child})
                    assert len(list(store.read("s"))) > 0
                    held.release()
                    store.close()
                    os._exit(0)
                waiting += [store.append("s", "x", {"from": "parent", "n": 50 + child})]
            await asyncio.gather(*waiting)
            for _ in range(4):
                assert os.wait()[1] == 0

        asyncio.run(main())
        try:
            store.lock("s")
        except StudyError as error:
            print(error.code)
        events = list(store.read("s"))
        print([e.payload["n"] for e in events if e.payload["from"] == "parent"] == list(range(54)))
        print(sorted(e.payload["n"] for e in events if e.payload["from"] == "child"))
        """,
        str(tmp_path / "log.db"),
    )
    assert out.splitlines() == ["DX6105", "True", "[0, 1, 2, 3]"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_files_are_private_even_when_they_were_not(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.db"
    with SqliteEventStore(path) as store:
        store.append_now("s", "x", {})
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir() if file.is_file()}
        assert modes == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    SqliteEventStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_deleted_text_is_not_in_the_files_any_more(log: SqliteEventStore) -> None:
    for n in range(50):
        log.append_now("secret", "x", {"n": n, "text": "the-customers-prompt " * 100})
        log.append_now("other", "x", {"text": "something else"})

    def found() -> bool:
        return any(
            b"customers-prompt" in file.read_bytes() for file in log.path.parent.glob("log.db*") if file.is_file()
        )

    assert found()
    log.delete("secret")
    assert not found()
    assert log.path.stat().st_size < 50_000  # of about 200,000: the space is given back
    assert len(list(log.read("other"))) == 50


@pytest.mark.parametrize("content", [b"not a database at all, but a text of some length" * 40, None])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "log.db"
    if content is None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE mine (x)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StudyError) as caught:
        SqliteEventStore(path)
    assert caught.value.code == "DX6104"
    assert path.read_bytes() == before


def test_a_newer_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    SqliteEventStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StudyError, match="DX6110"):
        SqliteEventStore(path)


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StudyError) as caught:
        SqliteEventStore(tmp_path / "file" / "log.db")
    assert caught.value.code == "DX6103"
    assert caught.value.fix is not None


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/me/local\\040disk ext4 rw 0 0
me@host:/x /mnt/ssh fuse.sshfs rw 0 0
proc /proc proc rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/log.db", None),
        ("/home/me/.local/share/dspex", "nfs4"),
        ("/home", "nfs4"),
        ("/homer/log.db", None),
        ("/home/me/local disk/log.db", None),
        ("/mnt/ssh/log.db", "fuse.sshfs"),
    ],
)
def test_network_file_systems_are_found(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind


def test_network_file_system_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nfs(path: Path) -> str:
        return "nfs4"

    monkeypatch.setattr("dspex.stores.sqlite.network_file_system", nfs)
    with pytest.raises(StudyError) as caught:
        SqliteEventStore(tmp_path / "log.db")
    assert caught.value.code == "DX6106"
    assert "DSPEX_HOME" in str(caught.value)


def test_default_place_is_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_HOME", str(tmp_path / "mine"))
    assert default_log() == tmp_path / "mine" / "studies.db"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_opening_the_file_again_keeps_this_process_in_its_locks(log: SqliteEventStore) -> None:
    """POSIX drops all locks of a process on a file when it closes any descriptor of it; SQLite then loses writes."""
    log.append_now("s", "x", {})
    with SqliteEventStore(log.path) as second:
        second.append_now("s", "x", {})
        list(second.read("s"))
    out = finish(
        """
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], timeout=0)
        try:  # needs the file for itself
            print(connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0])
        except sqlite3.OperationalError as error:
            print(error)
        """,
        str(log.path),
    )
    assert out == "database is locked\n"
