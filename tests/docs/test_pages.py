"""The reference pages name every flag, exit code, setting and error code, and links lead somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import dspex
from dspex.catalogue import CATALOGUE
from dspex.cli import main, output
from dspex.cli.main import cli, run
from dspex.settings import SETTINGS
from dspex.study.report import Report
from tests.docs.errors_page import PAGE, errors_page
from tests.docs.pages import PAGES, ROOT

DOCS = ROOT / "docs"
CLI_PAGE = (DOCS / "cli.md").read_text(encoding="utf-8")


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that runs something, with the words that call it."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        found = command.get_command(context, word)
        assert found is not None, word
        yield from commands(found, f"{name} {word}")


COMMANDS = dict(commands(cli, "dspex"))


def section(name: str) -> str:
    """The part of the page about a command: its own section, or that of the group it belongs to."""
    heads = {
        head: position for position, head in ((m.start(), m[1]) for m in re.finditer(r"^### `([^`]*)`", CLI_PAGE, re.M))
    }
    for head, position in heads.items():
        words = head.split()
        if name.split()[: len(words)] == words or words[:2] == name.split()[:2]:
            return CLI_PAGE[position : CLI_PAGE.find("\n##", position + 4)]
    raise AssertionError(f"docs/cli.md has no section for {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_flag_is_documented(name: str) -> None:
    text = section(name)
    assert name in text
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            for flag in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"`{flag}[` ]", text), f"{name}: {flag} is not in its section of docs/cli.md"


def test_no_flag_is_documented_that_does_not_exist() -> None:
    known = {
        flag for command in COMMANDS.values() for parameter in command.params for flag in getattr(parameter, "opts", ())
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", CLI_PAGE)) - known == {"--help"}


def test_exit_codes_are_documented_as_the_source_states_them() -> None:
    table = CLI_PAGE[CLI_PAGE.index("## Exit codes") : CLI_PAGE.index("## `--json`")]
    documented = {int(number): text for number, text in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)}
    stated = {int(number): text for number, text in re.findall(r"^(\d+) +(.*)$", main.__doc__ or "", re.MULTILINE)}
    assert documented == stated
    assert set(documented) == {
        output.DONE,
        output.FAULT,
        output.USAGE,
        output.BUDGET,
        output.PROVIDER,
        output.USER_CODE,
        output.REFUSED,
        output.INTERRUPTED,
    }


def test_every_key_of_a_report_is_documented() -> None:
    shape = CLI_PAGE[CLI_PAGE.index("## `--json`") : CLI_PAGE.index("## Signals")]
    keys = {*Report("study", 0, "auto").as_json(), *output.envelope()}
    assert [key for key in keys if f'"{key}"' not in shape and f"`{key}`" not in shape] == []


def test_every_setting_is_documented() -> None:
    page = (DOCS / "storage.md").read_text(encoding="utf-8")
    table = page[page.index("## Settings") :]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(SETTINGS)


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_error_code_is_explained_on_the_command_line(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", code]) == 0
    said = capsys.readouterr().out
    assert code in said
    assert CATALOGUE[code].title in said


def test_the_page_of_error_codes_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == errors_page(), "run `python -m tests.docs.errors_page`"


def test_an_unknown_code_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "DX0000", "--json"]) == output.USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "DX8308"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_the_pages_exist(page: Path) -> None:
    """Exported names, error codes, settings and files of the project."""
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\bdx\.(\w+)", text)) - {*dspex.__all__} == set()
    assert set(re.findall(r"\bDX\d{4}\b", text)) - {*CATALOGUE} == set()
    variables = {f"DSPEX_{name.upper()}" for name in SETTINGS}
    assert set(re.findall(r"\bDSPEX_[A-Z_]+\b(?!_)", text)) - variables <= {"DSPEX_DATA"}
    files = re.findall(r"`((?:dspex|tests|benchmarks|docs|examples)/[\w./-]+)`", text)
    assert [file for file in files if not (ROOT / file).exists()] == []


def slug(heading: str) -> str:
    """The anchor that hosts of Markdown give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_pages_and_sections_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


def test_the_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in text] == []
