"""Tables nobody would build: changed blobs, and every kernel run over those that pass the validator.

As a program, `DSPEX_JIT=0 python -m tests.core.crafted SEED COUNT`: kernels run as Python over arrays that refuse a
negative index, which NumPy would take from the end, so that any access outside an array is an exception.
"""

from __future__ import annotations

import random
import struct
import sys
import zlib
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi, checks
from dspex.core.catcma import CatCMA
from dspex.core.kernels import acquisition, cmaes, crossover, encode, mutation, qmc, sampling, tpe
from dspex.core.population import Sampler
from dspex.core.rules import evaluate_rules
from dspex.errors import CoreError

CODES = {"DX3001", "DX3002", "DX3003", "DX3004", "DX3005", "DX3006"}
WIDTHS = {"kind": 1, "log_flag": 1, "op": 1, "lo": 8, "hi": 8, "step": 8, "cat_logp": 8, "const": 8}


def sealed(blob: bytes | bytearray) -> bytes:
    """The blob with a checksum that is right."""
    return bytes(blob[:8]) + struct.pack("<I", zlib.crc32(blob[12:])) + bytes(blob[12:])


def spans(blob: bytes | bytearray) -> dict[str, tuple[int, int]]:
    """First byte and length of each array."""
    rows, categories, code, constants = struct.unpack_from("<IIII", blob, 12)
    counts = {"cat_logp": categories, "op": code, "arg": code, "const": constants}
    found: dict[str, tuple[int, int]] = {}
    offset = 64
    for name in abi.ParamTable._fields:
        offset += -offset % 64
        size = counts.get(name, rows) * WIDTHS.get(name, 4)
        found[name] = (offset, size)
        offset += size
    return found


def changed(blob: bytes, rng: random.Random) -> bytes:
    """The blob with a few fields of other content, its checksum right again."""
    result = bytearray(blob)
    places = [(name, begin, size) for name, (begin, size) in spans(blob).items() if size]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name, begin, size = rng.choice(places)
        width = WIDTHS.get(name, 4)
        at = begin + rng.randrange(size // width) * width
        result[at : at + width] = _word(width, rng)
    return sealed(result)


def _word(width: int, rng: random.Random) -> bytes:
    form = rng.randrange(4)
    if width == 8 and form:
        edges = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e300, -1e300, 1e308, 700.0, -700.0, 5e-324, 2.0**53, -(2.0**31))
        special = (float("nan"), float("inf"), float("-inf"), -0.6931471805599453)
        return struct.pack("<d", rng.choice(edges + special) if form < 3 else rng.uniform(-10, 10))
    if form:
        low = -3 if width > 1 else 0
        return rng.randint(low, 20).to_bytes(width, "little", signed=low < 0)
    return rng.randbytes(width) if rng.random() < 0.5 else rng.choice((b"\xff", b"\x7f", b"\x80")) * width


class Checked(np.ndarray[Any, Any]):
    """An array without negative indices."""

    def __getitem__(self, key: Any) -> Any:
        _not_negative(key)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _not_negative(key)
        super().__setitem__(key, value)


def _not_negative(key: Any) -> None:
    parts = cast("tuple[Any, ...]", key) if isinstance(key, tuple) else (key,)
    for part in parts:
        if not isinstance(part, slice) and not isinstance(part, np.ndarray) and part < 0:
            raise IndexError(f"the negative index {key}")


def _checked(array: NDArray[Any]) -> Any:
    return array.view(Checked)


def run_kernels(table: abi.ParamTable, wrap: Any = _checked) -> None:
    """Every kernel that reads a table, over candidates of its prior and over odd ones."""
    wrapped = abi.ParamTable(*(wrap(array) for array in table))
    rows, n = abi.dimension_count(table), 3
    origin, width = wrap(np.empty(rows)), wrap(np.empty(rows))
    sampling.frame(wrapped, origin, width)
    population = wrap(np.empty((rows, n)))
    stack = wrap(np.empty((abi.MAX_STACK, abi.BLOCK)))
    sampling.sample(wrapped, origin, width, 1, 2, stack, population)
    marks = wrap(np.zeros((abi.rule_count(table), rows), dtype=np.uint8))
    sampling.rule_rows(wrapped, marks)
    points = wrap(np.linspace(0.0, 1.0, rows * n, endpoint=False).reshape(rows, n))
    qmc.quantiles(wrapped, origin, width, points, stack, wrap(np.empty((rows, n))))
    held = wrap(np.zeros((marks.shape[0], n), dtype=np.uint8))
    chosen = wrap(np.zeros((rows, n), dtype=np.uint8))
    index = wrap(np.arange(n, dtype=np.int64))
    for values in (population, *_odd(wrap, rows, n)):
        values = wrap(np.array(values))
        evaluate_rules(wrapped, values, stack, held)
        sampling.mark_broken(marks, held, 1, 3, index, chosen)
        encode.encode(wrapped, values, wrap(np.empty((rows, n))))
        encode.decode(wrapped, values, wrap(np.empty((rows, n))))
        sampling.redraw(wrapped, origin, width, 1, 3, index, chosen, stack, values)
    try:
        history = checks.population(table, np.array(population))
    except CoreError as error:
        if error.code != "DX3007":
            raise
        return
    encode.settle(wrapped, population)
    encode.flawed(wrapped, population)
    _vary(wrapped, wrap, origin, width, stack, wrap(history))
    _search(table, wrapped, wrap, stack, wrap(history))
    members, sigma = wrap(np.arange(n, dtype=np.int64)), wrap(np.full(rows, 0.3))
    centres, below, mass = (wrap(np.empty((rows, n + 1))) for _ in range(3))
    tpe.build_mixture(wrapped, origin, width, wrap(history), members, sigma, centres, below, mass)
    cumulative, picks = wrap(np.linspace(0.25, 1.0, n + 1)), wrap(np.empty(n, dtype=np.int64))
    proposed = wrap(np.empty((rows, n)))
    tpe.propose(wrapped, origin, width, centres, below, mass, cumulative, sigma, 1.0, 1, 2, stack, picks, proposed)
    groups = wrap(np.empty((rows, 4), dtype=np.int64))
    groups = groups[: tpe.group_rows(wrapped, width, groups)]
    log_weight, terms = wrap(np.log(np.full(n + 1, 0.25))), wrap(np.empty((5, n + 1)))
    scratch, density = wrap(np.empty((n + 11, tpe.DENSITY_BLOCK))), wrap(np.empty(n))
    tpe.log_density(
        wrapped, groups, origin, width, centres, mass, log_weight, sigma, 1.0, wrap(history), terms, scratch, density
    )


def _vary(wrapped: abi.ParamTable, wrap: Any, origin: Any, width: Any, stack: Any, parents: Any) -> None:
    """Candidates near others, and children."""
    rows, n = parents.shape
    reach, changes = wrap(np.full(n, 0.3)), wrap(np.linspace(1.0, float(rows), n))
    every = wrap(np.arange(rows, dtype=np.int64))
    near = wrap(np.empty((rows, n)))
    acquisition.neighbours(wrapped, origin, width, parents, every, changes, reach, 1, 2, near)
    mothers, mates = wrap(np.arange(n, dtype=np.int64)), wrap(np.ones(n, dtype=np.uint8))
    fathers = wrap(np.arange(n, dtype=np.int64)[::-1].copy())
    draws, picked = wrap(np.empty(abi.BLOCK)), wrap(np.empty(abi.BLOCK, dtype=np.int64))
    for blend in (0, 1):
        children = wrap(np.empty((rows, 2 * n)))
        crossover.cross(wrapped, parents, mothers, fathers, mates, blend, 1, 2, children)
        mutation.mutate(wrapped, origin, width, 0.7, 1, 2, stack, draws, picked, children)


def _search(table: abi.ParamTable, wrapped: abi.ParamTable, wrap: Any, stack: Any, population: Any) -> None:
    """A Gaussian and categorical distributions: from candidates to their latents and back."""
    sampler = Sampler(table)
    form, n = CatCMA(sampler, 1), population.shape[1]
    origin, width, place, rows = (wrap(each) for each in (sampler.origin, sampler.width, form.place, form.rows))
    latents, mean, spreads = wrap(np.empty((n, rows.size))), wrap(form.mean), wrap(np.empty(rows.size))
    factor, held, path = wrap(form.factor), wrap(form.held), wrap(form.path)
    categories = wrap(np.empty((n, form.choices.size), dtype=np.int64))
    cmaes.absorb(wrapped, origin, width, place, population, stack, latents, categories)
    cmaes.draw_latents(mean, factor, form.sigma, 1, 2, latents)
    cmaes.draw_categories(wrap(form.probabilities), wrap(form.offsets), 1, 2, categories)
    cmaes.compose(wrapped, origin, width, place, latents, categories, stack, wrap(np.empty(population.shape)))
    cmaes.measure(form.sigma, factor, spreads)
    cmaes.keep_margin(wrapped, origin, width, rows, 0.1, spreads, mean, path, factor, held)


def _odd(wrap: Any, rows: int, n: int) -> list[Any]:
    cells = (0.0, -1.0, 1.0, np.nan, 1e18, -1e18, np.inf, -np.inf, 0.5, 3.0, 700.0)
    values = [cells[(5 * i) % len(cells)] for i in range(rows * n)]
    return [wrap(np.array(values).reshape(rows, n)), wrap(np.full((rows, n), np.nan))]


def main(seed: int, count: int) -> tuple[int, int]:
    """Try `count` changed blobs; how many were refused, and how many were run."""
    from tests.core.library import tables

    refused = ran = 0
    rng = random.Random(seed)
    blobs = [abi.to_bytes(table) for table in tables()]
    for _ in range(count):
        blob = changed(rng.choice(blobs), rng)
        try:
            table = abi.from_bytes(blob)
        except CoreError as error:
            if error.code not in CODES:
                raise
            refused += 1
            continue
        assert abi.to_bytes(table) == blob
        with np.errstate(all="ignore"):
            run_kernels(table)
        ran += 1
    return refused, ran


if __name__ == "__main__":
    print(*main(*cast("tuple[int, int]", tuple(map(int, sys.argv[1:3])))))
