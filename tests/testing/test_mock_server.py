"""The mock server itself: what other suites rely on."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.testing import Fault, MockRequest, MockServer, choose_fields, default_answer
from dspex.testing.faults import read_plan
from dspex.testing.routes import route


def post(url: str, body: object, path: str = "/chat/completions", **headers: str) -> tuple[int, dict[str, Any], Any]:
    """(status, JSON body, headers) of an answer; a body of None makes it a GET."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json", **headers})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as response:
            return response.status, json.loads(response.read()), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}"), error.headers


def ask(url: str, text: str = "hello", **fields: object) -> tuple[int, dict[str, Any], Any]:
    return post(url, {"model": "m", "messages": [{"role": "user", "content": text}], **fields})


def test_answers_are_a_function_of_the_request() -> None:
    with MockServer() as one, MockServer() as two:
        assert ask(one.url)[1] == ask(two.url)[1] == ask(one.url)[1]
        assert ask(one.url)[1] != ask(one.url, "other")[1]
        assert [request.attempt for request in one.requests] == [0, 1, 2, 0]
        assert one.answered == [0, 1, 2, 3]


def test_raw_prompts_models_and_unknown_paths() -> None:
    with MockServer(lambda request: request.text.upper()) as server:
        assert post(server.url, {"model": "m", "prompt": "ab"}, "/completions")[1]["choices"][0]["text"] == "AB"
        assert post(server.url, None, "/models")[1]["data"][0]["id"] == "mock"
        assert post(server.url, {"x": 1}, "/elsewhere")[0] == 404
        assert post(server.url, b"not json")[0] == 400


def test_fields_are_chosen_from_the_given_values_and_all_of_them() -> None:
    with MockServer(choose_fields({"label": ["a", "b", "c"], "sure": [True, False]})) as server:
        contents = [json.loads(ask(server.url, str(i))[1]["choices"][0]["message"]["content"]) for i in range(40)]
    assert {content["label"] for content in contents} == {"a", "b", "c"}
    assert {content["sure"] for content in contents} == {True, False}


SCHEMAS: dict[str, tuple[dict[str, Any], Callable[[Any], bool]]] = {
    "choice": ({"type": "object", "properties": {"x": {"enum": ["a", "b"]}}}, lambda v: v["x"] in ("a", "b")),
    "number": ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, lambda v: 0 < v <= 1),
    "integer": ({"type": "integer", "minimum": 3, "maximum": 5}, lambda v: v in (3, 4, 5)),
    "boolean": ({"type": "boolean"}, lambda v: isinstance(v, bool)),
    "list": ({"type": "array", "items": {"const": 1}, "minItems": 2}, lambda v: v == [1, 1]),
    "reference": ({"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [{"type": "null"}]}}}, lambda v: v is None),
}


@settings(deadline=None)
@given(st.sampled_from(list(SCHEMAS)), st.binary(min_size=32, max_size=32))
def test_default_answers_fit_the_schema(name: str, digest: bytes) -> None:
    schema, fits = SCHEMAS[name]
    body = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    path = "/v1/chat/completions"
    answer = default_answer(MockRequest(0, 0, digest.hex(), path, {}, body, route("POST", path)))
    assert fits(json.loads(answer) if isinstance(answer, str) else answer)


def test_faults_meet_the_requests_that_they_name() -> None:
    faults = [
        Fault("status", status=429, retry_after=2, at=0),
        Fault("status", status=503, retry_after=60, date=True, every=3),
        Fault("not_json", attempts=1),
    ]
    with MockServer(faults=faults) as server:
        status, body, headers = ask(server.url, "first")
        assert (status, headers["Retry-After"], body["error"]["message"]) == (429, "2", "mock failure")
        with pytest.raises(json.JSONDecodeError):
            ask(server.url, "second")
        status, _, headers = ask(server.url, "third")
        assert status == 503
        assert headers["Retry-After"].endswith("GMT")
        assert ask(server.url, "second")[0] == 200


def test_keys_are_checked_when_asked_to() -> None:
    with MockServer(api_key="right") as server:
        assert ask(server.url)[0] == 401
        assert post(server.url, {"model": "m", "messages": []}, Authorization="Bearer right")[0] == 200


def test_usage_adds_up() -> None:
    with MockServer() as server:
        usages = [ask(server.url, "word " * n)[1]["usage"] for n in range(1, 10)]
        assert sum(usage["prompt_tokens"] for usage in usages) == server.input_tokens == 45
        assert sum(usage["completion_tokens"] for usage in usages) == server.output_tokens


def test_requests_in_pieces_and_back_to_back_are_understood() -> None:
    body = b'{"prompt": "x"}'
    request = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with MockServer() as server, socket.create_connection(("127.0.0.1", int(server.url.split(":")[2][:-3]))) as client:
        for byte in request[:-1]:
            client.send(bytes([byte]))
        client.send(request[-1:] + request + request)
        assert server.wait_until(lambda s: len(s.answered) == 3)


def test_a_port_that_is_taken_is_an_error() -> None:
    with MockServer() as server, pytest.raises(OSError):
        MockServer(port=int(server.url.split(":")[2][:-3])).start()


def test_stopping_cuts_what_hangs() -> None:
    with MockServer(faults=[Fault("hang")]) as server:
        client = socket.create_connection(("127.0.0.1", int(server.url.split(":")[2][:-3])))
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        assert server.wait_until(lambda s: len(s.requests) == 1)
    with client:
        client.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
    server.stop()


def test_the_ledger_never_holds_a_key(tmp_path: Path) -> None:
    with MockServer(ledger=tmp_path / "l") as server:
        post(server.url, {"model": "m", "messages": []}, Authorization="Bearer canary")
    assert "canary" not in (tmp_path / "l").read_text()


def test_plans_are_read_from_json() -> None:
    assert read_plan('[{"kind": "hang", "at": 3}]') == (Fault("hang", at=3),)
