"""The demo's task is fixed: its tickets, its default program and its splits, before anything is tuned on them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from dspex.evaluation.dataset import Dataset, load
from dspex.evaluation.split import Split, split

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "support_tickets"

TICKETS = "8c6e858d2b85cbc06419ea773457bb2831aa84dd7fec8e81fc9befe040ab0e7d"
PROGRAM_FILE = "117daa509620d8102e57c9a42688722aa65d645fed34e87a913e756c48128dcb"
PROGRAM = "ae74684679764db0034b80631e9fbed5"
SPLITS = {
    "train": "0ddd7fc853fb1a3dd4b2893091e3eb13",
    "validation": "c27b6cc9f22ab3051dd9a0bca13d7b2f",
    "held_out": "da1f8f0ad6aec91966ce3afd4e5557c9",
}
SIZES = {"train": 139, "validation": 105, "held_out": 104}

Tickets = Dataset[Any, Any]


def module(name: str) -> ModuleType:
    """One of the example's files, imported under its own name."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def router() -> Generator[ModuleType]:
    yield module("router")
    del sys.modules["router"]


@pytest.fixture(scope="module")
def check_data() -> Generator[ModuleType]:
    yield module("check_data")
    del sys.modules["check_data"]


@pytest.fixture(scope="module")
def tickets(router: ModuleType) -> Tickets:
    return load(FOLDER / "tickets.jsonl", router.Ticket, router.Route)


@pytest.fixture(scope="module")
def parts(tickets: Tickets) -> Split[Any, Any]:
    return split(tickets, 0)


def sha256(name: str) -> str:
    return hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()


def test_the_tickets_are_the_committed_ones() -> None:
    assert sha256("tickets.jsonl") == TICKETS


def test_the_default_program_is_the_committed_one(router: ModuleType) -> None:
    assert sha256("router.py") == PROGRAM_FILE
    assert router.Router().identity() == PROGRAM


def test_the_splits_at_seed_0_are_the_committed_ones(parts: Split[Any, Any]) -> None:
    assert parts.hashes == SPLITS
    assert {name: len(cast("Tickets", getattr(parts, name))) for name in SIZES} == SIZES


@pytest.mark.parametrize("seed", range(11))
def test_no_example_stands_in_two_parts(tickets: Tickets, seed: int) -> None:
    made = split(tickets, seed)
    inputs = [{example.input_hash for example in part} for part in (made.train, made.validation, made.held_out)]
    assert sum(map(len, inputs)) == len(set[str]().union(*inputs)) == len(tickets)
    assert len(made.held_out) >= 90


def test_the_data_are_sound(check_data: ModuleType) -> None:
    rows = check_data.load(FOLDER / "tickets.jsonl")
    assert check_data.problems(rows) == []
    assert len(rows) >= 300


def test_the_check_finds_what_it_looks_for(check_data: ModuleType) -> None:
    rows = list(check_data.load(FOLDER / "tickets.jsonl"))
    copied = [*rows, {**rows[0], "id": "new"}]
    assert any("same text" in problem for problem in check_data.problems(copied))
    assert any("unknown team" in problem for problem in check_data.problems([{**rows[0], "team": "sales"}, *rows[1:]]))
    assert any("words, not" in problem for problem in check_data.problems([{**rows[0], "text": "short"}, *rows[1:]]))


def test_the_program_has_what_the_demo_shows(router: ModuleType) -> None:
    program = router.Router()
    kinds = {name: variable.kind for name, variable in program.space.variables.items()}
    assert kinds["solver"] == "module"
    assert (kinds["shown"], kinds["warmth"]) == ("int", "float")
    assert len(program.all_rules()) >= 1
    assert {"chat", "completion"} == set(program.space.variables["solver.direct.format"].options)
    assert "calibrated" in program.space.variables["solver.direct.scoring"].options
