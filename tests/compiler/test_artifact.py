"""Artifacts: what is saved is what is loaded, and a bad file is a coded error."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import field_validator

import dspex as dx
from dspex.compiler import Compiled, compile, load_artifact
from dspex.compiler.artifact.archive import archive_of, read_archive, write_archive
from dspex.compiler.artifact.loading import load_archive
from dspex.compiler.artifact.migrations import migrated
from dspex.compiler.ir.parser import parse
from dspex.errors import CompileError, DspexError
from dspex.testing import ScriptedLM
from tests.compiler import library, stored
from tests.compiler.library import FRIENDLY, NEAREST, Loops, Needy, Route, Router, Ticket, Ünï

TEXT = 'Decide which queue the message belongs to.\nJSON like {"queue": 1} stays.'
STORED = Path(__file__).parent / "artifacts"


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
    assert loaded.config == compiled.config
    assert loaded.graph == compiled.graph
    assert loaded.provenance["study"] == "s1"
    assert {name: v.signature() for name, v in loaded.space.variables.items()} == {
        name: v.signature() for name, v in compiled.space.variables.items()
    }
    assert loaded.space.rules == compiled.space.rules
    assert dict(loaded.settings) == dict(compiled.settings)
    assert [v.signature() for v in loaded.params.variables] == [v.signature() for v in compiled.params.variables]
    # This process has the classes of the schemas, so they are used.
    assert dict(loaded.schemas) == dict(compiled.schemas)
    lm = ScriptedLM(lambda request: dict.fromkeys(request.output_fields, "billing"))
    with dx.using(lm=lm):
        x = Ticket(text="Charged twice")
        assert asyncio.run(loaded(x)) == asyncio.run(compiled(x)) == loaded.run(x) == Route(queue="billing")
        assert loaded.bind(solver="predict").run(x) == Route(queue="billing")
    with pytest.raises(CompileError) as refused:
        _ = loaded.program
    assert refused.value.code == "DX2301"


def test_program_itself_comes_back_when_it_is_allowed(saved: Path) -> None:
    for loaded in (
        load_artifact(saved, program=Router),
        load_artifact(saved, program=Router()),
        load_artifact(saved, imports=["tests.compiler.library"]),
        load_artifact(saved, imports=["tests"]),
    ):
        assert loaded.program == tuned().program
        assert loaded.graph == tuned().graph
        assert loaded.provenance["study"] == "s1"


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
    ("make", "import_path", "coded"),
    [
        (Router, None, False),
        (Loops, None, True),
        (Ünï, None, False),
        (lambda: library.route, None, False),
        (lambda: library.needy, "tests.compiler.library:needy", True),
        (lambda: library.chain, "tests.compiler.library:chain", False),
        (lambda: library.chain, None, False),
    ],
)
def test_every_kind_of_program_comes_back(
    make: Callable[[], dx.Program[Any, Any]], import_path: str | None, coded: bool, tmp_path: Path
) -> None:
    compiled = compile(make())
    compiled.save(tmp_path / "p.dspex", import_path=import_path)
    loaded = load_artifact(tmp_path / "p.dspex")
    assert loaded.graph == compiled.graph
    assert loaded.config == compiled.config
    assert bool(read_archive(tmp_path / "p.dspex").manifest["needs"]) == coded
    if coded:
        # The code of these modules is imported already, so it is taken from there.
        assert loaded.program == compiled.program


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_configuration_comes_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    config: dict[str, object] = {
        "style": "detailed",
        "k": data.draw(st.integers(1, 8)),
        "heat": data.draw(st.floats(0.25, 1.0)),
        "solver": data.draw(st.sampled_from(["predict", "cot"])),
        "solver.predict.instruction": data.draw(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}"), max_size=30)
        ),
    }
    path = tmp_path_factory.mktemp("a") / "p.dspex"
    compiled = compile(Router()).bind(config)
    compiled.save(path)
    assert load_artifact(path).config == compiled.config


def test_another_program_is_refused(saved: Path) -> None:
    with pytest.raises(CompileError) as refused:
        load_artifact(saved, program=Loops)
    assert refused.value.code == "DX2207"
    assert f"was made of '{Router.__module__}:Router'" in refused.value.message
    assert f"'{Loops.__module__}:Loops'" in refused.value.message


# --- what cannot be saved -----------------------------------------------------------------------


def length(x: Ticket) -> bool:
    return len(x.text) > 3


switch = dx.when(length, dx.Predict(Ticket, Route), Loops())


def test_what_combinators_make_is_found_by_name_only(tmp_path: Path) -> None:
    path = tmp_path / "p.dspex"
    with pytest.raises(
        CompileError, match=r"DX2206.*instance of dx\.when.*by name only[\s\S]*dspex compile bot:"
    ) as no:
        compile(switch).save(path)
    assert "__init__" not in str(no.value)
    compile(switch).save(path, import_path=f"{__name__}:switch")
    # What was loaded is saved under the name that it was saved with.
    loaded = load_artifact(path)
    loaded.save(tmp_path / "again.dspex")
    again = read_archive(tmp_path / "again.dspex").manifest["program"]
    assert again == read_archive(path).manifest["program"]

    def elsewhere(manifest: dict[str, Any], _: dict[str, bytes]) -> None:
        manifest["program"] = {**manifest["program"], "path": "no_such_module:switch"}

    with pytest.raises(CompileError, match=r"DX2205.*calls tests.compiler.test_artifact:length, .*library\.py:\d+"):
        load_artifact(resealed(path, elsewhere))


def test_save_is_refused_when_needed_code_cannot_be_found_again(tmp_path: Path) -> None:
    class Local(Loops):
        pass

    for program, path in [(Local(), None), (Needy("re: "), None), (Needy("x"), "tests.compiler.library:needy")]:
        with pytest.raises(CompileError) as refused:
            compile(program).save(tmp_path / "p.dspex", import_path=path)
        assert refused.value.code == "DX2206"
        assert refused.value.fix is not None
    assert list(tmp_path.iterdir()) == []


def test_program_of_a_function_is_saved_when_nothing_of_it_is_code(tmp_path: Path) -> None:
    class Inner(dx.Schema):
        n: int

    class Local(dx.Program[Ticket, Inner]):
        solve = dx.Predict(Ticket, Inner)

        async def __call__(self, x: Ticket, /) -> Inner:
            return await self.solve(x)

    compile(Local()).save(tmp_path / "p.dspex")
    loaded = load_artifact(tmp_path / "p.dspex")
    assert loaded.schemas["Inner"] is Inner
    assert read_archive(tmp_path / "p.dspex").manifest["program"] is None
    with pytest.raises(CompileError) as refused:
        load_artifact(tmp_path / "p.dspex", program=Local)
    assert refused.value.code == "DX2207"


def test_provenance_has_to_be_json(tmp_path: Path) -> None:
    for wrong in ({"at": object()}, {"score": float("nan")}):
        with pytest.raises(CompileError) as refused:
            tuned().save(tmp_path / "p.dspex", provenance=wrong)
        assert refused.value.code == "DX2218"


class Checked(dx.Schema):
    n: int

    @field_validator("n")
    @classmethod
    def even(cls, value: int) -> int:
        return value - value % 2


class Checks(dx.Program[Ticket, Checked]):
    solve = dx.Predict(Ticket, Checked)

    async def __call__(self, x: Ticket, /) -> Checked:
        return await self.solve(x)


def test_validators_are_named_and_taken_from_the_program(tmp_path: Path) -> None:
    compile(Checks()).save(tmp_path / "p.dspex")
    needs = cast("list[dict[str, str]]", read_archive(tmp_path / "p.dspex").manifest["needs"])
    assert [(need["kind"], need["what"]) for need in needs] == [("schema", "Checked")]
    assert "Checked.even" in needs[0]["why"]
    loaded = load_artifact(tmp_path / "p.dspex")
    assert loaded.schemas["Checked"] is Checked
    with dx.using(lm=ScriptedLM(lambda _: {"n": 7})):
        assert loaded.run(Ticket(text="a")) == Checked(n=6)


class Two(dx.Program[Ticket, Route]):
    solve = dx.Predict(Ticket, Route, lm=["x/small", "x/large"])

    async def __call__(self, x: Ticket, /) -> Route:
        return await self.solve(x)


def test_models_are_given_by_the_names_that_modules_call_them(tmp_path: Path) -> None:
    compile(Two()).save(tmp_path / "p.dspex")
    assert read_archive(tmp_path / "p.dspex").manifest["models"] == {"solve": ["x/large", "x/small"]}
    small = ScriptedLM(lambda _: "billing")
    large = ScriptedLM(lambda _: "delivery")
    for loaded in (
        load_artifact(tmp_path / "p.dspex", models={"x/small": small, "x/large": large}),
        load_artifact(tmp_path / "p.dspex", models={"x/small": small, "x/large": large}, program=Two),
    ):
        assert loaded.run(Ticket(text="a")) == Route(queue="billing")
        assert loaded.bind({"solve.lm": "x/large"}).run(Ticket(text="a")) == Route(queue="delivery")
    with pytest.raises(CompileError) as refused:
        load_artifact(tmp_path / "p.dspex", models={"x/medium": small})
    assert refused.value.code == "DX2215"


class Tone(str, Enum):  # noqa: UP042 - what most programs have
    CALM = "calm"
    LOUD = "loud"


class Bare(Enum):
    A = "a"
    B = "b"


class Toned(dx.Program[Ticket, Route]):
    tone: dx.Var[Tone] = dx.var(Tone.LOUD)
    k: dx.Var[int] = dx.var(2, lo=1, hi=8, when=tone.is_(Tone.LOUD))
    rules = [tone.is_(Tone.LOUD).implies(k <= 4)]
    solve = dx.Predict(Ticket, Route, instruction="Be {tone}.")

    async def __call__(self, x: Ticket, /) -> Route:
        return await self.solve(x)


class Bared(dx.Program[Ticket, Route]):
    bare: dx.Var[Bare] = dx.var(Bare.A)
    solve = dx.Predict(Ticket, Route, instruction="Be {bare}.")

    async def __call__(self, x: Ticket, /) -> Route:
        return await self.solve(x)


def test_variables_over_enumerations_come_back(tmp_path: Path) -> None:
    compile(Toned()).save(tmp_path / "t.dspex")
    loaded = load_artifact(tmp_path / "t.dspex")
    assert read_archive(tmp_path / "t.dspex").manifest["needs"] == []
    assert loaded.settings["solve"].instruction == "Be loud."
    assert loaded.bind(tone=Tone.CALM).settings["solve"].instruction == "Be calm."
    with pytest.raises(dx.ProgramError):
        loaded.bind(tone="loud", k=8)
    compile(Bared()).save(tmp_path / "b.dspex")
    needs = cast("list[dict[str, str]]", read_archive(tmp_path / "b.dspex").manifest["needs"])
    assert [(need["kind"], need["what"]) for need in needs] == [("variable", "bare")]
    assert load_artifact(tmp_path / "b.dspex").config["bare"] is Bare.A


# --- older formats ------------------------------------------------------------------------------


def test_artifact_of_format_1_loads_as_it_did() -> None:
    loaded = load_artifact(STORED / "router-v1.dspex")
    assert loaded.config["k"] == 2
    assert loaded.config["solver.predict.instruction"] == "Route the {style} message ✓."
    assert loaded.config["solver.predict.demos"] == FRIENDLY
    assert NEAREST in loaded.space.variables["solver.predict.demos"].options
    assert loaded.program.config == loaded.config
    assert loaded.provenance == {"study": "s1", "score": 0.5}
    with dx.using(lm=ScriptedLM(lambda _: "billing")):
        assert loaded.run(Ticket(text="a")) == Route(queue="billing")
    assert load_artifact(STORED / "loops-v1.dspex", program=stored.Loops).config == compile(stored.Loops()).config
    with pytest.raises(CompileError) as refused:
        # Its source changed since.
        load_artifact(STORED / "loops-v1.dspex")
    assert refused.value.code == "DX2207"


def test_artifact_of_format_1_is_saved_in_the_newest_format(tmp_path: Path) -> None:
    loaded = load_artifact(STORED / "router-v1.dspex")
    loaded.save(tmp_path / "p.dspex")
    archive = read_archive(tmp_path / "p.dspex")
    assert archive.manifest["format"] == 2
    assert archive.manifest["needs"] == []
    again = load_artifact(tmp_path / "p.dspex")
    assert again.config == loaded.config
    assert again.graph == loaded.graph
    assert again.provenance == loaded.provenance


@pytest.mark.parametrize(
    "change",
    [
        {"program": None},
        {"program": []},
        {"program": {"path": 3, "identity": "x"}},
    ],
)
def test_damaged_artifact_of_format_1_is_refused(change: dict[str, object]) -> None:
    archive = read_archive(STORED / "router-v1.dspex")
    broken = type(archive)({**archive.manifest, **change}, archive.members)
    with pytest.raises(CompileError) as refused:
        load_archive(broken)
    assert refused.value.code == "DX2203"
    assert migrated(archive).manifest["format"] == 2


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


def test_load_is_refused_when_the_source_is_missing_or_different(tmp_path: Path) -> None:
    saved = tmp_path / "p.dspex"
    compile(Loops()).save(saved)

    def program(path: str, identity: str | None = None) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
        def change(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
            manifest["program"] = {"path": path, "identity": identity or manifest["program"]["identity"]}

        return change

    here = "tests.compiler.library"
    for path in ("no_such_module_x:Loops", f"{here}:Nobody", "os:system", f"{here}:Needy"):
        assert code_of(resealed(saved, program(path))) == "DX2205"
        with pytest.raises(CompileError) as refused:
            load_artifact(saved, imports=[path.partition(":")[0]])
        assert refused.value.code == "DX2205"
    for path in ("../evil:Loops", "a b:c", "os", ":x", "tests.compiler.library:Loops.__init__.__globals__"):
        assert code_of(resealed(saved, program(path))) == "DX2205"
    assert code_of(resealed(saved, program(f"{here}:Loops", "0" * 32))) == "DX2207"


def _set(name: str, value: object) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        if name in manifest:
            manifest[name] = value
        else:
            members[name] = value if isinstance(value, bytes) else json.dumps(value).encode()

    return change


def _change(name: str, how: Callable[[Any], object]) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        data = json.loads(members[name])
        how(data)
        members[name] = json.dumps(data).encode()

    return change


def _graph(before: str, after: str) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    """Another graph under its right hash, when it can be read."""

    def change(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        text = members["graph.txt"].decode()
        assert before in text
        members["graph.txt"] = text.replace(before, after).encode()
        with contextlib.suppress(CompileError):
            manifest["graph"] = parse(text.replace(before, after)).hash

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_set("format", 3), "DX2204"),
        (_set("format", "1"), "DX2203"),
        (_set("format", 0), "DX2203"),
        (_set("program", []), "DX2203"),
        (_set("needs", None), "DX2203"),
        (_set("needs", [3]), "DX2203"),
        (_set("needs", [{"kind": "tool"}]), "DX2203"),
        (_set("schemas", []), "DX2203"),
        (_set("schemas", {"Ticket": 3}), "DX2203"),
        (_set("schemas", {"Ticket": "schemas/none.json"}), "DX2203"),
        (_set("schemas", {"Ticket": "schemas/Ticket.json"}), "DX2216"),
        (_set("schemas/Ticket.json", {}), "DX2210"),
        (_set("models", 3), "DX2203"),
        (_set("models", {"solver": 3}), "DX2203"),
        (_set("models", {"solver": [3]}), "DX2203"),
        (_set("provenance", 3), "DX2203"),
        (_set("graph", "0" * 64), "DX2203"),
        (_set("graph.txt", b"program"), "DX2080"),
        (_set("graph.txt", b"\xff"), "DX2203"),
        (_set("graph.txt", b"program p : A -> B {\n output 1\n}"), "DX2081"),
        (_set("params.bin", b""), "DX3001"),
        (_set("params.bin", b"x" * 1000), "DX3001"),
        (_set("variables.json", b"{"), "DX2203"),
        (_set("variables.json", b'{"variables": [], "variables": [], "rules": []}'), "DX2203"),
        (_set("variables.json", b'{"variables": NaN, "rules": []}'), "DX2203"),
        (_set("variables.json", b"[" * 100_000), "DX2203"),
        (_set("variables.json", []), "DX2203"),
        (_set("variables.json", {"variables": [3], "rules": []}), "DX2203"),
        (_set("variables.json", {"variables": [], "rules": []}), "DX2203"),
        (_set("variables.json", {"variables": [{"name": "k", "kind": "text", "pool": [1]}], "rules": []}), "DX1407"),
        (_set("variables.json", {"variables": [{"name": "no", "kind": "x"}], "rules": []}), "DX1407"),
        (_change("variables.json", lambda data: data["rules"].append(3)), "DX1407"),
        (_change("variables.json", lambda data: data["rules"].append({"ref": "none"})), "DX1407"),
        (_change("configuration.json", lambda data: data.update(k=99)), "DX1402"),
        (_change("configuration.json", lambda data: data.update(unknown=1)), "DX2203"),
        (_change("configuration.json", lambda data: data.pop("k")), "DX2203"),
        (_change("configuration.json", lambda data: data.update(style="terse", k=8)), "DX1403"),
        (_change("configuration.json", lambda data: data.update({"solver.cot.demos": {"pool": 99}})), "DX2203"),
        (_change("configuration.json", lambda data: data.update({"solver.cot.demos": {"pool": True}})), "DX2203"),
        (_change("configuration.json", lambda data: data.update({"solver.cot.demos": {"pool": 0}})), "DX2203"),
        (_change("configuration.json", lambda data: data.update({"solver.cot.demos": 1})), "DX2203"),
        (_graph("temperature=$heat", "temperature=-1.0"), "DX1509"),
        (_graph("temperature=$heat", 'temperature="x"'), "DX1509"),
        (_graph("temperature=$heat", "temperature=$nothing"), "DX2081"),
        (_graph("temperature=$heat", "evil=1"), "DX2216"),
        (_graph("demos=$solver.cot.demos", "demos=[]"), "DX2216"),
        (_graph("demos=$solver.cot.demos", "demos=$k"), "DX2216"),
        (_graph("cot: lm", "tree: lm"), "DX2216"),
        (_graph("Ticket -> Route", "Ticket -> Nothing"), "DX2216"),
        (_graph("params $style", "params $nothing, $style"), "DX2216"),
        (_graph("@solver.cot", "@solver.cot input.x=1"), "DX2216"),
        (_graph("@solver.predict ", "@solver.cot "), "DX2216"),
    ],
)
def test_load_is_refused_when_contents_are_crafted(
    saved: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None], code: str
) -> None:
    archive = read_archive(saved)
    manifest, members = dict(archive.manifest), dict(archive.members)
    change(manifest, members)
    manifest.pop("members", None)
    write_archive(saved, manifest, members)
    assert code_of(saved) == code


def test_load_is_refused_when_the_graph_needs_more_than_the_manifest_says(tmp_path: Path) -> None:
    saved = tmp_path / "p.dspex"
    compile(library.needy).save(saved, import_path="tests.compiler.library:needy")
    archive = read_archive(saved)
    for needs in ([], [{"kind": "tool", "what": "bot:search"}]):
        write_archive(saved, {**archive.manifest, "needs": needs}, archive.members)
        assert code_of(saved) == "DX2203"


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
        assert loaded.config == compile(library.route).config
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


@pytest.mark.parametrize("part", ["graph.txt", "params.bin"])
def test_parts_are_refused_when_they_are_too_large_to_check_soon(part: str, saved: Path) -> None:
    archive = read_archive(saved)
    write_archive(saved, archive.manifest, {**archive.members, part: bytes(17 * 2**20)})
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
