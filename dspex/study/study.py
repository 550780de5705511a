"""What `best.study` is: the finished study with its report, trials and events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dspex.stores.protocol import Event, EventStore
from dspex.study.report import Report
from dspex.telemetry.events import Json


@dataclass(frozen=True)
class Trial:
    """One candidate as the search saw it.

    Attributes:
        number: In the order of asking; 0 is the default configuration.
        origin: Who proposed it.
        configuration: By name; members of pools by index.
        mean: Mean validation score; None when it was not evaluated.
        examples: Validation examples that it was evaluated on.
    """

    number: int
    origin: str
    configuration: Mapping[str, Json]
    mean: float | None
    examples: int


@dataclass(frozen=True)
class Study:
    """A study that ran.

    Attributes:
        id: Its name in the store.
        report: Scores, costs and what won.
        trials: Every candidate, in the order of asking.
    """

    id: str
    report: Report
    trials: tuple[Trial, ...] = ()
    store: EventStore | None = field(default=None, repr=False, compare=False)

    def events(self, after: int = 0) -> Iterator[Event]:
        """Its events, oldest first, while its store is open."""
        return iter(()) if self.store is None else self.store.read(self.id, after)
