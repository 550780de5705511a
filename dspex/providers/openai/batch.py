"""OpenAI's batches: requests in a file, answered within a day for half the price.

A batch is two files on the server beside the batch itself: one of answers and one of errors. Nothing but the batch's id
is kept here, so that another process can ask for the results: what reading an answer needs of its request stands in
the request's id within the batch.

Source: OpenAI API reference, "Batch" and "Files"; guide "Batch API".
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import quote

from pydantic_core import to_json

from dspex.errors import LMError, RateLimited, RequestRejected
from dspex.lm.model import BatchState, BatchStatus
from dspex.lm.types import LMRequest, LMResponse
from dspex.providers.batching import check_size, id_read, not_ended, request_id, unanswered
from dspex.providers.http import Client
from dspex.providers.openai.site import Site
from dspex.providers.reading import Reading
from dspex.providers.transport import Reply, place

MOST_REQUESTS = 50_000
MOST_BYTES = 200 * 1024 * 1024

_STATES: dict[object, BatchState] = {
    "validating": "running",
    "in_progress": "running",
    "finalizing": "running",
    "cancelling": "running",
    "completed": "done",
    "expired": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}

ReadAnswer = Callable[[Mapping[str, Any], Reading, Mapping[str, str], str], LMResponse]
"""An answer of (its JSON, how to read it, headers, URL)."""


class FileBatches:
    """The batches of one model.

    Args:
        client: The server's connections.
        site: Where they go.
        endpoint: What each request of a batch is for, such as ``/v1/chat/completions``.
        body: The body of a request; refuses what the model is not known to do.
        reading: How the answer to a request is to be read.
        read: The answer in the body of a response.
    """

    most = (MOST_REQUESTS, MOST_BYTES)

    def __init__(
        self,
        client: Client,
        site: Site,
        endpoint: str,
        body: Callable[[LMRequest], bytes],
        reading: Callable[[LMRequest], Reading],
        read: ReadAnswer,
    ) -> None:
        self._client = client
        self._site = site
        self._endpoint = endpoint
        self._body = body
        self._reading = reading
        self._read = read

    def size(self, request: LMRequest) -> int:
        """Bytes of the line of `request`, wherever it stands.

        Raises:
            RequestRejected: DX4201: it needs what the model cannot.
        """
        return len(self._line(MOST_REQUESTS, request))

    async def submit(self, requests: Sequence[LMRequest]) -> str:
        """Upload `requests` and start a batch of them; its id.

        Raises:
            RequestRejected: DX4201 a request needs what the model cannot; DX4212 too few or too many.
        """
        content = b"".join(self._line(index, request) for index, request in enumerate(requests))
        check_size(len(requests), len(content), MOST_REQUESTS, MOST_BYTES)
        boundary = f"dspex-{hashlib.sha256(content).hexdigest()[:32]}"
        form = _form({"purpose": b"batch"}, "batch.jsonl", content, boundary)
        url = self._site.file("/files")
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        try:
            file = self._client.json((await self._client.send(url, form, headers)).body, url)
        except LMError as error:
            # A file costs nothing: nobody was asked anything yet.
            error.sent = "no"
            raise
        url = self._site.file("/batches")
        order = {"input_file_id": file.get("id"), "endpoint": self._endpoint, "completion_window": "24h"}
        batch = self._client.json((await self._client.send(url, to_json(order))).body, url)
        name = batch.get("id")
        if not isinstance(name, str) or not name:
            raise self._client.misshapen(to_json(batch), url)
        return name

    def _line(self, index: int, request: LMRequest) -> bytes:
        if request.prompt is not None:
            raise self._client.incapable("raw prompts in a batch")
        name = request_id(index, self._reading(request))
        head = {"custom_id": name, "method": "POST", "url": self._endpoint}
        return to_json(head)[:-1] + b',"body":' + self._body(request) + b"}\n"

    async def status(self, batch: str) -> BatchStatus:
        """How far `batch` is."""
        found = await self._get(batch)
        counts = found.get("request_counts")
        done, failed, total = (_count(counts, name) for name in ("completed", "failed", "total"))
        return BatchStatus(self._state(found), done, failed, total)

    async def cancel(self, batch: str) -> None:
        """End `batch`; what was answered before stays answered."""
        await self._client.send(self._site.file(f"/batches/{quote(batch, safe='')}/cancel"), b"{}")

    async def results(self, batch: str) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
        """The outcome of each request, with its position.

        Raises:
            RequestRejected: DX4213, the batch has not ended.
        """
        found = await self._get(batch)
        state = self._state(found)
        where = place(self._site.file("/batches"))
        if state == "running":
            raise not_ended(batch, where)
        if state == "failed":
            failed = self._failed(batch, found.get("errors"), where)
            # How many requests there were is told by their file alone.
            async with aclosing(self._entries(found.get("input_file_id"))) as entries:
                async for index, _, _, _ in entries:
                    yield index, failed
            return
        missing = set(range(_count(found.get("request_counts"), "total")))
        for file in ("output_file_id", "error_file_id"):
            async with aclosing(self._entries(found.get(file))) as entries:
                async for index, reading, entry, url in entries:
                    missing.discard(index)
                    yield index, self._outcome(reading, entry, url)
        for index in sorted(missing):
            yield index, unanswered("the batch ended before this request was answered", where)

    async def _entries(self, file: object) -> AsyncGenerator[tuple[int, Reading, dict[str, object], str]]:
        """(position of a request, how to read its answer, what is said of it, URL) of each line of a file, if any."""
        if not isinstance(file, str) or not file:
            return
        url = self._site.file(f"/files/{quote(file, safe='')}/content")
        async with aclosing(self._client.lines(url, None, method="GET")) as lines:
            async for line in lines:
                entry = self._client.json(line.data, url)
                try:
                    index, reading = id_read(entry.get("custom_id"))
                except ValueError as error:
                    raise self._client.misshapen(line.data, url) from error
                yield index, reading, entry, url

    def _failed(self, batch: str, errors: object, where: str) -> LMError:
        listed = cast("dict[str, object]", errors).get("data") if isinstance(errors, dict) else None
        reasons = cast("list[dict[str, object]]", listed) if isinstance(listed, list) else []
        told = self._client.redact.excerpt("; ".join(str(reason.get("message")) for reason in reasons))
        message = f"batch {batch} failed as a whole: {told or 'without a reason'}"
        if any(reason.get("code") == "token_limit_exceeded" for reason in reasons):
            return RateLimited("DX4214", message, where=where, retryable=True, sent="yes")
        return RequestRejected("DX4214", message, where=where, sent="yes")

    def _outcome(self, reading: Reading, entry: Mapping[str, object], url: str) -> LMResponse | LMError:
        response = entry.get("response")
        if not isinstance(response, dict):
            error = entry.get("error")
            told = self._client.redact.excerpt(to_json(error))
            return unanswered(f"the batch did not answer this request: {told}", place(url))
        fields = cast("dict[str, Any]", response)
        body: object = fields.get("body")
        status: object = fields.get("status_code")
        if not isinstance(body, dict) or not isinstance(status, int):
            return self._client.misshapen(to_json(entry), url)
        if not 200 <= status < 300:
            return self._client.refusal(Reply(status, {}, to_json(body)), url)
        try:
            return self._read(cast("dict[str, Any]", body), reading, {}, url)
        except LMError as error:
            return error

    async def _get(self, batch: str) -> dict[str, object]:
        url = self._site.file(f"/batches/{quote(batch, safe='')}")
        return self._client.json((await self._client.send(url, None, method="GET")).body, url)

    def _state(self, batch: Mapping[str, object]) -> BatchState:
        state = _STATES.get(batch.get("status"))
        if state is None:
            raise self._client.misshapen(to_json(batch), self._site.file("/batches"))
        return state


def _count(fields: object, key: str) -> int:
    value = cast("dict[str, object]", fields).get(key) if isinstance(fields, dict) else None
    return value if isinstance(value, int) else 0


def _form(fields: Mapping[str, bytes], filename: str, content: bytes, boundary: str) -> bytes:
    """A body of ``multipart/form-data``. Source: RFC 7578."""
    mark = b"--" + boundary.encode()
    parts: list[bytes] = []
    for name, value in fields.items():
        parts += [mark, b'\r\nContent-Disposition: form-data; name="%b"\r\n\r\n' % name.encode(), value, b"\r\n"]
    head = f'\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\nContent-Type: application/jsonl'
    parts += [mark, head.encode(), b"\r\n\r\n", content, b"\r\n", mark, b"--\r\n"]
    return b"".join(parts)
