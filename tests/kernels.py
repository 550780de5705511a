"""Compiled kernels of this session, for tests and processes whose other caches are new."""

from __future__ import annotations

from pathlib import Path

from dspex.core.native import stamp

# A process looks once where kernels are kept: that must not be in a place that one test made.
_FOLDERS = [stamp.folder(kind) for kind in ("usual", "checked", "native")]


def share(cache: Path) -> Path:
    """Make the cache folder `cache`, new but for the kernels that this session has compiled or will compile."""
    cache.mkdir(parents=True)
    if _FOLDERS[0] is not None:
        (cache / "kernels").symlink_to(_FOLDERS[0].parent, target_is_directory=True)
    return cache


def share_compiled(cache: Path) -> Path:
    """Make `cache` with what Numba has compiled, but without the libraries that are made of it."""
    (cache / "kernels").mkdir(parents=True)
    if _FOLDERS[0] is not None:
        (cache / "kernels" / _FOLDERS[0].name).symlink_to(_FOLDERS[0], target_is_directory=True)
    return cache
