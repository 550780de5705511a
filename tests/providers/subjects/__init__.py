"""The implementations that the conformance suite in `test_conformance.py` runs over.

A provider joins by a file with its subject, a context manager that gives a `Subject`, and an entry in `SUBJECTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from .claude import anthropic_subject, bedrock_subject
from .gemini import gemini_subject
from .ollama import ollama_subject
from .openai import azure_subject, chat_subject, compatible_subject, responses_subject
from .recorded import replay_subject, scripted_subject
from .subject import ABLE, CHOICES, KEY, REQUESTS, Subject, chat, served

__all__ = ["ABLE", "CHOICES", "KEY", "REQUESTS", "SUBJECTS", "Subject", "chat", "served"]

SUBJECTS: dict[str, Callable[[], AbstractContextManager[Subject]]] = {
    "openai": chat_subject,
    "openai-responses": responses_subject,
    "azure": azure_subject,
    "vllm": compatible_subject,
    "anthropic": anthropic_subject,
    "bedrock": bedrock_subject,
    "gemini": gemini_subject,
    "ollama": ollama_subject,
    "scripted": scripted_subject,
    "replay": replay_subject,
}
"""Name of a provider → its subject. The local model adds its own from its test module's conftest."""
