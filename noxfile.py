"""Development sessions. `nox -l` lists them; each creates an environment of its own."""

from __future__ import annotations

import itertools
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


def suite(session: nox.Session) -> None:
    """Install what the default test suite needs, and run it."""
    install(session, "test", "types", "bench", extras="local")
    # The type checker and the model are fetched here, so that the tests themselves need no network.
    session.run("pyright", "--version", silent=True)
    session.run("dspex", "model", "pull", silent=True)
    session.run("python", "-m", "pytest", *session.posargs)


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
    suite(session)


@nox.session(python=["3.12", "3.13"])
def versions(session: nox.Session) -> None:
    """Run the default test suite on the other Pythons that are supported."""
    suite(session)


@nox.session
def tests_nojit(session: nox.Session) -> None:
    """Run the core's and most optimizers' tests with kernels as Python; fails under 95 % of the kernels' lines."""
    install(session, "test", "bench", "coverage", extras="cli")
    plain = {"DSPEX_JIT": "0"}
    session.run("python", "-m", "pytest", "tests/core", "-m", "not slow", "--cov", *session.posargs, env=plain)
    # A Gaussian process in plain Python takes minutes for what takes seconds; its kernels' own tests ran above.
    without = ["-m", "not slow", "-k", "not gp and not auto"]
    session.run("python", "-m", "pytest", "tests/optimizers", *without, *session.posargs, env=plain)


@nox.session
def tests_boundscheck(session: nox.Session) -> None:
    """Run the core's and the optimizers' tests with bounds checks in every kernel."""
    install(session, "test", "bench", extras="cli")
    session.run(
        "python",
        "-m",
        "pytest",
        "tests/core",
        "tests/optimizers",
        "-m",
        "not slow",
        *session.posargs,
        env={"DSPEX_BOUNDSCHECK": "1"},
    )


@nox.session
def native(session: nox.Session) -> None:
    """Build the libraries of compiled kernels for every x86-64 level and run the core's tests on them."""
    install(session, "test", "bench", extras="cli")
    session.run("python", "-m", "release.kernels")
    session.run("python", "-m", "pytest", "tests/core", "tests/optimizers", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build a release into dist/: the wheel for Linux on x86-64 with its libraries, the one for all, the sdist."""
    install(session, extras="cli")
    session.install("build")
    session.run("python", "-m", "release.kernels")
    session.run("python", "-m", "build", "--wheel", env={"DSPEX_NATIVE": "1"})
    session.run("python", "-m", "build", "--wheel")
    session.run("python", "-m", "build", "--sdist")


@nox.session
def sdks(session: nox.Session) -> None:
    """Let the official clients of OpenAI, Anthropic, Google, Ollama and AWS talk to the mock server."""
    install(session, "test", "sdks", extras="cli")
    session.run("python", "-m", "pytest", "tests/testing/sdks", *session.posargs)


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
def kernels(session: nox.Session) -> None:
    """Compare kernels with plain C and NumPy: `nox -s kernels -- --only SUBSTRING --json FILE`."""
    install(session, extras="cli")
    session.run("python", "-m", "benchmarks.kernels", *session.posargs)


@nox.session
def startup(session: nox.Session) -> None:
    """Print how long the first candidates take on a fresh and on a warm machine."""
    install(session, extras="cli")
    session.run("python", "-m", "benchmarks.startup", *session.posargs)


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
def saturation(session: nox.Session) -> None:
    """Print how busy studies of 10,000 evaluations keep a server: `nox -s saturation -- --in-flight 64,256`."""
    install(session, extras="cli")
    session.run("python", "-m", "benchmarks.saturation", *session.posargs)


@nox.session
def accounting(session: nox.Session) -> None:
    """Compare the ledger with the server's own over 50,000 calls with faults: `nox -s accounting -- CALLS`."""
    install(session, "test", extras="cli")
    session.run("python", "-m", "tests.executor.account_runs", *(session.posargs or ["50000"]))


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
    """Run the same work on a peer, installed in an environment of its own: `nox -s peers -- NAME... [--OPTION...]`."""
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), session.posargs))
    options = session.posargs[len(names) :]
    names = names or ["dspy"]
    install(session, extras="cli")
    for name in names:
        venv = os.path.join(session.create_tmp(), f"peer-{name}")
        session.run("python", "-m", "venv", venv, silent=True)
        python = os.path.join(venv, "bin", "python")
        session.run(
            python, "-m", "pip", "install", "-q", "-r", f"benchmarks/peers/{name}/requirements.txt", external=True
        )
        session.run("python", "-m", f"benchmarks.peers.{name}", "--peer-python", python, *options)
