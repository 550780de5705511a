"""Stop texts that a server does not take: the answer is cut on this side."""

from __future__ import annotations

from dataclasses import replace

from dspex.lm.types import LMResponse


class Cutter:
    """Lets the pieces of a text through up to the one of `stops` that is complete first.

    Attributes:
        met: Whether a stop text was met.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.met = False
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, piece: str) -> str:
        """What is certain to stand before a stop text, with `piece`."""
        if self.met or not self._stops:
            return "" if self.met else piece
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.met = True
            self._held = ""
            return text[: min(found)[1]]
        # What may be the beginning of a stop text waits for what follows.
        begun = max(
            (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]

    def end(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


def cut(response: LMResponse, stops: tuple[str, ...]) -> LMResponse:
    """`response` as if the server had ended it at the first of `stops`; its usage is what was really generated."""
    cutter = Cutter(stops)
    text = cutter.feed(response.text)
    return replace(response, text=text, stop="stop", tool_calls=(), state="") if cutter.met else response
