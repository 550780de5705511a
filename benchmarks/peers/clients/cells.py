"""What is measured: one cell is one way of calling, the same for every client."""

from __future__ import annotations

from dataclasses import dataclass

QUESTION = "Which city is the capital of France? (question {})"
ANSWER = "Paris"


@dataclass(frozen=True, slots=True)
class Cell:
    """One way of calling.

    Attributes:
        in_flight: Calls at once.
        delay: Seconds that the server takes.
        tls: Whether over TLS.
        stream: Whether the answer is streamed, and read event by event.
    """

    in_flight: int
    delay: float
    tls: bool = False
    stream: bool = False

    @property
    def name(self) -> str:
        """For people."""
        words = [f"{self.in_flight} in flight", f"{self.delay * 1000:g} ms"]
        return ", ".join([*words, *["TLS"] * self.tls, *["streamed"] * self.stream])


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement, as it goes to a client's process.

    Attributes:
        work: ``http``, ``instant`` (a model in the process that answers at once) or ``cached``.
        url: The server's base URL.
        in_flight, stream: Of the cell.
        seconds: How long.
        calls: How many, for ``instant`` and ``cached``.
    """

    work: str
    url: str = ""
    in_flight: int = 1
    stream: bool = False
    seconds: float = 1.0
    calls: int = 1000


THROUGHPUT = Cell(256, 0.05)
SHORT = (
    *(Cell(many, delay) for many in (1, 64, 512) for delay in (0.0, 0.05)),
    Cell(64, 0.0, tls=True),
    Cell(64, 0.0, stream=True),
)
FULL = tuple(
    Cell(many, delay, tls, stream)
    for tls in (False, True)
    for stream in (False, True)
    for many in (1, 64, 512)
    for delay in (0.0, 0.05)
)
