"""Settings come from the environment, then from the project; directories are writable or replaced with a warning."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from dspex.errors import UsageError
from dspex.settings import SETTINGS, SettingsWarning, cache_dir, home, project_dir, setting, size


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in SETTINGS:
        monkeypatch.delenv("DSPEX_" + name.upper(), raising=False)
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    project = tmp_path / "project" / "deep"
    project.mkdir(parents=True)
    monkeypatch.chdir(project)
    return project


def write(project: Path, text: str) -> None:
    (project.parent / "pyproject.toml").write_text(text)


def test_environment_wins_over_the_project(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(clean, '[tool.dspex]\nlm = "local/smollm2"\ncache-bytes = 1000\njit = false\n')
    assert setting("lm") == "local/smollm2"
    assert setting("cache_bytes") == "1000"
    assert setting("jit") == "0"
    assert setting("content") is None
    monkeypatch.setenv("DSPEX_LM", "openai/x")
    assert setting("lm") == "openai/x"
    monkeypatch.setenv("DSPEX_LM", "")
    assert setting("lm") == "local/smollm2"
    assert project_dir() == clean.parent


def test_no_project_means_no_settings(clean: Path) -> None:
    assert setting("lm") is None
    assert project_dir() == clean


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[tool.dspex\n", "DX8201"),
        ('[tool.dspex]\nlm = ["a"]\n', "DX8203"),
        ("[tool]\ndspex = 3\n", "DX8203"),
    ],
)
def test_an_unsound_project_file_is_named(clean: Path, text: str, code: str) -> None:
    write(clean, text)
    with pytest.raises(UsageError) as caught:
        setting("lm")
    assert caught.value.code == code
    assert caught.value.where == str(clean.parent / "pyproject.toml")


def test_a_misspelt_setting_is_pointed_out(clean: Path) -> None:
    write(clean, "[tool.dspex]\ncache_byte = 5\n")
    with pytest.warns(SettingsWarning, match="did you mean cache_bytes"):
        assert setting("cache_bytes") is None


@pytest.mark.skipif(sys.platform != "linux", reason="places differ by platform")
def test_directories_follow_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home() == tmp_path / "user" / ".local" / "share" / "dspex"
    assert cache_dir() == tmp_path / "user" / ".cache" / "dspex"
    assert stat.S_IMODE(home().stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert home() == tmp_path / "data" / "dspex"
    assert cache_dir() == tmp_path / "user" / ".cache" / "dspex"
    monkeypatch.setenv("DSPEX_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path / "c"))
    assert (home(), cache_dir()) == (tmp_path / "h", tmp_path / "c")


def test_an_unwritable_directory_is_replaced_with_a_warning(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user").write_text("a file where the home directory should be")
    write(clean, "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user" / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user" / "cache"))
    with pytest.warns(SettingsWarning, match="cannot be written"):
        assert home() == clean.parent / ".dspex"
    with pytest.warns(SettingsWarning, match="cannot be written"):
        assert cache_dir() == clean.parent / ".dspex" / "cache"
    monkeypatch.setenv("DSPEX_HOME", str(tmp_path / "kept"))
    with pytest.warns(SettingsWarning, match="cannot be written"):
        assert cache_dir() == tmp_path / "kept" / "cache"


def test_no_writable_directory_at_all_is_an_error(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean / ".dspex").write_text("in the way")
    monkeypatch.setenv("DSPEX_HOME", str(clean / ".dspex" / "x"))
    with pytest.raises(UsageError) as caught:
        home()
    assert caught.value.code == "DX8202"
    assert "DSPEX_HOME" in (caught.value.fix or "")


def test_sizes_are_numbers_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert size("log_bytes", 7) == 7
    monkeypatch.setenv("DSPEX_LOG_BYTES", "1000")
    assert size("log_bytes", 7) == 1000
    for bad in ("0", "-1", "1GB", "1.5"):
        monkeypatch.setenv("DSPEX_LOG_BYTES", bad)
        with pytest.raises(UsageError, match="DX8204"):
            size("log_bytes", 7)
