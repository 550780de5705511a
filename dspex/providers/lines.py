"""From bytes as they arrive to lines, and from lines to server-sent events; pure, so that any cut gives the same."""

from __future__ import annotations


class Lines:
    """Lines without their ends, which are LF, CR LF or CR, each as soon as its end is there.

    Invalid UTF-8 becomes U+FFFD; a byte order mark at the beginning is left out.

    Attributes:
        pending: Bytes of the line that has no end yet.

    Source: HTML Standard, 9.2.5 "Parsing an event stream".
    """

    __slots__ = ("_after_cr", "_begun", "_rest", "pending")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._after_cr = False
        self._begun = False
        self.pending = 0

    def feed(self, piece: bytes) -> list[str]:
        """The lines that end within `piece`, which is not empty."""
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        self._after_cr = piece.endswith(b"\r")
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        whole, end, rest = piece.rpartition(b"\n")
        if not end:
            self._rest.append(rest)
            self.pending += len(rest)
            return []
        self._rest.append(whole)
        text = self._decoded(b"".join(self._rest))
        self._rest, self.pending = [rest], len(rest)
        return text.split("\n")

    def end(self) -> list[str]:
        """The last line, when the stream ended without an end of it."""
        whole, self._rest, self.pending = b"".join(self._rest), [], 0
        return [self._decoded(whole)] if whole else []

    def _decoded(self, whole: bytes) -> str:
        text = whole.decode("utf-8", "replace")
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        return text


class Events:
    """Server-sent events as pairs of name and data; the name is ``message`` where the server gave none.

    Events without data, comments, ids and times to reconnect are left out.

    Source: HTML Standard, 9.2.6 "Interpreting an event stream". Unlike there an event at the end of the stream counts
    without the empty line behind it: some servers leave out the last one.
    """

    __slots__ = ("_data", "_held", "_lines", "_name")

    def __init__(self) -> None:
        self._lines = Lines()
        self._name = ""
        self._data: list[str] = []
        self._held = 0

    @property
    def pending(self) -> int:
        """Bytes, roughly, of the event that has no end yet."""
        return self._lines.pending + self._held

    def feed(self, piece: bytes) -> list[tuple[str, str]]:
        """The events that end within `piece`, which is not empty."""
        return self._read(self._lines.feed(piece))

    def end(self) -> list[tuple[str, str]]:
        """The last event, when the stream ended without an end of it."""
        return self._read([*self._lines.end(), ""])

    def _read(self, lines: list[str]) -> list[tuple[str, str]]:
        events: list[tuple[str, str]] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append((self._name or "message", "\n".join(self._data)))
                    self._data, self._held = [], 0
                self._name = ""
                continue
            key, _, value = line.partition(":")
            if key == "data":
                self._data.append(value.removeprefix(" "))
                self._held += len(line)
            elif key == "event":
                self._name = value.removeprefix(" ")
        return events
