"""Shows a study's progress on stderr: live in a terminal with rich, otherwise plain lines."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from dspex.cli.output import channel

if TYPE_CHECKING:
    from rich.table import Table

    from dspex.lm.spend import Spend
    from dspex.study.progress import Left, Progress

PLAIN_EVERY_SECONDS = 5.0
BAR = 36


class Show(Protocol):
    """A display of one study's progress."""

    def __call__(self, progress: Progress, /) -> None:
        """Show a report."""
        ...

    def say(self, text: str) -> None:
        """Show a notice; safe inside a signal handler."""
        ...


def amount(usd: float | None) -> str:
    """Dollars for a person."""
    return "unpriced" if usd is None else f"${usd:.4f}"


def duration(seconds: float) -> str:
    """A time span for a person: ``8 s``, ``2 min 05 s``, ``1 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def spent_text(spent: Spend) -> str:
    """What a study has spent."""
    return f"{spent.calls} calls, {spent.tokens} tokens, {amount(spent.usd)}"


def left_text(left: Left) -> str:
    """What the budget still allows, or an empty text."""
    parts = [
        f"{left.calls} calls" if left.calls is not None else "",
        f"{left.tokens} tokens" if left.tokens is not None else "",
        amount(left.usd) if left.usd is not None else "",
        duration(left.wall) if left.wall is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def line(progress: Progress) -> str:
    """One progress report as one line of text."""
    done = f"{progress.done}/{progress.total}" if progress.total else f"{progress.done}"
    parts = [f"{progress.phase:<9}{done} evaluations"]
    if progress.best is not None:
        parts.append(f"best {progress.best:.3f}")
    parts.append(f"spent {spent_text(progress.spent)}")
    if left := left_text(progress.left):
        parts.append(f"left {left}")
    if progress.cache_hits:
        parts.append(f"{progress.cache_hits} cache hits")
    if progress.eta is not None:
        parts.append(f"{duration(progress.eta)} to go")
    if progress.message:
        parts.append(progress.message)
    return " · ".join(parts)


class Silent:
    """Shows nothing but notices."""

    def __call__(self, progress: Progress, /) -> None:
        return None

    def say(self, text: str) -> None:
        # Not through the stream: a signal handler may have interrupted a write to it.
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode())


class PlainLines(Silent):
    """One line when the phase or the message changes, and otherwise one every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown = ("", "")
        self._last = 0.0

    def __call__(self, progress: Progress, /) -> None:
        now = self._clock()
        shown = (progress.phase, progress.message)
        if shown == self._shown and now - self._last < PLAIN_EVERY_SECONDS:
            return
        self._shown, self._last = shown, now
        click.echo(line(progress), err=True)


@contextmanager
def showing(quiet: bool = False) -> Generator[Show]:
    """The display that fits the terminal; the study that it shows becomes the channel's."""
    if quiet:
        yield _Known(Silent())
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and importlib.util.find_spec("rich"):
        with _live() as show:
            yield _Known(show)
    else:
        yield _Known(PlainLines())


class _Known:
    """Tells the channel which study runs, so that an interruption can name it."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self.say = show.say

    def __call__(self, progress: Progress, /) -> None:
        channel().study = progress.study
        self._show(progress)


class Display:
    """What the live display shows: the latest report, drawn anew several times a second."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._at = 0.0
        self._notice = ""

    def __call__(self, progress: Progress, /) -> None:
        self._progress, self._at = progress, time.monotonic()

    def say(self, text: str) -> None:
        self._notice = text

    def __rich__(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")

        def row(name: str, value: str | Text) -> None:
            grid.add_row(Text(name, style="dim"), Text(value) if isinstance(value, str) else value)

        progress = self._progress
        if progress is None:
            row("starting", "")
        else:
            done = f"{progress.done}/{progress.total}" if progress.total else f"{progress.done}"
            bar = ProgressBar(progress.total, min(progress.done, progress.total or progress.done), width=BAR)
            head = Table.grid(padding=(0, 2))
            head.add_row(bar, f"{done} evaluations")
            grid.add_row(Text(progress.phase, style="bold cyan"), head)
            best = "not known yet" if progress.best is None else f"{progress.best:.3f} on validation"
            row("best", Text(best, style="dim" if progress.best is None else "bold green"))
            cached = f", {progress.cache_hits} cache hits" if progress.cache_hits else ""
            row("spent", spent_text(progress.spent) + cached)
            if left := left_text(progress.left):
                row("left", left)
            if progress.eta is not None:
                row("to go", f"about {duration(progress.eta - (time.monotonic() - self._at))}")
            if progress.message:
                row("now", progress.message)
        if self._notice:
            row("", Text(self._notice, style="yellow"))
        return grid


@contextmanager
def _live() -> Generator[Show]:
    from rich.console import Console
    from rich.live import Live

    display = Display()
    with Live(display, console=Console(stderr=True), refresh_per_second=8, transient=True, redirect_stdout=False):
        yield display
