"""Embeddings of OpenAI's family: order, packing, errors, keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dspex.errors import LMError, RequestRejected, ServerError, UsageError
from dspex.lm.model import LM, EmbeddingModel
from dspex.lm.types import Embeddings, Price, Usage
from dspex.providers import EMBEDDERS, open_embedding_model
from dspex.providers.openai.embeddings import MOST_TEXTS, OpenAIEmbeddings, open_openai_embeddings
from dspex.testing import Fault, MockServer
from tests.providers.recorded import Recorded, shape

KEY = "sk-canary-0123456789abcdef"
VECTORS = np.array([[0.0023064255, -0.0093279, 0.5], [0.25, -0.125, 1.0]])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def opened(transport: Recorded, **lm: Any) -> OpenAIEmbeddings:
    return open_openai_embeddings(LM("openai/text-embedding-3-small", api_key=KEY, **lm), transport)


def embed(transport: Recorded, *texts: str, **lm: Any) -> Embeddings:
    return asyncio.run(opened(transport, **lm).embed(texts))


def test_openai_is_asked_for_packed_vectors() -> None:
    transport = Recorded("openai/embeddings_packed.json")
    found = embed(transport, "red", "green", extra={"dimensions": 3})
    assert transport.body == {
        "model": "text-embedding-3-small",
        "input": ["red", "green"],
        "encoding_format": "base64",
        "dimensions": 3,
    }
    assert str(transport.requests[0].url) == "https://api.openai.com/v1/embeddings"
    np.testing.assert_array_equal(np.array(found.vectors), VECTORS.astype(np.float32))
    assert (found.usage, found.model) == (Usage(8), "text-embedding-3-small")


def test_vectors_are_in_the_order_of_the_texts() -> None:
    transport = Recorded("openai/embeddings.json")
    found = embed(transport, "red", "green", base_url="http://server.example/v1")
    assert "encoding_format" not in transport.body
    np.testing.assert_array_equal(np.array(found.vectors), VECTORS)


@pytest.mark.parametrize("count", [0, MOST_TEXTS + 1])
def test_too_few_or_too_many_texts_are_refused_before_sending(count: int) -> None:
    transport = Recorded("openai/embeddings.json")
    with pytest.raises(RequestRejected) as caught:
        embed(transport, *["x"] * count)
    assert (caught.value.code, transport.requests) == ("DX4216", [])


Body = dict[str, Any]


def _entry(**changes: object) -> Callable[[Body], None]:
    return lambda body: body["data"][0].update(changes)


BROKEN: list[Callable[[Body], object]] = [
    lambda body: body["data"].pop(),
    lambda body: body.pop("data"),
    lambda body: body["usage"].update(prompt_tokens=-1),
    _entry(index=0),
    _entry(embedding="not base64!"),
    _entry(embedding="AAA="),
    _entry(embedding=None),
    _entry(embedding=["a"]),
]


@pytest.mark.parametrize("harm", BROKEN)
def test_an_answer_of_another_shape_is_an_error(harm: Callable[[Body], object]) -> None:
    body = json.loads(shape("openai/embeddings.json"))
    harm(body)

    class Harmed(Recorded):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            return type(response)(200, content=json.dumps(body))

    with pytest.raises(LMError) as caught:
        embed(Harmed("openai/embeddings.json"), "red", "green")
    assert (caught.value.code, caught.value.sent) == ("DX4302", "yes")


def test_the_family_is_served_over_real_sockets() -> None:
    async def work(server: MockServer, name: str, root: bool) -> Embeddings:
        lm = LM(name, base_url=server.root if root else server.url, api_key=KEY)
        model = open_embedding_model(lm)
        assert isinstance(model, EmbeddingModel)
        assert KEY not in repr(model) + model.fingerprint
        found = await model.embed(("red", "green", "red"))
        await model.aclose()
        return found

    with MockServer() as server:
        for name in ("openai/m", "azure/m", "vllm/m", "mistral/m"):
            found = asyncio.run(work(server, name, name.startswith("azure")))
            assert len(found.vectors) == 3
            assert found.vectors[0] == found.vectors[2] != found.vectors[1]
            assert found.usage is not None
            assert found.usage.input_tokens == 3
        total = server.totals().usage
    assert total.input_tokens == 12


def test_errors_are_those_of_the_family() -> None:
    with MockServer(faults=[Fault("status", status=500)]) as server:
        model = open_embedding_model(LM("openai/m", base_url=server.url))
        with pytest.raises(ServerError):
            asyncio.run(model.embed(("red",)))


def test_an_embedding_model_has_price_name_and_fingerprint() -> None:
    price = Price(0.02, 0.0)
    model = opened(Recorded("openai/embeddings.json"), price=price)
    assert (model.price, model.name) == (price, "openai/text-embedding-3-small")
    other = opened(Recorded("openai/embeddings.json"), extra={"dimensions": 256})
    assert model.fingerprint != other.fingerprint
    with pytest.raises(UsageError) as caught:
        open_embedding_model(LM("openai/text-embedding-3-small"))
    assert caught.value.code == "DX8111"
    with pytest.raises(UsageError, match="no provider of embeddings is named 'deepseek'"):
        open_embedding_model(LM("deepseek/x"))
    assert "openai" in EMBEDDERS
