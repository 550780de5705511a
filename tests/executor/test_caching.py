"""The cache as the call path sees it: memory that is counted truly, one disk tier, keys that tell calls apart."""

from __future__ import annotations

import gc
import itertools
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from dspex.executor.caching import MemoryCache, TieredCache, call_key
from dspex.lm.types import (
    Attachment,
    LMRequest,
    LMResponse,
    Message,
    RateLimits,
    TokenLogprob,
    ToolCall,
    ToolSpec,
    Usage,
)
from dspex.stores.cache import ResponseCache


def plain(n: int) -> LMResponse:
    return LMResponse(f"answer {n} " * 40, Usage(n, n), model=f"m{n}")


def wide(n: int) -> LMResponse:
    return LMResponse(f"日本語 {n} " * 40, Usage(n, n), reasoning=f"because {n} " * 100, state=f"state {n} " * 20)


def calling(n: int) -> LMResponse:
    calls = tuple(ToolCall(f"call{n}-{i}", f"tool{n}-{i}", f'{{"q": "{n} {i}"}}' * 5) for i in range(4))
    return LMResponse("", Usage(n, n), "tool_calls", tool_calls=calls)


def scored(n: int) -> LMResponse:
    return LMResponse(f"a{n}", Usage(n, n), choice_logprobs=tuple(-0.5 - n - i for i in range(20)))


def detailed(n: int) -> LMResponse:
    tokens = tuple(
        TokenLogprob(f"t{n}-{i}", -0.1 - n - i, tuple((f"o{n}-{i}-{j}", -1.5 - n - i - j) for j in range(3)))
        for i in range(30)
    )
    return LMResponse(f"a{n}", Usage(n, n), logprobs=tokens)


@pytest.mark.parametrize("make", [plain, wide, calling, scored, detailed])
def test_what_memory_counts_is_what_it_takes(make: Callable[[int], LMResponse]) -> None:
    cache = MemoryCache(2**30)
    tracemalloc.start(8)
    try:
        for n in range(1000, 1100):
            cache.put(call_key(str(n), LMRequest()), make(n))
        gc.collect()
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    # What other threads take meanwhile, such as the one that compiles kernels, was not asked for here.
    mine = snapshot.filter_traces([tracemalloc.Filter(True, __file__, all_frames=True)])
    taken = sum(trace.size for trace in mine.traces)
    assert 0.7 < cache.bytes / taken < 1.4


def test_memory_stays_within_its_capacity_under_many_threads() -> None:
    cache = MemoryCache(200_000)
    makers = [plain, wide, calling, scored, detailed]
    begin = threading.Barrier(4)

    def work(start: int) -> None:
        begin.wait()
        for n in range(start, start + 300):
            cache.put(str(n % 500), makers[n % 5](n))
            cache.get(str(n % 70))
            assert cache.bytes <= 200_000

    threads = [threading.Thread(target=work, args=(n * 250,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 20 < len(cache) < 500
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_disk_tier_is_opened_once_and_first_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    cache = TieredCache()
    cache.memory.put("known", plain(1))
    assert cache.get("known") == plain(1)
    cache.close()
    assert not list(tmp_path.iterdir())
    begin = threading.Barrier(4)
    seen: list[ResponseCache | None] = []

    def work() -> None:
        begin.wait()
        seen.append(cache.disk)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    cache.put("a", plain(2))
    cache.close()
    with ResponseCache(tmp_path / "responses.db") as disk:
        assert disk.get("a") == plain(2)


@pytest.mark.parametrize("content", ["hash", "off"])
def test_nothing_is_written_when_no_content_may_be_kept(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DSPEX_CONTENT", content)
    cache = TieredCache()
    assert cache.get("a") is None
    cache.put("a", plain(1))
    assert cache.get("a") == plain(1)
    cache.close()
    assert not list(tmp_path.iterdir())


def test_a_hit_on_disk_is_kept_in_memory(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "responses.db") as disk:
        disk.put("a", plain(1))
        cache = TieredCache(disk=disk)
        assert cache.get("a") == plain(1)
        disk.clear()
        assert cache.get("a") == plain(1)


def test_what_a_server_told_of_its_limits_is_not_kept(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "responses.db") as disk:
        cache = TieredCache(disk=disk)
        cache.put("a", replace(plain(1), limits=RateLimits(requests_left=3)))
        found = cache.get("a")
        assert found is not None
        assert found == plain(1)
        assert found.limits is None


OTHER: dict[type[Any], dict[str, Any]] = {
    Attachment: {"kind": "file", "media_type": "text/plain", "data": "eQ==", "url": "http://x", "name": "other"},
    ToolCall: {"id": "other", "name": "other", "arguments": "[]"},
    ToolSpec: {"name": "other", "description": "other", "parameters": "[]"},
    Message: {
        "role": "assistant",
        "content": "other",
        "attachments": (),
        "tool_calls": (),
        "tool_call_id": "other",
        "state": "other",
    },
    LMRequest: {
        "messages": (),
        "prompt": "other",
        "temperature": 0.5,
        "max_tokens": 11,
        "stop": ("\n",),
        "seed": 0,
        "json_schema": "{}",
        "choices": ("a",),
        "score_choices": True,
        "output_fields": ("a",),
        "rollout": 1,
        "json_mode": True,
        "top_p": 0.5,
        "reasoning": "low",
        "top_logprobs": 0,
        "tools": (),
        "tool_choice": "none",
        "parallel_tools": False,
    },
}
FULL = LMRequest(
    messages=(
        Message(
            "user",
            "a",
            attachments=(Attachment("image", "image/png", "eA==", "", "x"),),
            tool_calls=(ToolCall("i", "f", "{}"),),
            tool_call_id="t",
            state="s",
        ),
        Message("user", "b"),
    ),
    tools=(ToolSpec("f", "does", "{}"),),
)


def variants(value: Any) -> Iterator[Any]:
    """`value` with one of its parts, at any depth, changed."""
    if type(value) in OTHER:
        for field in fields(value):
            if field.name == "cache_point":
                continue
            yield replace(value, **{field.name: OTHER[type(value)][field.name]})
            for other in variants(getattr(value, field.name)):
                yield replace(value, **{field.name: other})
    elif isinstance(value, tuple):
        items: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
        for place, item in enumerate(items):
            for other in variants(item):
                yield (*items[:place], other, *items[place + 1 :])


def test_every_part_of_a_request_is_part_of_its_key() -> None:
    every = [FULL, *variants(FULL)]
    assert len(every) > 40
    for one, other in itertools.combinations(every, 2):
        assert (one == other) == (call_key("m", one) == call_key("m", other))
    assert call_key("m", FULL) != call_key("n", FULL)


def test_where_a_prompt_cache_may_end_is_no_part_of_a_key() -> None:
    plainly, marked = Message("user", "a"), Message("user", "a", cache_point=True)
    assert call_key("m", LMRequest((plainly,))) == call_key("m", LMRequest((marked,)))


def test_texts_do_not_run_into_each_other() -> None:
    pairs = [("ab", ""), ("a", "b"), ("", "ab"), ('a","b', ""), ("\ud800", ""), ("\ud801", ""), ("\\ud800", "")]
    keys = {call_key("m", LMRequest((Message("user", a), Message("user", b)))) for a, b in pairs}
    assert len(keys) == len(pairs)
