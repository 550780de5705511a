"""The adaptive limit in simulated time against servers that refuse, queue or slow down."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.executor.adaptive import Adaptive
from dspex.executor.admission import Limit
from tests.executor.servers import Manner, Server, fifty, saturate
from tests.executor.virtual import simulate


def run(
    server: Server,
    seconds: float,
    *,
    ceiling: int = 256,
    start: int = 16,
    change: Callable[[], None] | None = None,
    serve: Callable[[], Awaitable[bool]] | None = None,
) -> Limit:
    """Saturate `server` for `seconds`, with `change` at half time."""

    async def scenario() -> Limit:
        loop = asyncio.get_running_loop()
        limit = Limit(Adaptive(ceiling, start=start), clock=loop.time)
        if change is not None:
            loop.call_later(seconds / 2, change)
        await saturate(limit, serve or server.serve, seconds, ceiling + 50)
        return limit

    return simulate(scenario())


def varied(seed: int, mean: float, spread: float) -> Callable[[], float]:
    rng = random.Random(seed)
    return lambda: mean * math.exp(rng.gauss(0.0, spread) - spread * spread / 2.0)


@pytest.mark.parametrize("refusing", [0.001, 0.05])
@pytest.mark.parametrize("capacity", [1, 3, 37, 100])
def test_the_capacity_of_a_server_that_refuses_is_found_and_followed_when_it_halves(
    capacity: int, refusing: float
) -> None:
    server = Server(capacity, "refuses", refusing=refusing)
    half = (capacity + 1) // 2
    run(server, 20.0, change=lambda: server.resize(half))
    assert server.share(1.0, 10.0, capacity / 0.05) >= 0.97
    assert server.share(10.0, 20.0, half / 0.05) >= 0.94
    # Probing costs one refusal in fifty calls, which is more than 5 % of them only below three slots.
    assert server.failing(10.0, 20.0) < (0.05 if capacity > 3 else 0.12)


@pytest.mark.parametrize("capacity", [1, 3, 37, 100])
def test_the_capacity_of_a_server_that_queues_is_found_and_followed_when_it_halves(capacity: int) -> None:
    server = Server(capacity, "queues")
    half = (capacity + 1) // 2
    limit = run(server, 20.0, change=lambda: server.resize(half))
    assert server.share(1.0, 10.0, capacity / 0.05) >= 0.9
    assert server.share(10.0, 20.0, half / 0.05) >= 0.9
    assert limit.limit <= 2 * half + 1
    assert limit.refusals == 0


@pytest.mark.parametrize("manner", ["refuses", "queues"])
def test_a_capacity_that_doubles_is_used(manner: Manner) -> None:
    server = Server(20, manner)
    run(server, 40.0, change=lambda: server.resize(40))
    assert server.share(30.0, 40.0, 40 / 0.05) >= 0.9


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("spread", [0.5, 1.0])
@pytest.mark.parametrize("manner", ["refuses", "queues"])
def test_the_capacity_is_found_when_answers_take_very_different_times(manner: Manner, spread: float, seed: int) -> None:
    server = Server(37, manner, varied(seed, 0.05, spread))
    run(server, 30.0, change=lambda: server.resize(18))
    assert server.share(5.0, 15.0, 37 / 0.05) >= (0.92 if manner == "refuses" else 0.8)
    assert server.share(20.0, 30.0, 18 / 0.05) >= (0.92 if manner == "refuses" else 0.7)
    assert server.failing(15.0, 30.0) < 0.05


@pytest.mark.parametrize("manner", ["refuses", "queues"])
def test_answers_that_become_longer_are_not_taken_for_an_overloaded_server(manner: Manner) -> None:
    server = Server(37, manner)

    def longer() -> None:
        server.seconds = lambda: 0.15

    run(server, 20.0, change=longer)
    assert server.share(10.0, 20.0, 37 / 0.15) >= 0.93


def test_a_server_that_slows_under_load_is_used_for_as_long_as_throughput_grows() -> None:
    # One call alone gives 1 / 0.05 a second, and ever more of them 37 / 0.05.
    server = Server(37, "slows")
    limit = run(server, 20.0)
    assert server.share(10.0, 20.0, 37 / 0.05) >= 0.5
    assert limit.limit < 400


def test_one_call_in_a_hundred_that_takes_twenty_times_as_long_changes_little() -> None:
    rng = random.Random(1)
    server = Server(37, "queues", lambda: 1.0 if rng.random() < 0.01 else 0.05)
    run(server, 20.0)
    assert server.share(5.0, 20.0, 37 / (0.05 + 0.01 * 0.95)) >= 0.9


def test_the_limit_recovers_within_seconds_after_a_storm() -> None:
    server = Server(37)

    async def serve() -> bool:
        now = asyncio.get_running_loop().time()
        if 4.0 < now < 7.0:
            await asyncio.sleep(0.005)
            server.refused.append(now)
            return False
        return await server.serve()

    run(server, 20.0, serve=serve)
    assert server.share(11.0, 20.0, 37 / 0.05) >= 0.97
    assert len(server.refused) < 250


@pytest.mark.parametrize("share", [0.005, 0.02, 0.05])
def test_refusals_that_do_not_depend_on_the_limit_do_not_bring_it_down(share: float) -> None:
    rng = random.Random(5)
    server = Server(37)

    async def serve() -> bool:
        if rng.random() < share:
            await asyncio.sleep(0.005)
            server.refused.append(asyncio.get_running_loop().time())
            return False
        return await server.serve()

    run(server, 30.0, serve=serve)
    assert server.share(10.0, 30.0, 37 / 0.05) >= 0.6


@pytest.mark.parametrize("refused", range(1, 7))
@pytest.mark.parametrize("low", [1, 2, 3, 16, 60])
def test_a_few_refusals_do_not_keep_a_limit_down_for_ever(low: int, refused: int) -> None:
    limit, now = Adaptive(100, start=low, latency=False), 0.0

    def answered(calls: int) -> None:
        nonlocal now
        for _ in range(calls):
            now += 0.05
            limit.answered(now - 0.05, 0.05, True, now)

    def refuse() -> None:
        for _ in range(refused):
            limit.refused(0, now)

    refuse()
    answered(limit.limit)
    refuse()
    answered(5000)
    assert limit.limit == 100


def test_demand_below_the_limit_neither_raises_nor_lowers_it() -> None:
    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        limit = Limit(Adaptive(256, start=32), clock=loop.time)
        await saturate(limit, Server(100).serve, 10.0, 8)
        return limit.limit

    assert simulate(scenario()) == 32


def test_the_ceiling_is_never_passed_and_is_the_limit_of_a_server_that_takes_more() -> None:
    server = Server(1000)
    limit = run(server, 5.0, ceiling=64, start=64)
    assert limit.limit == 64
    assert server.share(0.0, 5.0, 64 / fifty()) >= 0.97


def test_a_limit_that_is_the_users_word_is_lowered_by_refusals_alone() -> None:
    limits: list[int] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        limit = Limit(Adaptive(32, start=32, latency=False), clock=loop.time)
        for server in (Server(8, "queues"), Server(8, "refuses"), Server(32, "refuses")):
            await saturate(limit, server.serve, 10.0, 64)
            limits.append(limit.limit)

    simulate(scenario())
    assert limits == [32, 8, 32]


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.lists(
        st.tuples(
            st.booleans(), st.floats(0.0, 100.0), st.booleans(), st.integers(0, 30), st.sampled_from([0.0, 0.01, 3.0])
        ),
        max_size=300,
    ),
)
def test_the_limit_stays_within_its_bounds_whatever_happens(
    ceiling: int, start: int, events: list[tuple[bool, float, bool, int, float]]
) -> None:
    adaptive = Adaptive(ceiling, start=start)
    now = 0.0
    for answered, seconds, full, active, pause in events:
        now += pause
        if answered:
            adaptive.answered(now - seconds, seconds, full, now)
        else:
            adaptive.refused(active, now)
        assert 1 <= adaptive.limit <= ceiling
