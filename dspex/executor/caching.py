"""The response cache as the call path sees it: memory in front of disk, and the key of a call."""

from __future__ import annotations

import atexit
import threading
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

from pydantic_core import to_json

from dspex.lm.types import LMRequest, LMResponse

if TYPE_CHECKING:
    from dspex.stores.cache import ResponseStore

MEMORY_BYTES = 64 * 1024 * 1024
_ENTRY_BYTES = 400
"""What one entry costs besides its text: objects, key and table slot (measured, CPython 3.11)."""

_VERSION = 1


def call_key(fingerprint: str, request: LMRequest) -> str:
    """The identity of a call: a hash over the model's fingerprint and the whole request, rollout included."""
    canonical = [
        _VERSION,
        fingerprint,
        [(message.role, message.content) for message in request.messages],
        request.prompt,
        request.temperature,
        request.max_tokens,
        request.stop,
        request.seed,
        request.json_schema,
        request.choices,
        request.score_choices,
        request.output_fields,
        request.rollout,
    ]
    try:
        encoded = to_json(canonical)
    except ValueError:
        # Lone surrogates have no UTF-8 form; their escapes identify them as well.
        encoded = repr(canonical).encode("ascii", "backslashreplace")
    return blake2b(encoded, digest_size=20).hexdigest()


class MemoryCache:
    """The most recently used responses, up to `capacity` bytes, shared by all threads."""

    def __init__(self, capacity: int = MEMORY_BYTES) -> None:
        self.capacity = capacity
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
                return None
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: str, response: LMResponse) -> None:
        """Keep a response, dropping the least recently used ones beyond the capacity."""
        size = _ENTRY_BYTES + 2 * len(response.text) + 32 * len(response.choice_logprobs or ())
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


class TieredCache:
    """Memory in front of the disk cache of this user, which is opened at the first use of it."""

    def __init__(self, memory: MemoryCache | None = None, disk: ResponseStore | None = None) -> None:
        self.memory = memory if memory is not None else MemoryCache()
        self._disk = disk
        self._lock = threading.Lock()

    @property
    def disk(self) -> ResponseStore:
        """The disk tier."""
        disk = self._disk
        if disk is None:
            with self._lock:
                disk = self._disk
                if disk is None:
                    disk = self._disk = open_disk()
        return disk

    def get(self, key: str) -> LMResponse | None:
        """The response under `key` from either tier."""
        found = self.memory.get(key)
        if found is None:
            found = self.disk.get(key)
            if found is not None:
                self.memory.put(key, found)
        return found

    def put(self, key: str, response: LMResponse) -> None:
        """Keep a response in both tiers."""
        self.memory.put(key, response)
        self.disk.put(key, response)

    def after_fork_in_child(self) -> None:
        """Forget a thread that may have been opening the disk tier; the tier itself looks after its forks."""
        self._lock = threading.Lock()


def open_disk() -> ResponseStore:
    """The response cache that the settings ask for; what waits to be written is written at exit."""
    from dspex.stores.cache import open_cache

    store = open_cache()
    atexit.register(store.close)
    return store
