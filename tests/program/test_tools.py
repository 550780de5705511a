from __future__ import annotations

import inspect
import json
import pickle
from functools import partial
from typing import Annotated, Any, Literal

import pydantic
import pytest

import dspex as dx
from dspex.program.operations import Operation, operation_of
from tests.program.running import asynchronous
from tests.program.schemas import Answer, Ask

TABLE = {"de": "Berlin", "fr": "Paris"}


@dx.tool
def capital(country: Literal["de", "fr"], loud: bool = False) -> str:
    """The capital of a country.

    In English.
    """
    return TABLE[country].upper() if loud else TABLE[country]


class Place(dx.Schema):
    name: str
    zoom: int = 3


@dx.tool(name="find-place", description="Finds it.")
async def find(place: Place, *, words: Annotated[list[str], pydantic.Field(min_length=1)]) -> list[str]:
    return [place.name, str(place.zoom), *words]


@dx.op
def plain(text: str) -> int:
    return len(text)


@dx.op(pure=True)
async def pure(text: str) -> int:
    return len(text)


@asynchronous
async def test_a_tool_validates_its_arguments_and_calls_sync_and_async_functions() -> None:
    assert await capital("de") == "Berlin"
    assert await capital(country="fr", loud=True) == "PARIS"
    assert await find(Place(name="here"), words=["a"]) == ["here", "3", "a"]
    # As a model would call it: JSON values.
    given: dict[str, Any] = {"place": {"name": "x", "zoom": 1}, "words": ["w"]}
    assert await find(**given) == ["x", "1", "w"]


def test_a_tool_has_a_name_a_description_a_json_schema_and_a_place() -> None:
    assert (capital.name, capital.description) == ("capital", "The capital of a country.\n\nIn English.")
    assert (find.name, find.description) == ("find-place", "Finds it.")
    assert capital.target == f"{__name__}:capital"
    assert capital.parameters["properties"]["country"]["enum"] == ["de", "fr"]  # type: ignore[index, call-overload]  # pyright: ignore
    assert capital.parameters["required"] == ["country"]
    assert capital.parameters["additionalProperties"] is False
    assert "Place" in json.dumps(find.parameters)
    assert capital.function("de") == "Berlin"
    assert repr(capital) == "<Tool capital(country: \"Literal['de', 'fr']\", loud: 'bool' = False) -> 'str'>"


@pytest.mark.parametrize(
    ("args", "named", "why"),
    [
        ((), {}, "country is missing"),
        (("us",), {}, "country: Input should be 'de' or 'fr', got 'us'"),
        (("de",), {"louder": True}, "there is no 'louder' (did you mean 'loud'?)"),
        (("de",), {"country": "fr"}, "country is given twice"),
        (("de", True, 3), {}, "there is no parameter for 3"),
        (("de",), {"loud": "perhaps"}, "loud: Input should be a valid boolean"),
    ],
)
@asynchronous
async def test_arguments_that_do_not_fit_are_coded_errors(
    args: tuple[Any, ...], named: dict[str, Any], why: str
) -> None:
    with pytest.raises(dx.ProgramError, match="DX1542") as caught:
        await capital(*args, **named)
    assert why in caught.value.message
    assert caught.value.where == capital.target


@asynchronous
async def test_an_error_inside_a_tool_is_its_own() -> None:
    @dx.tool
    def broken(n: int) -> int:
        Place.model_validate({"zoom": n})
        return n

    with pytest.raises(pydantic.ValidationError):
        await broken(3)


def test_signatures_that_cannot_be_called_by_name_are_refused_at_decoration() -> None:
    def unannotated(a, b: int = 1): ...  # type: ignore[no-untyped-def]  # pyright: ignore

    def variadic(*rest: int) -> None: ...

    def keywords(**rest: int) -> None: ...

    def positional(a: int, /) -> None: ...

    def object_(a: inspect.Signature) -> None: ...

    def nowhere(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore

    class Holder:
        def method(self, a: int) -> None: ...

    wrong: list[tuple[Any, str]] = [
        (unannotated, "'a' has no annotation"),
        (variadic, "the parameter *rest: 'int' has no name"),
        (keywords, "the parameter **rest: 'int' has no name"),
        (positional, "the parameter a: 'int' has no name"),
        (object_, "the parameter 'a' (Signature) has no JSON Schema"),
        (nowhere, "'a' cannot be resolved"),
        (Holder.method, "'self' has no annotation"),
        (partial(variadic), "stands over a function"),
        (3, "stands over a function"),
    ]
    for function, why in wrong:
        with pytest.raises(dx.ProgramError, match="DX1541") as caught:
            dx.tool(function)
        assert why in caught.value.message
        assert "test_tools.py:" in str(caught.value.where)
    for name in ("", "two words", "ü", "a" * 65, 3):
        with pytest.raises(dx.ProgramError, match=r"DX1541.*name"):
            dx.tool(name=name)(variadic)  # type: ignore[arg-type]  # pyright: ignore


def test_annotations_may_name_what_is_local_to_a_function() -> None:
    class Local(dx.Schema):
        n: int

    @dx.tool
    def local(item: Local) -> int:
        return item.n

    assert local.arguments((), {"item": {"n": 3}}) == ((), {"item": Local(n=3)})


@asynchronous
async def test_a_tool_may_be_an_attribute_of_a_program() -> None:
    class Bot(dx.Program[Ask, Answer]):
        lookup = capital

        def __init__(self, other: dx.Tool[..., str] = capital) -> None:
            self.other = other

        async def __call__(self, x: Ask, /) -> Answer:
            return Answer(answer=await self.lookup("de") + await self.other("fr"))

    bot = Bot()
    assert (await bot(Ask(question="?"))).answer == "BerlinParis"
    assert pickle.loads(pickle.dumps(capital)) is capital

    @dx.tool
    def elsewhere(country: str) -> str:
        return country

    assert Bot(elsewhere).identity() != bot.identity() == Bot().identity()


def test_an_operation_stays_the_function_that_it_is() -> None:
    assert plain("abc") == 3
    assert (operation_of(plain), operation_of(pure)) == (Operation(pure=False), Operation(pure=True))
    assert operation_of(len) is None
    assert inspect.iscoroutinefunction(pure)
    for wrong in (len, 3, partial(plain)):
        with pytest.raises(dx.ProgramError, match="DX1540"):
            dx.op(wrong)  # type: ignore[call-overload]  # pyright: ignore
