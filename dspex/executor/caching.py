"""The response cache as the call path sees it: memory in front of disk, and the key of a call."""

from __future__ import annotations

import atexit
import json
import threading
from collections import OrderedDict
from dataclasses import asdict, replace
from hashlib import blake2b
from sys import getsizeof
from typing import TYPE_CHECKING

from pydantic_core import to_json

from dspex.lm.types import LMRequest, LMResponse, Message

if TYPE_CHECKING:
    from dspex.stores.cache import ResponseCache

MEMORY_BYTES = 64 * 1024 * 1024

# What an entry costs besides its texts: objects, key and table slot; measured with tracemalloc, CPython 3.11.
_ENTRY_BYTES = 520
_CALL_BYTES = 60
_TOKEN_BYTES = 150
_ALTERNATIVE_BYTES = 140

_VERSION = 2


def call_key(fingerprint: str, request: LMRequest) -> str:
    """The identity of a call: a hash over the model's fingerprint and the whole request, rollout included."""
    canonical: list[object] = [
        _VERSION,
        fingerprint,
        [_turn(message) for message in request.messages],
        request.prompt,
        request.temperature + 0.0,  # 0 and -0.0 are 0.0
        request.max_tokens,
        request.stop,
        request.seed,
        request.json_schema,
        request.choices,
        request.score_choices,
        request.output_fields,
        request.rollout,
    ]
    rest = (
        request.json_mode,
        None if request.top_p is None else request.top_p + 0.0,
        request.reasoning,
        request.top_logprobs,
        request.tools,
        request.tool_choice,
        request.parallel_tools,
    )
    if rest != _PLAIN:
        canonical.append(rest)
    try:
        encoded = to_json(canonical)
    except ValueError:
        # Lone surrogates have no UTF-8 form.
        encoded = json.dumps(canonical, default=asdict, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return blake2b(encoded, digest_size=20).hexdigest()


_PLAIN = (False, None, None, None, (), "auto", True)
"""What a request has that asks for none of these: most do, and their key costs no more for it."""


def _turn(message: Message) -> tuple[object, ...]:
    """All of a message that determines the answer; where a prompt cache may end does not."""
    if message.attachments or message.tool_calls or message.tool_call_id or message.state:
        more = (message.attachments, message.tool_calls, message.tool_call_id, message.state)
        return (message.role, message.content, *more)
    return (message.role, message.content)


class MemoryCache:
    """The most recently used responses, up to `capacity` bytes, shared by all threads.

    Attributes:
        hits, misses: Lookups that found a response, and that did not.
    """

    def __init__(self, capacity: int = MEMORY_BYTES) -> None:
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[LMResponse, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Estimated size of what is held."""
        return self._bytes

    def get(self, key: str) -> LMResponse | None:
        """The response under `key`, now the most recently used."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: str, response: LMResponse) -> None:
        """Keep a response, dropping the least recently used ones beyond the capacity."""
        size = _bytes_of(response)
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self._bytes -= old[1]
            if size > self.capacity:
                return
            self._entries[key] = (response, size)
            self._bytes += size
            while self._bytes > self.capacity:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._bytes -= dropped

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def before_fork(self) -> None:
        """Let no other thread be half-way through a change."""
        self._lock.acquire()

    def after_fork(self) -> None:
        """Go on, in the parent as in the child, which keeps the entries."""
        self._lock.release()


def _bytes_of(response: LMResponse) -> int:
    size = _ENTRY_BYTES + getsizeof(response.text)
    if response.reasoning:
        size += getsizeof(response.reasoning)
    if response.state:
        size += getsizeof(response.state)
    if response.choice_logprobs is not None:
        size += 32 * len(response.choice_logprobs)
    for call in response.tool_calls:
        size += _CALL_BYTES + getsizeof(call.id) + getsizeof(call.name) + getsizeof(call.arguments)
    if response.logprobs is not None:
        size += sum(_TOKEN_BYTES + _ALTERNATIVE_BYTES * len(token.top) for token in response.logprobs)
    return size


class TieredCache:
    """Memory in front of the disk cache of this user, which is opened at the first use of it.

    Args:
        memory: The first tier.
        disk: The second tier; by default what the settings ask for, which may be none.

    Attributes:
        disk_hits: Lookups that the second tier answered.
        stores: Responses that were kept.
    """

    def __init__(self, memory: MemoryCache | None = None, disk: ResponseCache | None = None) -> None:
        self.memory = memory if memory is not None else MemoryCache()
        self.disk_hits = 0
        self.stores = 0
        self._disk = disk
        self._opened = disk is not None
        self._lock = threading.Lock()

    @property
    def disk(self) -> ResponseCache | None:
        """The disk tier; None where no content may be kept on disk."""
        if not self._opened:
            with self._lock:
                if not self._opened:
                    self._disk = _open_disk()
                    self._opened = True
        return self._disk

    def get(self, key: str) -> LMResponse | None:
        """The response under `key` from either tier."""
        found = self.memory.get(key)
        if found is None and (disk := self.disk) is not None:
            found = disk.get(key)
            if found is not None:
                with self._lock:
                    self.disk_hits += 1
                self.memory.put(key, found)
        return found

    def put(self, key: str, response: LMResponse) -> None:
        """Keep a response in both tiers."""
        if response.limits is not None:
            response = replace(response, limits=None)
        with self._lock:
            self.stores += 1
        self.memory.put(key, response)
        if (disk := self.disk) is not None:
            disk.put(key, response)

    def close(self) -> None:
        """Write what waits to be written and release the disk tier's file, if it was opened."""
        if self._disk is not None:
            self._disk.close()

    def after_fork_in_child(self) -> None:
        """Forget a thread that may have been opening the disk tier; the tier itself looks after its forks."""
        self._lock = threading.Lock()


def _open_disk() -> ResponseCache | None:
    """The response cache that the settings ask for; what waits to be written is written at exit."""
    from dspex.stores.cache import open_cache

    store = open_cache()
    if store is not None:
        atexit.register(store.close)
    return store
