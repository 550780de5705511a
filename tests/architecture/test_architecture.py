"""The layering, the confinement of third-party packages, banned names and file lengths, checked on the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dspex"

RANKS = {
    "errors": 0,
    "catalogue": 0,
    "_version": 0,
    "core": 1,
    "telemetry": 1,
    "settings": 1,
    "lm": 2,
    "program": 3,
    "compiler": 4,
    "providers": 4,
    "stores": 4,
    "optimizers": 5,
    "executor": 5,
    "evaluation": 6,
    "proposers": 7,
    "study": 8,
    "testing": 13,
    "cli": 14,  # `dspex mock-server` serves what testing holds
    "__main__": 15,
}

# Third-party package -> the places that may import it at run time.
CONFINED = {
    "numba": ("core/jit.py", "core/native/emit.py"),
    "llvmlite": ("core/native/emit.py",),
    "httpx": ("providers/transport/",),
    "xllamacpp": ("providers/local_child.py",),
    "click": ("cli/",),
    "rich": ("cli/",),
    "sqlite3": ("stores/",),
    "backports": ("stores/packing.py",),
    "compression": ("stores/packing.py",),
    "genai_prices": ("providers/prices.py",),
}

BANNED_FILES = {"utils", "helpers", "common", "misc"}
MAX_LINES = 800

FILES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted module, only for type checkers) of each import in `path`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                typing_only.update(ast.walk(statement))
    package = ("dspex", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, node in typing_only
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if module == "dspex":
                for alias in node.names:
                    yield node.lineno, f"dspex.{alias.name}", node in typing_only
            else:
                yield node.lineno, module, node in typing_only


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = layer(path)
    if own == "__init__" or path == PACKAGE / "program" / "ports.py":
        return
    wrong: list[str] = []
    for line, module, typing_only in imports(path):
        if typing_only or not (module == "dspex" or module.startswith("dspex.")):
            continue
        target = module.split(".")[1] if "." in module else ""
        if target == own:
            continue
        if target == "" or target not in RANKS or RANKS[target] >= RANKS[own]:
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_third_party_packages_stay_where_they_belong(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    wrong = [
        f"{relative}:{line} imports {module}"
        for line, module, typing_only in imports(path)
        if not typing_only
        and (places := CONFINED.get(module.split(".")[0])) is not None
        and not relative.startswith(places)
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_names_and_lengths(path: Path) -> None:
    assert path.stem not in BANNED_FILES
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            bare = node.name.lstrip("_")
            assert not bare.endswith(("Manager", "Handler")), node.name
            assert not bare.startswith("Base"), node.name


def test_every_layer_has_a_rank() -> None:
    layers = {layer(path) for path in FILES} - {"__init__"}
    assert layers <= set(RANKS), layers - set(RANKS)
