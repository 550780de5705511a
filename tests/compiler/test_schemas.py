"""Schemas: what is rebuilt from a document is the schema, in prompts and in answers; what is not is said."""

from __future__ import annotations

import copy
import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, StringConstraints, ValidationError

import dspex as dx
from dspex.compiler.artifact.documents import code_in, is_described, schema_document
from dspex.compiler.artifact.schemas import definitions, loaded_class, rebuilt
from dspex.compiler.render import prepare
from dspex.errors import CompileError, DspexError, OutputError
from dspex.lm.types import Capabilities, LMResponse, Usage
from dspex.program.demos import Demo, DemoSet
from dspex.program.modules import ModuleSettings
from dspex.program.schema import Schema, field_variables, secret_fields


class Color(str, Enum):  # noqa: UP042 - what most schemas have
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Plain(Enum):
    A = "a"
    B = 2


class Part(dx.Schema):
    """A part of something.

    With a second paragraph.
    """

    name: str
    size: int = dx.field(3, ge=0, description="in mm")


class Loose(BaseModel):
    """A plain record."""

    x: int = Field(1, title="The X", description="where")
    tags: list[str] = []


class Tree(dx.Schema):
    label: str
    children: list[Tree] = []


class Cat(dx.Schema):
    kind: Literal["cat"]
    lives: int = 9


class Dog(dx.Schema):
    kind: Literal["dog"]


Short = Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=5)]

# Types with values that fit and values that do not, as JSON.
TYPES: list[tuple[Any, list[Any]]] = [
    (str, ["a", "", "é\n", 1, None]),
    (int, [0, -5, "7", 1.5, "x"]),
    (float, [0.5, 3, "1e3", "nan", "x"]),
    (bool, [True, "yes", 2, "x"]),
    (str | None, ["a", None, 1]),
    (int | str, [1, "1", "a", 1.5]),
    (float | None, [None, 0.5, "x"]),
    (Literal["a", "b"], ["a", "b", "c", 1]),
    (Literal[1, "x", True, None], [1, "x", True, None, 2]),
    (Literal["only"], ["only", "other"]),
    (Color, ["red", "RED", 1]),
    (Color | None, ["blue", None, "green"]),
    (Level, [1, 2, 3, "1"]),
    (Plain, ["a", 2, "b"]),
    (list[int], [[], [1, "2"], ["x"], 3]),
    (list[Literal["a", "b"]], [["a"], ["c"]]),
    (list[str | None], [["a", None], [1]]),
    (set[int], [[1, 1], ["x"]]),
    (frozenset[str], [["a"], [1]]),
    (tuple[int, str], [[1, "a"], [1], ["x", "a"]]),
    (tuple[int, ...], [[1, 2], ["x"]]),
    (dict[str, int], [{"a": 1}, {"a": "x"}, 3]),
    (dict[str, list[Part]], [{"a": [{"name": "n"}]}, {"a": [{}]}]),
    (dict[Color, int], [{"red": 1}, {"x": 1}]),
    (list, [[1, "a"], 3]),
    (dict, [{"a": 1}, 3]),
    (Any, [1, "a", None, {"b": []}]),
    (dict[str, Any], [{"a": {"b": 1}}, 1]),
    (Part, [{"name": "n"}, {"name": "n", "size": -1}, {"name": "n", "more": 1}, {}]),
    (Part | None, [None, {"name": "n"}, 3]),
    (Loose, [{}, {"x": 2, "more": 3}, {"x": "q"}]),
    (list[Part], [[{"name": "n"}], [3]]),
    (Tree, [{"label": "a", "children": [{"label": "b"}]}, {"label": "a", "children": [{}]}]),
    (Cat | Dog, [{"kind": "cat"}, {"kind": "dog"}, {"kind": "cow"}]),
    (Annotated[Cat | Dog, Field(discriminator="kind")], [{"kind": "cat"}, {"kind": "cow"}, {}]),
    (list[Annotated[Cat | Dog, Field(discriminator="kind")]], [[{"kind": "dog"}], [{}]]),
    (dx.Probability, [0.5, 1.5, -0.1]),
    (dx.Confidence | None, [None, 1, 2]),
    (list[dx.Probability], [[0.1], [2]]),
    (dx.CostUSD, [0, 3.5, -1]),
    (dx.LatencySeconds, [0.25, -1]),
    (datetime, ["2026-01-02T03:04:05", "x"]),
    (date, ["2026-01-02", "2026-13-01"]),
    (time, ["03:04:05", "x"]),
    (timedelta, ["P1D", "x"]),
    (UUID, ["12345678-1234-5678-1234-567812345678", "x"]),
    (pydantic.UUID4, ["12345678-1234-4678-9234-567812345678", "12345678-1234-5678-1234-567812345678"]),
    (Decimal, ["1.50", 2, "x"]),
    (Annotated[Decimal, Field(ge=0, max_digits=4, decimal_places=2)], ["1.50", "-1", "123456"]),
    (bytes, ["abc", 3]),
    (pydantic.HttpUrl, ["https://example.org/a", "x"]),
    (pydantic.AnyUrl, ["ftp://example.org/a", "x"]),
    (Path, ["a/b", 3]),
    (Short, [" ab ", "a", "abcdef"]),
    (pydantic.StrictInt, [1, "1", 1.0]),
    (pydantic.FiniteFloat, [1.0, "x"]),
    (Annotated[int, Field(ge=0, lt=10, multiple_of=2)], [4, 3, 12]),
    (Annotated[str, Field(pattern="^a+$")], ["aa", "b"]),
    (Annotated[list[Annotated[int, Field(gt=0, description="positive")]], Field(max_length=2)], [[1], [0], [1, 2, 3]]),
]
TYPE_IDS = [str(annotation).replace("tests.compiler.test_schemas.", "")[:60] for annotation, _ in TYPES]


def schema_of(name: str, fields: dict[str, Any], doc: str | None = None, base: type[BaseModel] = Schema) -> Any:
    return pydantic.create_model(name, __base__=base, __doc__=doc, __module__=__name__, **fields)


def again(*schemas: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The schemas through their documents, as JSON text; all of it is carried."""
    documents = {cls.__name__: schema_document(cls.__name__, cls) for cls in schemas}
    assert code_in(documents, {cls.__name__: cls for cls in schemas}) == {}
    return dict(rebuilt(json.loads(json.dumps(documents))))


def settings_for(given: Any, output: Any, form: str = "chat", reasoning: bool = False, demos: Any = ()) -> Any:
    return ModuleSettings(
        path="m",
        input=given,
        output=output,
        instruction="Do it.",
        demos=DemoSet(demos),
        demos_k=None,
        temperature=0.0,
        max_tokens=100,
        format=cast(Any, form),
        scoring="generate",
        reasoning=reasoning,
        lm=None,
    )


CAPABLE = Capabilities(raw_prompt=True, json_schema=True, choices=True, score_choices=True)


def outcome(parse: Any, *arguments: Any) -> object:
    try:
        out, reasoning = parse(*arguments)
    except OutputError as error:
        return (error.code, error.message)
    return (out.model_dump_json(), reasoning)


def same_in_prompts(given: Any, output: Any, values: list[dict[str, Any]], answers: list[str]) -> None:
    """Both pairs of schemas ask the same and read the same."""
    made = again(*dict.fromkeys((given, output)))
    twin_in, twin_out = made[given.__name__], made[output.__name__]
    empty = DspexError
    for form in ("chat", "completion"):
        for reasoning in (False, True):
            try:
                demo = [Demo(values[0], {"out": 1})] if values else []
            except empty:
                demo = []
            first = prepare(settings_for(given, output, form, reasoning, demo))
            second = prepare(settings_for(twin_in, twin_out, form, reasoning, demo))
            for value in values:
                x, y = given.model_validate_json(json.dumps(value)), twin_in.model_validate_json(json.dumps(value))
                for capabilities in (CAPABLE, Capabilities()):
                    assert first.request(x, 0, capabilities) == second.request(cast(Any, y), 0, capabilities)
                assert x.model_dump_json() == y.model_dump_json()
                for answer in answers:
                    response = LMResponse(text=answer, usage=Usage(1, 1))
                    assert outcome(first.parse, x, response) == outcome(second.parse, y, response)


@pytest.mark.parametrize(("annotation", "values"), TYPES, ids=TYPE_IDS)
def test_rebuilt_schema_asks_and_reads_the_same(annotation: Any, values: list[Any]) -> None:
    ask = schema_of("Ask", {"q": (annotation, ...)}, "What is asked.")
    out = schema_of("Out", {"out": (annotation, Field(description="the answer"))}, "What is answered.")
    fitting: list[dict[str, Any]] = []
    for value in values:
        try:
            ask.model_validate_json(json.dumps({"q": value}))
        except ValidationError:
            continue
        fitting.append({"q": value})
    assert fitting
    answers = [json.dumps({"out": value}) for value in values] + [json.dumps(value) for value in values]
    same_in_prompts(ask, out, fitting, [*answers, "nonsense", "Out: x", '{"out": 1, "more": 2}'])


def json_errors(cls: type[BaseModel], data: object) -> object:
    try:
        return cls.model_validate_json(json.dumps(data)).model_dump_json()
    except ValidationError as error:
        return error.errors(include_url=False)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_schema_of_known_types_comes_back(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    names = data.draw(
        st.lists(st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True), min_size=count, max_size=count, unique=True)
    )
    names = [name for name in names if not hasattr(BaseModel, name)] or ["field"]
    fields: dict[str, Any] = {}
    samples: dict[str, list[Any]] = {}
    for name in names:
        annotation, values = data.draw(st.sampled_from(TYPES))
        shape = data.draw(st.sampled_from(["required", "default", "optional"]))
        description = data.draw(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)))
        if shape == "default":
            adapter = pydantic.TypeAdapter(annotation)
            good = [value for value in values if not isinstance(json_ok(adapter, value), Exception)]
            fields[name] = (annotation, Field(json_ok(adapter, good[0]), description=description))
        elif shape == "optional":
            fields[name] = (annotation | None, Field(None, description=description))
        else:
            fields[name] = (annotation, Field(description=description))
        samples[name] = values
    doc = data.draw(st.one_of(st.none(), st.text(st.characters(categories=["L", "Zs"]), min_size=1, max_size=30)))
    cls = schema_of("Made", fields, doc, data.draw(st.sampled_from([Schema, BaseModel])))
    twin = again(cls)["Made"]
    for _ in range(5):
        value = {name: data.draw(st.sampled_from(values)) for name, values in samples.items()}
        assert json_errors(cls, value) == json_errors(twin, value)
    assert twin.model_json_schema() == cls.model_json_schema()


def json_ok(adapter: Any, value: object) -> Any:
    try:
        return adapter.validate_json(json.dumps(value))
    except ValidationError as error:
        return error


class Options(dx.Schema):
    """Fields with options."""

    chosen: str = dx.field("x", choices=["x", "y"])
    limited: int | None = dx.field(None, ge=0, le=9, description="up to nine")
    listed: list[str] | None = dx.field(None, min_length=1, max_length=3)
    tuned: Literal["a", "b"] = dx.field("a", variable=True)
    ranged: float = dx.field(0.5, ge=0.0, le=1.0, variable=True)
    key: dx.ApiKey | None = None
    secret: SecretStr | None = None
    made: list[str] = Field(default_factory=list)


def test_options_of_fields_come_back() -> None:
    twin = cast("type[Schema]", again(Options)["Options"])
    assert field_variables(twin)["tuned"].signature() == field_variables(Options)["tuned"].signature()
    assert field_variables(twin)["ranged"].signature() == field_variables(Options)["ranged"].signature()
    assert secret_fields(twin) == secret_fields(Options) == {"key", "secret"}
    made = cast(Any, twin(key=cast(Any, "sk-1"), secret=cast(Any, "p")))  # type: ignore[call-arg]
    assert isinstance(made.key, dx.ApiKey)
    assert type(made.secret) is SecretStr
    assert "sk-1" not in repr(made) + made.model_dump_json()
    same_in_prompts(Options, Options, [{}, {"key": "sk-1", "limited": 3}], ['{"chosen": "z"}', '{"limited": 10}', "{}"])
    with pytest.raises(ValidationError):
        made.chosen = "y"


def test_schemas_that_hold_each_other_are_the_same_classes() -> None:
    class Whole(dx.Schema):
        part: Part
        parts: list[Part] = []

    made = again(Whole, Part, Tree)
    assert made["Whole"].model_fields["part"].annotation is made["Part"]
    assert made["Tree"].model_fields["children"].annotation == list[cast(Any, made["Tree"])]
    assert made["Part"].__doc__ == "A part of something.\n\nWith a second paragraph."


# --- what a document cannot carry ---------------------------------------------------------------


class Checked(dx.Schema):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def even(cls, value: int) -> int:
        return value - value % 2


class Counted(dx.Schema):
    x: int

    @pydantic.computed_field
    @property
    def twice(self) -> int:
        return 2 * self.x


class Shown(dx.Schema):
    x: int

    def model_dump_json(self, **options: Any) -> str:
        return "{}"


class Renamed(dx.Schema):
    x: int = Field(alias="X")


class Clocked(dx.Schema):
    x: float = Field(default_factory=lambda: 0.5)


class Hidden(dx.Schema):
    key: dx.ApiKey = dx.ApiKey("sk-never-saved")


class Odd(dx.Schema):
    x: Annotated[int, pydantic.AfterValidator(abs)]


class Inside(dx.Schema):
    inner: list[Checked]


class Extra(dx.Schema):
    x: Annotated[int, pydantic.WithJsonSchema({"type": "integer"})]
    y: complex = 1j  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        return {"type": "object"}


@pytest.mark.parametrize(
    ("cls", "what"),
    [
        (Checked, "Checked.even"),
        (Counted, "Counted.twice"),
        (Shown, "Shown.model_dump_json"),
        (Renamed, "Renamed.x"),
        (Clocked, "Clocked.x"),
        (Hidden, "Hidden.key"),
        (Inside, "Checked.even"),
        (Odd, ""),
        (Extra, "__get_pydantic_json_schema__"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_code_in_a_schema_is_named_when_it_is_saved(cls: type[BaseModel], what: str) -> None:
    document = schema_document(cls.__name__, cls)
    found = code_in({cls.__name__: document}, {cls.__name__: cls})
    assert what in " ".join(found[cls.__name__])
    assert "sk-never-saved" not in json.dumps(document)


def test_schemas_whose_values_pydantic_takes_for_references_are_refused() -> None:
    cls = schema_of("Refers", {"a": (dict[str, Any], {"$ref": "#/$defs/Part"})})
    with pytest.raises(CompileError) as found:
        schema_document("Refers", cls)
    assert found.value.code == "DX2208"


def test_two_schemas_of_one_name_are_told() -> None:
    first, second = schema_of("Same", {"a": (int, ...)}), schema_of("Same", {"b": (int, ...)})
    documents = {"Same": schema_document("Same", first), "Same2": schema_document("Same2", second)}
    assert code_in(documents, {"Same": first, "Same2": second}).keys() == {"Same", "Same2"}


def test_loaded_classes_are_found_and_compared() -> None:
    document = schema_document("Part", Part)
    _, found = definitions({"Part": document})
    assert loaded_class(f"{__name__}:Part") is Part
    assert is_described(Part, "Part", found)
    assert not is_described(Tree, "Part", found)
    for where in ("no.such:Part", f"{__name__}:Nothing", "os:system", "", "a", f"{__name__}:Part.model_fields"):
        assert loaded_class(where) is None

    _, checked = definitions({"Checked": schema_document("Checked", Checked)})
    assert not is_described(Checked, "Checked", checked)

    class Local(dx.Schema):
        x: int

    assert loaded_class(f"{__name__}:{Local.__qualname__}") is Local


# --- documents that no dspex wrote --------------------------------------------------------------


def refused(document: object) -> str:
    with pytest.raises(CompileError) as found:
        dict(rebuilt({"X": document}))
    assert found.value.code == "DX2210"
    return found.value.message


def record(**fields: Any) -> dict[str, object]:
    return {"type": "object", "properties": fields, "required": list(fields), "x-dspex": {"name": "X", "schema": True}}


WRONG: list[Any] = [
    3,
    None,
    [],
    {"$ref": "#/$defs/Y"},
    {"$ref": "http://evil/x"},
    {"$defs": []},
    {"type": "string"},
    record(a={"type": "string", "pattern": "("}),
    record(a={"type": "string", "pattern": "a" * 3000}),
    record(a={"type": "string", "format": "evil"}),
    record(a={"type": "string", "minLength": -1}),
    record(a={"type": "string", "minLength": 10**30}),
    record(a={"type": "integer", "minimum": "x"}),
    record(a={"type": "integer", "multipleOf": 0}),
    record(a={"type": ["string", "null"]}),
    record(a={"type": "evil"}),
    record(a={"type": "integer", "evil": 1}),
    record(a={"enum": []}),
    record(a={"enum": [{}]}),
    record(a={"enum": [1.5]}),
    record(a={"anyOf": []}),
    record(a={"oneOf": [{"type": "string"}]}),
    record(a={"oneOf": [{"type": "string"}], "discriminator": {"propertyName": "x"}}),
    record(a={"$ref": "#/$defs/Nowhere"}),
    record(a={"prefixItems": [{}], "type": "array"}),
    record(a={"type": "integer", "default": "x" * 5}) | {"required": []},
    record(__class__={"type": "string"}),
    record(_a={"type": "string"}),
    record(model_config={"type": "string"}),
    record(**{"a b": {"type": "string"}}),
    record(a={"type": "string"}) | {"required": ["b"]},
    record(a={"type": "string"}) | {"required": []},
    record(a={"type": "string"}) | {"x-dspex": {"name": "import os"}},
    record(a={"type": "string"}) | {"x-dspex": {"name": ""}},
    record(a={"type": "string"}) | {"x-dspex": {"name": "X", "code": ["bot:check"]}},
    record(a={"type": "string"}) | {"x-dspex": {"name": "X", "config": {"json_encoders": {}}}},
    record(a={"type": "string"}) | {"x-dspex": {"name": "X", "config": {"frozen": {}}}},
    record(a={"type": "string"}) | {"x-dspex": {"name": "X", "config": {"extra": "evil"}}},
    record(a={"type": "string"}) | {"x-dspex": {"name": "X", "fields": {"a": {"factory": "os.system"}}}},
    record(a={"type": "string"}) | {"x-dspex": {"name": "X", "fields": {"a": {"choices": 3}}}},
    record(a={"type": "number", "x-dspex": {"type": "decimal", "ge": "x"}}),
    record(a={"$ref": "#/$defs/E"}) | {"$defs": {"E": {"enum": ["a"], "x-dspex": {"enum": {"members": ["mro"]}}}}},
    record(a={"$ref": "#/$defs/E"}) | {"$defs": {"E": {"enum": ["a"], "x-dspex": {"enum": {"members": ["A", "A"]}}}}},
    record(a={"$ref": "#/$defs/E"})
    | {"$defs": {"E": {"enum": [1], "x-dspex": {"enum": {"members": ["A"], "mixin": "str"}}}}},
    record(a={"$ref": "#/$defs/E"}) | {"$defs": {"E": {"$ref": "#/$defs/E"}}},
    # Found by fuzzing: pydantic takes a '$ref' in a value for a reference when it writes the schema.
    record(a={"default": {"$ref": "#/$defs/Part"}}),
    record(a={"default": [{"b": {"$ref": "#/$defs/Part"}}]}),
    record(a={"examples": [{"$ref": "#/$defs/Part"}]}),
    record(a={"type": "array", "items": {"examples": [{"$ref": "#/$defs/Part"}]}}),
    record(a={"type": "string"}) | {"x-dspex": {"name": "X", "fields": {"a": {"choices": [{"$ref": "x"}]}}}},
]


@pytest.mark.parametrize("document", WRONG)
def test_documents_that_cannot_be_rebuilt_are_refused(document: object) -> None:
    refused(document)


def test_documents_are_refused_when_they_are_nested_too_deeply() -> None:
    deep: dict[str, object] = {"type": "integer"}
    for _ in range(10_000):
        deep = {"type": "array", "items": deep}
    assert "nested" in refused(record(a=deep))
    wide = {f"f{i}": {"anyOf": [{"type": "integer"}] * 900} for i in range(200)}
    assert "large" in refused(record(**wide))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_documents_are_refused_or_harmless(data: st.DataObject) -> None:
    documents = copy.deepcopy(BASE)
    for _ in range(data.draw(st.integers(1, 4))):
        damage(data, documents)
    for cls in outcome_of(documents).values():
        json_errors(cls, {"x": 1})


def outcome_of(documents: dict[str, Any]) -> dict[str, type[BaseModel]]:
    try:
        return dict(rebuilt(documents))
    except CompileError as error:
        if error.code != "DX2210":
            raise
        return {}


BASE: dict[str, Any] = {cls.__name__: schema_document(cls.__name__, cls) for cls in (Options, Tree, Part, Inside, Cat)}
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["string", "object", "array", "#/$defs/Tree", "date-time", "password", "X", "__class__", "list"]),
    st.sampled_from([[], {}, [1], {"a": 1}, {"type": "integer"}, {"$ref": "#/$defs/Part"}, {"enum": ["a", "b"]}]),
)


def damage(data: st.DataObject, whole: Any) -> None:
    """Replace, remove or add one thing somewhere in a JSON value."""
    place = whole
    while True:
        if not isinstance(place, dict | list) or not place:
            return
        items: Any = cast("Any", place)
        mapped = isinstance(place, dict)
        key: Any = data.draw(st.sampled_from(sorted(items) if mapped else range(len(items))))
        inner: Any = items[key]
        if isinstance(inner, dict | list) and cast("Any", inner) and data.draw(st.integers(0, 3)):
            place = cast("Any", inner)
            continue
        how = data.draw(st.sampled_from(["replace", "remove", "add", "rename"]))
        if how == "replace":
            items[key] = copy.deepcopy(data.draw(ATOMS))
        elif how == "remove":
            del items[key]
        elif mapped and how == "add":
            keys = ["type", "$ref", "enum", "const", "anyOf", "default", "format", "pattern", "x-dspex", "items"]
            items[data.draw(st.sampled_from(keys))] = copy.deepcopy(data.draw(ATOMS))
        elif mapped:
            items[data.draw(st.text(max_size=6))] = items.pop(key)
        return
