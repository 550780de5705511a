"""Keys and addresses: where they come from, where a key may not go, and that none is printed."""

from __future__ import annotations

import asyncio
import sys
import traceback
from types import ModuleType
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import RequestRejected, UsageError
from dspex.executor.budget import BudgetAccount
from dspex.lm.model import LM
from dspex.lm.spend import Budget
from dspex.lm.types import LMRequest, Message
from dspex.program.context import using
from dspex.program.modules import Predict
from dspex.program.schema import Schema
from dspex.providers import open_model
from dspex.providers.keys import base_url_for, key_for
from dspex.testing import MockServer

OWN = "https://api.own.example/v1"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OWN_KEY", "OTHER_KEY", "OWN_URL"):
        monkeypatch.delenv(name, raising=False)


def key(needed: bool = False, **lm: Any) -> str:
    return key_for(LM("own/m", **lm), ("OWN_KEY", "OTHER_KEY"), needed)


def refusal(**lm: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        key(**lm)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_the_environments_first_key_is_taken_where_no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key() == ""
    monkeypatch.setenv("OTHER_KEY", "second")
    assert key() == "second"
    monkeypatch.setenv("OWN_KEY", " first\n")
    assert key() == "first"
    assert key(api_key="given") == "given"
    assert key(base_url=OWN) == ""
    assert key(base_url=OWN, api_key="given") == "given"


def test_a_missing_key_names_what_would_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(needed=True)
    assert error.code == "DX8111"
    assert "OWN_KEY or OTHER_KEY" in str(error)
    monkeypatch.setenv("OWN_KEY", "canary")
    named = refusal(needed=True, base_url=OWN)
    assert "OWN_KEY" not in str(named)
    assert refusal(needed=True, api_key="  ").code == "DX8111"


def test_a_function_gives_the_key() -> None:
    assert key(api_key=lambda: "fetched\n") == "fetched"
    for broken in (lambda: None, lambda: 3, 3, ("canary",)):
        assert refusal(api_key=cast("Any", broken)).code == "DX8118"


class Unavailable(Exception):
    """What a user's own function raises."""


def test_a_function_that_fails_gives_an_error_without_its_words() -> None:
    def fails() -> str:
        raise Unavailable("canary")

    with pytest.raises(RequestRejected) as caught:
        key(api_key=fails)
    error = caught.value
    assert (error.code, error.sent, error.retryable) == ("DX4218", "no", True)
    assert isinstance(error.__cause__, Unavailable)
    assert "Unavailable" in error.message
    assert "canary" not in f"{error} {error!r}"


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "bedrock"])
def test_a_function_that_fails_later_costs_nothing_and_is_asked_again(provider: str) -> None:
    steps: list[str | None] = ["canary-at-first", None, "canary-again"]

    def fetch() -> str:
        key = steps.pop(0)
        if key is None:
            raise Unavailable("canary")
        return key

    with MockServer(lambda _: "Paris") as server:
        path = {"openai": "/v1", "gemini": "/v1beta"}.get(provider, "")
        lm = LM(f"{provider}/m", base_url=server.root + path, api_key=fetch, cache="off")

        class Ask(Schema):
            question: str

        class Answer(Schema):
            answer: str

        account = BudgetAccount(Budget(calls=5))
        with using(lm=lm, budget=account):
            assert Predict(Ask, Answer).run(Ask(question="Where?")) == Answer(answer="Paris")
        assert (account.settled.calls, account.uncertain.calls) == (1, 0)
        (request,) = server.requests
        assert "canary-again" in repr(request.headers)


def test_a_function_that_later_gives_no_key_is_an_error_of_the_call() -> None:
    given: list[Any] = ["canary", "not a header\n!"]
    with MockServer() as server:
        model = open_model(LM("openai/m", base_url=server.url, api_key=lambda: given.pop(0)))
        with pytest.raises(RequestRejected) as caught:
            asyncio.run(model.complete(LMRequest((Message("user", "Where?"),))))
        assert (caught.value.code, caught.value.sent, caught.value.retryable) == ("DX4218", "no", False)
        assert not server.requests
        asyncio.run(model.aclose())


class Keyring(ModuleType):
    """The package keyring as far as it is used here."""

    def __init__(self) -> None:
        super().__init__("keyring")
        self.errors = ModuleType("keyring.errors")
        self.errors.KeyringError = type("KeyringError", (Exception,), {})  # type: ignore[attr-defined]
        self.entries = {("service/of mine", "me"): "canary-from-keyring", ("empty", "me"): ""}

    def get_password(self, service: str, user: str) -> str | None:
        if service == "locked":
            raise self.errors.KeyringError("canary")
        return self.entries.get((service, user))


def test_the_keyring_gives_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", Keyring())
    assert key(api_key="keyring:service/of mine/me") == "canary-from-keyring"
    missing = refusal(api_key="keyring:nobody/me")
    assert missing.code == "DX8117"
    assert "keyring set nobody me" in str(missing)
    for entry in ("keyring:empty/me", "keyring:service", "keyring:/me", "keyring:service/"):
        assert refusal(api_key=entry).code == "DX8117"


def test_a_locked_keyring_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", Keyring())
    with pytest.raises(UsageError, match="KeyringError") as caught:
        key(api_key="keyring:locked/me")
    assert caught.value.code == "DX8117"
    assert "canary" not in str(caught.value)


def test_a_missing_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    error = refusal(api_key="keyring:service/me")
    assert (error.code, error.fix) == ("DX8117", "pip install keyring")


@pytest.mark.parametrize("bad", ["canary key", "canary\r\nX-Evil: 1", "canary\x00", "cänary", "canary\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_unprinted(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(api_key=bad).code == "DX8113"
    assert refusal(api_key=lambda: bad).code == "DX8113"


@settings(deadline=None)
@given(st.text())
def test_what_is_taken_fits_into_a_header(text: str) -> None:
    if all("!" <= character <= "~" for character in text.strip()):
        assert key(api_key=lambda: text) == text.strip()
    else:
        with pytest.raises(UsageError):
            key(api_key=lambda: text)


def test_addresses_come_from_code_then_environment_then_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    assert base_url_for(LM("own/m"), "OWN_URL", OWN) == OWN
    monkeypatch.setenv("OWN_URL", "http://gateway.example/v1/")
    assert base_url_for(LM("own/m"), "OWN_URL", OWN) == "http://gateway.example/v1"
    assert base_url_for(LM("own/m"), "", OWN) == OWN
    assert base_url_for(LM("own/m", base_url="http://h:1/v1//"), "OWN_URL", OWN) == "http://h:1/v1"


MALFORMED = ("", "h/v1", "ftp://h/v1", "http://", "http://h:x/v1", "http://h/v1?key=canary", "http://h/#canary")


@pytest.mark.parametrize("url", [*MALFORMED, "http://h /"])
def test_malformed_addresses_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        base_url_for(LM("own/m", base_url=url), "OWN_URL", OWN)
    assert caught.value.code == "DX8114"
    assert "canary" not in str(caught.value)


def test_a_missing_address_names_the_variable() -> None:
    with pytest.raises(UsageError, match="OWN_URL"):
        base_url_for(LM("own/m"), "OWN_URL", "")
