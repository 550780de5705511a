"""The `@kernel` decorator and the registry: what serves a kernel, and when.

A kernel is served by the first of these that there is:

1. a library of compiled kernels, from the package or from this machine's cache (`core.native`), in milliseconds and
   without Numba;
2. Numba's compiled function, from Numba's cache or compiled in a background thread;
3. meanwhile, the function as plain Python, where its results are the same bit for bit and its arguments are small.
   Other calls wait.

Which of them served does not show in a result: code that this machine compiled is the same in 1 and 2, and 3 serves
exact kernels alone. docs/adr/0009-native-kernels.md says what is guaranteed.

Environment:
    DSPEX_JIT=0: kernels run as plain Python (coverage, debugging).
    DSPEX_BOUNDSCHECK=1: kernels check every index; a cache directory of their own, no libraries.
    DSPEX_CACHE_DIR: where compiled kernels are kept, under `kernels/`.
"""

from __future__ import annotations

import atexit
import builtins
import os
import platform
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, TypeVarTuple, cast, overload

import numpy as np

from dspex.core.native import library, stamp
from dspex.core.table import FORMATS, ParamTable

if TYPE_CHECKING:
    int64 = int
else:
    int64 = np.int64
"""The integer type of every kernel's argument: an int32 or a literal would compile the callee once more."""

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

ENABLED: Final = os.environ.get("DSPEX_JIT", "1") != "0"
BOUNDSCHECK: Final = os.environ.get("DSPEX_BOUNDSCHECK", "0") == "1"

# Never nnan or ninf: a failed trial and an inactive row are NaN, an empty density is -inf.
FASTMATH: Final = frozenset({"contract", "reassoc", "nsz", "arcp", "afn"})

SMALL: Final = 1 << 14
"""Elements in the arrays of a call up to which plain Python may stand in: some tens of milliseconds."""


class Kernel(Generic[R]):
    """One registered kernel, as its callers see it.

    Attributes:
        name: `module.function`.
        module: Where it is written.
        exact: Whether compiled code leaves floating-point operations in the order written.
        inline: Whether compiled callers hold its code.
        called: Whether it was called from Python, and not only by other kernels.
        ready: Set once Numba's function serves it.
    """

    def __init__(self, function: Callable[..., R], exact: bool, inline: bool) -> None:
        update_wrapper(self, function)
        self.module = function.__module__
        self.name = f"{self.module.rpartition('.')[2]}.{function.__name__}"
        self.exact = exact
        self.inline = inline
        self.called = False
        self.ready = threading.Event()
        self._function = cast("FunctionType", function)
        self._python: Callable[..., R] | None = None
        self._compiled: Any = None
        self._native: library.Native | None = None
        self._serve: Callable[..., R] = self._first

    def __call__(self, *args: Any) -> R:
        return self._serve(*args)

    @property
    def python(self) -> Callable[..., R]:
        """The function as written, which calls other kernels as written."""
        if self._python is None:
            code, known = self._function.__code__, self._function.__globals__
            used = {name: _written(known[name]) for name in code.co_names if name in known}
            used["__builtins__"] = builtins
            self._python = _quiet(FunctionType(code, used, self._function.__name__, self._function.__defaults__))
        return self._python

    @property
    def compiled(self) -> Callable[..., R]:
        """Numba's dispatcher, which compiles on its first call; the function as written with DSPEX_JIT=0."""
        if not ENABLED:
            return self.python
        if self._compiled is None:
            from numba.core.compiler_lock import global_compiler_lock  # pyright: ignore[reportMissingTypeStubs]

            with global_compiler_lock:
                self._compiled = self._compiled or _dispatcher(self._function, self.module, self.exact, self.inline)
        return self._compiled

    @property
    def signatures(self) -> int:
        """How many argument types Numba compiled it for; more than one is a bug of a caller."""
        return len(getattr(self._compiled, "signatures", ()))

    def _first(self, *args: Any) -> R:
        self.called = True
        if not ENABLED:
            self._serve = self.python
        elif BOUNDSCHECK:
            self._serve = self.compiled
        else:
            native = self._find()
            self._serve = self._pending if native is None else native.call
        return self._serve(*args)

    def bind(self, *args: Any) -> Callable[[], R]:
        """See `bind`."""
        self.called = True
        native = self._find() if ENABLED and not BOUNDSCHECK else None
        return partial(self, *args) if native is None else native.bind(*args)

    def _find(self) -> library.Native | None:
        """The kernel from a library, also from the one that this process made meanwhile."""
        if self._native is None:
            self._native = library.find(self.name, self.module, self._otherwise)
        return self._native

    def _otherwise(self, *args: Any) -> R:
        """For calls that a library does not take."""
        return self.compiled(*args)

    def _pending(self, *args: Any) -> R:
        """Have it compiled; meanwhile serve from Python, or wait."""
        if self.ready.is_set():
            return self._ready(*args)
        forms = [library.form(value) for value in args]
        if None in forms:
            return self.compiled(*args)
        size = sum(value.size for value in args if isinstance(value, np.ndarray))
        stands_in = self.exact and size <= SMALL
        _request(self, tuple(cast("list[str]", forms)), urgent=not stands_in)
        if stands_in:
            return self.python(*args)
        self.ready.wait()
        return self._ready(*args)

    def _ready(self, *args: Any) -> R:
        if _ended.is_set() and threading.current_thread() in _asides:
            raise SystemExit
        # Two threads' first calls may have met, and the later one have put `_pending` back.
        self._serve = self.compiled
        return self._serve(*args)

    def prepare(self, forms: tuple[str, ...]) -> None:
        """Compile for arguments of these forms, or load from Numba's cache, and serve it from now on."""
        compiled: Any = self.compiled
        try:
            compiled.compile(_types(forms))
        except Exception as error:  # noqa: BLE001 - the next call compiles again and fails where its caller sees it
            library.problems.append(f"{self.name}: {error}")
        self._serve = compiled
        self.ready.set()


def bind(function: Callable[[*Ts], R], *args: *Ts) -> Callable[[], R]:
    """A call of a kernel with these arguments, for work that is repeated on the same arrays.

    Where a library serves, arguments are checked and turned into addresses here and not at each call, which for small
    arrays takes longer than the kernel. A call sees what was written to the arrays since; it is for one thread at a
    time.

    Args:
        function: The kernel.
        args: All of its arguments; the call keeps them alive.
    """
    return cast("Kernel[R]", function).bind(*args)


def _written(value: object) -> object:
    return cast("Kernel[Any]", value).python.__wrapped__ if isinstance(value, Kernel) else value  # pyright: ignore[reportFunctionMemberAccess]


def _quiet(function: Callable[..., R]) -> Callable[..., R]:
    """`function` as compiled code behaves: no warnings of NumPy scalars, and results that are Python's numbers."""

    def run(*args: Any) -> R:
        # Compiled code wraps integers and divides by zero silently.
        with np.errstate(all="ignore"):
            result = function(*args)
        return cast("R", result.item()) if isinstance(result, np.generic) else result

    return update_wrapper(run, function)


REGISTRY: Final[dict[str, Kernel[Any]]] = {}


@overload
def kernel(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def kernel(*, exact: bool, inline: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def kernel(
    function: Callable[P, R] | None = None, /, *, exact: bool = False, inline: bool = False
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Register `function` as a kernel; it is compiled when it is needed.

    Args:
        function: Arrays in, arrays out: no allocation, no exception, no Python object; outputs last.
        exact: Leave floating-point operations in the order written, for results that must equal Python's bit for
            bit: random numbers and the values that a configuration holds.
        inline: Always put its code in the place of a call, however long it is: for a function of scalars whose
            callers' loops would otherwise not become vectors.
    """
    if function is None:
        return lambda inner: _register(inner, exact, inline)
    return _register(function, exact, inline)


def _register(function: Callable[P, R], exact: bool, inline: bool) -> Callable[P, R]:
    made = Kernel(function, exact, inline)
    REGISTRY[made.name] = made
    return cast("Callable[P, R]", made)


def cache_directory(module: str) -> Path | None:
    """Where Numba keeps the compiled kernels of a module, or None when no candidate is writable.

    Numba does not notice that a callee in another file changed, so the directory is named by a digest of all sources
    that the module depends on, beside the versions and the processor.
    """
    place = stamp.folder("checked" if BOUNDSCHECK else "usual")
    return None if place is None else place / f"{module.rpartition('.')[2]}-{stamp.digest(module)}"


_taught: Final[list[bool]] = []


def _dispatcher(function: Callable[..., Any], module: str, exact: bool, inline: bool) -> Any:
    import numba  # pyright: ignore[reportMissingTypeStubs]
    from numba.core import config, types  # pyright: ignore[reportMissingTypeStubs]
    from numba.extending import typeof_impl  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    if not _taught:
        # A kernel that calls a kernel: Numba sees the dispatcher behind it.
        typeof_impl.register(Kernel)(lambda value, context: types.Dispatcher(value.compiled))  # pyright: ignore
        _taught.append(True)
    directory = cache_directory(module)
    # numba reads its cache directory when a function is decorated; the setting is restored for user code.
    before = cast("str", getattr(config, "CACHE_DIR"))  # noqa: B009
    setattr(config, "CACHE_DIR", str(directory or ""))  # noqa: B010
    try:
        decorate: Any = numba.njit(  # pyright: ignore[reportUnknownMemberType]
            nogil=True,
            error_model="numpy",
            fastmath=False if exact else set(FASTMATH),
            boundscheck=BOUNDSCHECK,
            forceinline=inline,
            cache=directory is not None,
        )
        return decorate(function)
    finally:
        setattr(config, "CACHE_DIR", before)  # noqa: B010


def _types(forms: tuple[str, ...]) -> tuple[Any, ...]:
    """Numba's types of arguments."""
    from numba.core import types  # pyright: ignore[reportMissingTypeStubs]
    from numba.np.numpy_support import from_dtype  # pyright: ignore

    def one(form: str) -> Any:
        if form == "table":
            return types.NamedTuple(tuple(one(f"{sort}[1]") for sort in FORMATS.values()), ParamTable)
        scalar: Any = from_dtype(np.dtype(form[:2]))
        return types.Array(scalar, int(form[3:-1]), "C") if form.endswith("]") else scalar

    return tuple(one(form) for form in forms)


# --- the thread that compiles ---------------------------------------------------------------------

_changed: Final = threading.Condition()
_queue: Final[OrderedDict[Kernel[Any], tuple[str, ...]]] = OrderedDict()
_made: Final[deque[Kernel[Any]]] = deque()
_threads: Final[list[threading.Thread]] = []
_asides: Final[list[threading.Thread]] = []
_ended: Final = threading.Event()
_busy: Final = threading.Lock()
"""Held while a kernel is compiled."""


def _request(wanted: Kernel[Any], forms: tuple[str, ...], urgent: bool) -> None:
    with _changed:
        if not wanted.ready.is_set():
            _queue.setdefault(wanted, forms)
            if urgent:
                _queue.move_to_end(wanted, last=False)
        if not _threads:
            _threads.append(threading.Thread(target=_work, name="dspex-compile", daemon=True))
            _threads[0].start()
        _changed.notify_all()  # of a fork, the first in line may be a thread that is gone


def _work() -> None:
    """Compile what was asked for; when nothing waits, keep what was compiled as libraries."""
    while True:
        with _changed:
            while not _queue and not _made and not _ended.is_set():
                _changed.wait()
        if _ended.is_set():
            return
        with _busy:
            with _changed:
                wanted, forms = _queue.popitem(last=False) if _queue else (_made.popleft(), None)
            if forms is None:
                _keep(wanted)
            elif not wanted.ready.is_set():
                wanted.prepare(forms)
                _made.append(wanted)


def aside(work: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread for work that calls kernels and that nobody waits for.

    When the process ends, it ends at the next kernel that is not compiled yet; it should look at `ending` besides.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    _asides.append(thread)
    thread.start()
    return thread


def ending() -> bool:
    """Whether the process ends."""
    return _ended.is_set()


def settle() -> None:
    """Wait until everything asked for is compiled and kept."""
    settled = False
    while not settled:
        with _busy, _changed:
            settled = not _queue and not _made


def _keep(made: Kernel[Any]) -> None:
    """Write the library of one kernel into this machine's cache, so that the next process needs no Numba for it."""
    path = library.cached(made.name, made.module)
    results = list(cast("Any", made.compiled).overloads.values())
    if path is None or len(results) != 1 or sys.platform != "linux":
        return
    from dspex.core.native import emit

    try:
        library.write(path, emit.library({made.name: (made.module, results[0])}, platform.machine()))
    except Exception as error:  # noqa: BLE001 - Numba's own cache serves the next process as well, only later
        library.problems.append(f"{made.name}: no library: {error}")


def _hold() -> None:
    """Have no kernel half compiled in any thread until `_release`."""
    _busy.acquire()
    if "numba" in sys.modules:
        from numba.core.compiler_lock import global_compiler_lock  # pyright: ignore[reportMissingTypeStubs]

        global_compiler_lock.acquire()
        _held.append(global_compiler_lock)
    _changed.acquire()


def _release() -> None:
    _changed.release()
    if _held:
        _held.pop().release()
    _busy.release()


def _start_anew() -> None:
    """In a forked child, which has no other thread."""
    _threads.clear()
    _asides.clear()
    _queue.clear()
    _made.clear()
    _release()
    atexit.unregister(_end)  # A module that another thread was importing stays locked, and would be waited for.


_held: Final[list[Any]] = []
"""Numba's lock around LLVM, while it is held for a fork."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_start_anew)


def _end() -> None:
    """Have no thread of ours run while LLVM and the interpreter are taken down, which would abort the process.

    One that compiles finishes its kernel and begins no other.
    """
    with _changed:
        _ended.set()
        _changed.notify_all()
    for each in REGISTRY.values():
        each.ready.set()
    for thread in (*_threads, *_asides):
        thread.join()
    _hold()


atexit.register(_end)
