"""Azure OpenAI: addresses, versions, keys and tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from dspex.errors import UsageError
from dspex.lm.model import LM
from dspex.lm.types import LMRequest, Message
from dspex.providers.openai.azure import VERSION, open_azure, open_azure_embeddings
from tests.providers.recorded import Recorded

ASK = LMRequest(messages=(Message("user", "Capital of France?"),), max_tokens=64)
ENDPOINT = "https://resource.openai.azure.com"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJjYW5hcnkifQ.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)


def sent(model: str = "azure/gpt-4.1-prod", **lm: Any) -> tuple[httpx.Request, dict[str, Any]]:
    transport = Recorded("openai/text.json")
    settings: dict[str, Any] = {"base_url": ENDPOINT, "api_key": "canary-key", **lm}
    asyncio.run(open_azure(LM(model, **settings), transport).complete(ASK))
    return transport.requests[0], transport.body


def test_a_deployment_is_asked_at_its_own_path() -> None:
    request, body = sent()
    assert str(request.url) == (f"{ENDPOINT}/openai/deployments/gpt-4.1-prod/chat/completions?api-version={VERSION}")
    assert request.headers["api-key"] == "canary-key"
    assert "authorization" not in request.headers
    assert body["max_completion_tokens"] == 64
    assert "temperature" in body
    assert "temperature" not in sent("azure/o4-mini")[1]


def test_a_deployments_name_is_one_part_of_the_path() -> None:
    assert b"/deployments/a%2Fb%3Fc/chat" in sent("azure/a/b?c")[0].url.raw_path


@pytest.mark.parametrize("tail", ["", "/", "/openai", "/openai/"])
def test_an_endpoint_may_end_in_its_prefix(tail: str) -> None:
    assert sent(base_url=ENDPOINT + tail)[0].url.path == "/openai/deployments/gpt-4.1-prod/chat/completions"


def test_the_api_without_versions_names_the_deployment_in_the_body() -> None:
    request, body = sent(base_url=f"{ENDPOINT}/openai/v1/")
    assert str(request.url) == f"{ENDPOINT}/openai/v1/chat/completions"
    assert body["model"] == "gpt-4.1-prod"


def test_a_version_comes_from_code_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_VERSION", "2025-03-01-preview")
    assert sent()[0].url.query == b"api-version=2025-03-01-preview"
    request, body = sent(extra={"api-version": "2025-04-01-preview", "user": "u"})
    assert request.url.query == b"api-version=2025-04-01-preview"
    assert body["user"] == "u"
    assert "api-version" not in body


@pytest.mark.parametrize("version", ["2024-10-21&key=x", "a b", 2024])
def test_a_malformed_version_is_refused(version: Any) -> None:
    with pytest.raises(UsageError) as caught:
        sent(extra={"api-version": version})
    assert caught.value.code == "DX8119"


def test_a_token_is_a_bearer_token() -> None:
    request, _ = sent(api_key=TOKEN)
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert "api-key" not in request.headers
    assert sent(api_key=lambda: TOKEN)[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_the_environment_names_endpoint_and_key_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        sent(base_url=None)
    assert caught.value.code == "DX8114"
    assert "AZURE_OPENAI_ENDPOINT" in str(caught.value)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", ENDPOINT)
    with pytest.raises(UsageError) as caught:
        sent(base_url=None, api_key=None)
    assert caught.value.code == "DX8111"
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "from-environment")
    assert sent(base_url=None, api_key=None)[0].headers["api-key"] == "from-environment"
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", TOKEN)
    assert sent(base_url=None, api_key=None)[0].headers["authorization"] == f"Bearer {TOKEN}"
    # A key of the environment never goes to a server that the code names.
    with pytest.raises(UsageError) as caught:
        sent(api_key=None)
    assert caught.value.code == "DX8111"


def test_a_fingerprint_names_resource_deployment_and_version_and_no_secret() -> None:
    def fingerprint(**lm: Any) -> str:
        settings: dict[str, Any] = {"base_url": ENDPOINT, "api_key": "canary-key", **lm}
        return open_azure(LM("azure/d", **settings), Recorded("openai/text.json")).fingerprint

    assert "canary" not in fingerprint()
    assert fingerprint() == fingerprint(api_key=TOKEN)
    versions = {"2025-03-01-preview", "2025-04-01-preview"}
    assert len({fingerprint(), *(fingerprint(extra={"api-version": version}) for version in versions)}) == 3


def test_embeddings_have_the_same_addresses() -> None:
    transport = Recorded("openai/embeddings_packed.json")
    lm = LM("azure/embed", base_url=ENDPOINT, api_key="k")
    asyncio.run(open_azure_embeddings(lm, transport).embed(("red", "green")))
    url = transport.requests[0].url
    assert (url.path, url.query) == ("/openai/deployments/embed/embeddings", f"api-version={VERSION}".encode())
