"""What is known of Claude models by their names on every platform."""

from __future__ import annotations

import pytest

from dspex.providers.anthropic.claude import claude


@pytest.mark.parametrize(
    ("name", "sampling", "schemas", "thinking"),
    [
        ("claude-instant-v1", True, False, "none"),
        ("anthropic.claude-v2:1", True, False, "none"),
        ("claude-3-haiku-20240307", True, False, "none"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", True, False, "none"),
        ("claude-3-7-sonnet-latest", True, False, "budget"),
        ("claude-opus-4-20250514", True, False, "budget"),
        ("claude-opus-4@20250514", True, False, "budget"),
        ("claude-opus-4-1", True, True, "budget"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", True, True, "budget"),
        ("anthropic/claude-sonnet-4.5", True, True, "budget"),
        ("claude-haiku-4-5", True, True, "budget"),
        ("anthropic.claude-opus-4-6-v1", True, True, "both"),
        ("claude-sonnet-4-6", True, True, "both"),
        ("claude-opus-4-7", False, True, "effort"),
        ("claude-sonnet-5", False, True, "effort"),
        ("global.anthropic.claude-opus-5-5", False, True, "effort"),
        ("claude-fable-5", False, True, "effort"),
        ("claude-mythos-preview", False, True, "effort"),
        ("Claude-Of-Tomorrow", False, True, "effort"),
    ],
)
def test_a_name_tells_what_a_model_takes(name: str, sampling: bool, schemas: bool, thinking: str) -> None:
    known = claude(name)
    assert known is not None
    assert (known.sampling, known.schemas, known.thinking) == (sampling, schemas, thinking)
    assert known.capabilities.reasoning is (thinking != "none")


@pytest.mark.parametrize("name", ["kimi-k3", "amazon.nova-lite-v1:0", "cloud-3", ""])
def test_other_models_are_not_known(name: str) -> None:
    assert claude(name) is None
