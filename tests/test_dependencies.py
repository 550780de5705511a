"""What `pip install dspex` brings with it, followed through the metadata of what is installed here."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MOST = 16


def core_set(name: str) -> set[str]:
    """`name` and everything that it requires in this environment, extras left out unless a requirement names them."""
    found: set[str] = set()
    asked: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(name), frozenset[str]())]
    while waiting:
        package, extras = waiting.pop()
        found.add(package)
        for line in requires(package) or ():
            requirement = Requirement(line)
            wanted = next((e for e in ("", *sorted(extras)) if _holds(requirement, e)), None)
            key = (f"{package}[{','.join(sorted(extras))}]", line)
            if wanted is None or key in asked:
                continue
            asked.add(key)
            waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_the_core_set_is_small() -> None:
    found = core_set("dspex") - {"dspex"}
    assert {"numpy", "numba", "pydantic", "httpx", "click"} <= found
    assert len(found) <= MOST, sorted(found)


def test_the_core_set_leaves_extras_out() -> None:
    assert core_set("dspex") & {"rich", "xllamacpp", "genai-prices", "sqlalchemy", "dspy"} == set()


def test_every_package_of_the_core_set_is_installed() -> None:
    for name in core_set("dspex"):
        try:
            requires(name)
        except PackageNotFoundError:
            raise AssertionError(f"{name} is required on Python {sys.version_info[:2]} and is not installed") from None
