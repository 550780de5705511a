"""A library of compiled kernels: its file, when it is accepted, and calling what it holds.

The file is a shared object, then its contents as JSON, the length of the JSON and the SHA-256 of everything before
the hash. The system's loader does not look behind the object, so there is one file, written in one step.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from operator import index
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from dspex.core.native import stamp
from dspex.core.table import FORMATS, ParamTable
from dspex.errors import CoreError

FORMAT: Final = 1
_LENGTH: Final = struct.Struct("<Q")
_HASH: Final = 32

_SCALARS: Final[dict[str, Any]] = {
    "f8": ctypes.c_double,
    "f4": ctypes.c_float,
    "i8": ctypes.c_int64,
    "i4": ctypes.c_int32,
    "u8": ctypes.c_uint64,
    "u1": ctypes.c_uint8,
    "b1": ctypes.c_bool,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """How a kernel is called.

    Attributes:
        module: Where it is written.
        arguments: Each argument: a sort and its bytes as in `FORMATS`, with the dimensions of an array in brackets,
            or "table".
        result: The result's sort, "" for none.
    """

    module: str
    arguments: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a library's file says about itself.

    Attributes:
        level: The processor it was compiled for.
        built: Versions it was compiled with.
        modules: Digest of the sources of each module, from `stamp.digest`.
        entries: The kernels by name.
    """

    level: str
    built: dict[str, str]
    modules: dict[str, str]
    entries: dict[str, Entry]


def symbol(name: str) -> str:
    """The exported symbol of a kernel."""
    return "dspex_" + name.replace(".", "_")


def form(value: object) -> str | None:
    """The form of an argument as in `Entry.arguments`, or None for what no library takes."""
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        sort = f"{array.dtype.kind}{array.dtype.itemsize}"
        flags = array.flags
        good = sort in _SCALARS and array.dtype.isnative and flags.c_contiguous and flags.writeable and flags.aligned
        return f"{sort}[{array.ndim}]" if good else None
    if isinstance(value, bool):
        return "b1"
    if isinstance(value, int):
        return "i8"
    if isinstance(value, float):
        return "f8"
    if isinstance(value, np.generic):
        kind = cast("np.generic[Any]", value).dtype
        sort = f"{kind.kind}{kind.itemsize}"
        return sort if sort in _SCALARS else None
    return "table" if isinstance(value, ParamTable) else None


def seal(shared_object: bytes, contents: Contents) -> bytes:
    """The whole file."""
    text = json.dumps({"format": FORMAT, **asdict(contents)}, sort_keys=True).encode()
    body = shared_object + text + _LENGTH.pack(len(text))
    return body + hashlib.sha256(body).digest()


def write(path: Path, whole: bytes) -> None:
    """Write in one step, so that a reader sees all of it or nothing, whatever others write."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        made.write_bytes(whole)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def read(path: Path) -> Contents:
    """Check the file and read what it says about itself.

    Raises:
        CoreError: DX3045 for a damaged file and for one of another format.
        OSError: when it cannot be read.
    """
    whole = path.read_bytes()
    body, found = whole[:-_HASH], whole[-_HASH:]
    if len(whole) <= _HASH + _LENGTH.size or hashlib.sha256(body).digest() != found:
        raise _refused(path, f"{len(whole)} bytes do not match their hash")
    (length,) = _LENGTH.unpack_from(body, len(body) - _LENGTH.size)
    text: dict[str, Any] = json.loads(body[-_LENGTH.size - length : -_LENGTH.size])
    if text.pop("format") != FORMAT:
        raise _refused(path, "it has another format")
    entries = {
        name: Entry(each["module"], tuple(each["arguments"]), each["result"]) for name, each in text["entries"].items()
    }
    return Contents(text["level"], text["built"], text["modules"], entries)


def _refused(path: Path, why: str) -> CoreError:
    return CoreError(
        "DX3045",
        f"the library of compiled kernels {path} is not whole: {why}",
        fix="install dspex again, or delete the file: kernels are then compiled on this machine",
    )


class Library:
    """A checked and loaded library.

    Args:
        path: The file.

    Raises:
        CoreError: DX3045 for a file that is damaged or cannot be loaded.
        OSError: when it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.contents = read(path)
        try:
            # Symbols stay inside; the GIL is released during calls.
            self._handle = ctypes.CDLL(str(path))
        except OSError as error:
            raise _refused(path, str(error)) from error

    def serves(self, module: str) -> bool:
        """Whether the module's sources are those that the library was made from."""
        return self.contents.modules.get(module) == stamp.digest(module)

    def function(self, name: str, other: Callable[..., Any]) -> Native | None:
        """The kernel, or None where the library lacks it or its sources are newer.

        Args:
            name: Of the kernel.
            other: Called instead when arguments are of other types than the library's, or the kernel reports an error.
        """
        entry = self.contents.entries.get(name)
        if entry is None or not self.serves(entry.module):
            return None
        # Looked up twice, since arguments that are of ctypes already are passed faster where no types are declared.
        typed, bare = self._handle[symbol(name)], self._handle[symbol(name)]
        typed.restype = bare.restype = ctypes.c_int32
        typed.argtypes = [each for form in entry.arguments for each in _ctypes(form)]
        if entry.result:
            typed.argtypes = [*typed.argtypes, ctypes.c_void_p]
        return Native(_callable(name, entry, typed, other), entry, bare, other)


@dataclass(frozen=True, slots=True)
class Native:
    """A kernel of a library.

    Attributes:
        call: Takes the kernel's arguments.
        entry: What these are.
        function: The same in C, without declared types.
        other: Called instead of it when arguments are of other types, or the kernel reports an error.
    """

    call: Callable[..., Any]
    entry: Entry
    function: Any
    other: Callable[..., Any]

    def bind(self, *args: Any) -> Callable[[], Any]:
        """A call with these arguments, taken apart here and not each time; it keeps the arrays alive."""
        try:
            forms = zip(args, self.entry.arguments, strict=True)
            given = [each for value, wanted in forms for each in _taken_apart(value, wanted)]
        except (TypeError, ValueError, AttributeError):
            return partial(self.other, *args)
        function, other = self.function, self.other
        result = _SCALARS[self.entry.result]() if self.entry.result else None
        if result is not None:
            given.append(ctypes.byref(result))

        def call() -> Any:
            if function(*given):
                return other(*args)
            return None if result is None else result.value

        return call


_NUMBERS: Final[dict[str, Callable[[Any], Any]]] = {"f": float, "b": bool, "i": index, "u": index}


def _taken_apart(value: Any, wanted: str) -> list[Any]:
    """One argument as C takes it.

    Raises:
        TypeError: for a value of another form; ValueError and AttributeError as well.
    """
    if wanted == "table":
        return [pack(value)]
    if wanted.endswith("]"):
        if form(value) != wanted:
            raise TypeError
        return [_View.from_buffer(value), *(ctypes.c_int64(length) for length in value.shape)]
    return [_SCALARS[wanted](_NUMBERS[wanted[0]](value))]


def _ctypes(form: str) -> list[Any]:
    if form == "table":
        return [_Packed]
    if form.endswith("]"):
        return [_View] + [ctypes.c_int64] * int(form[3:-1])
    return [_SCALARS[form]]


def _callable(name: str, entry: Entry, function: Any, other: Callable[..., Any]) -> Callable[..., Any]:
    """A Python function that takes the arguments apart; written out, since a loop over them would cost more."""
    names = [f"a{position}" for position in range(len(entry.arguments))]
    taken: list[str] = []
    given: list[str] = []
    types: dict[str, np.dtype[Any]] = {}
    for each, form in zip(names, entry.arguments, strict=True):
        if form == "table":
            given.append(f"pack({each})")
        elif form.endswith("]"):
            sort, dimensions = form[:2], int(form[3:-1])
            types[sort] = np.dtype(sort)
            shape = [f"{each}_{axis}" for axis in range(dimensions)]
            taken += [f"if {each}.dtype != {sort}: raise TypeError", f"{', '.join(shape)}, = {each}.shape"]
            given += [f"address({each})", *shape]
        else:
            given.append(f"{_NUMBERS[form[0]].__name__}({each})")
    if entry.result:
        taken.append("result = Result()")
        given.append("byref(result)")
    listed = ", ".join(names)
    lines = [
        f"def {symbol(name)}({listed}):",
        "    try:",
        *(f"        {line}" for line in taken),
        f"        failed = function({', '.join(given)})",
        "    except (TypeError, ValueError, AttributeError):",
        f"        return other({listed})",
        "    if failed:",
        f"        return other({listed})",
        "    return result.value" if entry.result else "    return None",
    ]
    scope: dict[str, Any] = {
        "function": function,
        "other": other,
        "index": index,
        "pack": pack,
        "address": _View.from_buffer,
        "byref": ctypes.byref,
        "Result": _SCALARS.get(entry.result),
        **types,
    }
    exec("\n".join(lines), scope)
    return cast("Callable[..., Any]", scope[symbol(name)])


# An array of no characters begins where the buffer begins; `from_buffer` refuses what is not contiguous or writable.
_View: Final = ctypes.c_char * 0
_Packed: Final = ctypes.c_int64 * (2 * len(FORMATS))

_packed: dict[int, tuple[ParamTable, Any]] = {}
_MOST_PACKED: Final = 64


def pack(table: ParamTable) -> object:
    """Address and length of each array of the table, as C reads it; kept, since tables are passed again and again."""
    found = _packed.get(id(table))
    if found is not None:  # kept tables stay alive, so an id is theirs alone
        return found[1]
    numbers: list[int] = []
    for array, sort in zip(table, FORMATS.values(), strict=True):
        if form(array) != f"{sort}[1]":
            raise TypeError
        numbers += [array.ctypes.data, array.shape[0]]
    packed = _Packed(*numbers)
    if len(_packed) >= _MOST_PACKED:
        _packed.clear()
    _packed[id(table)] = (table, packed)
    return packed


_shipped: list[Library | None] = []
problems: Final[list[str]] = []
"""Why libraries were refused in this process, in words."""


def shipped() -> Library | None:
    """The library that came with the package for this processor, loaded once a process."""
    if not _shipped:
        places = [Path(__file__).parent / f"kernels-{level}.so" for level in stamp.levels()]
        _shipped.append(next((found for path in places if path.exists() and (found := _opened(path))), None))
    return _shipped[0]


def leave_out() -> None:
    """Serve this process as where the package came without libraries; for measurements, before any kernel is called."""
    _shipped[:] = [None]


def cached(name: str, module: str) -> Path | None:
    """Where this machine keeps the library of one kernel, whether or not it exists; None when it keeps nothing."""
    place = stamp.folder("native")
    return None if place is None else place / f"{name}-{stamp.digest(module)}.so"


def find(name: str, module: str, other: Callable[..., Any]) -> Native | None:
    """The kernel from the library that came with the package, or from the one that this machine made, or None."""
    library = shipped()
    found = library.function(name, other) if library is not None else None
    if found is not None:
        return found
    path = cached(name, module)
    library = _opened(path) if path is not None and path.exists() else None
    return library.function(name, other) if library is not None else None


def _opened(path: Path) -> Library | None:
    try:
        return Library(path)
    except (CoreError, OSError) as error:
        problems.append(str(error))
        return None


def report() -> str:
    """What serves kernels on this machine, in words; what was refused stands in `problems`."""
    words: list[str] = []
    library = shipped()
    if library is not None:
        words.append(f"{len(library.contents.entries)} from the package for {library.contents.level}")
        stale = sorted(name for name in library.contents.modules if not library.serves(name))
        if stale:
            words.append(f"without those of {', '.join(stale)}, whose sources have changed")
    place = stamp.folder("native")
    if place is not None:
        kept = 0
        for path in sorted(place.glob("*.so")):
            try:
                read(path)
                kept += 1
            except (CoreError, OSError) as error:
                problems.append(str(error))
        words.append(f"{kept} compiled by this machine")
    return ", ".join(words) or "compiled by every process: no directory can be written"
