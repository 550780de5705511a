"""Models and servers for tests: nothing here talks to a network.

`ScriptedLM` answers with a function. `MockServer` is a real HTTP server on loopback that speaks OpenAI's protocol and
fails on command; ``python -m dspex.testing`` runs it as a process of its own.
"""

from __future__ import annotations

from dspex.providers.replay import ReplayLM, replay
from dspex.providers.scripted import ScriptedLM
from dspex.testing.mock_protocol import Fault, MockRequest, choose_fields, default_answer
from dspex.testing.mock_server import MockServer, ServerProcess

__all__ = [
    "Fault",
    "MockRequest",
    "MockServer",
    "ReplayLM",
    "ScriptedLM",
    "ServerProcess",
    "choose_fields",
    "default_answer",
    "replay",
]
