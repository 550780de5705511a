"""The table's blob: round trip, and what a crafted one does."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.compiler.lower.lowering import Lowered, lower
from dspex.core import abi, checks
from dspex.core.exercise import tiny_table
from dspex.core.population import Sampler
from dspex.errors import CoreError
from dspex.program.variables import Float
from tests.core import crafted, library
from tests.core.crafted import sealed
from tests.core.spaces import UNHURRIED, spaces

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)


def words(width: int) -> st.SearchStrategy[bytes]:
    """Extreme bytes, small integers and floats of the width."""
    form = "<d" if width == 8 else "<f"
    return (
        st.sampled_from([b"\xff" * width, b"\0" * width, b"\x7f" * width])
        | st.integers(-9, 40).map(lambda value: value.to_bytes(width, "little", signed=True))
        | st.floats(width=32).map(lambda value: struct.pack(form, value))
    )


def outcome(blob: bytes) -> abi.ParamTable | str:
    """The table of a blob, or the code of the refusal; the check without NumPy says the same."""
    try:
        table = abi.from_bytes(blob)
    except CoreError as error:
        refusal, table = error, None
    else:
        refusal = None
    if refusal is not None or table is None:
        with pytest.raises(CoreError) as caught:
            abi.validate_blob(blob)
        assert str(caught.value) == str(refusal)
        return caught.value.code
    assert abi.validate_blob(blob) == abi.validate(table)
    assert abi.to_bytes(table) == blob
    return table


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
        assert found in crafted.CODES
    else:
        use(found)


def test_a_blob_cut_at_every_byte_or_with_any_bit_flipped_is_refused() -> None:
    blob = abi.to_bytes(tiny_table())
    for end in range(len(blob)):
        assert outcome(blob[:end]) == "DX3001"
        if end >= 64:
            assert outcome(sealed(blob[:end])) == "DX3001"
    for bit in range(8 * len(blob)):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        assert outcome(bytes(flipped)) == "DX3001"


def test_any_bit_flipped_under_a_right_checksum_is_refused_or_harmless() -> None:
    blob = abi.to_bytes(library.lowered().table)
    refused = 0
    for bit in range(8 * 12, 8 * len(blob), 3):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        found = outcome(sealed(flipped))
        refused += isinstance(found, str)
    assert refused > len(blob)


def test_no_kernel_leaves_its_arrays_on_a_crafted_table_that_passes() -> None:
    # Kernels are plain Python there, over arrays that refuse negative indices as well.
    code = "from tests.core import crafted; refused, ran = crafted.main(7, 1200); assert ran > 150 < refused"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=120, cwd=root, env={**os.environ, "DSPEX_JIT": "0"}
    )
    assert done.returncode == 0


def test_a_file_is_checked_without_numpy(tmp_path: Path) -> None:
    path = tmp_path / "params.bin"
    path.write_bytes(abi.to_bytes(library.lowered().table))
    code = (
        "import sys; from dspex.core import abi; from pathlib import Path\n"
        "print(abi.validate_blob(Path(sys.argv[1]).read_bytes()).rules); assert 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "6\n")


def test_a_layout_says_what_a_table_holds() -> None:
    lowered = library.lowered()
    layout = abi.validate(lowered.table)
    assert layout == abi.validate_blob(abi.to_bytes(lowered.table))
    assert layout.kinds == tuple(lowered.table.kind)
    assert layout.categories == tuple(lowered.table.ncat)
    assert (layout.rules, layout.instructions) == (len(lowered.rules), lowered.table.op.size)


FLAWS = {
    "kind": ("kind", 0, 9, "DX3003"),
    "reversed bounds": ("lo", 1, 5.0, "DX3003"),
    "bounds not finite": ("hi", 3, np.nan, "DX3003"),
    "integer without step": ("step", 2, 0.0, "DX3003"),
    "no category": ("ncat", 0, 0, "DX3003"),
    "category offset": ("cat_off", 0, 1, "DX3004"),
    "weights": ("cat_logp", 0, 0.0, "DX3004"),
    "weight is not a number": ("cat_logp", 0, np.nan, "DX3004"),
    "categories not one after another": ("cat_off", 2, 0, "DX3004"),
    "step not finite": ("step", 2, np.inf, "DX3003"),
    "step is not a number": ("step", 2, np.nan, "DX3003"),
    "scale": ("log_flag", 1, 2, "DX3003"),
    "huge step": ("step", 1, 1e301, "DX3003"),
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


@settings(max_examples=150, deadline=None, suppress_health_check=UNHURRIED)
@given(spaces(), st.data())
def test_a_table_with_any_array_in_any_place_is_refused_or_harmless(lowered: Lowered, data: st.DataObject) -> None:
    table = lowered.table
    for name in data.draw(st.lists(st.sampled_from(table._fields), min_size=1, max_size=2, unique=True)):
        array: Any = getattr(table, name)
        form = data.draw(st.integers(0, 5))
        if form == 0:
            array = array.tolist()
        elif form == 1:
            array = array.astype(data.draw(st.sampled_from(["i8", "f4", ">f8", "S3", "O", "?", "i1"])))
        elif form == 2:
            array = array.reshape(1, -1)
        elif form == 3:
            array = np.resize(array, data.draw(st.integers(0, 9)))
        elif array.size:
            array = array.copy()
            at = data.draw(st.integers(0, array.size - 1))
            array[at : at + 1] = np.frombuffer(data.draw(words(8)), dtype=array.dtype)[:1]
        table = table._replace(**{name: array})
    try:
        abi.validate(table)
    except CoreError as error:
        refusal = error.code
    else:
        refusal = None
        use(table)
    assert refusal is None or refusal in crafted.CODES


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
