"""Where dspex keeps its files, and settings from the environment and the project.

Nothing here is a process-global object that code changes: a setting is read from ``DSPEX_<NAME>``, else from
``[tool.dspex]`` in the nearest ``pyproject.toml`` upward from the working directory.

| what | place |
|---|---|
| event log of studies | `home()` / ``studies.db`` |
| answers of models | `cache_dir()` / ``responses.db`` |
| local models | `cache_dir()` / ``models`` |

`home()` is ``DSPEX_HOME``, else the platform's data directory (``~/.local/share/dspex`` on Linux); `cache_dir()` is
``DSPEX_CACHE_DIR``, else the platform's cache directory (``~/.cache/dspex``). Where that cannot be written,
``DSPEX_HOME`` and then the project's ``.dspex`` stand in, with a warning.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import cast

from dspex.errors import UsageError

__all__ = ["SETTINGS", "SettingsWarning", "cache_dir", "cache_places", "home", "project_dir", "setting", "size"]

SETTINGS: dict[str, str] = {
    "lm": "model for programs that name none, as provider/model",
    "home": "directory of studies and of everything that must be kept",
    "cache_dir": "directory of cached answers and local models; may be deleted at any time",
    "model_dir": "directory that holds a local model's file already",
    "content": "what stores keep of prompts and answers: full, hash or off",
    "cache_bytes": "size limit of the cache of answers, in bytes",
    "log_bytes": "size limit of the event log, in bytes",
    "prices": "file of prices that go before the price list",
    "jit": "0 runs the core as plain Python",
    "boundscheck": "1 compiles the core with bounds checks",
}
"""Every setting, with its meaning. The environment variable is ``DSPEX_`` and the name in capitals."""


class SettingsWarning(UserWarning):
    """A setting that is not known, or a directory that another one stands in for."""


_tables: dict[str, tuple[Path, dict[str, str]]] = {}
_writable: set[str] = set()


def setting(name: str) -> str | None:
    """The value of a setting, or None where it is set nowhere. An empty environment variable counts as not set.

    The project's file is read once a process and working directory.

    Raises:
        UsageError: DX8201, DX8203: the project's file is not sound.
    """
    value = os.environ.get("DSPEX_" + name.upper())
    if value:
        return value
    return _project()[1].get(name)


def size(name: str, default: int) -> int:
    """The setting `name` as a number of bytes.

    Raises:
        UsageError: DX8204: it is no positive whole number.
    """
    value = setting(name)
    if value is None:
        return default
    if not value.strip().isdecimal() or not int(value):
        raise UsageError(
            "DX8204",
            f"the setting {name} is a positive whole number of bytes, got {value!r}",
            where=f"DSPEX_{name.upper()}",
            fix=f"for example DSPEX_{name.upper()}={default}",
        )
    return int(value)


def project_dir() -> Path:
    """The directory of the nearest ``pyproject.toml`` upward from the working directory, else the latter."""
    return _project()[0]


def home() -> Path:
    """The directory for what must be kept, made with mode 0700 where it is missing.

    Raises:
        UsageError: DX8202: no directory can be written.
    """
    wanted = setting("home")
    first = Path(wanted).expanduser() if wanted else _platform("data")
    return _first_writable("data", [first, project_dir() / ".dspex"])


def cache_dir() -> Path:
    """The directory for what can be made again, made with mode 0700 where it is missing.

    Raises:
        UsageError: DX8202: no directory can be written.
    """
    return _first_writable("cache", cache_places())


def cache_places() -> list[Path]:
    """Where `cache_dir` may be, best first. For readers: a cache that cannot be written may still be full of use."""
    wanted = setting("cache_dir")
    places = [Path(wanted).expanduser() if wanted else _platform("cache")]
    kept = setting("home")
    if kept:
        places.append(Path(kept).expanduser() / "cache")
    places.append(project_dir() / ".dspex" / "cache")
    return [place.absolute() for place in places]


def _platform(kind: str) -> Path:
    root = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return root / "Library" / ("Caches" if kind == "cache" else "Application Support") / "dspex"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        base = (Path(local) if local else root / "AppData" / "Local") / "dspex"
        return base / "cache" if kind == "cache" else base
    variable, usual = ("XDG_CACHE_HOME", ".cache") if kind == "cache" else ("XDG_DATA_HOME", ".local/share")
    given = os.environ.get(variable, "")
    # The XDG specification says that a relative path in these variables is invalid and to be ignored.
    return (Path(given) if os.path.isabs(given) else root / usual) / "dspex"


def _first_writable(kind: str, places: list[Path]) -> Path:
    reasons: list[str] = []
    for number, place in enumerate(places):
        path = place.absolute()
        if str(path) not in _writable:
            try:
                _probe(path)
            except OSError as error:
                reasons.append(f"{path}: {error.strerror or error}")
                continue
            _writable.add(str(path))
            if number:
                warnings.warn(
                    f"the {kind} directory cannot be written ({'; '.join(reasons)}); using {path}",
                    SettingsWarning,
                    stacklevel=4,
                )
        return path
    raise UsageError(
        "DX8202",
        f"no {kind} directory can be written: {'; '.join(reasons)}",
        fix="set DSPEX_HOME to a directory that you may write",
    )


def _probe(path: Path) -> None:
    """Make `path` and write into it: permission bits alone do not tell (read-only mounts, quotas, root)."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    trial = path / f".writable-{os.getpid()}"
    os.close(os.open(trial, os.O_WRONLY | os.O_CREAT, 0o600))
    trial.unlink(missing_ok=True)


def _project() -> tuple[Path, dict[str, str]]:
    here = os.getcwd()
    found = _tables.get(here)
    if found is None:
        found = _tables[here] = _read_project(Path(here))
    return found


def _read_project(here: Path) -> tuple[Path, dict[str, str]]:
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        if file.is_file():
            return folder, _read_table(file)
    return here, {}


def _read_table(file: Path) -> dict[str, str]:
    import tomllib

    try:
        document: dict[str, object] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError("DX8201", f"pyproject.toml cannot be read: {error}", where=str(file)) from error
    tool = document.get("tool")
    table: object = cast("dict[str, object]", tool).get("dspex") if isinstance(tool, dict) else None
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise UsageError("DX8203", f"tool.dspex is a table of settings, got {table!r}", where=str(file))
    settings: dict[str, str] = {}
    for key, value in cast("dict[str, object]", table).items():
        name = key.replace("-", "_")
        settings[name] = _plain(name, value, file)
        if name not in SETTINGS:
            import difflib

            close = difflib.get_close_matches(name, SETTINGS, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(SETTINGS)}"
            warnings.warn(f"{file}: [tool.dspex] has no setting {name!r}{hint}", SettingsWarning, stacklevel=2)
    return settings


def _plain(name: str, value: object, file: Path) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise UsageError("DX8203", f"the setting {name} is a text, a number or true/false, got {value!r}", where=str(file))
