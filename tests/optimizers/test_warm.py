"""Compiling before a search needs it: once, in the background, and only what this kind of optimizer calls."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from dspex.optimizers.random import Random
from dspex.optimizers.warm import warm
from tests.core.test_jit import compiles, probe
from tests.kernels import share_compiled

WARM = """
import sys
from dspex.core import jit
from dspex.core.native import library
from dspex.optimizers.random import Random
from dspex.optimizers.warm import search, warm
library.leave_out()
thread = warm(Random)
if thread is not None:
    thread.join()
jit.settle()
called = {each.name for each in jit.REGISTRY.values() if each.called}
search(Random)
after = {each.name for each in jit.REGISTRY.values() if each.called}
assert thread is None or called == after
print(thread is not None, "numba" in sys.modules, any(name.startswith(("gp.", "tpe.propose")) for name in after))
print(library.problems)
"""


def test_warming_runs_once_in_the_background() -> None:
    thread = warm(Random)
    assert warm(Random) is thread
    if thread is not None:
        assert thread.daemon
        thread.join()


@compiles
def test_no_thread_runs_into_the_end_of_the_process(tmp_path: Path) -> None:
    code = """
import atexit, threading
atexit.register(lambda: print([each.name for each in threading.enumerate() if each.name.startswith("dspex-")]))
from dspex.optimizers.tpe import TPE
from dspex.optimizers.warm import warm
print(warm(TPE).name)
"""
    assert probe(tmp_path, code) == ["dspex-warm-tpe", "[]"]


@compiles
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="no libraries are made here")
def test_the_next_process_has_nothing_to_warm(tmp_path: Path) -> None:
    cache = share_compiled(tmp_path / "cache")
    assert probe(cache, WARM, seconds=500) == ["True True False", "[]"]
    assert probe(cache, WARM, seconds=500) == ["False False False", "[]"]
