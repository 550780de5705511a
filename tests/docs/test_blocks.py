"""Runs every Python block and every `dspex` line of the README, of CONTRIBUTING and of the pages in `docs`.

The blocks of one page run in order, in one namespace and one empty directory, with a directory of their own for
studies and caches. A Python block that begins with the comment ``# file.py`` is written to that file instead, where
the blocks and shell lines after it find it. Shell lines that name no model have a scripted one. Passed over are lines
of other programs (pip, nox, …) and those that end in ``# needs the model``.
"""

from __future__ import annotations

import os
import shlex
import sys
import types
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest

from dspex.cli.main import run
from dspex.lm.types import LMRequest
from dspex.program.context import using
from dspex.program.program import Program
from dspex.testing import ScriptedLM
from tests.docs.pages import NEEDS_MODEL, PAGES, Block, blocks
from tests.kernels import share

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHELL = ("console", "shell", "sh", "bash")


def answer(request: LMRequest) -> dict[str, object] | str:
    """The first choice, or a text for every field: right only once there are demonstrations to copy from."""
    if request.choices:
        return request.choices[0]
    return dict.fromkeys(request.output_fields, "Paris")


def forget(folder: Path) -> None:
    """Forget modules that were imported from below `folder`, so that files of the same name are read again."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).is_relative_to(folder):
            del sys.modules[name]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """An empty working directory with its own stores, from which modules can be imported."""
    for name in [name for name in os.environ if name.startswith("DSPEX_") and name not in ("DSPEX_JIT",)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DSPEX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(share(tmp_path / "cache")))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.chdir(folder)
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    # A page's own file may have the name of an example that another test imported.
    forget(EXAMPLES)
    yield folder
    sys.path[:] = path
    forget(tmp_path)


def run_python(block: Block, names: dict[str, object]) -> None:
    if block.text.startswith(NEEDS_MODEL):
        return
    if block.file is not None:
        Path(block.file).write_text(block.text, encoding="utf-8")
        return
    # Blank lines in front, so that a traceback has the page's own line numbers.
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    exec(code, names)


def run_shell(block: Block, capfd: pytest.CaptureFixture[str]) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.rstrip().endswith(NEEDS_MODEL):
            continue
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            if words[:1] == ["cd"]:
                forget(Path.cwd())
                os.chdir(words[1])
                continue
            if words[:1] != ["dspex"]:
                break
            with using(lm=ScriptedLM(answer)):
                code = run(words[1:])
            assert code == 0, f"{block.page.name}:{block.line}: {command.strip()}\n{capfd.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = types.ModuleType("__docs__")
    names: dict[str, object] = module.__dict__
    sys.modules["__docs__"] = module
    try:
        for block in blocks(page):
            if block.language == "python":
                run_python(block, names)
            elif block.language in SHELL:
                run_shell(block, capfd)
    finally:
        del sys.modules["__docs__"]


def test_the_optimized_program_of_the_readme_is_better(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks(PAGES[0]):
        if block.language == "python":
            run_python(block, names)
    report = cast("Program[Any, Any]", names["best"]).study.report
    assert report.gain is not None
    assert report.gain.low > 0
    assert "gain, paired" in capfd.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_only_lines_of_dspex_are_passed_over_for_the_model(page: Path) -> None:
    """The mark hides a line from these tests, so there are few of them."""
    assert page.read_text(encoding="utf-8").count(NEEDS_MODEL) <= 3
