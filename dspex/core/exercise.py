"""Runs every kernel that the core itself calls, on a tiny table, so that it is compiled or loaded."""

from __future__ import annotations

import numpy as np

from dspex.core import evolution, importance, pareto
from dspex.core import statistics as intervals
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
    """Call once what the core offers beside optimizers; the results do not matter."""
    sampler = Sampler(tiny_table())
    population = sampler.sample(32, 0)
    encode.decode(sampler.table, population, natural := np.empty_like(population))
    encode.encode(sampler.table, natural, population)
    history = History(sampler.table, capacity=32)
    for i in range(32):
        column = history.append(population[:, i])
        if i < 28:
            history.record(column, np.array([float(i % 7)]), 0.01)
    importance.shares(sampler, history, 0)
    for objectives in range(1, 5):
        evolve(sampler, objectives)
    statistics()


def evolve(sampler: Sampler, objectives: int) -> None:
    """Two generations of a tiny population, and the volume behind it."""
    engine = evolution.NSGA2(sampler, 8, objectives=objectives)
    for _ in range(2):
        values = np.nan_to_num(engine.ask())
        losses = np.stack([np.abs(values - objective / objectives).sum(axis=0) for objective in range(objectives)])
        engine.tell(losses)
        if objectives > 1:
            pareto.hypervolume(losses, losses.max(axis=1) + 1.0)
            pareto.contributions(losses, losses.max(axis=1) + 1.0)


def statistics() -> None:
    """Call what intervals, tests and racing need once."""
    racing.promote(np.zeros((2, 2)), 1, 1, np.empty(2), np.empty(2, dtype=np.int64))
    scores = np.linspace(0.0, 1.0, 60)
    intervals.mean_interval(scores, resamples=100)
    intervals.paired_p_value(scores, scores * scores + 0.1, resamples=10)
    intervals.paired_p_value(scores[:5], scores[:5] + 0.1)
    intervals.signed_rank_p_value(scores, scores * scores + 0.1)
    intervals.signed_rank_p_value(scores[:5], scores[:5] + 0.1)
