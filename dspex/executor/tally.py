"""What calls of one configuration did, counted whichever thread and event loop they ran on."""

from __future__ import annotations

import threading
from typing import Literal, get_args

Counted = Literal["hits", "joined", "retried", "fell_back", "stood_in"]
"""What is counted; `dspex.executor.status.ModelStatus` says what each means."""


class Tally:
    """Counts of what few calls do: the calls that are sent once and answered are counted where they are admitted."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._counts: dict[Counted, int] = dict.fromkeys(get_args(Counted), 0)
        self._lock = threading.Lock()

    def add(self, what: Counted) -> None:
        """It happened once more."""
        with self._lock:
            self._counts[what] += 1

    def __getitem__(self, what: Counted) -> int:
        return self._counts[what]
