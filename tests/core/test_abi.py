"""The table's blob: round trip, and what a crafted one does."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower import Lowered, lower
from dspex.core import abi, checks
from dspex.core.exercise import tiny_table
from dspex.core.population import Sampler
from dspex.errors import CoreError
from dspex.program.variables import Float
from tests.core.spaces import UNHURRIED, spaces

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)
TABLE_CODES = {"DX3001", "DX3002", "DX3003", "DX3004", "DX3005", "DX3006"}


def sealed(blob: bytes) -> bytes:
    """The blob with a checksum that is right."""
    return blob[:8] + struct.pack("<I", zlib.crc32(blob[12:])) + blob[12:]


def words(width: int) -> st.SearchStrategy[bytes]:
    """Extreme bytes, small integers and floats of the width."""
    form = "<d" if width == 8 else "<f"
    return (
        st.sampled_from([b"\xff" * width, b"\0" * width, b"\x7f" * width])
        | st.integers(-9, 40).map(lambda value: value.to_bytes(width, "little", signed=True))
        | st.floats(width=32).map(lambda value: struct.pack(form, value))
    )


def outcome(blob: bytes) -> abi.ParamTable | str:
    """The table of a blob, or the code of the refusal."""
    try:
        return abi.from_bytes(blob)
    except CoreError as error:
        return error.code


def use(table: abi.ParamTable) -> None:
    """Run kernels over a table; a table that passed the validator may be odd, but never indexes outside."""
    sampler = Sampler(table)
    try:
        population = sampler.sample(8, 1)
        checks.population(table, population)
    except CoreError as error:
        if error.code not in {"DX3007", "DX3010"}:
            raise
        return
    sampler.holds(population)


@SLOW
@given(spaces(least=0))
def test_a_table_survives_its_blob(lowered: Lowered) -> None:
    blob = abi.to_bytes(lowered.table)
    again = abi.from_bytes(blob)
    for one, other in zip(lowered.table, again, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert abi.to_bytes(again) == blob


@SLOW
@given(spaces(), st.data())
def test_a_damaged_blob_is_refused(lowered: Lowered, data: st.DataObject) -> None:
    blob = bytearray(abi.to_bytes(lowered.table))
    if data.draw(st.booleans()):
        del blob[data.draw(st.integers(0, len(blob) - 1)) :]
    else:
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CoreError, match="DX3001"):
        abi.from_bytes(bytes(blob))


@settings(max_examples=150, deadline=None, suppress_health_check=UNHURRIED)
@given(spaces(), st.data())
def test_a_crafted_blob_is_refused_or_harmless(lowered: Lowered, data: st.DataObject) -> None:
    blob = bytearray(abi.to_bytes(lowered.table))
    for _ in range(data.draw(st.integers(1, 3))):
        form = data.draw(st.integers(0, 3))
        at = data.draw(st.integers(8, len(blob) - 1))
        if form == 0:
            del blob[max(at, 64) :]
        elif form == 1:
            blob += data.draw(st.binary(max_size=80))
        elif form == 2:
            width = data.draw(st.sampled_from([4, 8]))
            at -= at % width
            blob[at : at + width] = data.draw(words(width))
        else:
            blob[at] = data.draw(st.integers(0, 255))
        if len(blob) < 64:
            break
    found = outcome(sealed(bytes(blob)))
    if isinstance(found, str):
        assert found in TABLE_CODES
    else:
        use(found)


FLAWS = {
    "kind": ("kind", 0, 9, "DX3003"),
    "reversed bounds": ("lo", 1, 5.0, "DX3003"),
    "bounds not finite": ("hi", 3, np.nan, "DX3003"),
    "integer without step": ("step", 2, 0.0, "DX3003"),
    "no category": ("ncat", 0, 0, "DX3003"),
    "category offset": ("cat_off", 0, 1, "DX3004"),
    "weights": ("cat_logp", 0, 0.0, "DX3004"),
    "parent after child": ("parent", 0, 2, "DX3005"),
    "parent is itself": ("parent", 2, 2, "DX3005"),
    "parent value": ("parent_val", 2, 2, "DX3005"),
    "opcode": ("op", 2, 17, "DX3006"),
    "stack underflow": ("op", 1, abi.Op.ADD, "DX3006"),
    "row of a load": ("arg", 0, 4, "DX3006"),
    "constant": ("arg", 1, -1, "DX3006"),
    "no end": ("op", 7, abi.Op.NOT, "DX3006"),
    "end of another rule": ("arg", 3, 1, "DX3006"),
    "condition reads its own row": ("arg", 4, 3, "DX3006"),
    "condition of another row": ("arg", 7, -3, "DX3006"),
    "condition start": ("cond_pc", 3, 5, "DX3006"),
    "lookup of a number": ("op", 5, abi.Op.LOOKUP, "DX3006"),
    "constant is not a number": ("const", 0, np.nan, "DX3006"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_the_validator_names_the_flaw(flaw: str) -> None:
    name, index, value, code = FLAWS[flaw]
    table = tiny_table()
    if flaw in ("lookup of a number",):
        table.arg[4] = 1
    getattr(table, name)[index] = value
    with pytest.raises(CoreError) as caught:
        abi.validate(table)
    assert caught.value.code == code


def test_the_validator_refuses_arrays_of_another_layout() -> None:
    table = tiny_table()
    for name, array in (
        ("lo", table.lo.astype(np.float32)),
        ("hi", table.hi[:-1]),
        ("kind", np.zeros(8, dtype=np.uint8)[::2]),
        ("op", table.op[:-1]),
    ):
        with pytest.raises(CoreError, match="DX3002"):
            abi.validate(table._replace(**{name: array}))


def test_a_stack_deeper_than_the_machine_is_refused() -> None:
    depth = abi.MAX_STACK + 1
    code = [abi.Op.CONST] * depth + [abi.Op.ADD] * (depth - 1) + [abi.Op.END]
    table = lower([Float("x", 0, 1)]).table._replace(
        op=np.array(code, dtype=np.uint8), arg=np.zeros(len(code), dtype=np.int32), const=np.ones(1)
    )
    with pytest.raises(CoreError, match="deeper than 32"):
        abi.validate(table)


def test_a_population_is_checked_before_kernels_see_it() -> None:
    table = tiny_table()
    good = abi.empty_population(4, 3)
    assert checks.population(table, good) is good
    wrong: list[Any] = [
        good[:3],
        good.astype(np.float32),
        np.asfortranarray(np.zeros((4, 3))),
        np.full((4, 3), 5.0),
    ]
    for bad in wrong:
        with pytest.raises(CoreError, match="DX3007"):
            checks.population(table, bad)
    good[1, 0] = np.inf
    with pytest.raises(CoreError, match="DX3007"):
        checks.population(table, good)
