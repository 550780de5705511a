"""One target under atheris: `python -m tests.fuzz.harness TARGET CORPUS [libFuzzer's options]`."""

from __future__ import annotations

import sys
import warnings

import atheris  # pyright: ignore[reportMissingImports]

with atheris.instrument_imports(include=["dspex"]):  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    from tests.fuzz import targets

TARGET = sys.argv[1]


def check(data: bytes) -> None:
    targets.one(TARGET, data)


def mutate(data: bytes, limit: int, seed: int) -> bytes:
    if seed % 16 == 0:
        made: bytes = atheris.Mutate(data, limit)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return made  # pyright: ignore[reportUnknownVariableType]
    return targets.mutated(TARGET, data, seed, limit)


def main() -> None:
    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], check, custom_mutator=mutate)  # pyright: ignore[reportUnknownMemberType]
    atheris.Fuzz()  # pyright: ignore[reportUnknownMemberType]


if __name__ == "__main__":
    main()
