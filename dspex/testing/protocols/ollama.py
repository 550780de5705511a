"""Ollama's errors, chat and generate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import from_json, to_json

from dspex.lm.types import LMResponse, Usage
from dspex.testing.protocols.openai import entries_of, fields_of, logprobs_of
from dspex.testing.request import Body, Endpoint, Generating, Made, MockRequest, Trouble, TroubleKind, pieces

_ERRORS: dict[TroubleKind, tuple[int, str]] = {
    "request": (400, "invalid request"),
    "key": (401, "unauthorized"),
    "permission": (403, "forbidden"),
    "route": (404, "model 'mock' not found"),
    "context_length": (400, "the input length exceeds the context length"),
    "content_filter": (400, "the prompt was blocked"),
    "quota": (429, "you have reached your usage limit"),
    "rate_limit": (429, "too many requests"),
    "server": (500, "an error was encountered while running the model"),
    "overloaded": (503, "server busy, please try again. maximum pending requests exceeded"),
}


class Ollama(Endpoint):
    """Ollama's errors."""

    protocol = "ollama"

    def trouble(self, trouble: Trouble) -> Made:
        status, message = _ERRORS[trouble.kind]
        return Made(trouble.status or status, to_json({"error": trouble.message or message}))

    def trouble_part(self, trouble: Trouble) -> bytes:
        return self.trouble(trouble).body + b"\n"


class OllamaChat(Ollama, Generating):
    """``/api/chat``."""

    stream_type = "application/x-ndjson"

    def wrong(self, request: MockRequest) -> str:
        return "" if request.body.get("model") else "model is required"

    def streams(self, request: MockRequest) -> bool:
        return request.body.get("stream") is not False

    def schema(self, body: Body) -> Mapping[str, Any] | None:
        wanted = body.get("format")
        if wanted == "json":
            return {"type": "object", "properties": {"answer": {"type": "string"}}}
        return cast("Mapping[str, Any]", wanted) if isinstance(wanted, dict) else None

    def tools(self, body: Body) -> Mapping[str, Mapping[str, Any]]:
        functions = [fields_of(tool.get("function")) for tool in entries_of(body.get("tools"))]
        return {function["name"]: fields_of(function.get("parameters")) for function in functions if function}

    def top_logprobs(self, body: Body) -> int | None:
        return int(body.get("top_logprobs") or 0) if body.get("logprobs") is True else None

    def whole(self, request: MockRequest, said: LMResponse, usage: Usage) -> object:
        body = {**_frame(request, said), **self.said(said.text, said.reasoning, said), **_end(said, usage)}
        if said.logprobs is not None:
            body["logprobs"] = logprobs_of(said.logprobs)
        return body

    def parts(self, request: MockRequest, said: LMResponse, usage: Usage) -> list[bytes]:
        frame = _frame(request, said)
        lines: list[dict[str, object]] = [self.said("", piece) for piece in pieces(said.reasoning)]
        if said.logprobs is None:
            lines += [self.said(piece) for piece in pieces(said.text)]
        else:
            each = zip(said.logprobs, logprobs_of(said.logprobs), strict=True)
            lines += [{**self.said(token.token), "logprobs": [logprob]} for token, logprob in each]
        if said.tool_calls:
            lines.append(self.said("", "", said))
        made = [to_json({**frame, **line, "done": False}) + b"\n" for line in lines]
        return [*made, to_json({**frame, **self.said(""), **_end(said, usage)}) + b"\n"]

    def said(self, text: str, thinking: str = "", whole: LMResponse | None = None) -> dict[str, object]:
        """The part of a body that brings text; with the tool calls of `whole`."""
        message: dict[str, object] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if whole is not None and whole.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "function": {"index": index, "name": call.name, "arguments": from_json(call.arguments)},
                }
                for index, call in enumerate(whole.tool_calls)
            ]
        return {"message": message}


class OllamaGenerate(OllamaChat):
    """``/api/generate``."""

    def said(self, text: str, thinking: str = "", whole: LMResponse | None = None) -> dict[str, object]:
        return {"response": text, "thinking": thinking} if thinking else {"response": text}


def _frame(request: MockRequest, said: LMResponse) -> dict[str, object]:
    return {"model": said.model or request.model, "created_at": "2026-01-01T00:00:00.000000Z"}


def _end(said: LMResponse, usage: Usage) -> dict[str, object]:
    return {
        "done": True,
        "done_reason": "length" if said.stop == "length" else "stop",
        "total_duration": 3_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": usage.input_tokens,
        "prompt_eval_duration": 1_000_000,
        "eval_count": usage.output_tokens,
        "eval_duration": 1_000_000,
    }
