"""Thousands of calls over HTTP with faults, and the ledger's sums beside the server's own.

``python -m tests.executor.account_runs CALLS`` compares them and prints both; ``test_ledger.py`` does so for fewer.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import dataclass

import dspex as dx
from dspex.lm.spend import Spend
from dspex.lm.types import LMResponse, Usage
from dspex.program.ledger import Entry
from dspex.testing import Fault, MockRequest, MockServer, Totals

WIDTH = 128
TENANTS = ("acme", "globex", "initech")
PRICE = dx.Price(0.15, 0.6, cached=0.075)

FAULTS = (
    Fault("status", status=429, retry_after=0, share=0.03),
    Fault("status", status=500, retry_after=0, share=0.02),
    Fault("status", status=503, retry_after=0, share=0.01),
    Fault("status", status=400, share=0.01),
    Fault("context_length", share=0.005),
    Fault("content_filter", share=0.005),
    Fault("close", share=0.005),
    Fault("reset", share=0.005),
    Fault("reset_body", share=0.003),
    Fault("truncate", share=0.01),
    Fault("not_utf8", share=0.005),
    Fault("not_json", share=0.005),
    Fault("shape", share=0.005),
)


class Ask(dx.Schema):
    question: str


class Draft(dx.Schema):
    draft: str


class Answer(dx.Schema):
    answer: str


class Desk(dx.Program[Ask, Answer]):
    """Two calls after one another; the second one's prompt depends on a Variable."""

    tone: dx.Var[str] = dx.Text("tone", ("Be terse.", "Be kind."))
    writing = dx.Predict(Ask, Draft)
    editing = dx.Predict(Draft, Answer, instruction=tone)

    async def __call__(self, x: Ask, /) -> Answer:
        return await self.editing(await self.writing(x))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the ledger and the server say of the same calls."""

    ledger: dx.Ledger
    totals: Totals
    by_tenant: dict[str, Totals]


def answer(request: MockRequest) -> LMResponse:
    """A text of its own for each request, with a usage that has every part."""
    drawn = hashlib.sha256(request.digest.encode()).digest()
    read, said = len(request.text) // 4 + drawn[0] % 8, 20 + drawn[1]
    return LMResponse(f"text {request.digest[:8]}", Usage(read, said, drawn[2] % read, drawn[3] % said))


def compare(calls: int, *, cancel_every: int = 0) -> Comparison:
    """Make about `calls` calls for three tenants under two configurations, half of them by compiled programs.

    Args:
        calls: Calls of modules; their retries come on top.
        cancel_every: Each n-th run is cancelled once its first request has arrived; 0 cancels none.
    """
    with MockServer(answer, faults=FAULTS) as server:
        lms = {name: _served(server, name) for name in TENANTS}
        programs = [desk for tone in ("Be terse.", "Be kind.") for desk in _both(Desk().bind(tone=tone))]

        async def work(numbers: list[int]) -> None:
            while numbers:
                number = numbers.pop()
                tenant = TENANTS[number % len(TENANTS)]
                with dx.using(lm=lms[tenant], tenant=tenant):
                    run = asyncio.ensure_future(programs[number % len(programs)](Ask(question=f"q{number}")))
                    if cancel_every and number % cancel_every == 0:
                        await asyncio.sleep(0.002)
                        run.cancel()
                    await asyncio.gather(run, return_exceptions=True)

        async def all_of_them() -> None:
            numbers = list(range(calls // 2))
            await asyncio.gather(*(work(numbers) for _ in range(WIDTH)))

        with dx.ledger() as ledger:
            asyncio.run(all_of_them())
        # Until all is in the server's ledger: it sees a client go only a moment later.
        server.wait_until(lambda it: it.open == 0)
        return Comparison(ledger, server.totals(), {name: server.totals(key=f"key-{name}") for name in TENANTS})


def _served(server: MockServer, name: str) -> dx.LM:
    return dx.LM(
        "openai/mock", server.url, f"key-{name}", concurrency=WIDTH, cache="off", price=PRICE, retries=2, breaker=False
    )


def _both(desk: Desk) -> list[dx.Program[Ask, Answer]]:
    return [desk, dx.compile(desk)]  # type: ignore[list-item]


def differences(entry: Entry, totals: Totals) -> list[str]:
    """How the ledger's sum differs from the server's; nothing when no run was cancelled."""
    pairs = {
        "usage": (entry.usage, totals.usage),
        "attempts": (entry.attempts, totals.requests),
        "failed": (entry.failed, totals.refused + totals.cut),
        "dollars": (round((entry.usd or 0.0) * 1e12), round(PRICE.cost(totals.usage) * 1e12)),
        "uncertain calls": (entry.uncertain.calls > 0, totals.cut > 0),
        "uncertain covers what was lost": (covers(entry.uncertain, totals.lost), True),
    }
    return [f"{name}: {ours} and {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]


def covers(uncertain: Spend, lost: Usage) -> bool:
    """Whether the upper bound of what may have been spent holds for what was."""
    return uncertain.input_tokens >= lost.input_tokens and uncertain.output_tokens >= lost.output_tokens


if __name__ == "__main__":
    found = compare(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
    print(found.ledger)
    print(found.totals)
    wrong = differences(found.ledger.total, found.totals)
    for tenant, entry in found.ledger.by("tenant").items():
        wrong += [f"{tenant}: {line}" for line in differences(entry, found.by_tenant[tenant])]
    for outcome, entry in found.ledger.by("outcome").items():
        print(f"{outcome:10} {entry.attempts:8} attempts, {entry.uncertain.calls:6} uncertain")
    print("\n".join(wrong) or "the ledger and the server agree exactly")
    sys.exit(bool(wrong))
