"""What compiled kernels depend on: sources, versions and the processor."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_CORE: Final = Path(__file__).parents[1]
_IMPORT: Final = re.compile(r"^\s*from (dspex\.core[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)

LEVELS: Final = {
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86-64-v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
    "x86-64-v2": ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"),
}
"""Levels of the x86-64 psABI, the best first: what each needs beyond the next, in the words of /proc/cpuinfo."""


@cache
def digest(module: str) -> str:
    """Digest of the sources of a core module and of all core modules that it imports, directly or not.

    Compiled code holds what it inlined and the constants that it read, so a change in any of them makes it stale.
    """
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _source(name)[1]
    total = hashlib.sha256()
    for name in sorted(found):
        total.update(f"{name} {_source(name)[0]}\n".encode())
    return total.hexdigest()[:20]


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """Digest of one file, and the core modules that it imports."""
    content = _file(module).read_bytes()
    return hashlib.sha256(content).hexdigest(), tuple(_imports(content.decode()))


def _imports(source: str) -> Iterator[str]:
    for package, names in _IMPORT.findall(source):
        if _exists(package):
            yield package
        for name in re.findall(r"\w+", names):
            if _exists(f"{package}.{name}"):
                yield f"{package}.{name}"


@cache
def _exists(module: str) -> bool:
    return _file(module).is_file()


def _file(module: str) -> Path:
    path = _CORE.joinpath(*module.split(".")[2:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def environment() -> str:
    """Digest of the versions and of the processor for which this machine compiles."""
    import numpy as np

    parts = [_version(name) for name in ("numba", "llvmlite")]
    parts += [np.__version__, platform.python_version(), sys.platform, platform.machine(), *_processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _version(package: str) -> str:
    """The file in which a package keeps its version: reading it takes a tenth of what its metadata take."""
    found = find_spec(package)
    file = None if found is None or found.origin is None else Path(found.origin).with_name("_version.py")
    if file is not None and file.is_file():
        return file.read_text(encoding="utf-8")
    from importlib.metadata import version

    return version(package)


@cache
def levels() -> tuple[str, ...]:
    """The levels of x86-64 that this processor has, the best first; none on another processor or system."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return ()
    flags = next((line for line in _processor() if line.startswith("flags")), "")
    has = set(flags.partition(":")[2].split())
    reached: list[str] = []
    for level, needed in reversed(LEVELS.items()):
        if not has.issuperset(needed):
            break
        reached.insert(0, level)
    return tuple(reached)


@cache
def _processor() -> tuple[str, ...]:
    """Model and instruction sets, from the first processor's lines."""
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    found: list[str] = []
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(wanted):
                    found.append(line)
                elif not line.strip() and found:
                    break
    except OSError:
        return (platform.processor(),)
    return tuple(found)


@cache
def folder(kind: str) -> Path | None:
    """Where this machine keeps what it compiled for itself, or None when nothing can be written.

    Args:
        kind: A name for the mode, for example "checked".
    """
    return next((path for path in _candidates(kind) if _writable(path)), None)


def _candidates(kind: str) -> list[Path]:
    name = f"{environment()}-{kind}"
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
