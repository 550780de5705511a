"""Typed data sets: examples of what goes in and what should come out, each with its place and content hash."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar, cast, overload

from pydantic import ValidationError

from dspex.errors import DataError, ProgramError
from dspex.evaluation.labels import options_of
from dspex.evaluation.rows import Row, rows_of
from dspex.program.demos import canonical_json, content_hash
from dspex.program.schema import Schema

__all__ = ["Dataset", "Example", "Rows", "load"]

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Example(Generic[I, O]):
    """One row: an input and the output that is wanted for it.

    Attributes:
        input: What the program is given.
        want: What it should return.
        hash: Content hash of both.
        input_hash: Content hash of the input alone.
        where: ``file:line`` or ``row N``, for messages.
    """

    input: I
    want: O
    hash: str
    input_hash: str
    where: str = ""


def make_example(input: I, want: O, where: str = "") -> Example[I, O]:
    """An example with its hashes.

    Raises:
        DataError: DX5104: a value that JSON text cannot hold: NaN, infinity or half a surrogate pair.
    """
    given, wanted = _json_text(input, where), _json_text(want, where)
    return Example(input, want, content_hash("example", given, wanted), content_hash("input", given), where)


def _json_text(record: Schema, where: str) -> str:
    values = cast("dict[str, object]", record.model_dump(mode="json"))
    try:
        text = canonical_json(values)
        text.encode()
        return text
    except (ProgramError, UnicodeEncodeError) as error:
        field = next((name for name, value in values.items() if not _fits_json(value)), "")
        raise DataError(
            "DX5104",
            f"{type(record).__name__}.{field}: JSON text cannot hold {values.get(field)!r:.120}",
            where=f"{where} field {field}",
            fix="NaN, infinities and halves of surrogate pairs cannot be sent to a model: correct the row",
        ) from error


def _fits_json(value: object) -> bool:
    try:
        canonical_json(value).encode()
    except (ProgramError, UnicodeEncodeError):
        return False
    return True


Side: TypeAlias = "Mapping[str, object] | Schema"
Rows: TypeAlias = "Iterable[Mapping[str, object] | tuple[Side, Side] | Example[I, O]]"
"""Rows in memory: flat mappings by field name, pairs of an input and an output, or examples."""


class Dataset(Sequence[Example[I, O]]):
    """Examples of one input and one output schema, in the order of their source.

    Attributes:
        input_schema: Type of every example's input.
        output_schema: Type of every example's wanted output.
        source: The file, or ``rows`` for data in memory.
        notices: What a reader of the data should know, such as columns that were ignored.
    """

    __slots__ = ("_examples", "input_schema", "notices", "output_schema", "source")

    def __init__(
        self,
        examples: Iterable[Example[I, O]],
        input_schema: type[I],
        output_schema: type[O],
        *,
        source: str = "rows",
        notices: Sequence[str] = (),
    ) -> None:
        self._examples = tuple(examples)
        self.input_schema = input_schema
        self.output_schema = output_schema
        self.source = source
        self.notices = tuple(notices)

    @property
    def hash(self) -> str:
        """Content hash of all examples; their order does not count."""
        return content_hash("dataset", *sorted(example.hash for example in self._examples))

    @property
    def labels(self) -> str | None:
        """The output's field of closed choices by which examples are classes: the only one that there is, else None."""
        closed = [name for name in self.output_schema.model_fields if options_of(self.output_schema, name) is not None]
        return closed[0] if len(closed) == 1 else None

    def but(self, examples: Iterable[Example[I, O]]) -> Dataset[I, O]:
        """The same schemas and source with other examples."""
        return Dataset(examples, self.input_schema, self.output_schema, source=self.source)

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example[I, O]: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset[I, O]: ...
    def __getitem__(self, index: int | slice) -> Example[I, O] | Dataset[I, O]:
        if isinstance(index, slice):
            return self.but(self._examples[index])
        return self._examples[index]

    def __iter__(self) -> Iterator[Example[I, O]]:
        return iter(self._examples)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dataset):
            return NotImplemented
        theirs = cast("Dataset[Schema, Schema]", other)
        return [example.hash for example in self] == [example.hash for example in theirs]

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        types = f"{self.input_schema.__name__} -> {self.output_schema.__name__}"
        return f"Dataset({len(self)} examples, {types}, from {self.source})"


def load(
    source: str | Path | Rows[I, O],
    input_schema: type[I],
    output_schema: type[O],
    *,
    columns: Mapping[str, str] | None = None,
    strict: bool = False,
) -> Dataset[I, O]:
    """Read a data set and check every row against the schemas.

    A column feeds the field of its name; one that both schemas name feeds both. Columns that neither names are ignored
    and listed in `Dataset.notices`.

    Args:
        source: A ``.jsonl``, ``.csv``, ``.tsv`` or ``.json`` file, or rows: mappings by column, pairs of an input
        and an
            output, or examples.
        input_schema: Type of the inputs.
        output_schema: Type of the wanted outputs.
        columns: Column by field name, where they differ; ``input.NAME`` or ``output.NAME`` tells fields of one
        name apart.
        strict: Columns that neither schema names are errors.

    Raises:
        DataError: DX5101 to DX5112, naming file, line, field and value.
    """
    if isinstance(source, Dataset):
        # Examples of the same schemas were checked when they were made.
        known = cast("Dataset[I, O]", source)
        if known.input_schema is input_schema and known.output_schema is output_schema:
            return known
    reader = _Reader(input_schema, output_schema, dict(columns or {}), strict)
    name = Path(source).name if isinstance(source, (str, Path)) else "rows"
    examples: list[Example[I, O]] = []
    if isinstance(source, (str, Path)):
        examples.extend(reader.example(row) for row in rows_of(Path(source), reader.textual))
    else:
        given = cast(object, source)
        if not isinstance(given, Iterable):
            raise DataError(
                "DX5111",
                f"data are a file's path or rows, got {given!r:.80}",
                where="rows",
                fix="for example dx.load('train.jsonl', Ask, Answer), or a list of mappings by field name",
            )
        items = cast("Iterable[object]", given)
        examples.extend(reader.item(item, f"row {number}") for number, item in enumerate(items))
    if not examples:
        raise DataError(
            "DX5110",
            "the data set holds no examples",
            where=str(source) if isinstance(source, (str, Path)) else "rows",
            fix="give at least one row; to optimize, several dozen",
        )
    return Dataset(examples, input_schema, output_schema, source=name, notices=reader.notices())


class _Reader(Generic[I, O]):
    """Turns rows into examples and remembers which columns nobody asked for."""

    def __init__(self, input_schema: type[I], output_schema: type[O], columns: dict[str, str], strict: bool) -> None:
        self._input = input_schema
        self._output = output_schema
        self._strict = strict
        self._ignored: dict[str, int] = {}
        self._from = {"input": dict[str, str](), "output": dict[str, str]()}
        for side, schema in (("input", input_schema), ("output", output_schema)):
            for field in schema.model_fields:
                self._from[side][field] = columns.get(f"{side}.{field}", columns.get(field, field))
        names = {*self._from["input"], *self._from["output"]}
        for given in columns:
            side, dot, field = given.partition(".")
            if given not in names and not (dot and field in self._from.get(side, {})):
                raise DataError(
                    "DX5112",
                    f"columns= names the field {given!r}, which neither {input_schema.__name__} nor "
                    f"{output_schema.__name__} has",
                    where="columns",
                    fix=_close(given, names),
                )
        self._known = {*self._from["input"].values(), *self._from["output"].values()}
        self.textual = frozenset(
            column
            for side, schema in (("input", input_schema), ("output", output_schema))
            for field, column in self._from[side].items()
            if _holds_text(schema, field)
        )

    def item(self, item: object, where: str) -> Example[I, O]:
        if isinstance(item, Example):
            found = cast("Example[Schema, Schema]", item)
            return self._pair(found.input, found.want, found.where or where)
        if isinstance(item, Mapping):
            return self.example(Row({str(k): v for k, v in cast("Mapping[object, object]", item).items()}, where))
        if isinstance(item, (tuple, list)) and len(cast("Sequence[object]", item)) == 2:
            given, wanted = cast("Sequence[object]", item)
            return self._pair(given, wanted, where)
        raise DataError(
            "DX5111",
            f"a row is a mapping, a pair (input, output) or an Example, got {item!r:.80}",
            where=where,
        )

    def example(self, row: Row) -> Example[I, O]:
        extra = [column for column in row.values if column not in self._known]
        if extra and self._strict:
            raise DataError(
                "DX5109",
                f"the column {extra[0]!r} is in neither {self._input.__name__} nor {self._output.__name__}",
                where=row.where,
                fix=f"{_close(extra[0], self._known)}; or leave strict out to ignore it",
            )
        for column in extra:
            self._ignored[column] = self._ignored.get(column, 0) + 1
        given = self._side("input", self._input, row)
        return make_example(given, self._side("output", self._output, row), row.where)

    def notices(self) -> list[str]:
        return [
            f"the column {column!r} is in neither schema and was ignored ({count} rows)"
            for column, count in sorted(self._ignored.items())
        ]

    def _pair(self, given: object, wanted: object, where: str) -> Example[I, O]:
        return make_example(_instance(self._input, given, where), _instance(self._output, wanted, where), where)

    def _side(self, side: str, schema: type[S], row: Row) -> S:
        fields = self._from[side]
        values = {field: row.values[column] for field, column in fields.items() if column in row.values}
        missing = [f for f in fields if f not in values and schema.model_fields[f].is_required()]
        if missing:
            column = fields[missing[0]]
            raise DataError(
                "DX5105",
                f"no value for the field {missing[0]!r} of {schema.__name__}",
                where=f"{row.where} field {missing[0]}",
                fix=f"{_close(column, set(row.values))}; columns={{'{missing[0]}': ...}} maps a column of another name",
            )
        return _checked(schema, values, row.where)


S = TypeVar("S", bound=Schema)


def _instance(schema: type[S], value: object, where: str) -> S:
    if isinstance(value, schema):
        return value
    if isinstance(value, Mapping):
        return _checked(schema, {str(k): v for k, v in cast("Mapping[object, object]", value).items()}, where)
    raise DataError(
        "DX5111", f"expected a {schema.__name__} or a mapping of its fields, got {value!r:.80}", where=where
    )


def _checked(schema: type[S], values: dict[str, object], where: str) -> S:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    field = str(first["loc"][0]) if first["loc"] else ""
    at = f"{where} field {place}" if place else where
    value: object = first["input"]
    options = options_of(schema, field) if field in schema.model_fields else None
    if options is not None or first["type"] in ("literal_error", "enum", "one_of"):
        labels = [str(getattr(option, "value", option)) for option in options or ()]
        listed = ", ".join(map(repr, labels)) or first["msg"]
        raise DataError(
            "DX5108",
            f"{value!r:.120} is not a value of {schema.__name__}.{place}: {listed}",
            where=at,
            fix=_close(str(value), set(labels)) if labels else "correct the row, or add the value to the schema",
        )
    raise DataError(
        "DX5104",
        f"{schema.__name__}.{place or '(row)'}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {value!r:.120}",
        where=at,
        fix="correct the row, or the schema",
    )


def _close(name: str, known: set[str]) -> str:
    """A hint at the name that was meant, else the names that there are."""
    for found in difflib.get_close_matches(name, sorted(known), 1):
        return f"did you mean {found!r}?"
    return f"there are {', '.join(map(repr, sorted(known))) or 'none'}"


def _holds_text(schema: type[Schema], field: str) -> bool:
    """Whether text is a value of the field, so that a cell of a table is taken as it stands."""
    shape = schema.model_json_schema()
    definitions = cast("dict[str, object]", shape.get("$defs", {}))

    def text(part: object) -> bool:
        if not isinstance(part, dict):
            return False
        node = cast("dict[str, object]", part)
        if "$ref" in node:
            return text(definitions.get(str(node["$ref"]).rpartition("/")[2]))
        if "enum" in node or "const" in node:
            values = cast("list[object]", node.get("enum", [node.get("const")]))
            return any(isinstance(value, str) for value in values)
        inner = [*cast("list[object]", node.get("anyOf", [])), *cast("list[object]", node.get("allOf", []))]
        return node.get("type") == "string" or any(text(one) for one in inner)

    return text(cast("dict[str, object]", shape.get("properties", {})).get(field))
