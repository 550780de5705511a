"""Running command lines, and a model server for the project that `dspex new` makes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from dspex.cli.main import run
from dspex.cli.new import PAIRS
from dspex.testing import MockRequest

CAPITALS = dict(cast("tuple[str, str]", tuple(pair.split())) for pair in PAIRS.split(", "))
COMMON = {"schema_version", "status", "stopped_because", "study", "seed", "spent", "error"}


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout, with the keys that all results have."""
        found = cast("dict[str, Any]", json.loads(self.out))
        assert set(found) >= COMMON, COMMON - set(found)
        assert found["schema_version"] == 1
        assert found["status"] in ("complete", "partial", "interrupted", "failed")
        assert set(found["spent"]) == {"settled", "uncertain"}
        for spent in found["spent"].values():
            assert set(spent) == {"calls", "tokens", "usd"}
        if found["error"] is not None:
            assert set(found["error"]) >= {"code", "message", "fix"}
        return found

    def refused(self, code: int, error: str) -> str:
        """The message of the error that this has to have ended with, in text or JSON."""
        assert self.code == code, self.err
        if self.out.startswith("{"):
            found = self.json
            assert found["status"] == "failed"
            assert found["error"]["code"] == error, found["error"]
            return str(found["error"]["message"])
        assert self.out == ""
        assert error in self.err
        return self.err


Invoke = Callable[..., Ended]


def invoke_with(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """A function that runs a command line in this process."""

    def invoke(*arguments: str) -> Ended:
        capsys.readouterr()
        code = run(arguments)
        taken = capsys.readouterr()
        return Ended(code, taken.out, taken.err)

    return invoke


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with settings that a child needs."""
    root = str(Path(__file__).resolve().parents[2])
    # Kernels would be compiled anew for the cache folder of each test.
    return {**os.environ, "PYTHONPATH": root, "DSPEX_JIT": "0", **more}


def spawn(
    *arguments: str, folder: Path | None = None, settings: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A command line in a process of its own, its streams piped."""
    return subprocess.Popen(
        [sys.executable, "-c", "from dspex.cli.main import main; main()", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**(settings or {})),
        cwd=folder,
    )


def ended(process: subprocess.Popen[str], seconds: float = 60.0) -> Ended:
    """Wait for the end of a process."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Ended(process.returncode, out, err)


def wait_while(process: subprocess.Popen[str], condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until `condition` fails to hold, or fail when the process ends or the time is over first."""
    deadline = time.monotonic() + seconds
    while condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"the process ended with {process.returncode} before that\n{out}\n{err}")
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Lines of stderr up to the first that holds `text`."""
    if process.stderr is None:
        raise RuntimeError("stderr is not piped")
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    process.wait()
    pytest.fail(f"the process ended with {process.returncode} and did not say {text!r}:\n{''.join(lines)}")


def capital(request: MockRequest) -> str | Mapping[str, object]:
    """The capital of the last country in the prompt: right the more often the more examples the prompt shows."""
    text = request.text
    if "instruction" in text.casefold() and "current" in text.casefold():
        return {"instruction": f"Name the capital. ({len(text) % 7})"}
    countries = re.findall(r"capital of (\w+)", text)
    if not countries:
        return "nowhere"
    draw = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100
    return CAPITALS[countries[-1]] if draw < min(95, 30 + 10 * len(countries)) else "nowhere"
