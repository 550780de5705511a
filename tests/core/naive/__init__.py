"""Naive oracles: what each kernel must compute, written from its definition with plain Python and no kernel."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.compiler.lower import feasible
from dspex.compiler.lower.lowering import Lowered
from dspex.core import streams
from dspex.program.variables import Float, Int

Array = NDArray[np.float64]
NORMAL = NormalDist()


def canonical(value: float) -> float:
    return float(f"{value:.12g}") if 1e-10 <= abs(value) <= 1e33 else value


def natural(lowered: Lowered, d: int, z: float) -> float:
    variable = lowered.variables[d]
    if isinstance(variable, Float) and variable.log:
        return canonical(math.exp(z))
    if isinstance(variable, Int):
        return float(round(math.exp(z) if variable.log else z))
    return z


def grid(lowered: Lowered, d: int) -> list[float] | None:
    """Every legal natural value of a row, or None when it is continuous."""
    variable = lowered.variables[d]
    if variable.options:
        return [float(index) for index in range(len(variable.options))]
    if isinstance(variable, Int):
        return [float(value) for value in range(variable.lo, variable.hi + 1, variable.step or 1)]
    assert isinstance(variable, Float)
    if variable.step is None:
        return None
    count = math.floor((variable.hi - variable.lo) / variable.step + 1e-9)
    return [min(variable.lo + index * variable.step, variable.hi) for index in range(count + 1)]


def snap(lowered: Lowered, d: int, z: float) -> float:
    """Nearest legal entry; on the grid, nearest in natural units."""
    lo, hi = float(lowered.table.lo[d]), float(lowered.table.hi[d])
    z = min(max(z, lo), hi)
    values = grid(lowered, d)
    log = bool(lowered.table.log_flag[d])
    if values is None:
        return z
    target = math.exp(z) if log else z
    nearest = min(values, key=lambda value: abs(value - target))
    return math.log(nearest) if log else nearest


def naturals(lowered: Lowered, population: Array) -> Array:
    """Natural values of a population; NaN stays NaN."""
    out = np.empty_like(population)
    for (d, i), z in np.ndenumerate(population):
        out[d, i] = z if math.isnan(z) else natural(lowered, d, float(z))
    return out


def settled(lowered: Lowered, population: Array) -> Array:
    """Entries that stand for their values of 12 digits."""
    out = population.copy()
    for d, variable in enumerate(lowered.variables):
        if isinstance(variable, Float) and variable.log and variable.step is None:
            for i, z in enumerate(population[d].tolist()):
                lo, hi = float(lowered.table.lo[d]), float(lowered.table.hi[d])
                if not math.isnan(z):
                    out[d, i] = min(max(math.log(canonical(math.exp(z))), lo), hi)
    return out


def frame(lowered: Lowered, d: int) -> tuple[float, float]:
    """Origin and width of a row's unit interval."""
    table = lowered.table
    values = grid(lowered, d)
    lo, hi = float(table.lo[d]), float(table.hi[d])
    if lowered.variables[d].options or lo == hi:
        return lo, 0.0
    if values is None:
        return lo, hi - lo
    half = float(table.step[d]) / 2
    if table.log_flag[d]:
        low, high = math.log(max(values[0] - half, values[0] / 2)), math.log(values[-1] + half)
    else:
        low, high = values[0] - half, values[-1] + half
    return low, high - low


def draw(lowered: Lowered, d: int, u: float) -> float:
    table = lowered.table
    if lowered.variables[d].options:
        weights = np.exp(table.cat_logp[table.cat_off[d] : table.cat_off[d] + table.ncat[d]])
        total = 0.0
        for index, weight in enumerate(weights):
            total += weight
            if u < total:
                return float(index)
        return float(len(weights) - 1)
    origin, width = frame(lowered, d)
    return snap(lowered, d, origin + u * width)


def config(lowered: Lowered, column: Array) -> dict[str, Any]:
    """Natural values by name of the rows that are not NaN, categories as options."""
    values: dict[str, Any] = {}
    for d, variable in enumerate(lowered.variables):
        if math.isnan(column[d]):
            continue
        value = natural(lowered, d, float(column[d]))
        if variable.options:
            values[variable.name] = variable.options[int(value)]
        else:
            values[variable.name] = int(value) if isinstance(variable, Int) else value
    return values


def active(lowered: Lowered, column: Array, d: int) -> bool:
    """Whether row d is active, from the rows before it."""
    full = lowered.defaults
    before = np.where(np.arange(column.size) < d, column, np.nan)
    known = config(lowered, before)
    when = lowered.variables[d].when
    return when is None or (when.names() <= known.keys() and when.test({**full, **known}))


def holds(lowered: Lowered, population: Array) -> NDArray[np.uint8]:
    rows = [[rule.holds(config(lowered, column)) for column in population.T] for rule in lowered.rules]
    return np.array(rows, dtype=np.uint8).reshape(len(lowered.rules), population.shape[1])


def redraw(lowered: Lowered, seed: int, step: int, index: Any, chosen: Any, population: Array) -> Array:
    result = population.copy()
    for i in range(population.shape[1]):
        for d in range(population.shape[0]):
            if not active(lowered, result[:, i], d):
                result[d, i] = math.nan
            elif chosen[d, i] or math.isnan(result[d, i]):
                result[d, i] = draw(lowered, d, streams.uniform(seed, step, d, int(index[i])))
    return result


def rule_rows(lowered: Lowered) -> NDArray[np.uint8]:
    rows = np.zeros((len(lowered.rules), len(lowered.variables)), dtype=np.uint8)
    by_name = {variable.name: variable for variable in lowered.variables}
    for r, rule in enumerate(lowered.rules):
        folded = feasible.fold(rule, by_name)
        pending = {name for name in rule.names() if name in (lowered.conditions or ())}
        pending |= set() if isinstance(folded, bool) else set(folded.names())
        while pending:
            name = pending.pop()
            rows[r, lowered.rows[name]] = 1
            when = (lowered.conditions or {}).get(name)
            if when is not None:
                # A folded condition reads less, but what may be inactive is always asked.
                left = feasible.fold(when, by_name)
                pending |= {other for other in when.names() if other in (lowered.conditions or {})}
                pending |= set() if isinstance(left, bool) else set(left.names())
    return rows


def mark_broken(rows: Any, held: Any, seed: int, step: int, index: Any) -> NDArray[np.uint8]:
    chosen = np.zeros((rows.shape[1], held.shape[1]), dtype=np.uint8)
    for d, i in itertools.product(range(rows.shape[1]), range(held.shape[1])):
        touched = any(rows[r, d] and not held[r, i] for r in range(rows.shape[0]))
        chosen[d, i] = touched and streams.uniform(seed, step, d, int(index[i])) < 0.5
    return chosen


def prior(values: Array, variances: Array) -> tuple[float, float]:
    """Mean and variance of what noisy values estimate."""
    told = ~np.isnan(values)
    if told.sum() < 2 or variances[told].sum() <= 0 or values[told].var() == 0:
        return 0.0, math.inf
    spread = values[told].var(ddof=1)
    between = max(spread - variances[told].mean(), 0.1 * spread)
    weights = 1 / (between + variances[told])
    return float((weights * values[told]).sum() / weights.sum()), float(between)


def split(losses: Array, k: int) -> list[int]:
    return sorted((i for i in range(len(losses)) if not math.isnan(losses[i])), key=lambda i: (losses[i], i))[:k]


def groups(lowered: Lowered) -> list[list[int]]:
    """Rows of one sort that are active together, by fours, -1 where a four is not full."""
    table, kinds = lowered.table, dict[object, list[list[int]]]()
    found: list[list[int]] = []
    for d, variable in enumerate(lowered.variables):
        if not variable.options and frame(lowered, d)[1] == 0:
            continue
        alone = d if table.cond_pc[d] >= 0 else -1
        key = (bool(variable.options), int(table.parent[d]), int(table.parent_val[d]), alone)
        fours = kinds.setdefault(key, [])
        if not fours or len(fours[-1]) == 4:
            fours.append([])
            found.append(fours[-1])
        fours[-1].append(d)
    return [four + [-1] * (4 - len(four)) for four in found]


def mixture(lowered: Lowered, history: Array, members: Any, sigma: Array) -> tuple[Array, Array, Array]:
    """Centres, and the mass below and inside the unit interval."""
    rows = len(lowered.variables)
    centres, below, mass = (np.full((rows, len(members) + 1), np.nan) for _ in range(3))
    for j, member in enumerate(members):
        for d in range(rows):
            value = float(history[d, member])
            origin, width = frame(lowered, d)
            if lowered.variables[d].options:
                centres[d, j] = value
            elif not math.isnan(value) and width > 0:
                centres[d, j] = (value - origin) / width
                density = NormalDist(centres[d, j], sigma[d])
                below[d, j], mass[d, j] = density.cdf(0), density.cdf(1) - density.cdf(0)
    return centres, below, mass


def propose(
    lowered: Lowered, centres: Array, cumulative: Array, sigma: Array, smoothing: float, seed: int, step: int, n: int
) -> tuple[NDArray[np.int64], Array]:
    """Kernels that were drawn from, and the candidates."""
    rows = len(lowered.variables)
    result, picks = np.full((rows, n), np.nan), np.zeros(n, dtype=np.int64)
    for i in range(n):
        u = streams.uniform(seed, step, rows, i)
        j = picks[i] = min(int(np.searchsorted(cumulative, u, side="right")), len(cumulative) - 1)
        for d in range(rows):
            if not active(lowered, result[:, i], d):
                continue
            u, centre = streams.uniform(seed, step, d, i), float(centres[d, j])
            if math.isnan(centre):
                result[d, i] = draw(lowered, d, u)
            elif lowered.variables[d].options:
                u = u * (1 + smoothing) - 1
                result[d, i] = centre if u < 0 else draw(lowered, d, u / smoothing)
            else:
                low, high = NORMAL.cdf(-centre / sigma[d]), NORMAL.cdf((1 - centre) / sigma[d])
                p = low + u * (high - low)
                x = centre + sigma[d] * NORMAL.inv_cdf(p) if 0 < p < 1 else float(p >= 1)
                origin, width = frame(lowered, d)
                result[d, i] = snap(lowered, d, origin + min(max(x, 0.0), 1.0) * width)
    return picks, result


def log_density(
    lowered: Lowered, centres: Array, mass: Array, log_weight: Array, sigma: Array, smoothing: float, candidates: Array
) -> Array:
    table = lowered.table
    out = np.empty(candidates.shape[1])
    for i in range(candidates.shape[1]):
        terms: list[float] = []
        for j in range(centres.shape[1]):
            term = float(log_weight[j])
            for d, variable in enumerate(lowered.variables):
                value, centre = float(candidates[d, i]), float(centres[d, j])
                origin, width = frame(lowered, d)
                if math.isnan(value) or (not variable.options and width == 0):
                    continue
                if variable.options:
                    prior = math.exp(table.cat_logp[table.cat_off[d] + int(value)])
                    point = (
                        prior if math.isnan(centre) else (float(centre == value) + smoothing * prior) / (1 + smoothing)
                    )
                    term += math.log(point)
                elif not math.isnan(centre):
                    term += math.log(NormalDist(centre, sigma[d]).pdf((value - origin) / width) / mass[d, j])
            terms.append(term)
        highest = max(terms)
        out[i] = highest + math.log(sum(math.exp(term - highest) for term in terms))
    return out


def promote(scores: Array, used: int, keep: int) -> tuple[Array, list[int]]:
    told = [[x for x in row[:used] if not math.isnan(x)] for row in scores]
    means = np.array([canonical(float(sum(row)) / len(row)) if row else math.nan for row in told])
    ranked = sorted((c for c in range(len(means)) if not math.isnan(means[c])), key=lambda c: (-means[c], c))
    return means, ranked[:keep]


def resampled_means(values: Array, seed: int, step: int, resamples: int) -> Array:
    n = len(values)
    out = np.empty(resamples)
    for b in range(resamples):
        picks: list[float] = []
        for pair in range((n + 1) // 2):
            word = streams.bits(seed, step, b, pair)
            picks += [values[((word & 0xFFFFFFFF) * n) >> 32], values[((word >> 32) * n) >> 32]]
        out[b] = math.fsum(picks[:n]) / n
    return out


def sign_flip_exceedances(differences: Array, seed: int, step: int, resamples: int) -> int:
    limit = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    count = 0
    for b in range(resamples):
        words = [streams.bits(seed, step, b, word) for word in range(len(differences) // 64 + 1)]
        signs = [1 if words[i // 64] >> (i % 64) & 1 else -1 for i in range(len(differences))]
        count += abs(sum(sign * x for sign, x in zip(signs, differences, strict=True))) >= limit
    return count


def sign_flip_exact(differences: Array) -> int:
    limit = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    signs = itertools.product((-1, 1), repeat=len(differences))
    return sum(abs(sum(s * x for s, x in zip(each, differences, strict=True))) >= limit for each in signs)
