"""Oracle of quasi-random points, in plain Python, digit by digit."""

from __future__ import annotations

from typing import Any

import numpy as np

from dspex.compiler.lower.lowering import Lowered
from dspex.core import streams
from dspex.core.kernels.qmc import STREAM
from tests.core import naive


def scramble(digits: int, key: int) -> float:
    """Each digit flipped by a bit of the path to it; what follows the 32nd is random."""
    word = format(digits, "032b")
    found = ""
    for depth in range(32):
        path = int("1" + word[:depth], 2)
        found += str(int(word[depth]) ^ (streams.mix((key ^ path) + streams.GOLDEN) >> 63))
    rest = streams.mix((key ^ int("1" + word, 2)) + streams.GOLDEN) >> 43
    return (int(found, 2) * 2**21 + rest) / 2**53


def sobol(directions: Any, seed: int, first: int, rows: int, count: int) -> naive.Array:
    out = np.empty((rows, count))
    for d in range(rows):
        for i in range(count):
            if d >= len(directions):
                out[d, i] = streams.uniform(seed, STREAM, d, first + i)
                continue
            digits = 0
            for bit, flag in enumerate(reversed(format(first + i, "b"))):
                digits ^= int(directions[d][bit]) if flag == "1" else 0
            out[d, i] = scramble(digits, streams.bits(seed, STREAM, d, 0))
    return out


def quantiles(lowered: Lowered, points: naive.Array) -> naive.Array:
    out = np.full_like(points, np.nan)
    for i in range(points.shape[1]):
        for d in range(points.shape[0]):
            if naive.active(lowered, out[:, i], d):
                out[d, i] = naive.draw(lowered, d, float(points[d, i]))
    return out
