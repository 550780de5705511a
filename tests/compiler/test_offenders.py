"""Every code of the compiler is raised by something: none is explained that cannot happen."""

from __future__ import annotations

from pathlib import Path

import pytest

import tests.compiler.offenders_artifact  # pyright: ignore[reportUnusedImport]
from dspex.catalogue import COMPILE
from dspex.errors import DspexError
from tests.compiler.offenders import OFFENDERS

assert tests.compiler.offenders_artifact


def test_every_code_of_the_compiler_has_an_offender() -> None:
    assert sorted(OFFENDERS) == sorted(COMPILE)


@pytest.mark.parametrize("code", sorted(OFFENDERS))
def test_code_is_raised(code: str, tmp_path: Path) -> None:
    assert code in met(code, tmp_path)


def met(code: str, folder: Path) -> tuple[str, ...]:
    """The codes that the offender of `code` raises or is found to have."""
    try:
        return tuple(OFFENDERS[code](folder) or ())
    except DspexError as error:
        return (error.code,)
