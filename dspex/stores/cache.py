"""The cache of models' answers on disk, by call key.

Answers are read straight from SQLite (a few dozen µs) and written by a thread of its own in batches, so that a
miss costs its event loop hardly anything; what waits to be written is already found by `ResponseCache.get`. A
cache never fails a call: when its disk is full, its file damaged or its directory on a network file system, it
says so once in the log ``dspex.stores`` and goes on with what it can do. The last answers before a crash may be
lost (``synchronous=NORMAL``): the event log, not the cache, is what remembers paid calls.

The file has mode 0600 and holds answers in full. With ``content="hash"`` or ``"off"`` `open_cache` keeps answers in
memory only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

from dspex.lm.types import LMResponse
from dspex.settings import cache_dir, setting, size
from dspex.stores.codec import dumps, loads, response_from_json, response_to_json
from dspex.stores.files import make_private, network_file_system, use_wal
from dspex.stores.forks import track
from dspex.telemetry.events import content_mode

__all__ = [
    "DEFAULT_CACHE_BYTES",
    "CacheStats",
    "MemoryCache",
    "ResponseCache",
    "ResponseStore",
    "default_cache",
    "open_cache",
]

DEFAULT_CACHE_BYTES = 2**30
"""Size limit of the cache where ``DSPEX_CACHE_BYTES`` does not say another."""

_VERSION = 1
_LOG = logging.getLogger("dspex.stores")
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_TOUCHES = 4096


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How many answers a cache holds, and the bytes that they take."""

    entries: int
    bytes: int


class ResponseStore(Protocol):
    """What the call path asks of a cache."""

    def get(self, key: str) -> LMResponse | None: ...

    def put(self, key: str, response: LMResponse) -> None: ...

    def clear(self) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def stats(self) -> CacheStats: ...


def default_cache() -> Path:
    """Where answers are kept: ``responses.db`` in `dspex.settings.cache_dir`."""
    return cache_dir() / "responses.db"


def open_cache(path: Path | None = None) -> ResponseStore:
    """The cache that the settings ask for: on disk, or in memory where no content may be kept on disk.

    Raises:
        UsageError: DX8211: the setting ``content`` is not full, hash or off.
    """
    if content_mode(setting("content") or "full") != "full":
        return MemoryCache()
    return ResponseCache(path)


class MemoryCache:
    """Answers in memory; the least recently used go first.

    Args:
        max_entries: Answers kept at most.
    """

    def __init__(self, max_entries: int = 65536) -> None:
        self._entries: OrderedDict[str, LMResponse] = OrderedDict()
        self._max = max_entries
        self._gate = threading.Lock()

    def get(self, key: str) -> LMResponse | None:
        with self._gate:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: str, response: LMResponse) -> None:
        with self._gate:
            self._entries[key] = response
            self._entries.move_to_end(key)
            if len(self._entries) > self._max:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        with self._gate:
            self._entries.clear()

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def stats(self) -> CacheStats:
        with self._gate:
            return CacheStats(
                len(self._entries), sum(len(r.text.encode(errors="replace")) for r in self._entries.values())
            )


class ResponseCache:
    """Answers in a SQLite file that many threads, event loops and processes may share.

    Args:
        path: The file; made with its directory where it is missing.
        max_bytes: Size limit; beyond it the answers that were not used for longest are removed.
        linger: Seconds that a written answer waits for others to share its transaction.
        clock: Seconds since 1970; orders answers by use.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        max_bytes: int | None = None,
        linger: float = 0.02,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path) if path is not None else default_cache()
        self._max_bytes = max_bytes or size("cache_bytes", DEFAULT_CACHE_BYTES)
        self._linger = linger
        self._clock = clock
        self._said: set[str] = set()
        self._usable = True
        self._closed = False
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._fresh()
        kind = network_file_system(self.path)
        if kind is not None:
            self._give_up(
                f"{self.path} stands on a network file system ({kind}); set DSPEX_CACHE_DIR to a local directory"
            )
        track(self)

    def _fresh(self) -> None:
        self._waiting: dict[str, LMResponse] = {}
        self._touched: dict[int, int] = {}
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._gate = threading.Lock()
        self._read_gate = threading.Lock()
        self._write_gate = threading.Lock()

    def get(self, key: str) -> LMResponse | None:
        """The answer stored under `key`, or None."""
        found = self._waiting.get(key)
        if found is not None or not self._usable:
            return found
        number = _number(key)
        try:
            with self._read_gate:
                if self._reader is None:
                    self._reader = self._open()
                row = self._reader.execute("SELECT key, body FROM responses WHERE id = ?", (number,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            self._trouble(error)
            return None
        if row is None or row[0] != key:
            return None
        try:
            response = response_from_json(loads(cast(str, row[1])))
        except ValueError:
            return None
        with self._gate:
            self._touched[number] = int(self._clock())
            due = len(self._touched) >= _TOUCHES
        if due:
            self._wake_writer()
        return response

    def put(self, key: str, response: LMResponse) -> None:
        """Store an answer, replacing the one that is there. Returns at once; found by `get` from now on."""
        with self._gate:
            self._waiting[key] = response
            if not self._usable and len(self._waiting) > _TOUCHES:
                del self._waiting[next(iter(self._waiting))]
        if self._usable and not self._wake.is_set():
            self._wake_writer()

    def clear(self) -> None:
        """Remove every answer from disk, those in files set aside as well."""
        with self._gate:
            self._waiting.clear()
            self._touched.clear()
        if not self._usable:
            return
        with self._write_gate:
            try:
                connection = self._writing()
                connection.execute("DELETE FROM responses")
                for aside in self.path.parent.glob(f"{self.path.name}.damaged-*"):
                    aside.unlink(missing_ok=True)
                connection.executescript("PRAGMA incremental_vacuum")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                return
            except (sqlite3.Error, OSError) as error:
                trouble = error
        self._trouble(trouble)

    def flush(self) -> None:
        """Write what waits to be written."""
        self._write_waiting()

    def close(self) -> None:
        """Flush and release the file; idempotent."""
        if self._closed:
            return
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            self._wake.set()
            thread.join()
        self._write_waiting()
        with self._write_gate, self._read_gate:
            self._disconnect()
        self._usable = False

    def stats(self) -> CacheStats:
        """What the file holds; what waits to be written is counted as entries only."""
        self.flush()
        if not self._usable:
            return CacheStats(len(self._waiting), 0)
        try:
            with self._write_gate:
                connection = self._writing()
                count = connection.execute("SELECT COUNT(*) FROM responses").fetchone()[0]
                return CacheStats(int(count), _used(connection))
        except (sqlite3.Error, OSError) as error:
            self._trouble(error)
            return CacheStats(0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Writing

    def _wake_writer(self) -> None:
        self._wake.set()
        if self._thread is None and not self._closed:
            with self._gate:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._write_on, args=(self._wake, self._stop), name="dspex-cache", daemon=True
                    )
                    self._thread.start()

    def _write_on(self, wake: threading.Event, stop: threading.Event) -> None:
        while not stop.is_set():
            wake.wait()
            stop.wait(self._linger)
            wake.clear()
            self._write_waiting()

    def _write_waiting(self) -> None:
        trouble: sqlite3.Error | OSError | None = None
        with self._write_gate:
            with self._gate:
                batch = self._waiting.copy()
                touched, self._touched = self._touched, {}
            if not self._usable or not (batch or touched):
                return
            try:
                self._write(batch, touched)
            except (sqlite3.Error, OSError) as error:
                trouble = error
            with self._gate:
                for key, response in batch.items():
                    if self._waiting.get(key) is response:
                        del self._waiting[key]
        if trouble is not None:
            self._trouble(trouble)

    def _write(self, batch: dict[str, LMResponse], touched: dict[int, int]) -> None:
        now = int(self._clock())
        rows: list[tuple[int, str, int, int, str]] = []
        for key, response in batch.items():
            body = dumps(response_to_json(response))
            if len(body) * 4 <= self._max_bytes:
                rows.append((_number(key), key, now, len(body), body))
        connection = self._writing()
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("UPDATE responses SET used = ? WHERE id = ?", ((t, n) for n, t in touched.items()))
            connection.executemany(
                "INSERT OR REPLACE INTO responses (id, key, used, size, body) VALUES (?, ?, ?, ?, ?)", rows
            )
            connection.execute("COMMIT")
            if _used(connection) > self._max_bytes:
                self._evict(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _evict(self, connection: sqlite3.Connection) -> None:
        """Remove the least recently used until nine tenths of the limit are left."""
        while (excess := _used(connection) - self._max_bytes * 9 // 10) > 0:
            old: list[tuple[int]] = []
            connection.execute("BEGIN IMMEDIATE")
            for number, length in connection.execute("SELECT id, size FROM responses ORDER BY used, id"):
                old.append((number,))
                excess -= length + 100
                if excess <= 0:
                    break
            connection.executemany("DELETE FROM responses WHERE id = ?", old)
            connection.execute("COMMIT")
            if not old:
                break
        connection.executescript("PRAGMA incremental_vacuum")

    # Connections

    def _writing(self) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = self._open()
        return self._writer

    def _open(self) -> sqlite3.Connection:
        make_private(self.path)
        connection = sqlite3.connect(self.path, timeout=10.0, isolation_level=None, check_same_thread=False)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise OSError(f"the cache has version {version}, and this dspex reads version {_VERSION}")
            if version == 0:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            use_wal(connection, 10.0)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = ON")
            if version == 0:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS responses (id INTEGER PRIMARY KEY, key TEXT NOT NULL, used INTEGER "
                    "NOT NULL, "
                    "size INTEGER NOT NULL, body TEXT NOT NULL)"
                )
                connection.execute("CREATE INDEX IF NOT EXISTS by_use ON responses (used, id, size)")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    def before_fork(self) -> None:
        self._write_gate.acquire()
        self._read_gate.acquire()
        self._gate.acquire()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        self._gate.release()
        self._read_gate.release()
        self._write_gate.release()

    def after_fork_in_child(self) -> None:
        self._fresh()

    # Trouble

    def _trouble(self, error: sqlite3.Error | OSError) -> None:
        """Set a damaged file aside; after any other failure go on, and say so once."""
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(_DAMAGE):
            self._set_aside(error)
        elif name == "SQLITE_BUSY":
            self._say(f"the cache of answers {self.path} is busy; some answers were not stored")
        elif name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
            self._say(f"the cache of answers {self.path} cannot be written ({error}); answers are not stored")
        else:
            self._give_up(f"{self.path}: {error}")

    def _set_aside(self, error: Exception) -> None:
        with self._write_gate, self._read_gate:
            if self._sound():
                return  # Another thread or process has replaced the file already.
            self._disconnect()
            aside = self.path.with_name(f"{self.path.name}.damaged-{int(self._clock())}-{os.getpid()}")
            try:
                # The log of the damaged file must not be replayed into the new one.
                for suffix in ("-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
                os.replace(self.path, aside)
            except OSError as failure:
                aside = None
                reason = str(failure)
            else:
                reason = ""
        if aside is None:
            self._give_up(f"{self.path} is damaged and cannot be moved away ({reason})")
        else:
            _LOG.warning(
                "the cache of answers was damaged (%s); it was set aside as %s and a new one begun", error, aside
            )

    def _sound(self) -> bool:
        self._disconnect()
        try:
            connection = self._open()
            try:
                return connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
            finally:
                connection.close()
        except (sqlite3.Error, OSError):
            return False

    def _give_up(self, why: str) -> None:
        self._usable = False
        self._say(f"answers are kept in memory only: {why}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _LOG.warning("%s", text)


def _number(key: str) -> int:
    """A 64-bit row id for a key: one look-up in one tree; the row repeats the key itself."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)


def _used(connection: sqlite3.Connection) -> int:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    page = connection.execute("PRAGMA page_size").fetchone()[0]
    return int((pages - free) * page)
