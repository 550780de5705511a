"""Exclusive locks between processes, as locked files that name their holder.

The kernel drops such a lock when its process ends, however it ends, so that a killed study never stays locked.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from dspex.errors import StudyError
from dspex.stores.forks import track

__all__ = ["FileLock", "taken"]


def taken(stream: str, holder: int | None) -> StudyError:
    """The error for a stream that another process, or another part of this one, holds."""
    who = f"process {holder}" if holder else "another process"
    if holder == os.getpid():
        who = f"this process ({holder})"
    return StudyError(
        "DX6105",
        f"{stream!r} is in use by {who}",
        where=stream,
        fix=f"wait until it ends, or stop it (kill {holder})"
        if holder and holder != os.getpid()
        else "wait until it ends",
    )


class FileLock:
    """A lock on ``directory/<hash of stream>.lock``, held from construction to `release` or the end of the process.

    Raises:
        StudyError: DX6105: somebody holds it.
    """

    def __init__(self, directory: Path, stream: str) -> None:
        self._stream = stream
        self._file: int | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / (hashlib.sha256(stream.encode("utf-8", "surrogatepass")).hexdigest()[:32] + ".lock")
        while self._file is None:
            self._file = self._try()
        os.truncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, str(os.getpid()).encode("ascii"))
        track(self)

    @property
    def stream(self) -> str:
        return self._stream

    def _try(self) -> int | None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _lock(descriptor):
            text = os.read(descriptor, 32)
            os.close(descriptor)
            raise taken(self._stream, int(text) if text.isdigit() else None)
        # A holder unlinks the file when it lets go: a lock on a file that is not there any more holds nobody off.
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
        return None

    def release(self) -> None:
        if self._file is not None:
            descriptor, self._file = self._file, None
            self._path.unlink(missing_ok=True)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def before_fork(self) -> None:
        """Nothing is under way in a lock."""

    def after_fork_in_parent(self) -> None:
        """The parent keeps its lock."""

    def after_fork_in_child(self) -> None:
        """A child must not keep its parent's lock alive; closing its copy of the descriptor releases nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        # The byte lies far behind the text, because locked bytes cannot be read on Windows.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
