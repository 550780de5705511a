"""`python -m benchmarks.kernels [--only SUBSTRING] [--json FILE]`: a table of kernels beside C and NumPy.

Times are medians of CPU time for one call; the bar is 1.25 times C.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.kernels.harness import BAR, Measured, compiler, discover, machine, measure


def main() -> None:
    """Measure, print a line for each work as it is done, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--only", default="", help="measure works whose name holds this text")
    parser.add_argument("--json", type=Path, help="also write the figures, the machine and the versions to this file")
    options = parser.parse_args()
    where = machine()
    print(", ".join(f"{key} {value}" for key, value in where.items() if value))
    if compiler() is None:
        print("no C compiler was found: the C column stays empty")
    print(f"{'kernel':52} {'ours':>9} {'C':>9} {'NumPy':>9} {'ours/C':>7} {'units/s':>10}  share of the limit")
    done: list[Measured] = []
    for name, builder in discover().items():
        if options.only in name:
            done.append(measure(name, builder()))
            print(line(done[-1]), flush=True)
    compared = [each for each in done if each.ratio is not None]
    above = [each.name for each in compared if each.ratio is not None and each.ratio > BAR]
    print(f"{len(compared) - len(above)} of {len(compared)} within {BAR} x C", *above, sep="\n  above: ")
    if options.json:
        figures = [asdict(each) | {"ratio": each.ratio} for each in done]
        options.json.write_text(json.dumps({"machine": where, "bar": BAR, "kernels": figures}, indent=1) + "\n")


def line(found: Measured) -> str:
    """One line of the table."""
    ratio = "" if found.ratio is None else f"{found.ratio:.2f}"
    limit = f"{found.limit_seconds / found.ours:.0%} of {found.limit}" if found.limit else ""
    times = f"{_time(found.ours):>9} {_time(found.c):>9} {_time(found.numpy):>9}"
    return f"{found.name:52} {times} {ratio:>7} {found.units / found.ours:10.3g}  {found.unit}  {limit}".rstrip()


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


if __name__ == "__main__":
    main()
