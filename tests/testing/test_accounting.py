"""What dspex's own providers received is, to the token, what the ledger says was completed."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest

from dspex.errors import LMError
from dspex.lm.model import LM, StreamingModel
from dspex.lm.types import LMRequest, LMResponse, Message, Usage
from dspex.providers import open_model
from dspex.testing import Fault, MockRequest, MockServer
from dspex.testing.faults import FaultKind

CALLS = 400
SILENT = ("hang", "hang_head", "hang_body", "hold", "hold_body", "long_length", "redirect")
FAULTS = [Fault(kind, share=0.03, size=100_000) for kind in get_args(FaultKind) if kind not in SILENT]


def answer(request: MockRequest) -> LMResponse:
    """Costs something else for each request."""
    size = len(request.text)
    return LMResponse(f"heard {size}", Usage(100 + size, 30 + size, size, 7, 0), reasoning="hm")


@pytest.mark.parametrize("name", ["openai", "openai-responses", "anthropic", "gemini", "ollama"])
def test_usage_of_answers_is_the_ledger_s_to_the_token(name: str) -> None:
    async def work(server: MockServer) -> tuple[int, Usage]:
        base_url = server.url if name.startswith("openai") else server.root
        model = open_model(LM(f"{name}/m", base_url=base_url, api_key="k", concurrency=32))
        assert isinstance(model, StreamingModel)
        turns = asyncio.Semaphore(32)
        received: list[LMResponse] = []
        sent: set[str] = set()

        async def call(number: int) -> None:
            request = LMRequest(messages=(Message("user", f"Hello {number}" + "!" * (number % 7)),))
            async with turns:
                try:
                    if number % 2:
                        received.append(await model.complete(request))
                    else:
                        received.extend([part.response async for part in model.stream(request) if part.response])
                except LMError as error:
                    sent.add(error.sent)

        await asyncio.gather(*map(call, range(CALLS)))
        await model.aclose()
        # Every request arrived, so no error may say that it was not sent.
        assert sent == {"maybe", "yes"}
        return len(received), sum((response.usage for response in received if response.usage), Usage())

    with MockServer(answer, faults=FAULTS) as server:
        completed, usage = asyncio.run(work(server))
    totals = server.totals()
    assert totals.requests == CALLS
    assert (totals.completed, totals.usage.input_tokens, totals.usage.output_tokens) == (
        completed,
        usage.input_tokens,
        usage.output_tokens,
    )
    assert totals.requests == totals.completed + totals.refused + totals.cut
    assert 0 < totals.completed < CALLS
