from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspex as dx
from dspex.program.demos import source_from_json
from dspex.program.similarity import TfIdf, words
from tests.program.schemas import Answer, Ask

approx = cast("Callable[..., object]", pytest.approx)  # pyright: ignore[reportUnknownMemberType]
texts = st.lists(st.text(alphabet="abc d", max_size=12), min_size=1, max_size=8)


def naive_cosines(pool: list[str], query: str) -> list[float]:
    """The definition, term by term."""
    import math

    n = len(pool)
    known = {word for text in pool for word in words(text)}
    idf = {word: math.log((1 + n) / (1 + sum(word in words(text) for text in pool))) + 1 for word in known}

    def vector(text: str) -> dict[str, float]:
        raw = {word: words(text).count(word) * idf[word] for word in set(words(text)) & known}
        length = math.sqrt(sum(value * value for value in raw.values()))
        return {word: value / length for word, value in raw.items()} if length else {}

    asked = vector(query)
    return [sum(value * asked.get(word, 0.0) for word, value in vector(text).items()) for text in pool]


@given(texts, st.text(alphabet="abc d", max_size=12), st.integers(1, 9))
def test_similarity_is_the_cosine_of_its_definition(pool: list[str], query: str, k: int) -> None:
    expected = naive_cosines(pool, query)
    index = TfIdf(pool)
    assert index.similarities(query).tolist() == approx(expected, abs=1e-12)
    nearest = index.nearest(query, k)
    assert len(nearest) == min(k, len(pool))
    scores = [score for _, score in nearest]
    assert scores == sorted(scores, reverse=True)
    assert scores == approx(sorted(expected, reverse=True)[:k], abs=1e-12)
    for (left, a), (right, b) in pairwise(nearest):
        assert a > b or left < right


def demo(question: str, answer: str = "x") -> dx.Demo:
    return dx.Demo(input={"question": question}, output={"answer": answer})


def test_nearest_gives_the_most_similar_last_and_never_the_query_itself() -> None:
    pool = [demo("red fish"), demo("blue fish"), demo("blue sky"), demo("green tree"), demo("blue fish", "other")]
    source = dx.Nearest(pool, k=2)
    chosen = source.select({"question": "blue fish"})
    assert [one.input["question"] for one in chosen] == ["blue sky", "red fish"] or [
        one.input["question"] for one in chosen
    ] == ["red fish", "blue sky"]
    assert source.select({"question": "blue"})[-1].input["question"] == "blue fish"
    assert len(dx.Nearest(pool[1:2] * 1, k=3).select({"question": "blue fish"})) == 0


@given(st.lists(st.text(alphabet="ab ", min_size=1, max_size=6), min_size=1, max_size=12), st.integers(1, 4), st.data())
def test_nearest_never_leaks_whatever_the_pool(pool: list[str], k: int, data: st.DataObject) -> None:
    query = data.draw(st.sampled_from(pool))
    chosen = dx.Nearest([demo(text) for text in pool], k).select({"question": query})
    others = [text for text in pool if text != query]
    assert all(one.input["question"] != query for one in chosen)
    assert len(chosen) == min(k, len(others))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
records = st.dictionaries(st.text(min_size=1, max_size=4), json_values, min_size=1, max_size=3)


@given(records, records, st.none() | st.text(max_size=5))
def test_demos_are_values_and_go_through_json(
    given_: dict[str, object], out: dict[str, object], why: str | None
) -> None:
    one = dx.Demo(given_, out, why)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert hash(again) == hash(one)
    assert again.hash == one.hash
    assert dict(one.input) == given_
    for source in (dx.DemoSet((one,), "n"), dx.Nearest((one,), 2, "n")):
        back = source_from_json(source.to_json())
        assert back == source
        assert type(back) is type(source)


def test_demos_take_schemas_and_refuse_what_is_not_json() -> None:
    assert dx.Demo(Ask(question="q"), Answer(answer="a")) == demo("q", "a")
    for wrong in ({}, {"a": float("nan")}, {"a": object()}):
        with pytest.raises(dx.ProgramError, match="DX1601"):
            dx.Demo(wrong, {"a": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    with pytest.raises(dx.ProgramError, match="DX1602"):
        dx.Nearest((), 0)
    with pytest.raises(dx.ProgramError, match="DX1603"):
        source_from_json({"kind": "set"})
    with pytest.raises(AttributeError):
        demo("q").reasoning = "x"


def test_nearest_spread_shows_every_output_once_before_any_twice() -> None:
    pool = [dx.Demo({"text": f"red apple {n}"}, {"kind": "fruit"}) for n in range(5)]
    pool += [dx.Demo({"text": "red car"}, {"kind": "vehicle"}), dx.Demo({"text": "blue sky"}, {"kind": "place"})]
    source = dx.Nearest(pool, 4, spread=True)
    chosen = source.select({"text": "red apple"})
    kinds = [str(demo.output["kind"]) for demo in chosen]
    assert sorted(kinds) == ["fruit", "fruit", "place", "vehicle"]
    assert kinds[-1] == "fruit"
    assert source.hash != dx.Nearest(pool, 4).hash
    assert source_from_json(source.to_json()) == source
    assert {str(demo.output["kind"]) for demo in dx.Nearest(pool, 3).select({"text": "red apple"})} == {"fruit"}


@given(
    pool=st.lists(st.tuples(st.text("ab ", max_size=5), st.sampled_from("xyz")), max_size=12),
    text=st.text("ab ", max_size=5),
    k=st.integers(1, 8),
)
def test_nearest_spread_takes_the_nearest_of_each_output_in_turns(
    pool: list[tuple[str, str]], text: str, k: int
) -> None:
    source = dx.Nearest([dx.Demo({"text": asked}, {"label": given}) for asked, given in pool], k, spread=True)
    ranked: list[tuple[int, int, dx.Demo]] = []
    seen: list[str] = []
    for place, (position, _) in enumerate(source.index.nearest(text, len(pool))):
        demo = source.pool[position]
        if demo.input["text"] != text:
            seen.append(demo.output_json)
            ranked.append((seen.count(demo.output_json), place, demo))
    chosen = sorted(ranked, key=lambda item: item[:2])[:k]
    wanted = tuple(demo for _, _, demo in sorted(chosen, key=lambda item: -item[1]))
    assert source.select({"text": text}) == wanted
