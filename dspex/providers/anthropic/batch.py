"""Anthropic's Message Batches: many requests answered within a day, at half the price.

Source: Anthropic, Message Batches API reference.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import quote

from dspex.errors import LMError
from dspex.lm.model import BatchState, BatchStatus
from dspex.lm.types import LMRequest, LMResponse
from dspex.providers.asking import as_body
from dspex.providers.batching import check_size, id_read, not_ended, request_id
from dspex.providers.http import Client
from dspex.providers.reading import MALFORMED, Reading, count
from dspex.providers.transport import place

MOST_REQUESTS = 100_000
MOST_BYTES = 256_000_000

_LONGEST_ID = 64


class MessageBatches:
    """The batches of one account.

    Args:
        client: Connections to the server.
        url: Where batches are.
        body: The body of a request; refuses what the model is not known to do.
        reading: How the answer to a request is to be read.
        outcome: Reads the result of one request.
    """

    most = (MOST_REQUESTS, MOST_BYTES - len(as_body({"requests": []})))

    def __init__(
        self,
        client: Client,
        url: str,
        body: Callable[[LMRequest], Mapping[str, object]],
        reading: Callable[[LMRequest], Reading],
        outcome: Callable[[Mapping[str, Any], Reading], LMResponse | LMError],
    ) -> None:
        self._client = client
        self._url = url
        self._body = body
        self._reading = reading
        self._outcome = outcome

    def size(self, request: LMRequest) -> int:
        """Bytes of the entry of `request`, wherever it stands, with the comma after it.

        Raises:
            RequestRejected: DX4201, as `submit`.
        """
        return len(as_body(self._entry(MOST_REQUESTS, request))) + 1

    def _entry(self, index: int, request: LMRequest) -> dict[str, object]:
        name = request_id(index, self._reading(request))
        if len(name) > _LONGEST_ID:
            raise self._client.incapable("so many stop texts of nothing but blanks, in a batch")
        return {"custom_id": name, "params": self._body(request)}

    async def submit(self, requests: Sequence[LMRequest]) -> str:
        """Hand in requests; the batch's id.

        Raises:
            RequestRejected: DX4201 a request needs what the model cannot, or what an id cannot say; DX4212 too few or
                too many.
        """
        content = as_body({"requests": [self._entry(index, request) for index, request in enumerate(requests)]})
        check_size(len(requests), len(content), MOST_REQUESTS, MOST_BYTES)
        reply = await self._client.send(self._url, content)
        batch = self._client.json(reply.body, self._url).get("id")
        if not isinstance(batch, str) or not batch:
            raise self._client.misshapen(reply.body, self._url)
        return batch

    async def status(self, batch: str) -> BatchStatus:
        url = self._place(batch)
        reply = await self._client.send(url, None, method="GET")
        data = cast("dict[str, Any]", self._client.json(reply.body, url))
        try:
            counts = data["request_counts"]
            answered, running = count(counts, "succeeded"), count(counts, "processing")
            cancelled = count(counts, "canceled")
            failed = count(counts, "errored") + count(counts, "expired") + cancelled
            ended = {"in_progress": False, "canceling": False, "ended": True}[data["processing_status"]]
        except MALFORMED as error:
            raise self._client.misshapen(reply.body, url) from error
        state: BatchState = "running" if not ended else "cancelled" if cancelled else "done"
        return BatchStatus(state, answered, failed, answered + failed + running)

    async def results(self, batch: str) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
        """The outcome of each request, with its position.

        Raises:
            RequestRejected: DX4213, the batch has not ended.
        """
        if (await self.status(batch)).state == "running":
            raise not_ended(batch, place(self._url))
        # The place that the batch itself names would be sent the key, wherever it is.
        url = f"{self._place(batch)}/results"
        async with aclosing(self._client.lines(url, None, method="GET")) as lines:
            async for line in lines:
                data = cast("dict[str, Any]", self._client.json(line.data, url))
                try:
                    index, reading = id_read(data["custom_id"])
                    outcome = self._outcome(data["result"], reading)
                except MALFORMED as error:
                    raise self._client.misshapen(line.data, url) from error
                yield index, outcome

    async def cancel(self, batch: str) -> None:
        await self._client.send(f"{self._place(batch)}/cancel", None)

    def _place(self, batch: str) -> str:
        return f"{self._url}/{quote(batch, safe='')}"
