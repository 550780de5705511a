"""Compatible servers by preset: addresses, keys, dialects, prices; and that every provider's opener is there."""

from __future__ import annotations

import asyncio
import importlib
import json
from dataclasses import replace
from typing import Any

import pytest

from dspex.errors import RequestRejected, ResponseError, UsageError
from dspex.lm.model import LM
from dspex.lm.types import FREE, Capabilities, Delta, LMRequest, LMResponse, Message, Price
from dspex.providers.open import EMBEDDERS, PROVIDERS
from dspex.providers.openai.chat import OpenAIModel
from dspex.providers.openai.compatible import PRESETS, open_compatible
from dspex.testing import MockServer
from tests.providers.recorded import Recorded

ASK = LMRequest(messages=(Message("user", "Capital of France?"),), max_tokens=64)
OWN = ("vllm", "llamacpp", "lmstudio")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for preset in PRESETS.values():
        monkeypatch.delenv(preset.key, raising=False)
        if preset.address:
            monkeypatch.delenv(preset.address, raising=False)


def sent(model: str, request: LMRequest = ASK, **lm: Any) -> tuple[Any, dict[str, Any]]:
    transport = Recorded("openai/choice.json" if request.choices else "openai/text.json")
    asyncio.run(open_compatible(LM(model, **lm), transport).complete(request))
    return transport.requests[0], transport.body


def asked(**changes: Any) -> LMRequest:
    return LMRequest(messages=ASK.messages, max_tokens=64, **changes)


@pytest.mark.parametrize("name", [*PROVIDERS, *(f"{name} embeddings" for name in EMBEDDERS)])
def test_every_name_has_its_opener(name: str) -> None:
    provider, _, kind = name.partition(" ")
    module, _, function = (EMBEDDERS if kind else PROVIDERS)[provider].partition(":")
    assert callable(getattr(importlib.import_module(f"dspex.providers.{module}"), function))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_knows_where_its_server_is_and_which_key_it_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = PRESETS[name]
    if name in OWN:
        assert "authorization" not in sent(f"{name}/m")[0].headers
    else:
        with pytest.raises(UsageError, match=preset.key) as caught:
            sent(f"{name}/m")
        assert caught.value.code == "DX8111"
    monkeypatch.setenv(preset.key, "canary-key")
    request, body = sent(f"{name}/org/m")
    assert str(request.url) == f"{preset.base_url}/chat/completions"
    assert request.headers["authorization"] == "Bearer canary-key"
    assert body["model"] == "org/m"
    # A key of the environment never goes to a server that the code names.
    assert "authorization" not in sent(f"{name}/m", base_url="http://server.example/v1")[0].headers
    if preset.address:
        monkeypatch.setenv(preset.address, "http://gpu.example:8000/v1/")
        request, _ = sent(f"{name}/m")
        assert request.url.host == "gpu.example"
        assert request.headers["authorization"] == "Bearer canary-key"


def test_the_key_is_shown_by_no_preset() -> None:
    for name in PRESETS:
        model = open_compatible(LM(f"{name}/m", api_key="canary-key"))
        assert "canary" not in repr(model) + model.fingerprint + model.name
        assert model.fingerprint.startswith(f"{name}:")


def test_servers_of_ones_own_are_free_on_this_machine_alone() -> None:
    for name in OWN:
        assert open_compatible(LM(f"{name}/m")).price == FREE
        assert open_compatible(LM(f"{name}/m", base_url="https://gpu.example/v1")).price is None
        priced = Price(1.0, 1.0)
        assert open_compatible(LM(f"{name}/m", price=priced)).price == priced
    assert open_compatible(LM("groq/m", base_url="http://127.0.0.1:1/v1")).price is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_does_what_its_capabilities_say(name: str) -> None:
    can = PRESETS[name].capabilities
    for capable, request in (
        (can.choices, asked(choices=("a", "b"))),
        (can.reasoning, asked(reasoning="low")),
        (can.logprobs, asked(top_logprobs=1)),
        (can.raw_prompt, LMRequest(prompt="Once")),
    ):
        transport = Recorded("openai/choice.json" if request.choices else "openai/text.json")
        if request.prompt is not None:
            transport = Recorded("openai/raw.json")
        model = open_compatible(LM(f"{name}/m", api_key="k"), transport)
        if capable:
            asyncio.run(model.complete(request))
        else:
            with pytest.raises(RequestRejected):
                asyncio.run(model.complete(request))


def test_dialects_say_the_same_in_their_own_words() -> None:
    request = asked(seed=3, reasoning="none")
    names = ("mistral", "deepseek", "openrouter", "groq")
    bodies = {name: sent(f"{name}/m", request, api_key="k")[1] for name in names}
    assert bodies["mistral"]["random_seed"] == 3
    assert "seed" not in bodies["mistral"]
    assert not {"seed", "random_seed", "reasoning_effort"} & bodies["deepseek"].keys()
    assert bodies["deepseek"]["thinking"] == {"type": "disabled"}
    assert bodies["openrouter"]["reasoning"] == {"effort": "none"}
    assert (bodies["groq"]["max_completion_tokens"], bodies["groq"]["reasoning_effort"]) == (64, "none")
    assert sent("openrouter/m", asked(reasoning=2000), api_key="k")[1]["reasoning"] == {"max_tokens": 2000}
    assert sent("deepseek/m", asked(reasoning="high"), api_key="k")[1]["reasoning_effort"] == "high"


PICK = LMRequest(prompt="Is it so?\nAnswer:", choices=("yes", 'no "way"'))


def test_a_raw_prompt_is_continued_by_a_choice_alone() -> None:
    raw = Recorded("openai/raw.json")
    asyncio.run(open_compatible(LM("vllm/m"), raw).complete(PICK))
    assert raw.body["structured_outputs"] == {"choice": [" yes", ' no "way"']}
    asyncio.run(open_compatible(LM("llamacpp/m"), raw).complete(PICK))
    assert raw.body["grammar"] == 'root ::= " yes" | " no \\"way\\""'
    assert not {"response_format", "guided_choice"} & raw.body.keys()
    with pytest.raises(RequestRejected, match="DX4201"):
        asyncio.run(open_compatible(LM("lmstudio/m"), raw).complete(PICK))
    assert len(raw.requests) == 2


@pytest.mark.parametrize("name", ["vllm", "llamacpp"])
@pytest.mark.parametrize("prompt", ["Answer:", "Answer:\n"])
def test_the_choice_that_continues_a_prompt_is_the_answer(name: str, prompt: str) -> None:
    before = "" if prompt.endswith("\n") else " "
    request = replace(PICK, prompt=prompt)

    async def work(model: OpenAIModel) -> tuple[LMResponse, list[Delta]]:
        try:
            return await model.complete(request), [delta async for delta in model.stream(request)]
        finally:
            await model.aclose()

    with MockServer(lambda _: "not at all") as server, pytest.raises(ResponseError, match="DX4303"):
        asyncio.run(work(open_compatible(LM(f"{name}/m", base_url=server.url))))
    with MockServer(lambda _: f'{before}no "way"') as server:
        whole, deltas = asyncio.run(work(open_compatible(LM(f"{name}/m", base_url=server.url))))
    assert whole.text == 'no "way"'
    assert [delta.text for delta in deltas] == [whole.text]
    assert deltas[-1].response is not None
    assert deltas[-1].response.text == whole.text


def test_lm_studio_is_never_asked_for_its_missing_json_mode() -> None:
    assert "response_format" not in sent("lmstudio/m", asked(json_mode=True))[1]
    form = sent("lmstudio/m", asked(json_mode=True, json_schema='{"type":"object","properties":{}}'))[1]
    assert form["response_format"]["type"] == "json_schema"


def test_capabilities_given_in_code_win() -> None:
    able = Capabilities(choices=True)
    _, body = sent("groq/openai/gpt-oss-20b", asked(choices=("a", "b")), api_key="k", capabilities=able)
    assert body["response_format"]["json_schema"]["strict"] is True


def test_a_server_on_this_machine_answers_by_its_name() -> None:
    with MockServer() as server:
        model = open_compatible(LM("llamacpp/mock", base_url=server.url))
        request = asked(json_schema='{"type":"object","properties":{"n":{"type":"integer"}}}')
        response = asyncio.run(model.complete(request))
    assert isinstance(json.loads(response.text)["n"], int)
