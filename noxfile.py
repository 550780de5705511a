"""Development sessions. `nox -l` lists them; each creates an environment of its own."""

from __future__ import annotations

import os

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install the project in editable form with the named dependency groups, in one resolution."""
    wanted = [requirement for group in groups for requirement in nox.project.dependency_groups(PYPROJECT, group)]
    session.install("-e", f".[{extras}]" if extras else ".", *wanted)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types strictly: package, tests, benchmarks and examples."""
    install(session, "test", "types", "bench", extras="cli")
    session.run("pyright", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default test suite: no key, no network but loopback."""
    install(session, "test", "types", "bench", extras="local")
    # The type checker and the model are fetched here, so that the tests themselves need no network.
    session.run("pyright", "--version", silent=True)
    session.run("dspex", "model", "pull", silent=True)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def tests_nojit(session: nox.Session) -> None:
    """Run the core's and the optimizers' tests with kernels as plain Python."""
    install(session, "test", "bench", extras="cli")
    session.run("python", "-m", "pytest", "tests/core", "tests/optimizers", *session.posargs, env={"DSPEX_JIT": "0"})


@nox.session
def tests_boundscheck(session: nox.Session) -> None:
    """Run the core's and the optimizers' tests with bounds checks in every kernel."""
    install(session, "test", "bench", extras="cli")
    session.run(
        "python", "-m", "pytest", "tests/core", "tests/optimizers", *session.posargs, env={"DSPEX_BOUNDSCHECK": "1"}
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmark suite."""
    install(session, "test", "bench", extras="cli")
    session.run(
        "python",
        "-m",
        "pytest",
        "benchmarks",
        "--benchmark-only",
        "--benchmark-columns=min,median,rounds",
        *session.posargs,
    )


@nox.session
def growth(session: nox.Session) -> None:
    """Print how compiling grows with 250 to 2,000 nodes, and what a fresh process takes to load an artifact."""
    install(session, extras="cli")
    session.run("python", "-m", "benchmarks.compiler_growth", *session.posargs)
    session.run("python", "-m", "benchmarks.test_import")


@nox.session
def kill(session: nox.Session) -> None:
    """Kill 30 studies at random moments and after each kind of event, resume them and compare."""
    install(session, "test", extras="cli")
    session.run("python", "-m", "tests.study.kill_runs", *(session.posargs or ["30"]))


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz artifacts, graph text, tables and schemas, guided by coverage: `nox -s fuzz -- SECONDS [TARGET ...]`."""
    install(session, "test", "fuzz", extras="cli,sign")
    session.run("python", "-m", "tests.fuzz", *(session.posargs or ["900"]))


@nox.session
def docs(session: nox.Session) -> None:
    """Run every code block of the README and the docs."""
    install(session, "test", "bench", extras="local")
    session.run("python", "-m", "pytest", "tests/docs", *session.posargs)


@nox.session
def realdata(session: nox.Session) -> None:
    """Optimize on public TREC questions with the real local model and print the table."""
    install(session, extras="local")
    session.run("python", "-m", "benchmarks.realdata", *session.posargs)


@nox.session
def estimates(session: nox.Session) -> None:
    """Compare estimates with what the real local model uses on the examples."""
    install(session, extras="local")
    session.run("dspex", "model", "pull", silent=True)
    session.run("python", "-m", "benchmarks.estimates", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo as a newcomer would."""
    install(session, extras="local")
    session.run("dspex", "demo", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Run the same work on a peer, installed in an environment of its own: `nox -s peers -- dspy`."""
    names = session.posargs or ["dspy"]
    install(session, extras="cli")
    for name in names:
        venv = os.path.join(session.create_tmp(), f"peer-{name}")
        session.run("python", "-m", "venv", venv, silent=True)
        python = os.path.join(venv, "bin", "python")
        session.run(
            python, "-m", "pip", "install", "-q", "-r", f"benchmarks/peers/{name}/requirements.txt", external=True
        )
        session.run("python", "-m", f"benchmarks.peers.{name}", "--peer-python", python)
