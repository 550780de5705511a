"""What is shown while a study runs, in a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from dspex.cli import progress as shown
from dspex.cli.output import opened
from dspex.lm.spend import Spend
from dspex.study.progress import Left, Progress

MIDWAY = Progress(
    study="s",
    phase="search",
    done=40,
    total=160,
    best=0.625,
    spent=Spend(44, 1000, 234, 0.0125),
    left=Left(calls=106, usd=1.0),
    eta=125.0,
    cache_hits=7,
    message="best so far: nearest",
)


def test_a_line_says_everything() -> None:
    assert shown.line(MIDWAY) == (
        "search   40/160 evaluations · best 0.625 · spent 44 calls, 1234 tokens, $0.0125 · left 106 calls, $1.0000"
        " · 7 cache hits · 2 min 05 s to go · best so far: nearest"
    )
    assert shown.line(Progress("s", "split", spent=Spend(usd=None))) == (
        "split    0 evaluations · spent 0 calls, 0 tokens, unpriced"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (8.4, "8 s"), (59.9, "1 min 00 s"), (125, "2 min 05 s"), (4200, "1 h 10 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert shown.duration(seconds) == text


def test_plain_lines_come_with_changes_and_else_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    show = shown.PlainLines(clock=lambda: now[0])

    def lines(report: Progress) -> int:
        show(report)
        return capsys.readouterr().err.count("\n")

    search = Progress("s", "search", message="a")
    assert lines(search) == 1
    assert [lines(search) for _ in range(50)] == [0] * 50
    assert lines(Progress("s", "search", message="b")) == 1
    assert lines(Progress("s", "final", message="b")) == 1
    now[0] += shown.PLAIN_EVERY_SECONDS
    assert lines(Progress("s", "final", message="b")) == 1
    assert lines(Progress("s", "final", message="b")) == 0


def test_no_terminal_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with shown.showing() as show:
        show(MIDWAY)
    assert "\x1b" not in capsys.readouterr().err


def test_quiet_shows_nothing_and_knows_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    with opened(True) as channel, shown.showing(quiet=True) as show:
        show(MIDWAY)
        assert channel.study == "s"
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> str:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with shown.showing() as show:
        show(MIDWAY)
        show.say("stopping")
    return stream.getvalue()


def test_a_terminal_gets_a_live_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = terminal(monkeypatch)
    for said in (
        "search",
        "40/160",
        "0.625",
        "44 calls",
        "106 calls",
        "7 cache hits",
        "2 min 0",
        "nearest",
        "stopping",
    ):
        assert said in text, said
    assert "\x1b[1;36m" in text


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = terminal(monkeypatch)
    assert "40/160" in text
    assert "\x1b[1;36m" not in text
    assert ";32m" not in text


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    with shown.showing() as show:
        show(MIDWAY)
    assert stream.getvalue() == shown.line(MIDWAY) + "\n"
