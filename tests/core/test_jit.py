"""The JIT layer in processes of its own: modes, cache directory, warm-up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dspex.core import jit

PROBE = """
import sys
from dspex.core import jit
from dspex.core.exercise import tiny_table
from dspex.core.population import Sampler
print(Sampler(tiny_table()).sample(9, 3).tobytes().hex())
print(jit.ENABLED, jit.BOUNDSCHECK, "numba" in sys.modules, jit.cache_directory())
"""


def probe(cache: Path, code: str = PROBE, **env: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "DSPEX_CACHE_DIR": str(cache), **env},
        capture_output=True,
        text=True,
        timeout=110,
        cwd=Path(jit.__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_modes_agree_bit_for_bit_and_keep_caches_of_their_own(tmp_path: Path) -> None:
    compiled = probe(tmp_path, DSPEX_JIT="1", DSPEX_BOUNDSCHECK="0")
    plain = probe(tmp_path, DSPEX_JIT="0", DSPEX_BOUNDSCHECK="0")
    assert compiled[0] == plain[0]
    assert plain[1].startswith("False False False")
    directory = Path(compiled[1].split(maxsplit=3)[3])
    assert directory.parent == tmp_path / "kernels"
    assert list(directory.rglob("*.nbi"))


def test_the_cache_directory_names_the_sources_and_the_mode(tmp_path: Path) -> None:
    code = "from dspex.core import jit; print(jit.cache_directory())"
    usual = probe(tmp_path, code, DSPEX_BOUNDSCHECK="0")[0]
    checked = probe(tmp_path, code, DSPEX_BOUNDSCHECK="1")[0]
    assert Path(usual).name == jit.source_digest()
    assert checked == f"{usual}-checked"


def test_an_unwritable_cache_falls_back_to_compiling_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    code = "from dspex.core import jit, rng; print(jit.cache_directory(), rng.uniform(1, 2, 3, 4))"
    from dspex.core import streams

    assert probe(blocked, code)[0] == f"None {streams.uniform(1, 2, 3, 4)}"


def test_importing_the_registry_leaves_numba_settings_alone(tmp_path: Path) -> None:
    code = (
        "from numba.core import config; before = config.CACHE_DIR\n"
        "import dspex.core.kernels.tpe\nassert config.CACHE_DIR == before; print('same')"
    )
    assert probe(tmp_path, code, DSPEX_JIT="1") == ["same"]


@pytest.mark.timeout(110)
def test_warming_runs_once_in_the_background() -> None:
    thread = jit.warm()
    assert jit.warm() is thread
    assert thread.daemon
    thread.join()
    assert not thread.is_alive()
