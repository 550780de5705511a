"""Rows of files, each with its line: JSON lines, CSV and TSV tables, and JSON lists."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dspex.errors import DataError

__all__ = ["Row", "rows_of"]

_CELL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """The values of one row by column, and where it stands."""

    values: Mapping[str, object]
    where: str


def rows_of(path: Path, textual: frozenset[str]) -> Iterator[Row]:
    """The rows of a file, by its suffix.

    Args:
        path: A ``.jsonl``, ``.ndjson``, ``.csv``, ``.tsv`` or ``.json`` file.
        textual: Columns of a table whose cells are text as they stand; those of others are read as JSON where they are.

    Raises:
        DataError: DX5101 to DX5103, DX5106.
    """
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if kind in (".csv", ".tsv"):
        return _table(path, "\t" if kind == ".tsv" else ",", textual)
    if kind == ".json":
        return _json_list(path)
    raise DataError(
        "DX5101",
        f"data sets are .jsonl, .csv, .tsv or .json files, got {path.name!r}",
        where=str(path),
        fix="convert the file, or pass a list of rows",
    )


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            "DX5101",
            f"the file cannot be read: {error.strerror or error}",
            where=str(path),
            fix="check the path, relative to the working directory",
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            "DX5102",
            f"the file is not UTF-8 text: byte 0x{data[error.start]:02x}",
            where=f"{path}:{line}",
            fix="save the file as UTF-8",
        ) from error


def _json_lines(path: Path) -> Iterator[Row]:
    # Not splitlines(): JSON texts may hold U+2028 and others, which end no line of a file.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield Row(_mapping(_json(line, where), where), where)


def _json_list(path: Path) -> Iterator[Row]:
    found = _json(_text(path), str(path))
    if not isinstance(found, list):
        raise DataError(
            "DX5103", f"a .json data set is a list of objects, got {_kind(found)}", where=str(path),
            fix="for one object a line, name the file .jsonl",
        )  # fmt: skip
    for number, item in enumerate(cast("list[object]", found)):
        where = f"{path}[{number}]"
        yield Row(_mapping(item, where), where)


def _json(text: str, where: str) -> object:
    try:
        return cast(object, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DataError("DX5102", f"not JSON: {error}", where=where, fix="correct or remove the line") from error


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value)
    raise DataError("DX5103", f"a row is a JSON object with a value for each field, got {_kind(value)}", where=where)


def _kind(value: object) -> str:
    names = {"dict": "an object", "list": "a list", "str": "a text", "bool": "a truth value", "NoneType": "null"}
    return names.get(type(value).__name__, "a number")


def _table(path: Path, delimiter: str, textual: frozenset[str]) -> Iterator[Row]:
    csv.field_size_limit(_CELL)
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    before = 0
    try:
        for cells in reader:
            where = f"{path}:{before + 1}"
            before = reader.line_num
            if not any(cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                twice = next((name for name in header if header.count(name) > 1), None)
                if twice is not None:
                    raise DataError("DX5106", f"the column {twice!r} stands twice in the header", where=where)
                continue
            if len(cells) != len(header):
                raise DataError(
                    "DX5106",
                    f"the row has {len(cells)} cells and the header {len(header)}",
                    where=where,
                    fix='put cells that hold the delimiter or a line break into "quotes"',
                )
            pairs = zip(header, cells, strict=True)
            yield Row({k: v for k, c in pairs if (v := _cell(c, k in textual)) is not None}, where)
    except csv.Error as error:
        raise DataError("DX5102", f"not a sound table: {error}", where=f"{path}:{reader.line_num}") from error


def _cell(text: str, textual: bool) -> object:
    """A cell's value; None where an empty cell means that there is no value."""
    if textual:
        return text
    if not text.strip():
        return None
    try:
        return cast(object, json.loads(text))
    except ValueError:
        return text
