"""Runs every kernel that a study needs once, on a tiny table, so that it is compiled or loaded from the disk cache."""

from __future__ import annotations

import numpy as np

from dspex.core import parzen, statistics
from dspex.core.abi import Kind, Op, ParamTable, validate
from dspex.core.history import History
from dspex.core.kernels import encode, racing
from dspex.core.population import Sampler


def tiny_table() -> ParamTable:
    """One row of each numeric sort, one categorical row, a condition of each form and a rule."""
    table = ParamTable(
        kind=np.array([Kind.CHOICE, Kind.FLOAT, Kind.INT, Kind.FLOAT], dtype=np.uint8),
        log_flag=np.array([0, 1, 0, 0], dtype=np.uint8),
        lo=np.array([0.0, np.log(1e-3), 1.0, 0.0]),
        hi=np.array([1.0, 0.0, 8.0, 1.0]),
        step=np.array([0.0, 0.0, 1.0, 0.0]),
        ncat=np.array([2, 0, 0, 0], dtype=np.int32),
        cat_off=np.array([0, 2, 2, 2], dtype=np.int32),
        parent=np.array([-1, -1, 0, -1], dtype=np.int32),
        parent_val=np.array([0, 0, 1, 0], dtype=np.int32),
        cond_pc=np.array([-1, -1, -1, 4], dtype=np.int32),
        cat_logp=np.log([0.5, 0.5]),
        op=np.array([Op.LOAD, Op.CONST, Op.LE, Op.END, Op.LOAD, Op.CONST, Op.EQ, Op.END], dtype=np.uint8),
        arg=np.array([1, 0, 0, 0, 0, 1, 0, -4], dtype=np.int32),
        const=np.array([0.25, 1.0]),
    )
    validate(table)
    return table


def exercise() -> None:
    """Call everything once; the results do not matter."""
    table = tiny_table()
    sampler = Sampler(table)
    population = sampler.sample(32, 0)
    encode.decode(table, population, natural := np.empty_like(population))
    encode.encode(table, natural, population)
    history = History(table, capacity=32)
    for i in range(32):
        column = history.append(population[:, i])
        if i < 28:
            history.record(column, np.array([float(i % 7)]), 0.01)
    parzen.Estimator(sampler, parzen.Settings()).suggest(history, 0, 1)
    racing.promote(np.zeros((2, 2)), 1, 1, np.empty(2), np.empty(2, dtype=np.int64))
    scores = np.linspace(0.0, 1.0, 20)
    statistics.mean_interval(scores, resamples=100)
    statistics.paired_p_value(scores, scores * scores + 0.1, resamples=10)
    statistics.paired_p_value(scores[:5], scores[:5] + 0.1)
