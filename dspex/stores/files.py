"""Files that hold customers' prompts: private to their owner, and on a disk of this machine."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import threading
import time
from pathlib import Path

__all__ = ["make_private", "network_file_system", "use_wal"]

# WAL keeps its index in memory that processes share, which no network file system can give; locks on them are
# unreliable as well (sqlite.org/wal.html, sqlite.org/howtocorrupt.html §2). 9p and virtiofs are left out: containers
# and virtual machines have them as the local root.
_NETWORK = frozenset(
    {"nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "ncpfs", "coda", "ceph", "lustre", "gpfs"}
    | {
        "beegfs",
        "panfs",
        "orangefs",
        "pvfs2",
        "ocfs2",
        "gfs2",
        "glusterfs",
        "webdav",
        "davfs",
        "davfs2",
        "sshfs",
        "s3fs",
    }
)


def make_private(path: Path) -> None:
    """Create `path` with mode 0600 in a directory made with mode 0700, or narrow the mode of a file that is there.

    A file that is there is never opened: closing any descriptor of it would drop the locks of every connection that
    this process has to it, and other processes would then delete its log (sqlite.org/howtocorrupt.html §2.2).
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        _create(path)
        return
    if sys.platform != "win32" and stat.S_IMODE(mode) & 0o077:
        path.chmod(0o600)


def _create(path: Path) -> None:
    """An empty file under `path`, unless another thread or process is faster; closed before it has its name."""
    draft = path.with_name(f"{path.name}.new-{os.getpid()}-{threading.get_ident()}")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:
        # A file system without links.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    finally:
        draft.unlink(missing_ok=True)


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The type of the network file system that holds `path`, or None for a local or unknown one.

    Args:
        path: A file or directory; it need not exist.
        mounts: Text in the form of ``/proc/mounts``; read from there by default, where there is one.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    place = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        point = _unescape(parts[1])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        # The last of several mounts on one point hides the others.
        if inside and len(point) >= len(best):
            best, kind = point, parts[2]
    name = kind.removeprefix("fuse.")
    return kind if name in _NETWORK else None


def _unescape(text: str) -> str:
    """Mount points have blanks, tabs, newlines and backslashes as three octal digits."""
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, character)
    return text


def use_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """Switch to a write-ahead log, waiting at most so long: SQLite's busy timeout does not cover the switch."""
    end = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > end:
                raise
            time.sleep(0.005)
