"""The only file that imports numba: the `@kernel` decorator, the registry, the disk cache and the warm-up.

Environment:
    DSPEX_JIT=0: kernels run as plain Python (coverage, debugging).
    DSPEX_BOUNDSCHECK=1: kernels check every index; a cache directory of their own.
    DSPEX_CACHE_DIR: where compiled kernels are kept, under `kernels/`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, cast, overload

import numpy as np

if TYPE_CHECKING:
    int64 = int
else:
    int64 = np.int64
"""The integer type of every kernel's argument: an int32 or a literal would compile the callee once more."""

P = ParamSpec("P")
R = TypeVar("R")

ENABLED: Final = os.environ.get("DSPEX_JIT", "1") != "0"
BOUNDSCHECK: Final = os.environ.get("DSPEX_BOUNDSCHECK", "0") == "1"

# Never nnan or ninf: a failed trial and an inactive row are NaN, an empty density is -inf.
FASTMATH: Final = frozenset({"contract", "reassoc", "nsz", "arcp", "afn"})


@dataclass(frozen=True, slots=True)
class Kernel:
    """One registered kernel.

    Attributes:
        name: `module.function`.
        compiled: What callers call: numba's dispatcher, or the function itself with DSPEX_JIT=0.
        python: The function as written.
    """

    name: str
    compiled: Callable[..., object]
    python: Callable[..., object]

    @property
    def signatures(self) -> int:
        """How many argument types it was compiled for; more than one is a bug of a caller."""
        return len(getattr(self.compiled, "signatures", ()))


REGISTRY: Final[dict[str, Kernel]] = {}
_decorating: Final = threading.Lock()


@overload
def kernel(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def kernel(*, exact: bool) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def kernel(
    function: Callable[P, R] | None = None, /, *, exact: bool = False
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile `function` on first call and register it.

    Args:
        function: Arrays in, arrays out: no allocation, no exception, no Python object; outputs last.
        exact: Leave floating-point operations in the order written, for results that must equal Python's bit for
            bit: random numbers and the values that a configuration holds.
    """
    if function is None:
        return lambda inner: _register(inner, exact)
    return _register(function, exact)


def _register(function: Callable[P, R], exact: bool) -> Callable[P, R]:
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    compiled = _compile(function, exact) if ENABLED else _plain(function)
    REGISTRY[name] = Kernel(name, compiled, function)
    return compiled


def _plain(function: Callable[P, R]) -> Callable[P, R]:
    # Compiled code wraps integers and divides by zero silently; NumPy scalars warn.
    return np.errstate(all="ignore")(function)


def _compile(function: Callable[P, R], exact: bool) -> Callable[P, R]:
    import numba  # pyright: ignore[reportMissingTypeStubs]
    from numba.core import config  # pyright: ignore[reportMissingTypeStubs]

    directory = cache_directory()
    with _decorating:
        # numba reads its cache directory when a function is decorated; the setting is restored for user code.
        before = cast("str", getattr(config, "CACHE_DIR"))  # noqa: B009
        setattr(config, "CACHE_DIR", str(directory or ""))  # noqa: B010
        try:
            jit = cast(
                "Callable[[Callable[P, R]], Callable[P, R]]",
                numba.njit(  # pyright: ignore[reportUnknownMemberType]
                    nogil=True,
                    error_model="numpy",
                    fastmath=False if exact else set(FASTMATH),
                    boundscheck=BOUNDSCHECK,
                    cache=directory is not None,
                ),
            )
            return jit(function)
        finally:
            setattr(config, "CACHE_DIR", before)  # noqa: B010


_directory: list[Path | None] = []


def cache_directory() -> Path | None:
    """Where compiled kernels are kept, or None when no candidate is writable.

    Numba does not notice that a callee in another file changed, so the directory is named by a digest of the core's
    sources, the versions and the processor.
    """
    if not _directory:
        _directory.append(next((path for path in _candidates() if _writable(path)), None))
    return _directory[0]


def _candidates() -> list[Path]:
    name = f"{source_digest()}{'-checked' if BOUNDSCHECK else ''}"
    explicit = os.environ.get("DSPEX_CACHE_DIR")
    if explicit:
        return [Path(explicit).expanduser() / "kernels" / name]
    roots: list[Path] = []
    xdg = os.environ.get("XDG_CACHE_HOME")
    if xdg:
        roots.append(Path(xdg) / "dspex")
    home = os.path.expanduser("~")
    if home != "~":
        roots.append(Path(home) / ".cache" / "dspex")
    roots.append(Path.cwd() / ".dspex" / "cache")
    return [root / "kernels" / name for root in roots]


def _writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)


def source_digest() -> str:
    """Digest of everything that compiled code depends on."""
    from importlib.metadata import version

    digest = hashlib.sha256()
    root = Path(__file__).parent
    for source in sorted(root.rglob("*.py")):
        digest.update(source.relative_to(root).as_posix().encode())
        digest.update(source.read_bytes())
    parts = (version("numba"), np.__version__, platform.python_version(), platform.machine(), _processor())
    digest.update("\n".join(parts).encode())
    return digest.hexdigest()[:20]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


_warming: list[threading.Thread] = []


def warm() -> threading.Thread:
    """Load or compile the kernels that a study needs, in a background thread; later calls return the same thread."""
    with _decorating:
        if not _warming:
            thread = threading.Thread(target=_exercise, name="dspex-warm", daemon=True)
            _warming.append(thread)
            thread.start()
        return _warming[0]


def _exercise() -> None:
    from dspex.core.exercise import exercise

    exercise()
