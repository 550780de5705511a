"""Entry point: finds the command, runs it, and turns every ending into an exit code.

0    done
1    a fault of dspex itself or of its store, something that `doctor` misses, or what `check` found
2    usage: the command line, a setting, a file, a data set, a budget too small, or no model chosen
3    the budget is exhausted; a partial result was saved
4    provider: the model's server, its answers, or the local model
5    user code: a program or a metric raised, or does not compile
6    resume refused: program, data, metric or versions changed, or another process works on the study
130  interrupted
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO, cast

import click

from dspex._version import __version__

COMMANDS = {
    "demo": ("dspex.cli.demo", "Optimize a real program on the real local model, end to end."),
    "new": ("dspex.cli.new", "Create a small project that runs."),
    "run": ("dspex.cli.run", "Run a program or an artifact on one input."),
    "evaluate": ("dspex.cli.evaluate", "Score a program or an artifact on a data set."),
    "optimize": ("dspex.cli.optimize", "Search a program's Variables on a data set."),
    "compile": ("dspex.cli.compile", "Compile a program into a .dspex artifact."),
    "verify": ("dspex.cli.sign:verify", "Check an artifact's hashes and its signature."),
    "sign": ("dspex.cli.sign:sign", "Sign an artifact."),
    "keygen": ("dspex.cli.sign:keygen", "Make a pair of keys to sign and verify artifacts with."),
    "export": ("dspex.cli.export", "Show an artifact's prompts as Markdown, as request bodies or as JSON."),
    "unpack": ("dspex.cli.pack:unpack", "Write an artifact's parts as files."),
    "pack": ("dspex.cli.pack:pack", "Make an artifact of unpacked files, with edited instructions."),
    "explain": ("dspex.cli.explain", "Show a program as the compiler sees it, or what an error code means."),
    "check": ("dspex.cli.check", "Check every program of a project, before any call."),
    "model": ("dspex.cli.model", "Fetch and list local models."),
    "study": ("dspex.cli.study", "List, show, resume and delete studies."),
    "cache": ("dspex.cli.cache", "Show and clear the response cache."),
    "mock-server": ("dspex.cli.mock_server", "Serve the protocols of model providers for tests."),
    "doctor": ("dspex.cli.doctor", "Check that everything dspex needs is in place."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, so that `--help` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {cmd_name!r}.{hint}", ctx)
        place, _, name = COMMANDS[cmd_name][0].partition(":")
        return cast(click.Command, getattr(importlib.import_module(place), name or "command"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 fault, 2 usage, 3 budget exhausted, 4 provider, 5 user code, 6 refused resume, 130 "
    "interrupted.",
)
@click.version_option(__version__, prog_name="dspex")
def cli() -> None:
    """Compile programs of language-model calls, optimize any parameter in them, and run them."""


def asks_json(arguments: Sequence[str]) -> bool:
    """Whether ``--json`` is among the options."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def run(arguments: Sequence[str], stream: TextIO | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: Without the program's name.
        stream: Where a JSON result goes; stdout by default.
    """
    from dspex.cli.output import FAULT, failed, interrupted, opened, usage_error

    with opened(asks_json(arguments), stream) as channel:
        try:
            try:
                code = _run(arguments)
            except (click.exceptions.Abort, KeyboardInterrupt):
                code = interrupted()
            except BrokenPipeError:
                raise
            except click.ClickException as error:
                code = usage_error(error)
            except Exception as error:  # noqa: BLE001 - the outermost boundary: every ending becomes an exit code
                code = failed(error)
            channel.flush()
            channel.stream.flush()
        except BrokenPipeError:
            # Whoever reads has seen enough; the interpreter must not fail on the same pipe when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), channel.stream.fileno())
            code = FAULT
    return code


def _run(arguments: Sequence[str]) -> int:
    from dspex.cli.output import color

    try:
        result = cli.main(list(arguments), prog_name="dspex", standalone_mode=False, color=color())
    except click.exceptions.Exit as ending:
        return ending.exit_code
    return result if isinstance(result, int) else 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    from dspex.cli.output import note

    note(f"warning: {message}")


def main() -> None:
    """Console entry point."""
    from dspex.cli.output import claim_stdout
    from dspex.cli.signals import interrupt_on_sigterm

    arguments = sys.argv[1:]
    interrupt_on_sigterm()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character must not end a command.
            stream.reconfigure(errors="replace")
    warnings.showwarning = _show_warning
    sys.exit(run(arguments, claim_stdout() if asks_json(arguments) else None))
