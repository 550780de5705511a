"""From a configuration to an opened model: what is shared, what is not, and what is refused."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import RequestRejected, UsageError
from dspex.executor import models
from dspex.executor.call import complete
from dspex.executor.models import Gate, at_endpoint, gate_for
from dspex.lm.model import LM, MOST_CONCURRENCY, Endpoint, Hedge
from dspex.lm.types import LMRequest, LMResponse, Message
from dspex.program.context import Context, current, using
from dspex.providers import open_model
from tests.executor.models import ANSWER, StepsLM

REQUEST = LMRequest(messages=(Message("user", "hello"),), max_tokens=10)


class Opened(StepsLM):
    """Stands for a provider's client; knows what it was opened with."""

    def __init__(self, lm: LM) -> None:
        super().__init__(ANSWER)
        self.lm = lm
        self.name = lm.model
        self.fingerprint = f"{lm.base_url}:{lm.model}"
        self.key = lm.api_key() if callable(lm.api_key) else lm.api_key


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Opened]]:
    """Every client that was opened, in order."""
    made: list[Opened] = []

    def open_model(lm: LM) -> Opened:
        made.append(Opened(lm))
        return made[-1]

    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("dspex.providers.open.open_model", open_model)
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]
    yield made
    models.response_cache().close()


def gates(*lms: LM) -> list[Gate]:
    async def scenario() -> list[Gate]:
        return [await gate_for(lm) for lm in lms]

    return asyncio.run(scenario())


def test_a_configuration_is_opened_once_a_loop_and_closed_with_it(opened: list[Opened]) -> None:
    first, again, other = gates(LM("openai/a"), LM("openai/a"), LM("openai/b"))
    assert first is again
    assert first is not other
    assert [one.closed for one in opened] == [1, 1]
    gates(LM("openai/a"))
    assert len(opened) == 3


def test_every_client_is_closed_even_when_one_fails_to(opened: list[Opened]) -> None:
    async def fail() -> None:
        raise OSError("it does not close")

    async def scenario() -> None:
        for name in ("openai/a", "openai/b", "openai/c"):
            await gate_for(LM(name, endpoints=(Endpoint(), Endpoint(api_key="k"))))
        opened[2].aclose = fail
        with pytest.raises(OSError, match="it does not close"):
            await models.here().aclose()

    asyncio.run(scenario())
    assert [one.closed for one in opened] == [1, 1, 0, 1, 1, 1]


def test_limits_and_breakers_are_shared_by_what_calls_one_server_with_one_key() -> None:
    (first,) = gates(LM("openai/a", api_key="k"))
    for lm, limit, breaker in [
        (LM("openai/a", api_key="k"), True, True),
        (LM("openai/a", api_key="k", retries=1, cache="off", timeout=5.0), True, True),
        (LM("openai/a", api_key="other"), False, False),
        (LM("openai/b", api_key="k"), False, False),
        # Each keeps to the limits that it was given; whether the server works is the same for all.
        (LM("openai/a", api_key="k", concurrency=4), False, True),
        (LM("openai/a", api_key="k", rpm=100), False, True),
        (LM("openai/a", api_key="k", breaker=False), False, False),
    ]:
        (found,) = gates(lm)
        assert (found.routes[0].limit is first.routes[0].limit) == limit
        assert (found.routes[0].breaker is first.routes[0].breaker) == breaker


def test_endpoints_become_routes_with_their_own_keys_and_limits(opened: list[Opened]) -> None:
    lm = LM(
        "openai/a",
        api_key="own",
        concurrency=8,
        endpoints=(Endpoint(), Endpoint(api_key="second", weight=2.0), Endpoint("http://host/v1")),
    )
    (gate,) = gates(lm)
    assert gate.route is None
    assert [(one.lm.base_url, one.key) for one in opened] == [(None, "own"), (None, "second"), ("http://host/v1", None)]
    assert [route.weight for route in gate.routes] == [1.0, 2.0, 1.0]
    assert len({id(route.limit) for route in gate.routes}) == 3
    assert gate.width == 24
    assert gate.fingerprint == opened[0].fingerprint
    assert [one.closed for one in opened] == [1, 1, 1]


def test_a_key_goes_to_no_address_but_its_own() -> None:
    lm = LM("openai/a", "http://one/v1", "secret", endpoints=(Endpoint("http://two/v1"), Endpoint()))
    assert [(way.base_url, way.api_key) for way in (at_endpoint(lm, one) for one in lm.endpoints)] == [
        ("http://two/v1", None),
        ("http://one/v1", "secret"),
    ]


def test_no_secret_is_printed() -> None:
    lm = LM("openai/a", api_key="canary", endpoints=(Endpoint(api_key="canary"), Endpoint("http://two/v1", "canary")))
    assert "canary" not in repr(lm)
    (gate,) = gates(lm)
    assert all("canary" not in repr(one) for one in (gate, *gate.routes, gate.fingerprint))


def test_the_width_follows_limits_that_are_found() -> None:
    (gate,) = gates(LM("openai/a", concurrency="auto"))
    limit = gate.routes[0].limit
    assert limit is not None
    assert gate.width == 2 * limit.limit
    assert 1 <= limit.limit < LM("openai/a", concurrency="auto").connections == MOST_CONCURRENCY
    (fixed,) = gates(LM("openai/a", concurrency=7))
    assert fixed.width == 7


def test_fallbacks_are_opened_with_their_model(opened: list[Opened]) -> None:
    custom = StepsLM()
    (gate,) = gates(LM("openai/a", fallback=(LM("openai/b"), "openai/c", custom)))
    assert [one.name for one in gate.fallback] == ["openai/b", "openai/c", "test/steps"]
    assert sorted(one.name for one in opened) == ["openai/a", "openai/b", "openai/c"]


def test_hedging_is_chosen_by_the_configuration() -> None:
    off, on, own = gates(
        LM("openai/a"), LM("openai/a", hedge=True), LM("openai/a", hedge=Hedge(quantile=0.5, ratio=0.2))
    )
    assert off.stragglers is None
    assert on.stragglers is not None
    assert own.stragglers is not None
    assert own.stragglers.allowance.ratio == 0.2
    # What is known of latencies outlives the loop.
    assert gates(LM("openai/a", hedge=True))[0].stragglers is on.stragglers


def test_a_refused_key_is_fetched_again_once(opened: list[Opened]) -> None:
    keys = iter(["old", "new", "newer"])

    class Picky(Opened):
        async def complete(self, request: LMRequest, /) -> LMResponse:
            if self.key != valid:
                raise RequestRejected("DX4202", "401", sent="yes")
            return await super().complete(request)

    valid = "new"

    async def scenario() -> None:
        nonlocal valid
        gate = await gate_for(LM("openai/a", api_key=lambda: next(keys), cache="off", retries=0))
        results = await asyncio.gather(*(complete(gate, REQUEST, Context()) for _ in range(3)))
        assert [called.response for called in results] == [ANSWER] * 3
        assert [one.key for one in opened] == ["old", "new"]
        assert [one.closed for one in opened] == [0, 0]
        valid = "nothing"
        with pytest.raises(RequestRejected) as caught:
            await complete(gate, REQUEST, Context())
        assert caught.value.attempts == 2

    import dspex.providers.open as registry

    def open_picky(lm: LM) -> Picky:
        made = Picky(lm)
        opened.append(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "open_model", open_picky)
        asyncio.run(scenario())
    assert [one.closed for one in opened] == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"model": "no-slash"}, "DX8101"),
        ({"model": "openai/a\n"}, "DX8101"),
        ({"model": " openai/a"}, "DX8101"),
        ({"model": "openai/a\x00b"}, "DX8101"),
        ({"model": "openai/a\u2028b"}, "DX8101"),
        ({"cache": "sometimes"}, "DX8102"),
        ({"concurrency": 0}, "DX8103"),
        ({"concurrency": "many"}, "DX8103"),
        ({"timeout": 0}, "DX8104"),
        ({"retries": -1}, "DX8105"),
        ({"rpm": 0}, "DX8108"),
        ({"extra": {"when": datetime(2026, 1, 1)}}, "DX8152"),
        ({"extra": {"a": [{"b": float("nan")}]}}, "DX8152"),
        ({"extra": {"a": {1: 2}}}, "DX8152"),
        ({"extra": [("a", 1)]}, "DX8152"),
        ({"tpm": float("inf")}, "DX8108"),
        ({"endpoints": ["http://one/v1"]}, "DX8109"),
        ({"endpoints": ("http://one/v1",)}, "DX8109"),
        ({"fallback": "openai/b"}, "DX8150"),
        ({"fallback": ["openai/b"]}, "DX8150"),
        ({"fallback": ("nonsense",)}, "DX8101"),
        ({"hedge": 0.9}, "DX8151"),
        ({"model": None}, "DX8155"),
        ({"base_url": b"http://one/v1"}, "DX8155"),
        ({"concurrency": float("nan")}, "DX8155"),
        ({"concurrency": True}, "DX8155"),
        ({"timeout": "5"}, "DX8155"),
        ({"retries": 1.5}, "DX8155"),
        ({"price": {"input": 1.0}}, "DX8155"),
        ({"capabilities": "tools"}, "DX8155"),
        ({"tpm": "60"}, "DX8155"),
        ({"retry_ambiguous": "no"}, "DX8155"),
        ({"breaker": None}, "DX8155"),
        ({"verify": 0}, "DX8155"),
        ({"cert": ["a", "b"]}, "DX8155"),
        ({"cert": ("a", "b", "c")}, "DX8155"),
        ({"proxy": 3}, "DX8155"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], code: str) -> None:
    given: dict[str, Any] = {"model": "openai/a", **options}
    with pytest.raises(UsageError) as caught:
        LM(**given)
    assert caught.value.code == code


def test_endpoints_and_hedges_check_their_numbers() -> None:
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="DX8109"):
            Endpoint(weight=weight)
    for ratio in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="DX8151"):
            Hedge(ratio=ratio)
        with pytest.raises(UsageError, match="DX8151"):
            Hedge(quantile=ratio)
    wrong: Any = "1"
    for made in (lambda: Endpoint(weight=wrong), lambda: Hedge(ratio=wrong)):
        with pytest.raises(UsageError, match="DX8155"):
            made()


SERVED: dict[str, Any] = {"base_url": "http://one/v1", "verify": "/ca.pem", "cert": "/me.pem", "proxy": "http://p:1"}


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("model", ["local/smollm2", "replay/answers.jsonl"])
def test_a_model_without_a_server_takes_no_settings_of_one(model: str, name: str) -> None:
    setting: dict[str, Any] = {name: SERVED[name]}
    with pytest.raises(UsageError, match="DX8162") as caught:
        open_model(LM(model, **setting))
    assert f"{name}=" in caught.value.message
    assert str(SERVED[name]) not in str(caught.value)


def test_what_is_no_model_is_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(UsageError, match="DX8106"):
            await gate_for(42)  # pyright: ignore[reportArgumentType]

    asyncio.run(scenario())


def test_a_block_says_for_whom_and_how_urgently_calls_are_made() -> None:
    with using(lm="openai/a", tenant="nightly"):
        with using(priority=3):
            inner = current()
            assert (inner.lm, inner.tenant, inner.priority) == ("openai/a", "nightly", 3)
        assert current().priority == 0


def test_priority_and_tenant_reach_the_limit(opened: list[Opened]) -> None:
    async def scenario() -> None:
        gate = await gate_for(LM("openai/a", concurrency=1, cache="off"))
        lm = opened[0]
        lm.steps = ["hold"]
        order: list[str] = []

        async def call(name: str, **place: Any) -> None:
            await complete(gate, REQUEST, Context(**place))
            order.append(name)

        calls = [asyncio.ensure_future(call("first"))]
        await lm.entered.wait()
        calls += [asyncio.ensure_future(call(f"a{n}", tenant="a")) for n in range(3)]
        calls += [asyncio.ensure_future(call("b", tenant="b")), asyncio.ensure_future(call("urgent", priority=1))]
        await asyncio.sleep(0)
        lm.gate.set()
        await asyncio.gather(*calls)
        assert order[:2] == ["first", "urgent"]
        assert order.index("b") < order.index("a2")

    asyncio.run(scenario())


def test_idle_configurations_are_closed_beyond_a_number(opened: list[Opened], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MOST_GATES", 3)

    async def scenario() -> None:
        held = await gate_for(LM("openai/m", api_key="0"))
        for number in range(1, 3):
            await gate_for(LM("openai/m", api_key=str(number)))
        assert await gate_for(LM("openai/m", api_key="0")) is held
        for number in range(3, 6):
            await gate_for(LM("openai/m", api_key=str(number)))
        # The least recently used ones went first.
        assert [one.closed for one in opened] == [1, 1, 1, 0, 0, 0]
        # Whoever still holds a closed one may use it.
        assert (await complete(held, REQUEST, Context())).response == ANSWER

    asyncio.run(scenario())


def test_a_configuration_in_use_is_not_closed(opened: list[Opened], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MOST_GATES", 1)

    async def scenario() -> None:
        gate = await gate_for(LM("openai/m", api_key="0", cache="off"))
        opened[0].steps = ["hold"]
        call = asyncio.ensure_future(complete(gate, REQUEST, Context()))
        await opened[0].entered.wait()
        for number in range(1, 4):
            await gate_for(LM("openai/m", api_key=str(number)))
        assert [one.closed for one in opened] == [0, 1, 1, 0]
        assert await gate_for(LM("openai/m", api_key="0", cache="off")) is gate
        opened[0].gate.set()
        await call

    asyncio.run(scenario())


def test_limits_are_remembered_for_the_latest_servers_and_for_those_in_use() -> None:
    class Thing:
        """Stands for a limit."""

    things: models.Remembered[int, Thing] = models.Remembered(2)
    used = things.get(0, Thing)
    for key in range(1, 50):
        things.get(key, Thing)
    gc.collect()
    assert things.get(0, Thing) is used
    gc.collect()
    assert len(things) <= 3


def test_many_configurations_leave_little_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MOST_GATES", 5)
    monkeypatch.setattr(models, "MOST_SERVERS", 7)
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]

    async def scenario() -> None:
        for number in range(60):
            await gate_for(LM("openai/m", api_key=f"user {number}"))
        gc.collect()
        shared = models._shared  # pyright: ignore[reportPrivateUsage]
        assert len(models.here().gates) == 5
        assert len(shared.servers) == len(shared.habits) == 7

    asyncio.run(scenario())
