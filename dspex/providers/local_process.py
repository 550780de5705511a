"""The child process of a local model: started at the first call, shared by all threads and event loops, reliably ended.

The child runs `local_child.py` in an environment of its own. It ends when the last user closes the model, when this
interpreter exits, and, through the end of its standard input, when this process is killed. A process forked from this
one starts a child of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from dspex.errors import LocalModelError

CONTEXT = 4096
"""Tokens of the context window: prompt and answer together."""

UBATCH = 512
"""Rows that are evaluated at once at most."""

START_SECONDS = 120.0

DEATHS = 5
DEATHS_WITHIN = 60.0
"""A child that died `DEATHS` times within so many seconds is not started again."""

_CHILD = Path(__file__).with_name("local_child.py")

_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "TMPDIR", "TEMP", "TMP", "LANG", "SYSTEMROOT")

INSTALL = 'pip install "dspex[local]"'
GOMP = "apt-get install libgomp1"


class Turns:
    """One caller at a time, in order of arrival, over all event loops and threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = (loop, loop.create_future())
            self._waiting.append(mine)
        try:
            await mine[1]
        except asyncio.CancelledError:
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise
            # Given but not taken up. A future that was cancelled first is passed over by `_give` itself.
            if not mine[1].cancelled():
                self._next()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next()

    def _next(self) -> None:
        with self._lock:
            while self._waiting:
                loop, future = self._waiting.popleft()
                # A loop that was closed has nobody waiting any more.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._give, future)
                    return
            self._taken = False

    def _give(self, future: asyncio.Future[None]) -> None:
        if future.done():
            self._next()
        else:
            future.set_result(None)


class ModelProcess:
    """The child of one model file, and what is known of its prompt cache.

    Attributes:
        turns: Held for the length of a call.
        key: The secret that the child asks of its clients, so that other users of the machine are no clients.
        users: Open models that share the child.
        clean: How many leading positions of the child's cache hold numbers that no history can change; see
            `LocalModel`. Read and written by the holder of the turn.
        last: Identity of the prompt that the cache holds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.key = secrets.token_hex(16)
        self.users = 0
        self._clock = clock
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._lock = threading.RLock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._url = ""
        self._ending = "it was closed"
        self.turns = Turns()
        self.clean = 0
        self.last: object = None
        _alive.add(self)

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        popen = self._popen
        return popen.pid if popen is not None and popen.poll() is None else None

    @property
    def url(self) -> str | None:
        """Root of the running child's HTTP interface; None when it does not run."""
        popen = self._popen
        return self._url if popen is not None and popen.poll() is None and self._url else None

    def start(self) -> str:
        """Start the child unless it runs; blocks until it serves. Returns `url`.

        Raises:
            LocalModelError: DX7001, DX7002, DX7006 when it does not start, DX7008 when it died too often.
        """
        with self._lock:
            url = self.url
            if url is not None:
                return url
            if self._popen is not None:
                self._bury(self._popen)
            now = self._clock()
            if len(self._deaths) == DEATHS and now - self._deaths[0] < DEATHS_WITHIN:
                raise LocalModelError(
                    "DX7008",
                    f"the local model's process ended {DEATHS} times within {DEATHS_WITHIN:g} s",
                    fix="free some memory and run `dspex doctor`; it is tried again after a minute",
                )
            self.clean, self.last = 0, None
            self._popen, self._errors, answer = launch(
                {
                    "model": str(self.path),
                    "key": self.key,
                    "context": CONTEXT,
                    "ubatch": UBATCH,
                    "threads": processors(),
                }
            )
            self._url = str(answer["url"])
            return self._url

    def _bury(self, popen: subprocess.Popen[bytes]) -> None:
        self._deaths.append(self._clock())
        self._ending = ending(popen.wait(), self._errors)
        _close_pipes(popen)
        self._popen = None
        self._close_files()

    def ended(self, within: float) -> str | None:
        """How the child ended, waiting for that so many seconds; None when it runs."""
        popen, errors = self._popen, self._errors
        if popen is None:
            return self._ending
        try:
            return ending(popen.wait(within), errors)
        except subprocess.TimeoutExpired:
            return None
        except ValueError:
            # Whoever starts another one has closed the file meanwhile, and read it before.
            return self._ending

    def stop(self) -> None:
        """End the child; idempotent."""
        with self._lock:
            popen, self._popen = self._popen, None
            self._ending = "it was closed"
            if popen is not None:
                end(popen)
            self._close_files()

    def _close_files(self) -> None:
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        self._url = ""

    def forked(self) -> None:
        """In a forked process: the child belongs to the parent; only the inherited ends of its pipes are closed."""
        if self._popen is not None:
            # The pipe's end, kept open here, would keep the child alive after its parent.
            _close_pipes(self._popen)
            self._popen.returncode = 0
        self._popen = None
        self._close_files()
        self._lock = threading.RLock()
        self._deaths.clear()
        self.key = secrets.token_hex(16)
        self.turns = Turns()
        self.clean, self.last = 0, None


# --------------------------------------------------------------------------- one child a model, shared

_alive: weakref.WeakSet[ModelProcess] = weakref.WeakSet()
_shared: dict[Path, ModelProcess] = {}
# Reentrant: a model that is garbage-collected in here gives its lease back.
_sharing = threading.RLock()


def lease(path: Path) -> ModelProcess:
    """The process of the model file `path`, not yet started; give it back with `release`."""
    with _sharing:
        process = _shared.get(path)
        if process is None:
            process = _shared[path] = ModelProcess(path)
        process.users += 1
        return process


def release(process: ModelProcess) -> None:
    """Give a lease back; the last one ends the child."""
    with _sharing:
        process.users -= 1
        if process.users > 0:
            return
        if _shared.get(process.path) is process:
            del _shared[process.path]
    process.stop()


@atexit.register
def _stop_all() -> None:
    for process in list(_alive):
        process.stop()


def _after_fork() -> None:
    global _sharing
    _sharing = threading.RLock()
    for process in list(_alive):
        process.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --------------------------------------------------------------------------- starting and ending


def launch(config: dict[str, object]) -> tuple[subprocess.Popen[bytes], IO[bytes], dict[str, Any]]:
    """Start a child and wait for its first line. Returns the process, the file with its error output, and the line.

    Raises:
        LocalModelError: DX7001, DX7002, DX7006.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    popen: subprocess.Popen[bytes] | None = None
    line = b""
    try:
        popen = subprocess.Popen(
            # Isolated and without site: a stranger's .pth files and PYTHON* variables have no say in the child.
            [sys.executable, "-I", "-S", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
            bufsize=0,
            start_new_session=True,
        )
        assert popen.stdin is not None
        assert popen.stdout is not None
        # Not by argument: those can be read by every user of the machine.
        with contextlib.suppress(BrokenPipeError):
            popen.stdin.write(json.dumps({**config, "path": [library_place()], "parent": os.getpid()}).encode() + b"\n")
        timer = threading.Timer(START_SECONDS, popen.kill)
        timer.daemon = True
        timer.start()
        try:
            while not line.endswith(b"\n"):
                part = os.read(popen.stdout.fileno(), 65536)
                if not part:
                    break
                line += part
        finally:
            timer.cancel()
        answer = _answer(popen, errors, line)
    except OSError as error:
        if popen is not None:
            end(popen)
        errors.close()
        raise LocalModelError("DX7006", f"the local model's process cannot be started: {error}") from error
    except BaseException:
        if popen is not None:
            end(popen)
        errors.close()
        raise
    return popen, errors, answer


def _answer(popen: subprocess.Popen[bytes], errors: IO[bytes], line: bytes) -> dict[str, Any]:
    try:
        answer = cast("dict[str, Any]", json.loads(line))
    except ValueError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(5.0)
        told = "it did not answer" if popen.returncode is None else ending(popen.returncode, errors)
        # A loader that misses a library may end the process before Python can say so.
        _check_gomp(told)
        raise LocalModelError(
            "DX7006", f"the local model's process did not start: {told}", fix="run `dspex doctor`"
        ) from None
    if "error" not in answer:
        return answer
    message = str(answer["message"])
    _check_gomp(message)
    if answer["error"] == "import":
        raise LocalModelError("DX7006", f"xllamacpp cannot be imported: {message}", fix=f"reinstall it: {INSTALL}")
    raise LocalModelError("DX7006", f"llama.cpp cannot load the model: {message}{_tail(errors)}")


def _check_gomp(message: str) -> None:
    if "libgomp" in message:
        raise LocalModelError(
            "DX7002",
            f"the system library libgomp1 (OpenMP) is missing: {message}",
            fix=f"{GOMP} (Debian, Ubuntu), dnf install libgomp (Fedora, RHEL), apk add libgomp (Alpine)",
        )


def end(popen: subprocess.Popen[bytes]) -> None:
    """End a child: close its standard input, then, were it deaf, kill it."""
    if popen.stdin is not None:
        popen.stdin.close()
    try:
        popen.wait(2.0)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()
    _close_pipes(popen)


def _close_pipes(popen: subprocess.Popen[bytes]) -> None:
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            pipe.close()


def ending(code: int, errors: IO[bytes] | None) -> str:
    """A child's exit status and last words, for people."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        told = f"killed by {name}"
        if name == "SIGKILL":
            told += " (by the system when memory runs out)"
    else:
        told = f"exit status {code}"
    return told + _tail(errors)


def _tail(errors: IO[bytes] | None) -> str:
    if errors is None or errors.closed:
        return ""
    # Not by seek and read: the child shares the position that it writes at.
    size = os.fstat(errors.fileno()).st_size
    words = " ".join(os.pread(errors.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace").split())
    return f"; its last words: {words[-600:]}" if words else ""


def library_place() -> str:
    """The directory that xllamacpp would be imported from, found without importing it.

    Raises:
        LocalModelError: DX7001, it is not installed.
    """
    try:
        spec = importlib.util.find_spec("xllamacpp")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise LocalModelError("DX7001", "the local model needs the package xllamacpp, which is not here", fix=INSTALL)
    return str(Path(spec.origin).parent.parent)


def environment() -> dict[str, str]:
    """The child's environment.

    Waiting OpenMP threads must sleep rather than spin: with spinning ones, or in a process where another library loaded
    OpenMP first, the model is many times slower as soon as the processors are shared.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def processors() -> int:
    """Processors that this process may use, by affinity and by the control group's quota; 8 at most."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    return max(1, min(count, 8))
