"""How a person or a program asks a running study to end, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable


class StopToken:
    """Ends a study early. Safe to use from signal handlers and from other threads.

    The first `request` starts nothing new and lets what is in flight end, for `grace` seconds at most; the study then
    ends as interrupted, with the best configuration so far. `cancel` ends it at once.

    Args:
        grace: Seconds for what is in flight.
    """

    def __init__(self, *, grace: float = 10.0) -> None:
        self.grace = grace
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        self._reason: str | None = None
        self._cancelled = False

    @property
    def reason(self) -> str | None:
        """Why the study is to end; None while it is not."""
        return self._reason

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def request(self, reason: str = "interrupted") -> None:
        """Start nothing new; the second request cancels."""
        with self._lock:
            if self._reason is not None:
                self._cancelled = True
            else:
                self._reason = reason
            self._tell()

    def cancel(self) -> None:
        """Cancel what is in flight too."""
        with self._lock:
            self._reason = self._reason or "cancelled"
            self._cancelled = True
            self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` on every change; the result removes it again."""
        with self._lock:
            self._listeners.append(listener)
            if self._reason is not None:
                listener()

        def remove() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return remove
