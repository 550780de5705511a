"""Models and servers for tests: nothing here talks to a network.

`ScriptedLM` answers with a function. `MockServer` is a real HTTP server on loopback that speaks the protocols of
OpenAI, Anthropic, Gemini, Ollama and Bedrock and fails on command; ``dspex mock-server`` runs it as a process of its
own.
"""

from __future__ import annotations

from dspex.providers.replay import ReplayLM, replay
from dspex.providers.scripted import ScriptedLM
from dspex.testing.answers import choose_fields, default_answer
from dspex.testing.faults import Fault
from dspex.testing.ledger import Totals
from dspex.testing.limits import RateLimit
from dspex.testing.mock_server import MockServer
from dspex.testing.process import ServerProcess
from dspex.testing.request import MockRequest, Trouble

__all__ = [
    "Fault",
    "MockRequest",
    "MockServer",
    "RateLimit",
    "ReplayLM",
    "ScriptedLM",
    "ServerProcess",
    "Totals",
    "Trouble",
    "choose_fields",
    "default_answer",
    "replay",
]
