"""Which models there are, in every protocol that can be asked."""

from __future__ import annotations

from pydantic_core import to_json

from dspex.testing.protocols.ollama import Ollama
from dspex.testing.protocols.openai import OpenAI
from dspex.testing.request import Host, Made, MockRequest

_WHEN = "2026-01-01T00:00:00Z"


class Models(OpenAI):
    """``/v1/models`` and ``/v1/models/NAME`` in the words of whom the headers are meant for."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        name = request.path.rpartition("/models")[2].strip("/")
        if "x-goog-api-key" in request.headers or "/v1beta/" in request.path:
            limits = {"inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536}
            model = {"name": f"models/{name or 'mock'}", "supportedGenerationMethods": ["generateContent"], **limits}
            return Made(200, to_json(model if name else {"models": [model]}))
        if "anthropic-version" in request.headers:
            model = {"id": name or "mock", "type": "model", "display_name": "Mock", "created_at": _WHEN}
            listing = {"data": [model], "has_more": False, "first_id": "mock", "last_id": "mock"}
            return Made(200, to_json(model if name else listing))
        model = {"id": name or "mock", "object": "model", "created": 0, "owned_by": "dspex"}
        return Made(200, to_json(model if name else {"object": "list", "data": [model]}))


class OllamaModels(Ollama):
    """``/api/tags``, ``/api/show`` and ``/api/version``."""

    def respond(self, request: MockRequest, server: Host) -> Made:
        details = {"format": "gguf", "family": "mock", "parameter_size": "1B", "quantization_level": "Q4_0"}
        if request.path.endswith("/version"):
            return Made(200, to_json({"version": "0.0.0"}))
        if request.path.endswith("/show"):
            capabilities = ["completion", "tools", "vision", "thinking"]
            shown = {"details": details, "model_info": {"mock.context_length": 8192}, "capabilities": capabilities}
            return Made(200, to_json(shown))
        model = {"name": "mock", "model": "mock", "modified_at": _WHEN, "size": 1, "digest": "0", "details": details}
        return Made(200, to_json({"models": [model]}))
