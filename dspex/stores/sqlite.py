"""The event log in one SQLite file, through the standard library.

One writer thread takes everything that waits and commits it as one transaction (group commit): while the disk
syncs, the next batch gathers, so that a hundred appenders share one sync and none of them blocks its event loop.
``synchronous=FULL`` with a write-ahead log makes a commit survive ``kill -9`` and loss of power.

The file has mode 0600, its directory 0700. `SqliteEventStore.delete` overwrites what it removes
(``secure_delete``), empties the write-ahead log and gives the pages back to the file system
(``incremental_vacuum``); a full ``VACUUM`` would need the file's size again on the disk that may be full already.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future as PlainFuture
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from dspex.errors import StudyError
from dspex.settings import home, size
from dspex.stores.codec import dumps, loads
from dspex.stores.files import make_private, network_file_system, use_wal
from dspex.stores.forks import track
from dspex.stores.locks import FileLock
from dspex.stores.protocol import Event
from dspex.telemetry.events import Json

__all__ = ["DEFAULT_LOG_BYTES", "SqliteEventStore", "default_log"]

DEFAULT_LOG_BYTES = 4 * 2**30
"""Size limit of the event log where ``DSPEX_LOG_BYTES`` does not say another."""

_APPLICATION = 0x64737078  # "dspx"
_VERSION = 1
_PAGE = 1000
_ROWS = 1000
"""Events in one statement; SQLite takes 32,766 values."""
_BUSY_SECONDS = 30.0

_SCHEMA = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    payload TEXT NOT NULL
);
CREATE INDEX by_stream ON events (stream, id);
"""

Row = tuple[str, str, float, str]


@dataclass(slots=True)
class _Entry:
    """What waits for the writer: an event, or without a row a mark in the queue; `stop` ends the writer."""

    row: Row | None
    durable: bool
    waiting: asyncio.Future[int] | None = None
    plain: PlainFuture[int] | None = None
    stop: bool = False


def default_log() -> Path:
    """Where studies are kept: ``studies.db`` in `dspex.settings.home`."""
    return home() / "studies.db"


class SqliteEventStore:
    """An `EventStore` in a file.

    Safe for many threads, event loops and processes, and over forks. Nothing of it runs until the first append.

    Args:
        path: The file; made with its directory where it is missing.
        max_bytes: Size limit; an append beyond it fails and changes nothing.
        linger: Seconds that an event which is not durable waits for others to share its commit.
        clock: Gives `Event.at`.

    Raises:
        StudyError: DX6103, DX6104, DX6106, DX6110: the file cannot be used.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        max_bytes: int | None = None,
        linger: float = 0.05,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path) if path is not None else default_log()
        self._max_bytes = max_bytes or size("log_bytes", DEFAULT_LOG_BYTES)
        self._linger = linger
        self._clock = clock
        self._closed = False
        self._commits = 0
        self._unseen: StudyError | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._fresh()
        kind = network_file_system(self.path)
        if kind is not None:
            raise StudyError(
                "DX6106",
                f"the event log cannot stand on a network file system ({kind}): its write-ahead log needs memory "
                "and locks "
                "that only one machine's own disk can give, and events would be lost",
                where=str(self.path),
                fix="set DSPEX_HOME to a directory on a local disk",
            )
        try:
            make_private(self.path)
            with self._write_gate:
                self._writing()
        except sqlite3.Error as error:
            raise self._translate(error) from error
        except OSError as error:
            raise StudyError(
                "DX6103",
                f"the event log cannot be opened: {error.strerror or error}",
                where=str(self.path),
                fix="make the file writable, or set DSPEX_HOME to another directory",
            ) from error
        track(self)
        _open_stores.add(self)

    def _fresh(self) -> None:
        self._queue: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._urgent = threading.Event()
        self._thread: threading.Thread | None = None
        self._start_gate = threading.Lock()
        self._write_gate = threading.Lock()
        self._read_gate = threading.Lock()

    @property
    def commits(self) -> int:
        """Transactions committed by this object so far."""
        return self._commits

    def append(self, stream: str, kind: str, payload: Mapping[str, Json], durable: bool = True) -> asyncio.Future[int]:
        row = self._row(stream, kind, payload)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._put(_Entry(row, durable, waiting))
        return waiting

    def append_now(self, stream: str, kind: str, payload: Mapping[str, Json]) -> int:
        plain: PlainFuture[int] = PlainFuture()
        self._put(_Entry(self._row(stream, kind, payload), True, plain=plain))
        return plain.result()

    def read(self, stream: str, after: int = 0, kinds: Collection[str] | None = None) -> Iterator[Event]:
        only = None if kinds is None else sorted(kinds)
        chosen = "" if only is None else f" AND kind IN ({','.join('?' * len(only))})"
        text = f"SELECT id, kind, at, payload FROM events WHERE stream = ? AND id > ?{chosen} ORDER BY id LIMIT {_PAGE}"
        last = after
        while True:
            rows = cast("list[tuple[int, str, float, str]]", self._select(text, (stream, last, *(only or ()))))
            for number, name, at, body in rows:
                try:
                    payload = loads(body)
                except ValueError as error:
                    raise self._damaged(f"event {number} is not JSON ({error})") from error
                if not isinstance(payload, Mapping):
                    raise self._damaged(f"event {number} is not a JSON object")
                yield Event(number, stream, name, payload, at)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def streams(self) -> list[str]:
        rows = self._select("SELECT stream FROM events GROUP BY stream ORDER BY MIN(id)", ())
        return [cast(str, row[0]) for row in rows]

    def delete(self, stream: str) -> int:
        self.flush()
        with self.lock(stream), self._write_gate:
            try:
                connection = self._writing()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    count = connection.execute("DELETE FROM events WHERE stream = ?", (stream,)).rowcount
                    connection.execute("COMMIT")
                except sqlite3.Error:
                    _roll_back(connection)
                    raise
                # `execute` steps once, and each step of this pragma frees one page; `executescript` runs it to its end.
                connection.executescript("PRAGMA incremental_vacuum")
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.Error as error:
                raise self._translate(error) from error
        if busy:
            raise StudyError(
                "DX6109",
                f"the events of {stream!r} are gone, but another process reads the log, so that their text is still "
                "in the "
                "write-ahead log",
                where=str(self.path),
                fix="end the other process and delete the study again",
            )
        return count

    def lock(self, stream: str) -> FileLock:
        return FileLock(self.path.with_name(self.path.name + ".locks"), stream)

    def flush(self) -> None:
        if self._thread is not None:
            plain: PlainFuture[int] = PlainFuture()
            self._put(_Entry(None, True, plain=plain))
            plain.result()
        self._raise_unseen()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._start_gate:
            if self._thread is not None:
                self._queue.put(_Entry(None, True, stop=True))
                self._urgent.set()
                self._thread.join()
                self._thread = None
                self._refuse_late()
        with self._write_gate, self._read_gate:
            self._disconnect()
        _open_stores.discard(self)
        self._raise_unseen()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Appending

    def _row(self, stream: str, kind: str, payload: Mapping[str, Json]) -> Row:
        try:
            return (stream, kind, self._clock(), dumps(payload))
        except ValueError as error:
            raise StudyError(
                "DX6107", f"the payload of an event is a JSON object: {error}", where=f"{stream} {kind}"
            ) from error

    def _put(self, entry: _Entry) -> None:
        if self._closed:
            raise StudyError("DX6108", "the event log is closed", where=str(self.path))
        if self._thread is None:
            with self._start_gate:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._write_all, args=(self._queue, self._urgent), name="dspex-event-log", daemon=True
                    )
                    self._thread.start()
        self._queue.put(entry)
        if entry.durable and not self._urgent.is_set():
            self._urgent.set()

    def _write_all(self, waiting: queue.SimpleQueue[_Entry], urgent: threading.Event) -> None:
        while True:
            # What is put from here on sets it again; what was put before is in the first look at the queue.
            urgent.clear()
            batch = [waiting.get()]
            _take_all(waiting, batch)
            if not any(entry.durable for entry in batch):
                # Not for each of them: whoever appends would have to wake this thread every time.
                urgent.wait(self._linger)
            with self._write_gate:
                _take_all(waiting, batch)
                last, error = self._commit([entry.row for entry in batch if entry.row is not None])
            self._answer(batch, last, error)
            if any(entry.stop for entry in batch):
                return

    def _commit(self, rows: Sequence[Row]) -> tuple[int, sqlite3.Error | None]:
        """The id of the last event, or 0 and the error; nothing of a failed batch is kept."""
        if not rows:
            return 0, None
        try:
            connection = self._writing()
            try:
                # A statement is a transaction by itself. Between two, a busy event loop would take the interpreter
                # for milliseconds, so that there is one only where it can be.
                if len(rows) > _ROWS:
                    connection.execute("BEGIN IMMEDIATE")
                last = 0
                for start in range(0, len(rows), _ROWS):
                    last = _insert(connection, rows[start : start + _ROWS])
                if len(rows) > _ROWS:
                    connection.execute("COMMIT")
            except sqlite3.Error:
                _roll_back(connection)
                raise
        except sqlite3.Error as error:
            return 0, error
        self._commits += 1
        return last, None

    def _refuse_late(self) -> None:
        """Answer appenders that came between the closing and the writer's end."""
        batch: list[_Entry] = []
        while not self._queue.empty():
            batch.append(self._queue.get())
        if batch:
            self._answer(batch, 0, sqlite3.ProgrammingError("the event log is closed"))

    def _answer(self, batch: list[_Entry], last: int, error: sqlite3.Error | None) -> None:
        number = last - sum(entry.row is not None for entry in batch)
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[int], int | StudyError]]] = {}
        added = sum(len(entry.row[3]) + 200 for entry in batch if entry.row is not None)
        for entry in batch:
            result: int | StudyError
            if entry.row is None:
                result = 0
            elif error is not None:
                result = self._translate(error, added)
                if not entry.durable:
                    self._unseen = result
            else:
                number += 1
                result = number
            if entry.plain is not None:
                if isinstance(result, int):
                    entry.plain.set_result(result)
                else:
                    entry.plain.set_exception(result)
            elif entry.waiting is not None:
                loops.setdefault(entry.waiting.get_loop(), []).append((entry.waiting, result))
        durable = {id(entry.waiting) for entry in batch if entry.durable} if error is not None else set[int]()
        for loop, pairs in loops.items():
            # A closed loop refuses: the events are stored, and nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, pairs, durable)

    def _raise_unseen(self) -> None:
        error, self._unseen = self._unseen, None
        if error is not None:
            raise error

    # Connections

    def _writing(self) -> sqlite3.Connection:
        if self._writer is None:
            connection = _connect(self.path)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._writer = connection
        return self._writer

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                raise self._damaged("it is another program's database")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        use_wal(connection, _BUSY_SECONDS)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")
            # Another process may have come first while this one waited for the lock.
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise self._damaged("it is another program's database")
        if version > _VERSION:
            raise StudyError(
                "DX6110",
                f"the event log has version {version}, and this dspex reads versions up to {_VERSION}",
                where=str(self.path),
                fix="upgrade dspex, or set DSPEX_HOME to another directory",
            )
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // page)}")

    def _select(self, text: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        if self._closed:
            raise StudyError("DX6108", "the event log is closed", where=str(self.path))
        with self._read_gate:
            try:
                if self._reader is None:
                    self._reader = _connect(self.path)
                return self._reader.execute(text, values).fetchall()
            except sqlite3.Error as error:
                raise self._translate(error) from error

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    def before_fork(self) -> None:
        self._write_gate.acquire()
        self._read_gate.acquire()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        self._read_gate.release()
        self._write_gate.release()

    def after_fork_in_child(self) -> None:
        self._unseen = None
        self._fresh()

    # Errors

    def _translate(self, error: sqlite3.Error, added: int = 0) -> StudyError:
        """The error for a failure of SQLite; `added` is about what the batch would have added."""
        name = getattr(error, "sqlite_errorname", "") or ""
        where = str(self.path)
        if name == "SQLITE_FULL":
            room = _disk_free(self.path)
            if self._size_now() + 2 * added + 2**16 >= self._max_bytes:
                return StudyError(
                    "DX6102",
                    f"the event log has reached its size limit of {self._max_bytes:,} bytes; nothing of this append "
                    "was kept, "
                    "and what was acknowledged before is safe",
                    where=where,
                    fix="delete old studies (dspex study delete ID), or raise DSPEX_LOG_BYTES",
                )
            return StudyError(
                "DX6101",
                f"the disk is full ({room:,} bytes free); nothing of this append was kept, and what was "
                "acknowledged before "
                "is safe",
                where=where,
                fix="free some space, then resume the study",
            )
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return self._damaged(str(error))
        return StudyError(
            "DX6103",
            f"the event log cannot be read or written: {error} ({name or type(error).__name__}); what was acknowledged "
            "before is safe",
            where=where,
            fix="check the disk, the file's permissions and its limits, then resume the study",
        )

    def _damaged(self, why: str) -> StudyError:
        return StudyError(
            "DX6104",
            f"the file is not a sound event log: {why}",
            where=str(self.path),
            fix="move the file away to keep it, or set DSPEX_HOME to another directory",
        )

    def _size_now(self) -> int:
        try:
            return os.path.getsize(self.path) + os.path.getsize(f"{self.path}-wal")
        except OSError:
            return 0


def _take_all(waiting: queue.SimpleQueue[_Entry], batch: list[_Entry]) -> None:
    try:
        while True:
            batch.append(waiting.get_nowait())
    except queue.Empty:
        pass


def _settle(pairs: list[tuple[asyncio.Future[int], int | StudyError]], durable: set[int]) -> None:
    for waiting, result in pairs:
        if waiting.done():
            continue
        if isinstance(result, int):
            waiting.set_result(result)
        else:
            waiting.set_exception(result)
            if id(waiting) not in durable:
                waiting.exception()  # Nobody has to await it; `flush` reports the failure.


def _connect(path: Path) -> sqlite3.Connection:
    # A statement is as long as a batch: a hundred of them would be megabytes.
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=16
    )


def _insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Add events with consecutive ids; the id of the last."""
    places = ",".join(("(?,?,?,?)",) * len(rows))
    cursor = connection.execute(
        f"INSERT INTO events (stream, kind, at, payload) VALUES {places}", [value for row in rows for value in row]
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _roll_back(connection: sqlite3.Connection) -> None:
    # A full disk makes SQLite roll back by itself.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _disk_free(path: Path) -> int:
    import shutil

    return shutil.disk_usage(path.parent).free


_open_stores: weakref.WeakSet[SqliteEventStore] = weakref.WeakSet()


def _flush_at_exit() -> None:
    for store in list(_open_stores):
        try:
            store.flush()
        except StudyError as error:
            import warnings

            warnings.warn(str(error), ResourceWarning, stacklevel=1)


atexit.register(_flush_at_exit)
