"""Vectors of texts, over real sockets: what is sent, what is not, what it costs and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dspex as dx
from dspex.errors import BudgetExceeded, RequestRejected, ResponseError, UsageError
from dspex.executor import models
from dspex.lm.types import Embeddings, Price, Usage
from dspex.testing import Fault, MockServer
from dspex.testing.protocols.embeddings import embedding

PRICE = Price(2.0, 0.0)


@pytest.fixture(autouse=True)
def fresh_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]
    yield
    models.response_cache().close()


def at(server: MockServer, **options: Any) -> dx.LM:
    options = {"price": PRICE, "retries": 2, **options}
    return dx.LM("openai/mock", server.url, **options)


def sent(server: MockServer) -> list[list[str]]:
    return [request.body["input"] for request in server.requests]


class Lines:
    """An embedding model of the user's: a vector with the text's length."""

    name = "test/lines"
    fingerprint = "test:lines"
    price = PRICE
    most_texts = 2

    def __init__(self, short: int = 0) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.short = short

    async def embed(self, texts: tuple[str, ...], /) -> Embeddings:
        self.asked.append(texts)
        return Embeddings(tuple((float(len(text)), 1.0) for text in texts[self.short :]), Usage(len(texts)))

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("name", ["openai/m", "vllm/m", "gemini/m", "ollama/m"])
def test_every_protocol_gives_the_vectors_in_the_order_of_the_texts(name: str) -> None:
    texts = ["red", "dark green", "red", "blue"]
    with MockServer() as server:
        root = {"gemini": f"{server.root}/v1beta", "ollama": server.root}.get(name.partition("/")[0], server.url)
        found = dx.embed(texts, lm=dx.LM(name, root, api_key="k"))
    assert found.vectors == tuple(pytest.approx(embedding(text), abs=1e-6) for text in texts)
    assert found.vectors[0] == found.vectors[2]


def test_a_known_text_is_not_sent_again() -> None:
    with MockServer() as server:
        lm = at(server)
        first = dx.embed(["red", "green", "red"], lm=lm)
        with dx.trace() as trace, dx.ledger() as ledger:
            again = dx.embed(["green", "blue", "red"], lm=lm)
            assert dx.embed(["blue"], lm=lm).usage == Usage()
        assert sent(server) == [["red", "green"], ["blue"]]
    assert (again.vectors[0], again.vectors[2]) == (first.vectors[1], first.vectors[0])
    assert (first.usage, again.usage) == (Usage(2), Usage(1))
    assert [(call.module, call.cached, call.attempts) for call in trace.calls] == [
        ("embed", True, 0),
        ("embed", False, 1),
        ("embed", True, 0),
    ]
    assert (ledger.total.attempts, ledger.total.hits, ledger.total.usd) == (1, 2, 2e-6)


def test_what_is_kept_survives_the_process(tmp_path: Path) -> None:
    with MockServer() as server:
        first = dx.embed(["red", "green"], lm=at(server))
        models.response_cache().close()
        models._shared = models._Shared()  # pyright: ignore[reportPrivateUsage]
        assert dx.embed(["green", "red"], lm=at(server)).vectors == first.vectors[::-1]
        assert len(sent(server)) == 1
        dx.embed(["green"], lm=at(server, cache="off"))
        assert len(sent(server)) == 2


def test_long_lists_go_in_as_many_requests_as_the_limits_need() -> None:
    lines = Lines()
    found = dx.embed(["a", "bb", "ccc", "dddd", "eeeee"], lm=lines)
    assert [vector[0] for vector in found.vectors] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert sorted(lines.asked) == [("a", "bb"), ("ccc", "dddd"), ("eeeee",)]
    assert found.usage == Usage(5)
    with MockServer() as server:
        large = [letter * 200_000 for letter in "abc"]
        dx.embed([*large, "d"], lm=at(server))
        assert sorted(map(len, sent(server))) == [1, 1, 2]


def test_a_request_that_fails_is_tried_again() -> None:
    with MockServer(faults=[Fault("status", status=503, attempts=1)]) as server:
        with dx.trace() as trace:
            found = dx.embed(["red"], lm=at(server))
        assert len(server.requests) == 2
    assert found.vectors == (pytest.approx(embedding("red"), abs=1e-6),)
    assert trace.attempts == 2


def test_one_that_fails_for_good_says_where_and_keeps_what_was_bought() -> None:
    with MockServer(faults=[Fault("status", status=400, at=1)]) as server:
        lm = at(server, concurrency=1)
        large = ["a" * 200_000, "b" * 200_000]
        with dx.trace() as trace, pytest.raises(RequestRejected) as caught:
            dx.embed(large, lm=lm)
        assert caught.value.attempts == 1
        assert sorted(call.error is None for call in trace.calls) == [False, True]
        dx.embed(large, lm=lm)
        assert len(server.requests) == 3


def test_a_budget_holds_before_anything_is_sent() -> None:
    with MockServer() as server:
        with dx.using(budget=dx.Budget(usd=1e-5)), pytest.raises(BudgetExceeded):
            dx.embed(["red " * 100], lm=at(server))
        assert not server.requests
        account = dx.BudgetAccount(dx.Budget(usd=1.0))
        with dx.using(budget=account):
            dx.embed(["red green"], lm=at(server))
        assert account.settled.usd == pytest.approx(4e-6)


def test_equal_requests_in_the_air_are_sent_once() -> None:
    async def scenario(lm: dx.LM) -> list[Embeddings]:
        return await asyncio.gather(*[dx.embed_async(["red", "green"], lm=lm) for _ in range(5)])

    with MockServer(latency=0.02) as server:
        found = asyncio.run(scenario(at(server)))
        assert len(server.requests) == 1
    assert len({one.vectors for one in found}) == 1
    assert sum(one.usage == Usage(2) for one in found) == 1


def test_an_embedding_and_a_completion_of_one_name_are_two_models() -> None:
    class Ask(dx.Schema):
        question: str

    class Answer(dx.Schema):
        answer: str

    with MockServer() as server:
        lm = at(server)
        dx.embed(["red"], lm=lm)
        with dx.using(lm=lm):
            assert dx.Predict(Ask, Answer).run(Ask(question="red")).answer
        assert [request.path.rpartition("/")[2] for request in server.requests] == ["embeddings", "completions"]


def test_no_text_needs_no_request() -> None:
    lines = Lines()
    assert dx.embed([], lm=lines) == Embeddings((), Usage())
    assert not lines.asked


@pytest.mark.parametrize("texts", ["red", ["red", 3], None, {"red"}])
def test_what_are_no_texts_is_refused(texts: Any) -> None:
    with pytest.raises(UsageError) as caught:
        dx.embed(texts, lm=Lines())
    assert caught.value.code == "DX8153"


def test_models_that_do_not_fit_are_refused() -> None:
    odd: Any = 3
    for lm, code in [
        (dx.LM("openai/m", "http://h/v1", fallback=("openai/n",)), "DX8154"),
        (dx.LM("anthropic/m", api_key="k"), "DX8110"),
        (odd, "DX8106"),
    ]:
        with pytest.raises(UsageError) as caught:
            dx.embed(["red"], lm=lm)
        assert caught.value.code == code
    with pytest.raises(ResponseError) as short:
        dx.embed(["red", "green"], lm=Lines(short=1))
    assert short.value.code == "DX4715"
