"""From a configured name to a model that can be called."""

from __future__ import annotations

from collections.abc import Callable

from dspex.errors import UsageError
from dspex.lm.model import LM, LanguageModel


def _open_openai(lm: LM) -> LanguageModel:
    from dspex.providers.openai import open_openai

    return open_openai(lm)


def _open_local(lm: LM) -> LanguageModel:
    from dspex.providers.local import open_local

    return open_local(lm)


def _open_replay(lm: LM) -> LanguageModel:
    from dspex.providers.replay import replay

    return replay(lm.model.partition("/")[2])


PROVIDERS: dict[str, Callable[[LM], LanguageModel]] = {
    "openai": _open_openai,
    "local": _open_local,
    "replay": _open_replay,
}
"""What may stand before the first slash of a model's name. A provider's module is imported when it is first opened."""


def open_model(lm: LM) -> LanguageModel:
    """The model that `lm` names. Nothing is sent; connections are made by the first call.

    Raises:
        UsageError: DX8110, unknown provider; and what the provider itself requires, such as a key.
    """
    opener = PROVIDERS.get(lm.provider)
    if opener is None:
        raise UsageError(
            "DX8110",
            f"no provider is named {lm.provider!r} (in {lm.model!r}); known: {', '.join(sorted(PROVIDERS))}",
            fix='any OpenAI-compatible server is dx.LM("openai/NAME", base_url="http://host:port/v1")',
        )
    return opener(lm)
