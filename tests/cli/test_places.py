"""`explain CODE`, `model list`, `doctor`, and `demo` on a model that answers at once."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from dspex.catalogue import CATALOGUE
from dspex.cli import demo
from dspex.cli.targets import examples_folder
from dspex.errors import LocalModelError, UsageError
from dspex.testing import MockRequest, MockServer
from tests.cli.commands import Invoke

TEAMS = ("account", "billing", "delivery", "feedback", "returns", "technical")


def test_explain_says_what_a_code_means(dspex: Invoke) -> None:
    shown = dspex("explain", "dx2104")
    assert shown.code == 0
    assert CATALOGUE["DX2104"].title in shown.out
    found = dspex("explain", "DX2104", "--json").json
    assert found["code"] == "DX2104"
    assert CATALOGUE["DX2104"].title in found["text"]
    dspex("explain", "DX9999", "--json").refused(2, "DX8308")


def test_model_list(dspex: Invoke) -> None:
    assert dspex("model", "list", "--json").json["models"] == {"smollm2": None}
    assert "dspex model pull smollm2" in dspex("model", "list").out


def test_model_pull_refuses_the_wrong_file(dspex: Invoke) -> None:
    Path("model.gguf").write_bytes(b"GGUF and more")
    wrong = dspex("model", "pull", "smollm2", "--from", "model.gguf", "--json")
    assert wrong.code == 4
    assert wrong.json["error"]["code"].startswith("DX7")
    unknown = dspex("model", "pull", "gpt-9", "--json")
    assert unknown.code in (2, 4)
    assert unknown.json["error"]["code"].startswith("DX")


def test_doctor(dspex: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_LM", "openai/x")
    ended = dspex("doctor", "--json")
    checks = {check["name"]: check for check in ended.json["checks"]}
    assert {"dspex", "python", "home", "cache", "kernels", "model", "model file"} <= set(checks)
    assert checks["home"]["detail"] == os.environ["DSPEX_HOME"]
    assert checks["model"]["detail"] == "openai/x"
    # The model's file is not in this test's cache.
    assert not checks["model file"]["ok"]
    assert checks["model file"]["fix"]
    assert (ended.code, ended.json["status"]) == (1, "failed")
    plain = dspex("doctor")
    assert plain.code == 1
    assert re.search(r"^fail +model file", plain.out, re.MULTILINE)
    assert "fix: " in plain.out


# --- the demo -----------------------------------------------------------------------------------


def route(request: MockRequest) -> dict[str, object]:
    """A team: the one that the prompt names last, for a ticket about what teams are called after."""
    text = request.text
    if "current" in text and "instruction" in text:
        return {"instruction": f"Name the team. ({len(text) % 5})"}
    asked = text.casefold()[-300:]
    team = next((name for name in TEAMS if name[:6] in asked), TEAMS[len(text) % 6])
    return {"reasoning": "as asked", "team": team} if "reasoning" in text else {"team": team}


@pytest.fixture
def quick(server: MockServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MockServer:
    """The demo with a mock server instead of the local model."""
    server.answer = route
    monkeypatch.setattr(demo, "MODEL", os.environ["DSPEX_LM"])

    def pull(name: str, **_: object) -> Path:
        return tmp_path / f"{name}.gguf"

    monkeypatch.setattr("dspex.providers.local_files.pull", pull)
    return server


def check_demo(found: dict[str, Any]) -> None:
    for part in ("before", "after"):
        assert set(found["held_out"][part]) == {"mean", "low", "high", "n"}
    assert set(found["gain"]) == {"mean", "low", "high", "p_value"}
    assert {"majority", "nearest_neighbour"} <= set(found["baselines"])
    assert {"calls", "tokens", "usd", "seconds", "artifact", "report", "fetch_seconds"} <= set(found)


def test_demo_gives_one_object_from_any_folder_twice(
    dspex: Invoke, quick: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dspex("demo", "--json", "--seed", "0")
    assert first.code == 0, first.err
    check_demo(first.json)
    assert first.json["held_out"]["after"]["n"] >= 90
    assert first.json["artifact"] == "demo.dspex"
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    second = dspex("demo", "--json", "--output-dir", "made/here")
    assert second.code == 0, second.err
    assert second.json["held_out"] == first.json["held_out"]
    assert second.json["study"] != first.json["study"]
    assert Path("made/here/demo.dspex").is_file()
    assert "<html" in Path(second.json["report"]).read_text()


def test_demo_shows_graph_search_prompt_and_report(dspex: Invoke, quick: MockServer) -> None:
    shown = dspex("demo", "--budget-calls", "240")
    assert shown.code == 0, shown.err
    places = [
        shown.out.index(text)
        for text in ("program Router", "the prompt that won", "{text}", "held-out examples", "artifact  demo.dspex")
    ]
    assert places == sorted(places)
    assert "demo-report.html" in shown.out
    assert "search" in shown.err


def test_the_demo_s_artifact_runs(dspex: Invoke, quick: MockServer) -> None:
    from tests.cli.commands import ended, spawn

    assert dspex("demo", "--json", "--budget-calls", "240").code == 0
    done = ended(spawn("run", "demo.dspex", "I want my money back for this invoice, billing was wrong."))
    assert done.code == 0, done.err
    assert json.loads(done.out)["team"] in TEAMS


def test_demo_says_when_the_model_cannot_be_had(
    dspex: Invoke, quick: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(name: str, **_: object) -> Path:
        raise LocalModelError("DX7101", "no way to fetch it", fix="give --from")

    monkeypatch.setattr("dspex.providers.local_files.pull", pull)
    failed = dspex("demo", "--json", "--seed", "4")
    failed.refused(4, "DX7101")
    assert failed.json["seed"] == 4


def test_examples_are_found_in_the_checkout() -> None:
    assert demo.tickets_folder() == Path(__file__).resolve().parents[2] / "examples" / "support_tickets"
    with pytest.raises(UsageError, match="DX8307"):
        examples_folder("absent")


def test_the_wheel_takes_the_example_along() -> None:
    import tomllib

    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    taken: dict[str, str] = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert taken == {"examples/support_tickets": "dspex/examples/support_tickets"}
    assert all((root / source / "router.py").is_file() for source in taken)


def test_examples_are_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dspex.cli import targets

    package = tmp_path / "site-packages" / "dspex"
    (package / "cli").mkdir(parents=True)
    (package / "examples" / "support_tickets").mkdir(parents=True)
    monkeypatch.setattr(targets, "__file__", str(package / "cli" / "targets.py"))
    assert examples_folder("support_tickets") == package / "examples" / "support_tickets"
