"""The cache of models' answers on disk, by call key.

Answers are read straight from SQLite (a few dozen µs) and written by a thread of its own in batches, so that a
miss costs its event loop hardly anything; what waits to be written is already found by `ResponseCache.get`. A
cache never fails a call: when its disk is full, its file damaged or its directory on a network file system, it
says so once in the log ``dspex.stores`` and goes on with what it can do. The last answers before a crash may be
lost (``synchronous=NORMAL``): the event log, not the cache, is what remembers paid calls.

Each answer lies beside a digest of it, so that no damage to the file gives another answer than was stored. The order
of use is kept by counting transactions, not by a clock, which may jump.

The file has mode 0600 and holds answers in full. With ``content="hash"`` or ``"off"`` `open_cache` opens none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from dspex.errors import StudyError
from dspex.lm.types import LMResponse
from dspex.settings import cache_dir, setting, size
from dspex.stores.codec import dumps, loads, response_from_json, response_to_json
from dspex.stores.files import make_private, network_file_system, use_wal
from dspex.stores.forks import track
from dspex.stores.locks import FileLock
from dspex.stores.packing import pack, unpack
from dspex.telemetry.events import content_mode

__all__ = [
    "DEFAULT_CACHE_BYTES",
    "CacheCheck",
    "CacheStats",
    "ResponseCache",
    "default_cache",
    "open_cache",
]

DEFAULT_CACHE_BYTES = 2**30
"""Size limit of the cache where ``DSPEX_CACHE_BYTES`` does not say another."""

_VERSION = 2
_LOG = logging.getLogger("dspex.stores")
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
# SQLite's message about a damaged schema quotes it, and need then not be UTF-8.
_FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError)
_LOG_FILE_BYTES = 4 * 2**20
"""Size that the write-ahead log is cut back to."""
_TOUCHES = 4096
_MOST_WAITING = 8192
"""Answers that wait to be written at most, however slow the disk is."""
_EVICTED_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How many answers a cache holds, and the bytes that they take."""

    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CacheCheck:
    """What reading a whole cache showed.

    Attributes:
        sound: Answers that are as they were stored.
        dropped: Damaged answers, which were removed.
        aside: Where the file was moved because it was damaged as a whole; a new one was begun.
    """

    sound: int
    dropped: int
    aside: Path | None = None


def default_cache() -> Path:
    """Where answers are kept: ``responses.db`` in `dspex.settings.cache_dir`."""
    return cache_dir() / "responses.db"


def open_cache(path: Path | None = None) -> ResponseCache | None:
    """The cache that the settings ask for; None where no content may be kept on disk.

    Raises:
        UsageError: DX8211: the setting ``content`` is not full, hash or off.
    """
    if content_mode(setting("content") or "full") != "full":
        return None
    return ResponseCache(path)


class ResponseCache:
    """Answers in a SQLite file that many threads, event loops and processes may share.

    Args:
        path: The file; made with its directory where it is missing.
        max_bytes: Size limit; beyond it the answers that were not used for longest are removed.
        linger: Seconds that a written answer waits for others to share its transaction.
    """

    def __init__(self, path: Path | str | None = None, *, max_bytes: int | None = None, linger: float = 0.02) -> None:
        self.path = Path(path) if path is not None else default_cache()
        self._max_bytes = max_bytes or size("cache_bytes", DEFAULT_CACHE_BYTES)
        self._linger = linger
        self._said: set[str] = set()
        self._usable = True
        self._closed = False
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._fresh()
        kind = network_file_system(self.path)
        if kind is not None:
            self._give_up(
                f"{self.path} stands on a network file system ({kind}); set DSPEX_CACHE_DIR to a local directory"
            )
        track(self)

    def _fresh(self) -> None:
        self._waiting: dict[str, LMResponse] = {}
        self._touched: set[int] = set()
        self._spoiled: set[int] = set()
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
                row = self._reader.execute("SELECT key, digest, body FROM responses WHERE id = ?", (number,)).fetchone()
        except _FAILURES as error:
            self._trouble(error)
            return None
        if row is None or row[0] != _bytes(key):
            return None
        response = _response(*cast("tuple[bytes, bytes, bytes]", row))
        if response is None:
            self._say(f"an answer in the cache {self.path} was damaged; such answers are dropped")
        with self._gate:
            (self._touched if response is not None else self._spoiled).add(number)
            due = response is None or len(self._touched) >= _TOUCHES
        if due:
            self._wake_writer()
        return response

    def put(self, key: str, response: LMResponse) -> None:
        """Store an answer, replacing the one that is there. Returns at once; found by `get` from now on."""
        with self._gate:
            self._waiting[key] = response
            full = len(self._waiting) > _MOST_WAITING
            if full:
                del self._waiting[next(iter(self._waiting))]
        if full and self._usable:
            self._busy()
        if self._usable and not self._wake.is_set():
            self._wake_writer()

    def clear(self) -> None:
        """Remove every answer from disk, those in files set aside as well."""
        with self._gate:
            self._waiting.clear()
            self._touched.clear()
            self._spoiled.clear()
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
            except _FAILURES as error:
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
        except _FAILURES as error:
            self._trouble(error)
            return CacheStats(0, 0)

    def check(self) -> CacheCheck:
        """Read the whole file and drop what is damaged; takes seconds for a gigabyte."""
        self.flush()
        if not self._usable:
            return CacheCheck(len(self._waiting), 0)
        sound, spoiled = 0, list[tuple[int]]()
        try:
            with self._write_gate:
                connection = self._writing()
                verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if verdict != b"ok":
                    raise _damage(str(verdict, "utf-8", "replace"))
                for number, *row in connection.execute("SELECT id, key, digest, body FROM responses"):
                    if _response(*row) is None:
                        spoiled.append((number,))
                    else:
                        sound += 1
                connection.executemany("DELETE FROM responses WHERE id = ?", spoiled)
            return CacheCheck(sound, len(spoiled))
        except _FAILURES as error:
            return CacheCheck(0, 0, self._trouble(error))

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
        trouble: Exception | None = None
        with self._write_gate:
            with self._gate:
                batch = self._waiting.copy()
                touched, self._touched = self._touched, set()
                spoiled, self._spoiled = self._spoiled, set()
            if not self._usable or not (batch or touched or spoiled):
                return
            try:
                self._write(batch, touched, spoiled)
            except _FAILURES as error:
                trouble = error
            with self._gate:
                for key, response in batch.items():
                    if self._waiting.get(key) is response:
                        del self._waiting[key]
        if trouble is not None:
            self._trouble(trouble)

    def _write(self, batch: dict[str, LMResponse], touched: set[int], spoiled: set[int]) -> None:
        rows: list[tuple[int, bytes, int, bytes, bytes]] = []
        for key, response in batch.items():
            body = pack(dumps(response_to_json(response)))
            # One answer must not push out a good part of the others.
            if len(body) * 4 <= self._max_bytes:
                name = _bytes(key)
                rows.append((_number(key), name, len(body), _digest(name, body), body))
        connection = self._writing()
        try:
            connection.execute("BEGIN IMMEDIATE")
            newest = connection.execute("SELECT ifnull(max(used), 0) FROM responses").fetchone()[0]
            if not isinstance(newest, int) or newest >= 2**62:
                raise _damage("the order of use is damaged")
            now = newest + 1
            connection.executemany("DELETE FROM responses WHERE id = ?", ((number,) for number in spoiled))
            connection.executemany("UPDATE responses SET used = ? WHERE id = ?", ((now, number) for number in touched))
            connection.executemany(
                f"INSERT OR REPLACE INTO responses (id, key, used, size, digest, body) VALUES (?, ?, {now}, ?, ?, ?)",
                rows,
            )
            connection.execute("COMMIT")
            if _used(connection) > self._max_bytes:
                self._evict(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _evict(self, connection: sqlite3.Connection) -> None:
        """Remove the least recently used until nine tenths of the limit are left, a few in one transaction."""
        while (excess := _used(connection) - self._max_bytes * 9 // 10) > 0:
            old: list[tuple[int]] = []
            connection.execute("BEGIN IMMEDIATE")
            oldest = "SELECT id, CAST(size AS INTEGER) FROM responses ORDER BY used, id LIMIT ?"
            for number, length in connection.execute(oldest, (_EVICTED_AT_ONCE,)):
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
        self._inode = self.path.stat().st_ino
        connection = sqlite3.connect(self.path, timeout=10.0, isolation_level=None, check_same_thread=False)
        # Damaged text need not be UTF-8.
        connection.text_factory = bytes
        try:
            version = _version(connection)
            if version > _VERSION:
                raise OSError(f"the cache has version {version}, and this dspex reads version {_VERSION}")
            if version == 0:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            use_wal(connection, 10.0)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_FILE_BYTES}").fetchone()
            if version < _VERSION:
                connection.execute("BEGIN IMMEDIATE")
                if _version(connection) < _VERSION:
                    # Answers in an earlier form are not worth reading: a cache may begin anew at any time.
                    connection.execute("DROP TABLE IF EXISTS responses")
                    connection.execute(
                        "CREATE TABLE responses (id INTEGER PRIMARY KEY, key BLOB NOT NULL, used INTEGER NOT NULL, "
                        "size INTEGER NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL)"
                    )
                    connection.execute("CREATE INDEX by_use ON responses (used, id, size)")
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

    def _trouble(self, error: Exception) -> Path | None:
        """Set a damaged file aside, and say where to; after any other failure go on, and say so once."""
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(_DAMAGE) or isinstance(error, UnicodeDecodeError):
            return self._set_aside(error)
        if name == "SQLITE_BUSY":
            self._busy()
        elif name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
            self._say(f"the cache of answers {self.path} cannot be written ({error}); answers are not stored")
        else:
            self._give_up(f"{self.path}: {error}")
        return None

    def _set_aside(self, error: Exception) -> Path | None:
        """Move the file away, unless another thread or process has done so; where to."""
        with self._write_gate, self._read_gate:
            damaged, self._inode = self._inode, None
            self._disconnect()
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}-{os.getpid()}")
            try:
                with FileLock(self.path.parent, f"set aside {self.path.name}"):
                    if damaged != self.path.stat().st_ino:
                        return None
                    # The log of the damaged file must not be replayed into the new one.
                    for suffix in ("-wal", "-shm"):
                        Path(f"{self.path}{suffix}").unlink(missing_ok=True)
                    os.replace(self.path, aside)
            except (FileNotFoundError, StudyError):
                return None
            except OSError as failure:
                reason = str(failure)
            else:
                reason = ""
        if reason:
            self._give_up(f"{self.path} is damaged and cannot be moved away ({reason})")
            return None
        _LOG.warning("the cache of answers was damaged (%s); it was set aside as %s and a new one begun", error, aside)
        return aside

    def _busy(self) -> None:
        self._say(f"the cache of answers {self.path} is busy; some answers were not stored")

    def _give_up(self, why: str) -> None:
        self._usable = False
        self._say(f"answers are kept in memory only: {why}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _LOG.warning("%s", text)


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogatepass")


def _number(key: str) -> int:
    """A 64-bit row id for a key: one look-up in one tree; the row repeats the key itself."""
    return int.from_bytes(hashlib.blake2b(_bytes(key), digest_size=8).digest(), "little", signed=True)


def _digest(name: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8, key=name[:64]).digest()


def _response(name: bytes, digest: bytes, body: bytes) -> LMResponse | None:
    """The answer in a row; None for a damaged one."""
    try:
        return response_from_json(loads(unpack(body))) if digest == _digest(name, body) else None
    except (TypeError, ValueError):
        # Damage may also change the type of a column.
        return None


def _damage(message: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(message)
    error.sqlite_errorname = "SQLITE_CORRUPT"
    return error


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _used(connection: sqlite3.Connection) -> int:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    page = connection.execute("PRAGMA page_size").fetchone()[0]
    return int((pages - free) * page)
