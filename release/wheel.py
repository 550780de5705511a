"""Build hook of the wheel: with DSPEX_NATIVE=1 it takes in the libraries that `python -m release.kernels` built.

They are loaded by ctypes and depend on the processor and the C library alone, so one wheel serves every Python. Without
the variable the wheel is the same on every platform and kernels are compiled where it is installed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = "dspex/core/native/kernels-*.so"


class NativeWheel(BuildHookInterface[Any]):
    """Names the platform of a wheel that holds libraries."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries and the tag."""
        del version
        if os.environ.get("DSPEX_NATIVE") != "1":
            return
        found = sorted(Path(self.root).glob(LIBRARIES))
        if not found:
            raise SystemExit("DSPEX_NATIVE=1 and no library: run `python -m release.kernels` first")
        # The newest symbol that any of them needs; the loader of an older C library would refuse it.
        needed = max(int(minor) for path in found for minor in re.findall(rb"GLIBC_2\.(\d+)", path.read_bytes()))
        build_data["artifacts"].append(f"/{LIBRARIES}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_{max(needed, 17)}_x86_64"
