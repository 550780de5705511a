"""`python -m release.kernels`: build the libraries of compiled kernels that wheels for Linux on x86-64 hold.

What to compile, and for which arguments, is found by letting every kind of optimizer search a tiny space. The library
of each level of x86-64 is then compiled in a process of its own without running any of it, so that every machine builds
all levels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import dspex as dx
from dspex.core import exercise, jit
from dspex.core.native import library, stamp
from dspex.optimizers import create, names
from dspex.optimizers.warm import race, warm

PLACE = Path(library.__file__).parent

FEATURES = {"x86-64-v4": "-prefer-256-bit"}
"""LLVM avoids 512-bit registers for the level, for the first processors' sake: half the speed on those made since."""

Forms = dict[str, tuple[str, tuple[str, ...]]]
"""Module and argument forms of each kernel."""


def main() -> None:
    """Find what is called, then compile it for every level."""
    parser = argparse.ArgumentParser(prog="python -m release.kernels", description=__doc__)
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step[0], Path(options.step[1]))
        return
    for old in PLACE.glob("kernels-*.so"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="dspex-native-") as place:
        forms = Path(place) / "forms.json"
        finish(begin("find", forms, {"DSPEX_CACHE_DIR": place}))
        started: list[subprocess.Popen[bytes]] = []
        for level in stamp.LEVELS:
            target = {"NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": FEATURES.get(level, "")}
            target["NUMBA_DISABLE_INTEL_SVML"] = "1"
            # A file where a directory should be: nothing is taken from a cache, or kept in one.
            started.append(begin(level, forms, {"DSPEX_CACHE_DIR": str(forms), **target}))
        for each in started:
            finish(each)


def begin(name: str, forms: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """One step in a process of its own."""
    command = [sys.executable, "-m", "release.kernels", "--step", name, str(forms)]
    return subprocess.Popen(command, env={**os.environ, "DSPEX_JIT": "1", "DSPEX_BOUNDSCHECK": "0", **environment})


def finish(started: subprocess.Popen[bytes]) -> None:
    """Wait for a step."""
    if started.wait():
        raise SystemExit(f"{started.args} failed")


def step(name: str, path: Path) -> None:
    """Find the forms and write them to `path`, or compile those that stand there."""
    if name == "find":
        found = find()
        path.write_text(json.dumps(found))
        inner = sorted(set(jit.REGISTRY) - set(found))
        print(f"{len(found)} kernels; called by kernels alone, or not called: {', '.join(inner)}")
    else:
        size = build(json.loads(path.read_text()), name, PLACE / f"kernels-{name}.so")
        print(f"{name}: {size:,} bytes")


def find() -> Forms:
    """What searches of every kind call, and the rest of the core."""
    from dspex.core.native import emit

    exercise.exercise()
    race()
    for name in names():
        thread = warm(type(create(name, dx.Space([dx.Bool("any")]))))
        assert thread is not None
        thread.join()
    found: Forms = {}
    for each in list(jit.REGISTRY.values()):
        if each.called:
            each.ready.wait()
            entries = {emit.entry(each.module, result.signature) for result in overloads(each)}
            if len(entries) != 1:
                raise SystemExit(f"{each.name} is called with {len(entries)} sorts of arguments: {entries}")
            found[each.name] = (each.module, entries.pop().arguments)
    return found


def overloads(kernel: jit.Kernel[Any]) -> list[Any]:
    """What Numba compiled a kernel to, once for each sort of arguments."""
    return list(cast("Any", kernel.compiled).overloads.values())


def build(forms: Forms, level: str, path: Path) -> int:
    """Compile for the process's processor, write the library and return its size."""
    from dspex.core.native import emit

    made: dict[str, tuple[str, Any]] = {}
    for name, (module, arguments) in forms.items():
        import_module(module)
        jit.REGISTRY[name].prepare(tuple(arguments))
        if library.problems:
            raise SystemExit("\n".join(library.problems))
        (result,) = overloads(jit.REGISTRY[name])
        made[name] = (module, result)
    whole = emit.library(made, level)
    library.write(path, whole)
    return len(whole)


if __name__ == "__main__":
    main()
