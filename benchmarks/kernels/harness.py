"""One piece of work done by our kernel, by plain C and by NumPy, measured side by side in one run.

The three take turns, so that a machine that slows down slows all of them; what counts is the median of CPU time.
"""

from __future__ import annotations

import ctypes
import importlib
import pkgutil
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from dspex.core.jit import settle

BAR: Final = 1.25
"""A kernel of ours takes at most this many times what C takes."""
REPETITIONS: Final = 15
SHORTEST: Final = 2e-3
"""CPU seconds that one timing lasts at least: short calls are repeated inside it."""
_FLAGS: Final = ("-O3", "-march=native", "-fno-math-errno", "-std=c11", "-shared", "-fPIC")


class NoCompiler(Exception):
    """C was wanted and no compiler was found."""


@dataclass(frozen=True)
class Work:
    """The same work, done in up to three ways on prepared arrays.

    Attributes:
        ours: Calls the kernel.
        units: How much one call does.
        unit: Of what, in the plural.
        c: The same work in plain C.
        numpy: The same work in NumPy.
        equal: Whether ours and C give the same, to a tolerance.
        limit: The memory or arithmetic limit of the machine that applies, in words.
        limit_seconds: What the work takes at this limit.
    """

    ours: Callable[[], object]
    units: int
    unit: str
    c: Callable[[], object] | None = None
    numpy: Callable[[], object] | None = None
    equal: Callable[[], bool] | None = None
    limit: str = ""
    limit_seconds: float = 0


@dataclass(frozen=True)
class Measured:
    """Median CPU seconds of one call, in each of the ways there are.

    Attributes:
        name: Of the work.
        units: How much one call does.
        unit: Of what.
        ours: Of our kernel.
        c: Of C.
        numpy: Of NumPy.
        limit: The limit in words.
        limit_seconds: At the limit.
    """

    name: str
    units: int
    unit: str
    ours: float
    c: float | None
    numpy: float | None
    limit: str
    limit_seconds: float

    @property
    def ratio(self) -> float | None:
        """Ours divided by C."""
        return None if self.c is None else self.ours / self.c


WORKS: Final[dict[str, Callable[[], Work]]] = {}


def work(name: str) -> Callable[[Callable[[], Work]], Callable[[], Work]]:
    """Register the builder of a work; it runs only when the work is measured."""

    def register(builder: Callable[[], Work]) -> Callable[[], Work]:
        assert name not in WORKS, name
        WORKS[name] = builder
        return builder

    return register


def discover() -> dict[str, Callable[[], Work]]:
    """The builders of all works, by name."""
    from benchmarks.kernels import cases

    for module in pkgutil.iter_modules(cases.__path__, f"{cases.__name__}."):
        importlib.import_module(module.name)
    return WORKS


def measure(name: str, work: Work) -> Measured:
    """Time every way of doing the work; without a C compiler, C is left out.

    Raises:
        AssertionError: when ours and C do not give the same.
    """
    ways: dict[str, Callable[[], object]] = {"ours": work.ours}
    if work.c is not None and compiler() is not None:
        ways["c"] = work.c
    if work.numpy is not None:
        ways["numpy"] = work.numpy
    repeats = {way: _repeats(call) for way, call in ways.items()}
    if "c" in ways and work.equal is not None and not work.equal():
        raise AssertionError(f"{name}: the kernel and C do not give the same")
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPETITIONS):
        for way, call in ways.items():
            taken[way].append(_seconds(call, repeats[way]))
    medians = {way: median(each) for way, each in taken.items()}
    return Measured(
        name,
        work.units,
        work.unit,
        medians["ours"],
        medians.get("c"),
        medians.get("numpy"),
        work.limit,
        work.limit_seconds,
    )


def _repeats(call: Callable[[], object]) -> int:
    call()  # fills caches and has kernels compiled: until they are, Python stands in
    settle()
    repeats = 1
    while _seconds(call, repeats) * repeats < SHORTEST:
        repeats *= 2
    return repeats


def _seconds(call: Callable[[], object], repeats: int) -> float:
    begin = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - begin) / repeats


def compiler() -> str | None:
    """The C compiler's path, or None."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class _Absent:
    """Stands for a library where there is no compiler: its functions exist and refuse to run."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        def refuse(*args: object) -> object:
            del args
            raise NoCompiler(f"no C compiler was found to build {name}")

        return refuse


_folder: list[tempfile.TemporaryDirectory[str]] = []
_libraries: dict[str, ctypes.CDLL] = {}


def library(name: str) -> ctypes.CDLL:
    """`c/<name>.c` compiled with -O3 for this machine, once a run. Without a compiler its functions raise NoCompiler.

    Set `restype` of a function that returns a double; pass arrays by `pointer`, and wrap numbers in `ctypes` types or
    set `argtypes`.
    """
    if name not in _libraries:
        program = compiler()
        if program is None:
            return cast("ctypes.CDLL", _Absent())
        if not _folder:
            _folder.append(tempfile.TemporaryDirectory(prefix="dspex-bench-"))
        source = Path(__file__).with_name("c") / f"{name}.c"
        built = Path(_folder[0].name) / f"{name}.so"
        subprocess.run([program, *_FLAGS, str(source), "-o", str(built), "-lm"], check=True)
        _libraries[name] = ctypes.CDLL(str(built))
    return _libraries[name]


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    """The address of a C-contiguous array's first element; the caller keeps the array alive."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


_bandwidth: list[float] = []


def bandwidth() -> float:
    """Bytes a second that one core copies, read and written together: the limit of work that only moves memory."""
    if not _bandwidth:
        source = np.zeros(1 << 24)
        target = np.empty_like(source)
        taken = [_seconds(lambda: np.copyto(target, source), 1) for _ in range(7)]
        _bandwidth.append(2.0 * source.nbytes / median(taken[2:]))
    return _bandwidth[0]


def machine() -> dict[str, object]:
    """Where the figures were measured, and with which versions."""
    from importlib.metadata import version

    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    program = compiler()
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout if program else ""
    return {
        "cpu": cpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": version("numba"),
        "c": said.splitlines()[0] if said else None,
        "flags": " ".join(_FLAGS),
    }
