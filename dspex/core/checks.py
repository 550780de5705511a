"""Shape and dtype guards before a kernel is entered: kernels themselves check nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspex.core.abi import ParamTable
from dspex.core.kernels import encode
from dspex.errors import CoreError


def population(table: ParamTable, array: NDArray[np.float64]) -> NDArray[np.float64]:
    """`array` when it is a population of `table`: (D, N) float64, C-contiguous, categories in range.

    Raises:
        CoreError: DX3007.
    """
    count = table.kind.shape[0]
    if array.ndim != 2 or array.shape[0] != count or array.dtype != np.float64 or not array.flags.c_contiguous:
        raise CoreError(
            "DX3007", f"a population is a C-contiguous ({count}, N) float64 array, not {array.shape} {array.dtype}"
        )
    d = encode.flawed(table, array)
    if d >= 0:
        domain = f"a category outside 0 to {table.ncat[d] - 1}" if table.ncat[d] else "an infinite value"
        raise CoreError("DX3007", f"row {d} of a population holds {domain}")
    return array


def sample_values(values: object, name: str) -> NDArray[np.float64]:
    """One-dimensional, finite, contiguous float64 values, at least one.

    Raises:
        CoreError: DX3008.
    """
    array = np.ascontiguousarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise CoreError("DX3008", f"{name} must be a non-empty sequence of numbers, not shape {array.shape}")
    if not np.isfinite(array).all():
        raise CoreError("DX3008", f"{name} holds a value that is not finite", fix="drop or replace failures first")
    return array
