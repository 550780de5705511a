"""An optimizer's state as JSON-able data: arrays as base64 of little-endian bytes, so that nothing is rounded."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from dspex.compiler.lower.lowering import Lowered
from dspex.core import checks
from dspex.core.history import FAILED, PENDING, TOLD, History
from dspex.errors import CoreError

if TYPE_CHECKING:
    from dspex.optimizers.optimizer import Direction

SCHEMA_VERSION: Final = 2
_GROWING: Final = ("text", "demos")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The checked content of a state."""

    seed: int
    objectives: tuple[Direction, ...]
    budget: int | None
    history: History
    queue: list[NDArray[np.float64]]
    search: dict[str, Any]


def layout(lowered: Lowered) -> list[list[Any]]:
    """Name, kind, categories and exact bounds of each row."""
    table = lowered.table
    return [
        [
            variable.name,
            variable.kind,
            int(table.ncat[row]),
            *(float(array[row]).hex() for array in (table.lo, table.hi, table.step) if not table.ncat[row]),
        ]
        for row, variable in enumerate(lowered.variables)
    ]


def check_fit(rows: object, lowered: Lowered) -> None:
    """Raise unless `rows`, a layout, is that of `lowered` or of one with shorter Text and Demos pools."""
    now = layout(lowered)
    if not isinstance(rows, list) or len(cast("list[object]", rows)) != len(now):
        reject(f"it has other Variables than this space of {len(now)}")
    for then, row in zip(cast("list[object]", rows), now, strict=True):
        if then == row:
            continue
        old = cast("list[object]", then) if isinstance(then, list) else []
        pool = row[1] in _GROWING and len(old) == 3 and old[:2] == row[:2]
        if not pool or not isinstance(old[2], int) or not 1 <= old[2] <= row[2]:
            reject(f"its row {old} is {row} in this space")


def save_array(array: NDArray[np.generic]) -> str:
    """The array's bytes, little-endian, as base64."""
    return base64.b64encode(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def save_history(history: History) -> dict[str, Any]:
    """Columns, losses, noise and status of every trial."""
    count = history.count
    return {
        "count": count,
        "columns": save_array(history.columns[:, :count]),
        "losses": save_array(history.losses[:, :count]),
        "variances": save_array(history.variances[:, :count]),
        "examples": save_array(history.examples[:count]),
        "status": save_array(history.status[:count]),
    }


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with a checksum over everything in it."""
    return {**state, "checksum": _checksum(state)}


def _checksum(state: Mapping[str, Any]) -> int:
    content = {key: value for key, value in state.items() if key != "checksum"}
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def load(state: Mapping[str, Any], name: str, lowered: Lowered) -> Loaded:
    """Check a state against an optimizer and a space.

    Raises:
        CoreError: DX3012.
    """
    if not isinstance(state, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        reject(f"it is a {type(state).__name__}")
    if state.get("schema_version") != SCHEMA_VERSION or state.get("optimizer") != name:
        reject(f"it is of optimizer {state.get('optimizer')!r}, version {state.get('schema_version')!r}")
    try:
        whole = state.get("checksum") == _checksum(state)
    except (TypeError, ValueError):
        whole = False  # it holds what JSON does not
    if not whole:
        reject("its checksum does not match, so it was damaged or changed")
    check_fit(state.get("layout"), lowered)
    seed, budget = state.get("seed"), state.get("budget")
    objectives = state.get("objectives")
    if not isinstance(seed, int) or not isinstance(budget, int | None):
        reject("its seed or budget is not a whole number")
    if not isinstance(objectives, list) or not all(
        isinstance(each, str) and each in ("maximize", "minimize") for each in cast("list[object]", objectives)
    ):
        reject(f"its objectives are {objectives!r}")
    directions = cast("list[str]", objectives)
    saved, queue, search = state.get("history"), state.get("queue"), state.get("search")
    if not isinstance(saved, dict) or not isinstance(queue, list) or not isinstance(search, dict):
        reject("its history, its queue or its search is missing")
    if not 1 <= len(directions) <= 16:
        reject(f"it has {len(directions)} objectives")
    history = _load_history(cast("dict[str, object]", saved), lowered, len(directions))
    columns = [load_array(text, "<f8", len(lowered.variables), "queue") for text in cast("list[object]", queue)]
    for column in columns:
        checks.population(lowered.table, column.reshape(-1, 1))
    return Loaded(
        seed,
        cast("tuple[Direction, ...]", tuple(directions)),
        budget,
        history,
        columns,
        cast("dict[str, Any]", search),
    )


def _load_history(saved: dict[str, object], lowered: Lowered, objectives: int) -> History:
    count = saved.get("count")
    if not isinstance(count, int) or count < 0:
        reject(f"its history counts {count!r} trials")
    rows = len(lowered.variables)
    history = History(lowered.table, objectives, max(count, 64))
    history.count = count
    history.columns[:, :count] = load_array(saved.get("columns"), "<f8", rows * count, "columns").reshape(rows, count)
    cells, shape = objectives * count, (objectives, count)
    history.losses[:, :count] = load_array(saved.get("losses"), "<f8", cells, "losses").reshape(shape)
    history.variances[:, :count] = load_array(saved.get("variances"), "<f8", cells, "variances").reshape(shape)
    history.examples[:count] = load_array(saved.get("examples"), "<f8", count, "examples")
    history.status[:count] = load_array(saved.get("status"), "u1", count, "status")
    checks.population(lowered.table, np.ascontiguousarray(history.columns[:, :count]))
    status, told = history.status[:count], ~np.isnan(history.losses[:, :count])
    if (status > FAILED).any() or (told != (status == TOLD)).any() or np.isinf(history.losses[:, :count]).any():
        reject(f"a trial's status contradicts its loss ({PENDING}, {TOLD} and {FAILED} are known)")
    noise = np.vstack([history.variances[:, :count], history.examples[:count]])
    if not np.isfinite(noise).all() or (noise < 0).any():
        reject("a trial's noise is negative or not finite")
    history.recount()
    return history


def load_array(text: object, dtype: str, count: int, name: str) -> NDArray[Any]:
    """The `count` values that `save_array` wrote; `dtype` is little-endian, as in `<f8`."""
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        reject(f"{name} is not base64")
    if len(data) != count * np.dtype(dtype).itemsize:
        reject(f"{name} holds {len(data)} bytes, {count} values were expected")
    return np.frombuffer(data, dtype=dtype).astype(np.dtype(dtype).newbyteorder("="), copy=True)


def reject(why: str) -> NoReturn:
    """Refuse a state."""
    raise CoreError(
        "DX3012",
        f"the optimizer's state cannot be used: {why}",
        fix="use the state with the optimizer and the space that it was saved from; pools may only have grown",
    )
