"""`dspex doctor`: is everything in place?"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import asdict, dataclass

import click

from dspex._version import __version__
from dspex.cli.output import FAULT, color, emit, envelope


@dataclass(frozen=True)
class Line:
    """One thing that was checked."""

    name: str
    ok: bool
    detail: str
    fix: str | None = None


def own_checks() -> list[Line]:
    """Python, the home folder, the kernels' cache and the chosen model."""
    from dspex import settings

    lines = [Line("dspex", True, __version__), Line("python", sys.version_info >= (3, 11), platform.python_version())]
    for name, find in (("home", settings.home), ("cache", settings.cache_dir)):
        path = find()
        ok = os.access(path, os.W_OK)
        lines.append(Line(name, ok, str(path), None if ok else f"make {path} writable or set DSPEX_HOME"))
    from dspex.core import jit
    from dspex.core.native import library

    served = library.report() if jit.ENABLED else "plain Python (DSPEX_JIT=0)"
    fix = "install dspex again, or delete what is named: kernels are then compiled on this machine"
    wrong = "; ".join(library.problems)
    lines.append(Line("kernels", not wrong, wrong or served, fix if wrong else None))
    chosen = settings.setting("lm")
    lines.append(Line("model", True, chosen or "none chosen: pass lm=, or set DSPEX_LM, for example to local/smollm2"))
    rich = importlib.util.find_spec("rich") is not None
    lines.append(Line("rich", True, "present" if rich else 'absent: plain lines (pip install "dspex[cli]")'))
    return lines


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(as_json: bool) -> int:
    """Check Python, folders, kernels, the local model and its system libraries, and say how to mend what is wrong."""
    from dspex.providers.local import doctor_checks

    lines = [*own_checks(), *(Line(c.name, c.ok, c.detail, c.fix) for c in doctor_checks())]
    good = all(line.ok for line in lines)
    if as_json:
        emit(envelope("complete" if good else "failed", checks=[asdict(line) for line in lines]))
    else:
        for line in lines:
            mark = click.style("ok  ", fg="green") if line.ok else click.style("fail", fg="red")
            click.echo(f"{mark}  {line.name:<12} {line.detail}", color=color())
            if line.fix and not line.ok:
                click.echo(f"      fix: {line.fix}")
    return 0 if good else FAULT
