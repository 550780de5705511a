"""The JIT layer in processes of its own: modes, cache directory, what serves before anything is compiled, forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dspex.core import jit, rng, streams
from dspex.core.exercise import tiny_table
from dspex.core.kernels import sampling
from dspex.core.population import Sampler
from dspex.core.rules import evaluate_rules

PROBE = """
import sys
from dspex.core import jit
from dspex.core.exercise import tiny_table
from dspex.core.population import Sampler
print(Sampler(tiny_table()).sample(9, 3).tobytes().hex())
print(jit.ENABLED, jit.BOUNDSCHECK, "numba" in sys.modules, jit.cache_directory("dspex.core.kernels.sampling"))
"""

compiles = pytest.mark.skipif(not jit.ENABLED or jit.BOUNDSCHECK, reason="kernels are not served as usual in this mode")


def probe(cache: Path, code: str = PROBE, seconds: float = 110, **env: str) -> list[str]:
    """Lines that `code` prints in a process with this cache directory, and without a library of the package."""
    alone = "from dspex.core.native import library\nlibrary.leave_out()\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", alone + code],
        env={**os.environ, "DSPEX_CACHE_DIR": str(cache), "DSPEX_JIT": "1", "DSPEX_BOUNDSCHECK": "0", **env},
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=Path(jit.__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_modes_agree_bit_for_bit_and_keep_caches_of_their_own(tmp_path: Path) -> None:
    checked = probe(tmp_path, DSPEX_BOUNDSCHECK="1")
    plain = probe(tmp_path, DSPEX_JIT="0")
    assert checked[0] == plain[0]
    assert checked[1].startswith("True True True")
    assert plain[1].startswith("False False False")
    directory = Path(checked[1].split(maxsplit=3)[3])
    assert directory.parents[1] == tmp_path / "kernels"
    assert directory.parent.name.endswith("-checked")
    assert list(directory.rglob("*.nbi"))


def test_an_unwritable_cache_falls_back_to_compiling_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    code = (
        "from dspex.core import jit, rng\n"
        "print(jit.cache_directory('dspex.core.rng'), rng.uniform(1, 2, 3, 4))\n"
        "print(jit.REGISTRY['rng.uniform'].compiled(1, 2, 3, 4))"
    )
    number = streams.uniform(1, 2, 3, 4)
    assert probe(blocked, code) == [f"None {number}", f"{number}"]


def test_compiling_leaves_numba_settings_alone(tmp_path: Path) -> None:
    code = (
        "from numba.core import config; before = config.CACHE_DIR\n"
        "from dspex.core import jit, rng\njit.REGISTRY['rng.mix'].compiled\n"
        "assert config.CACHE_DIR == before; print('same')"
    )
    assert probe(tmp_path, code) == ["same"]


def test_candidates_are_the_same_before_and_after_kernels_are_compiled(tmp_path: Path) -> None:
    code = """
import sys
from dspex.core import jit
from dspex.core.exercise import tiny_table
from dspex.core.population import Sampler
def draw():
    return Sampler(tiny_table()).sample(9, 3).tobytes().hex()
before = draw()
names = [each for each in jit.REGISTRY.values() if each.called]
waiting = [each for each in names if not each.ready.is_set()]
for each in names:
    assert each.ready.wait(100)
print(len(waiting) > 0, draw() == before, before)
"""
    early, same, drawn = probe(tmp_path, code)[0].split()
    assert (early, same) == ("True", "True")
    assert drawn == probe(tmp_path, DSPEX_JIT="0")[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_child_goes_on_while_the_parent_compiles(tmp_path: Path) -> None:
    code = """
import os
from dspex.core import jit, rng
from dspex.core.kernels import bootstrap
import numpy as np
values, out = np.linspace(0, 1, 20), np.empty(100)
rng.uniform(1, 2, 3, 4)
child = os.fork()
bootstrap.resampled_means(values, 1, 2, out)
if child:
    assert os.waitpid(child, 0)[1] == 0
print(out.tobytes().hex(), flush=True)
if not child:
    os._exit(0)
"""
    first, second = probe(tmp_path, code)
    assert first == second


def test_the_python_form_calls_python_forms_and_returns_pythons_numbers() -> None:
    kernel = jit.REGISTRY["rng.uniform"]
    assert kernel is rng.uniform
    number = kernel.python(1, 2, 3, 4)
    assert type(number) is float
    assert number == streams.uniform(1, 2, 3, 4)
    assert type(jit.REGISTRY["rng.mix"].python(np.uint64(5))) is int


def test_arguments_of_other_types_are_served_as_well(tmp_path: Path) -> None:
    # In a process of its own: here, kernels are compiled for one signature.
    code = """
import numpy as np
from dspex.core import rng
from dspex.core.kernels import racing
scores, out = np.arange(24, dtype=np.float64).reshape(4, 6)[:, ::2], np.empty(4, dtype=np.int64)
print(racing.promote(scores, 3, 2, np.empty(4), out), out[:2].tolist())
wide = np.empty((2, 8))
rng.fill_uniform(1, 2, 3, 0, wide[:, 0])
print(wide[1, 0])
"""
    assert probe(tmp_path, code) == ["2 [3, 2]", str(streams.uniform(1, 2, 3, 1))]


def test_a_bound_call_does_what_a_call_does_and_sees_what_was_written_since() -> None:
    assert jit.bind(rng.uniform, 1, 2, 3, 4)() == streams.uniform(1, 2, 3, 4)
    table, sampler = tiny_table(), Sampler(tiny_table())
    population, holds = sampler.sample(9, 3), np.empty((1, 9), dtype=np.uint8)
    judge = jit.bind(evaluate_rules, table, population, sampler.stack, holds)
    for seed in (3, 4):
        sampling.sample(table, sampler.origin, sampler.width, seed, 0, sampler.stack, population)
        judge()
        assert holds.tobytes() == sampler.holds(population).tobytes()
