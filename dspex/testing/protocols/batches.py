"""Files and batches of OpenAI, message batches of Anthropic."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from email import message_from_bytes
from email.message import Message
from typing import Any, cast

from pydantic_core import from_json, to_json

from dspex.testing.protocols.anthropic import MESSAGES, Anthropic
from dspex.testing.protocols.openai import OpenAI, entries_of, fields_of
from dspex.testing.request import NO_USAGE, Batch, Body, Endpoint, Host, Made, MockRequest, Trouble

_WHEN = "2026-01-01T00:00:00Z"


def _item(request: MockRequest, path: str, body: Body, endpoint: Endpoint) -> MockRequest:
    """What one entry of the batch that `request` brings would be as a request of its own."""
    digest = hashlib.sha256(path.encode() + b"\n" + to_json(body)).hexdigest()
    return MockRequest(request.number, 0, digest, path, request.headers, body, endpoint, request.key)


class OpenAIFiles(OpenAI):
    """``/files``, ``/files/ID`` and ``/files/ID/content``."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        name = request.path.rpartition("/files")[2].strip("/")
        if not name:
            return self._uploaded(request, server) if request.method == "POST" else self._listed(server)
        wanted, _, content = name.partition("/")
        if wanted not in server.files:
            return self.trouble(Trouble("route", message=f"No such File object: {wanted}"))
        if content:
            return Made(200, server.files[wanted][1], media_type="application/octet-stream")
        if request.method == "DELETE":
            del server.files[wanted]
            return Made(200, to_json({"id": wanted, "object": "file", "deleted": True}))
        return Made(200, to_json(_file(wanted, *server.files[wanted])))

    def _uploaded(self, request: MockRequest, server: Host) -> Made:
        head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
        form = message_from_bytes(head + request.raw)
        for part in cast("list[Message]", form.get_payload()) if form.is_multipart() else []:
            name = part.get_filename()
            if name is not None:
                made = f"file-mock{request.number}"
                server.files[made] = (name, cast(bytes, part.get_payload(decode=True)))
                return Made(200, to_json(_file(made, *server.files[made])))
        return self.trouble(Trouble("request", message="'file' is a required property"))

    def _listed(self, server: Host) -> Made:
        data = [_file(name, *stored) for name, stored in server.files.items()]
        return Made(200, to_json({"object": "list", "data": data, "has_more": False}))


def _file(name: str, title: str, content: bytes) -> dict[str, object]:
    return {
        "id": name,
        "object": "file",
        "bytes": len(content),
        "created_at": 0,
        "filename": title,
        "purpose": "batch_output" if title.startswith("batch_") else "batch",
        "status": "processed",
    }


class OpenAIBatches(OpenAI):
    """``/batches``, ``/batches/ID`` and ``/batches/ID/cancel``.

    Args:
        route: The endpoint of an entry's path.
    """

    def __init__(self, route: Callable[[str, str], Endpoint]) -> None:
        self._route = route

    def respond(self, request: MockRequest, server: Host) -> Made:
        name, _, verb = request.path.rpartition("/batches")[2].strip("/").partition("/")
        if not name:
            return self._created(request, server) if request.method == "POST" else self._listed(server)
        batch = server.batches.get(name)
        if batch is None:
            return self.trouble(Trouble("route", message=f"No batch found with id '{name}'."))
        usage = NO_USAGE
        if verb == "cancel":
            batch.state = "cancelled" if batch.state == "waiting" else batch.state
        else:
            before = batch.state
            usage = batch.poll(server)
            if batch.state != before:
                self._write(name, batch, server)
        return Made(200, to_json(_openai_batch(name, batch, server)), usage=usage)

    def _created(self, request: MockRequest, server: Host) -> Made:
        file, path = request.body.get("input_file_id"), request.body.get("endpoint")
        if not isinstance(path, str) or file not in server.files:
            return self.trouble(Trouble("request", message="input_file_id and endpoint are required"))
        items: dict[str, MockRequest] = {}
        for line in server.files[file][1].splitlines():
            entry = fields_of(from_json(line))
            items[entry["custom_id"]] = _item(request, path, fields_of(entry.get("body")), self._route("POST", path))
        name = f"batch_mock{request.number}"
        server.batches[name] = Batch(items, server.batch_polls, request.body)
        return Made(200, to_json(_openai_batch(name, server.batches[name], server)))

    def _listed(self, server: Host) -> Made:
        data = [
            _openai_batch(name, batch, server)
            for name, batch in reversed(list(server.batches.items()))
            if "endpoint" in batch.detail
        ]
        return Made(200, to_json({"object": "list", "data": data, "has_more": False}))

    def _write(self, name: str, batch: Batch, server: Host) -> None:
        lines: dict[str, list[bytes]] = {"output": [], "error": []}
        for own, made in batch.results.items():
            response = {"status_code": made.status, "request_id": f"req_{own}", "body": from_json(made.body)}
            line = {"id": f"batch_req_{own}", "custom_id": own, "response": response, "error": None}
            lines["output" if made.status == 200 else "error"].append(to_json(line))
        for own in batch.items if batch.state == "expired" else ():
            if own not in batch.results:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                line = {"id": f"batch_req_{own}", "custom_id": own, "response": None, "error": error}
                lines["error"].append(to_json(line))
        for kind, written in lines.items():
            if written:
                server.files[f"file-{kind}-{name}"] = (f"{name}_{kind}.jsonl", b"\n".join(written) + b"\n")


def _openai_batch(name: str, batch: Batch, server: Host) -> dict[str, object]:
    done = sum(made.status == 200 for made in batch.results.values())
    states = {"waiting": "in_progress", "ended": "completed", "expired": "expired", "cancelled": "cancelled"}
    files = {
        f"{kind}_file_id": f"file-{kind}-{name}" if f"file-{kind}-{name}" in server.files else None
        for kind in ("output", "error")
    }
    return {
        "id": name,
        "object": "batch",
        "endpoint": batch.detail["endpoint"],
        "errors": None,
        "input_file_id": batch.detail["input_file_id"],
        "completion_window": batch.detail.get("completion_window", "24h"),
        "status": states[batch.state],
        **files,
        "created_at": 0,
        "completed_at": 0 if batch.state == "ended" else None,
        "request_counts": {"total": len(batch.items), "completed": done, "failed": len(batch.results) - done},
        "metadata": batch.detail.get("metadata"),
    }


class AnthropicBatches(Anthropic):
    """``/v1/messages/batches``, ``…/ID``, ``…/ID/results`` and ``…/ID/cancel``."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        name, _, verb = request.path.rpartition("/batches")[2].strip("/").partition("/")
        if not name:
            return self._created(request, server) if request.method == "POST" else self._listed(request, server)
        batch = server.batches.get(name)
        if batch is None:
            return self.trouble(Trouble("route", message=f"batch {name} not found"))
        if verb == "results":
            lines = [to_json({"custom_id": own, "result": _result(made)}) for own, made in batch.results.items()]
            kind = "canceled" if batch.state == "cancelled" else "expired"
            left = [own for own in batch.items if own not in batch.results]
            lines += [to_json({"custom_id": own, "result": {"type": kind}}) for own in left]
            return Made(200, b"".join(line + b"\n" for line in lines), media_type="application/x-jsonl")
        if request.method == "DELETE":
            del server.batches[name]
            return Made(200, to_json({"id": name, "type": "message_batch_deleted"}))
        usage = NO_USAGE
        if verb == "cancel":
            batch.state = "cancelled" if batch.state == "waiting" else batch.state
        else:
            usage = batch.poll(server)
        return Made(200, to_json(_message_batch(name, batch, request)), usage=usage)

    def _created(self, request: MockRequest, server: Host) -> Made:
        entries = entries_of(request.body.get("requests"))
        if not entries:
            return self.trouble(Trouble("request", message="requests: Field required"))
        items = {
            str(entry["custom_id"]): _item(request, "/v1/messages", fields_of(entry.get("params")), MESSAGES)
            for entry in entries
        }
        name = f"msgbatch_mock{request.number}"
        server.batches[name] = Batch(items, server.batch_polls, {})
        return Made(200, to_json(_message_batch(name, server.batches[name], request)))

    def _listed(self, request: MockRequest, server: Host) -> Made:
        data = [
            _message_batch(name, batch, request)
            for name, batch in reversed(list(server.batches.items()))
            if not batch.detail
        ]
        names = [entry["id"] for entry in data] or [None]
        return Made(200, to_json({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}))


def _result(made: Made) -> Mapping[str, Any]:
    body = from_json(made.body)
    return {"type": "succeeded", "message": body} if made.status == 200 else {"type": "errored", "error": body}


def _message_batch(name: str, batch: Batch, request: MockRequest) -> dict[str, object]:
    done = sum(made.status == 200 for made in batch.results.values())
    ended = batch.state != "waiting"
    path = request.path.partition("/batches")[0]
    results = f"http://{request.headers.get('host', '')}{path}/batches/{name}/results"
    counts = {
        "processing": 0 if ended else len(batch.items),
        "succeeded": done,
        "errored": len(batch.results) - done,
        "canceled": len(batch.items) if batch.state == "cancelled" else 0,
        "expired": len(batch.items) - len(batch.results) if batch.state == "expired" else 0,
    }
    return {
        "id": name,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": counts,
        "created_at": _WHEN,
        "expires_at": "2026-01-02T00:00:00Z",
        "ended_at": _WHEN if ended else None,
        "archived_at": None,
        "cancel_initiated_at": _WHEN if batch.state == "cancelled" else None,
        "results_url": results if ended else None,
    }
