"""Kernels from libraries: equal to the JIT's bit for bit, without Numba, and refused when damaged or stale."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.core import jit
from dspex.core.native import library, stamp
from dspex.errors import CoreError
from tests.core.cases import CASES
from tests.core.spaces import UNHURRIED
from tests.core.test_jit import compiles, probe

pytestmark = [
    compiles,
    pytest.mark.skipif(sys.platform != "linux", reason="libraries are made on Linux"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="nothing links"),
]

# Tables, integers, floats and results; exact kernels and others.
for _module in ("tpe", "bootstrap"):
    importlib.import_module(f"dspex.core.kernels.{_module}")
NAMES = ("rng.uniform", "encode.snap", "sampling.sample", "tpe.shrink", "tpe.split", "bootstrap.resampled_means")

MAKE = """
from dspex.core import jit
from dspex.core.native import library
from dspex.core.kernels import racing
import numpy as np
out = np.empty(3, dtype=np.int64)
print(racing.promote(np.arange(12.0).reshape(3, 4), 4, 2, np.empty(3), out), out[:2].tolist())
kept = library.cached("racing.promote", "dspex.core.kernels.racing")
"""
WAIT = (
    "import time\nwhile not kept.exists():\n    assert not library.problems, library.problems\n    time.sleep(0.01)\n"
)
SAY = 'import sys\nprint("numba" in sys.modules, len(library.problems), kept)'


def made(cache: Path) -> Path:
    """The library of one kernel, made by a process of its own."""
    lines = probe(cache, MAKE + WAIT + SAY)
    assert lines[0] == "2 [2, 1]"
    return Path(lines[1].split(maxsplit=2)[2])


def test_the_next_process_is_served_without_numba(tmp_path: Path) -> None:
    made(tmp_path)
    lines = probe(tmp_path, MAKE + SAY)
    assert lines[0] == "2 [2, 1]"
    assert lines[1].startswith("False 0 ")


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_library_is_refused_and_the_kernel_served_all_the_same(tmp_path: Path, damage: str) -> None:
    path = made(tmp_path)
    whole = path.read_bytes()
    broken = {"cut": whole[: len(whole) // 2], "changed": whole[:2000] + b"!" + whole[2001:], "empty": b""}[damage]
    path.write_bytes(broken)
    with pytest.raises(CoreError, match="DX3045"):
        library.read(path)
    lines = probe(tmp_path, MAKE + SAY)
    assert lines[0] == "2 [2, 1]"
    assert lines[1].split()[1] == "1"


def test_what_was_refused_is_reported(tmp_path: Path) -> None:
    path = made(tmp_path)
    code = "from dspex.core.native import library\nprint(library.report())\nprint(library.problems)"
    assert probe(tmp_path, code)[0].endswith("1 compiled by this machine")
    path.write_bytes(b"half of it")
    assert path.name in probe(tmp_path, code)[1]


def test_a_library_of_other_sources_is_not_used(tmp_path: Path) -> None:
    path = made(tmp_path)
    contents = library.read(path)
    other = dataclasses.replace(contents, modules=dict.fromkeys(contents.modules, "0" * 20))
    path.write_bytes(library.seal(path.read_bytes(), other))
    opened = library.Library(path)
    assert opened.function("racing.promote", print) is None
    assert not opened.serves("dspex.core.kernels.racing")


def test_a_change_makes_stale_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    package = Path(jit.__file__).parents[1]
    shutil.copytree(package / "core", tmp_path / "dspex" / "core", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("__init__.py", "errors.py", "_version.py"):
        shutil.copy(package / name, tmp_path / "dspex")
    shutil.copytree(package / "catalogue", tmp_path / "dspex" / "catalogue")
    code = "import sys; sys.path[:0] = [sys.argv[1]]\nfrom dspex.core.native import stamp\n" + "".join(
        f"print(stamp.digest('dspex.core.kernels.{name}'))\n" for name in ("tpe", "encode", "bootstrap")
    )

    def digests() -> list[str]:
        command = [sys.executable, "-P", "-c", code, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split()

    before = digests()
    assert before == [stamp.digest(f"dspex.core.kernels.{name}") for name in ("tpe", "encode", "bootstrap")]
    with (tmp_path / "dspex" / "core" / "kernels" / "encode.py").open("a") as file:
        file.write("# changed\n")
    after = digests()
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False, True]


def compile_for_its_case(name: str, compiled: Any) -> None:
    @settings(max_examples=1, database=None, deadline=None, suppress_health_check=UNHURRIED)
    @given(st.data())
    def call(data: st.DataObject) -> None:
        compiled(*deepcopy(CASES[name](cast("st.DrawFn", data.draw)).args))

    call()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> library.Library:
    """A library of the kernels of NAMES, compiled for the arguments of their cases."""
    from dspex.core.native import emit

    built: dict[str, tuple[str, Any]] = {}
    for name in NAMES:
        kernel = jit.REGISTRY[name]
        compile_for_its_case(name, kernel.compiled)
        built[name] = (kernel.module, next(iter(cast("Any", kernel.compiled).overloads.values())))
    path = tmp_path_factory.mktemp("library") / "kernels.so"
    library.write(path, emit.library(built, "here"))
    return library.Library(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_library_equals_the_jit_bit_for_bit(opened: library.Library, name: str) -> None:
    compiled = jit.REGISTRY[name].compiled

    def refuse(*args: object) -> object:
        raise AssertionError(f"the library did not take {args}")

    native = opened.function(name, refuse)
    assert native is not None

    @settings(max_examples=25, deadline=None, suppress_health_check=UNHURRIED)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = CASES[name](cast("st.DrawFn", data.draw))
        one, bound, other = (deepcopy(case.args) for _ in range(3))
        expected = repr(compiled(*other))
        assert repr(native.call(*one)) == repr(native.bind(*bound)()) == expected
        for left, middle, right in zip(one, bound, other, strict=True):
            if isinstance(left, np.ndarray):
                assert left.tobytes() == middle.tobytes() == right.tobytes()

    check()


def test_a_bound_call_sees_what_is_written_and_keeps_its_arrays(opened: library.Library) -> None:
    kernel = jit.REGISTRY["bootstrap.resampled_means"]
    native = opened.function(kernel.name, print)
    assert native is not None
    values, out = np.linspace(0, 1, 20), np.empty(100)
    call = native.bind(values, 1, 2, out)
    for scale in (1.0, 3.0):
        values[:] = np.linspace(0, scale, 20)
        kernel.compiled(values, 1, 2, expected := np.empty(100))
        call()
        assert out.tobytes() == expected.tobytes()
    kept = native.bind(np.full(20, 0.5), 1, 2, out)
    gc.collect()
    kept()
    assert (out == 0.5).all()


def test_arguments_that_a_library_does_not_take_are_bound_to_what_serves_instead(opened: library.Library) -> None:
    native = opened.function("bootstrap.resampled_means", lambda *args: args)
    assert native is not None
    values, out = np.linspace(0, 1, 20), np.empty(100)
    frozen = values.copy()
    frozen.flags.writeable = False
    for args in (
        (values.astype(np.float32), 1, 2, out),
        (values[::2], 1, 2, out),
        (values.reshape(4, 5), 1, 2, out),
        (frozen, 1, 2, out),
        (values, 1.5, 2, out),
        ([0.0], 1, 2, out),
        (values, 1, 2),
    ):
        assert native.bind(*args)() is not None, args


def test_levels_are_in_order_and_each_holds_the_next() -> None:
    order = list(stamp.LEVELS)
    reached = stamp.levels()
    assert list(reached) == order[len(order) - len(reached) :]
