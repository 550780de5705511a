"""Artifacts: what is saved is what is loaded, and a bad file is a coded error."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dspex as dx
from dspex.compiler import Compiled, compile, load_artifact
from dspex.compiler.archive import archive_of, read_archive, write_archive
from dspex.compiler.ir.parser import parse
from dspex.errors import CompileError, DspexError
from dspex.testing import ScriptedLM
from tests.compiler import library
from tests.compiler.library import FRIENDLY, NEAREST, Loops, Needy, Route, Router, Ticket, Ünï

TEXT = 'Decide which queue the message belongs to.\nJSON like {"queue": 1} stays.'


def tuned() -> Compiled[Ticket, Route]:
    return compile(Router()).bind(
        {
            "style": "detailed",
            "k": 7,
            "heat": 0.75,
            "solver": "cot",
            "solver.cot.instruction": TEXT,
            "solver.cot.demos": NEAREST,
            "solver.predict.demos": FRIENDLY,
            "solver.predict.format": "completion",
        }
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "router.dspex"
    tuned().save(path, provenance={"study": "s1", "scores": [{"name": "after", "mean": 0.7, "low": 0.6, "high": 0.8}]})
    return path


def test_loaded_program_is_the_saved_one(saved: Path) -> None:
    compiled, loaded = tuned(), load_artifact(saved)
    assert loaded.program == compiled.program
    assert loaded.config == compiled.config
    assert loaded.graph == compiled.graph
    assert loaded.provenance["study"] == "s1"
    assert [v.signature() for v in loaded.params.variables] == [v.signature() for v in compiled.params.variables]
    lm = ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "billing"))
    with dx.using(lm=lm):
        x = Ticket(text="Charged twice")
        assert asyncio.run(loaded(x)) == asyncio.run(compiled(x)) == loaded.run(x) == Route(queue="billing")


def test_bytes_are_the_same_when_saved_twice(saved: Path, tmp_path: Path) -> None:
    load_artifact(saved).save(tmp_path / "again.dspex")
    assert (tmp_path / "again.dspex").read_bytes() == saved.read_bytes()


def test_parts_are_readable_by_a_person(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        for name, digest in manifest["members"].items():
            assert hashlib.sha256(archive.read(name)).hexdigest() == digest
        prompt = archive.read("prompts/solver.cot.md").decode()
        demos = archive.read("demos/solver.cot.jsonl").decode().splitlines()
        schema = json.loads(archive.read("schemas/Ticket.json"))
        configuration = json.loads(archive.read("configuration.json"))
        graph = parse(archive.read("graph.txt").decode())
    assert set(names) == {*manifest["members"], "manifest.json"}
    assert manifest["program"]["path"] == "tests.compiler.library:Router"
    assert TEXT in prompt
    assert json.loads(demos[0])["input"] == {"text": "My card was charged twice ✓"}
    assert schema["properties"]["text"]["type"] == "string"
    assert configuration["k"] == 7
    assert configuration["solver.cot.demos"]["pool"] == 1
    assert graph.hash == manifest["graph"]


@pytest.mark.parametrize(
    ("make", "import_path"),
    [
        (Router, None),
        (Loops, None),
        (Ünï, None),
        (lambda: library.route, None),
        (lambda: library.needy, "tests.compiler.library:needy"),
        (lambda: library.chain, "tests.compiler.library:chain"),
    ],
)
def test_every_kind_of_program_comes_back(
    make: Callable[[], dx.Program[Any, Any]], import_path: str | None, tmp_path: Path
) -> None:
    compiled = compile(make())
    compiled.save(tmp_path / "p.dspex", import_path=import_path)
    loaded = load_artifact(tmp_path / "p.dspex")
    assert loaded.program == compiled.program
    assert loaded.graph == compiled.graph


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_configuration_comes_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    config: dict[str, object] = {
        "style": "detailed",
        "k": data.draw(st.integers(1, 8)),
        "heat": data.draw(st.floats(0.25, 1.0)),
        "solver": data.draw(st.sampled_from(["predict", "cot"])),
        "solver.predict.instruction": data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=30)),
    }
    path = tmp_path_factory.mktemp("a") / "p.dspex"
    compiled = compile(Router()).bind(config)
    compiled.save(path)
    assert load_artifact(path).config == compiled.config


def test_program_may_be_given_instead_of_imported(saved: Path) -> None:
    assert load_artifact(saved, program=Router).config["k"] == 7
    with pytest.raises(CompileError) as refused:
        load_artifact(saved, program=Loops)
    assert refused.value.code == "DX2207"


# --- what cannot be saved -----------------------------------------------------------------------


def test_save_is_refused_when_the_program_cannot_be_found_again(tmp_path: Path) -> None:
    class Local(Router):
        pass

    for program, path in [(Local(), None), (Needy("re: "), None), (Needy("x"), "tests.compiler.library:needy")]:
        with pytest.raises(CompileError) as refused:
            compile(program).save(tmp_path / "p.dspex", import_path=path)
        assert refused.value.code == "DX2206"
        assert refused.value.fix is not None
    assert list(tmp_path.iterdir()) == []


def test_old_file_stays_when_writing_fails(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(CompileError) as refused:
        tuned().save(saved / "below" / "p.dspex")
    assert refused.value.code == "DX2202"
    assert saved.read_bytes() == before
    assert [item.name for item in saved.parent.iterdir()] == ["router.dspex"]


# --- what cannot be loaded ----------------------------------------------------------------------


def resealed(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """The artifact with changed contents under hashes that are right again."""
    archive = read_archive(path)
    manifest, members = dict(archive.manifest), dict(archive.members)
    change(manifest, members)
    manifest.pop("members", None)
    write_archive(path, manifest, members)
    return path


def code_of(path: Path) -> str:
    with pytest.raises(DspexError) as refused:
        load_artifact(path)
    assert refused.value.fix or refused.value.code.startswith("DX3")
    return refused.value.code


def test_load_is_refused_when_the_source_is_missing_or_different(saved: Path) -> None:
    def program(path: str, identity: str | None = None) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
        def change(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
            manifest["program"] = {
                "path": path,
                "identity": identity or manifest["program"]["identity"],
                "name": "Router",
            }

        return change

    here = "tests.compiler.library"
    for path in ("no_such_module_x:Router", f"{here}:Nobody", "os:system", f"{here}:Needy"):
        assert code_of(resealed(saved, program(path))) == "DX2205"
    for path in ("../evil:Router", "a b:c", "os", ":x", "tests.compiler.library:Router.__init__.__globals__"):
        assert code_of(resealed(saved, program(path))) == "DX2205"
    assert code_of(resealed(saved, program("tests.compiler.library:Router", "0" * 32))) == "DX2207"


def _set(name: str, value: object) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        if name in manifest:
            manifest[name] = value
        else:
            members[name] = value if isinstance(value, bytes) else json.dumps(value).encode()

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_set("format", 2), "DX2204"),
        (_set("format", "1"), "DX2203"),
        (_set("program", []), "DX2203"),
        (_set("provenance", 3), "DX2203"),
        (_set("graph", "0" * 64), "DX2203"),
        (_set("graph.txt", b"program"), "DX2080"),
        (_set("graph.txt", b"\xff"), "DX2203"),
        (_set("graph.txt", b"program p : A -> B {\n output 1\n}"), "DX2081"),
        (_set("params.bin", b""), "DX3001"),
        (_set("params.bin", b"x" * 1000), "DX3001"),
        (_set("variables.json", b"{"), "DX2203"),
        (_set("variables.json", b"[" * 100_000), "DX2203"),
        (_set("variables.json", []), "DX2203"),
        (_set("variables.json", {"variables": [3]}), "DX2203"),
        (_set("variables.json", {"variables": [{"name": "k", "kind": "text", "pool": [1]}]}), "DX2203"),
        (_set("variables.json", {"variables": [{"name": "no", "kind": "text", "pool": ["a"]}]}), "DX2207"),
        (_set("variables.json", {"variables": [{"name": "k", "kind": "text", "pool": ["a"]}]}), "DX2207"),
        (_set("variables.json", {"variables": [{"name": "k", "kind": "demos", "pool": [{"a": 1}]}]}), "DX2207"),
        (_set("configuration.json", {"k": 99}), "DX2207"),
        (_set("configuration.json", {"unknown": 1}), "DX2207"),
        (_set("configuration.json", {"style": "terse", "k": 8}), "DX2207"),
        (_set("configuration.json", {"solver.cot.demos": {"pool": 99}}), "DX2203"),
        (_set("configuration.json", {"solver.cot.demos": 1}), "DX2203"),
    ],
)
def test_load_is_refused_when_contents_are_crafted(
    saved: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None], code: str
) -> None:
    archive = read_archive(saved)
    manifest, members = dict(archive.manifest), dict(archive.members)
    change(manifest, members)
    manifest.pop("members", None)
    version = manifest.pop("format")
    write_archive(saved, {**manifest, "format": version} if version != 1 else manifest, members)
    assert code_of(saved) == code


def test_load_is_refused_when_a_part_is_missing(saved: Path) -> None:
    for name in ("graph.txt", "params.bin", "variables.json", "configuration.json"):
        broken = saved.with_name("broken.dspex")
        broken.write_bytes(saved.read_bytes())

        def drop(manifest: dict[str, Any], members: dict[str, bytes], name: str = name) -> None:
            del members[name]

        resealed(broken, drop)
        assert code_of(broken) == "DX2203"


def archive_code(data: bytes) -> str:
    with pytest.raises(CompileError) as refused:
        archive_of(data)
    return refused.value.code


def test_file_is_refused_at_every_length_when_it_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "small.dspex"
    compile(library.route).save(path)
    data = path.read_bytes()
    for length in range(len(data)):
        assert archive_code(data[:length]) == "DX2203"
    path.write_bytes(data[:-1])
    with pytest.raises(CompileError) as refused:
        load_artifact(path)
    assert refused.value.where == str(path)


def test_file_is_refused_when_any_bit_is_flipped(tmp_path: Path) -> None:
    path = tmp_path / "small.dspex"
    compile(library.route).save(path)
    data = bytearray(path.read_bytes())
    for at in range(len(data)):
        data[at] ^= 1 << (at % 8)
        assert archive_code(bytes(data)) == "DX2203"
        data[at] ^= 1 << (at % 8)


def sealed(data: bytes) -> bytes:
    """`data` with its hash made right again, as an attacker would."""
    head = data[:-77]
    return head + b"dspex sha256=" + hashlib.sha256(head).hexdigest().encode()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_under_a_right_hash_is_a_coded_error_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.dspex"
    compile(library.route).save(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 78))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 40)) if data.draw(st.booleans()) else 0
    path.write_bytes(sealed(bytes(raw[cut:])))
    outcome = "loaded"
    try:
        loaded = load_artifact(path)
    except DspexError as error:
        outcome = error.code
    else:
        assert loaded.program == library.route
    assert outcome == "loaded" or outcome.startswith("DX2")


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/etc/passwd", "a/../../b", "..", "a\\b", "C:evil", "a//b", "x\n", "é", "a/b/c/d/e", "", "./a"],
)
def test_member_names_are_refused_when_they_are_not_plain(name: str, saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        parts = {item: archive.read(item) for item in archive.namelist()}
    with zipfile.ZipFile(saved, "w") as archive:
        for item, data in parts.items():
            archive.writestr(item, data)
        archive.writestr(zipfile.ZipInfo(name), b"evil")
        archive.comment = b"dspex sha256=" + b"0" * 64
    saved.write_bytes(sealed(saved.read_bytes()))
    assert code_of(saved) == "DX2203"
    assert [item.name for item in saved.parent.iterdir()] == ["router.dspex"]


def test_file_is_refused_when_it_unpacks_to_more_than_the_limit(saved: Path) -> None:
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("bomb", "w", force_zip64=True) as member:
            for _ in range(65):
                member.write(bytes(2**20))
        archive.comment = b"dspex sha256=" + b"0" * 64
    saved.write_bytes(sealed(saved.read_bytes()))
    assert saved.stat().st_size < 2**20
    assert code_of(saved) == "DX2203"


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    assert code_of(tmp_path / "none.dspex") == "DX2201"
    assert code_of(tmp_path) == "DX2201"
    (tmp_path / "text").write_text("hello")
    assert code_of(tmp_path / "text") == "DX2203"
    (tmp_path / "empty").write_bytes(b"")
    assert code_of(tmp_path / "empty") == "DX2203"


def test_no_key_is_ever_saved(tmp_path: Path) -> None:
    lm = dx.LM("openai/x", base_url="http://127.0.0.1:1/v1", api_key="sk-very-secret")
    compile(Router().with_lm(lm)).save(tmp_path / "p.dspex")
    with zipfile.ZipFile(tmp_path / "p.dspex") as archive:
        assert not any(b"sk-very-secret" in archive.read(name) for name in archive.namelist())


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_file_is_private_because_it_holds_prompts(saved: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
