"""Wire protocols: one file each, all behind `dspex.lm.model.LanguageModel`.

``openai`` any OpenAI-compatible HTTP server · ``local`` the real local model in a child process · ``scripted`` a Python
function · ``replay`` a recording. `open_model` picks one by the prefix of the model's name.
"""

from __future__ import annotations

from dspex.providers.open import PROVIDERS, open_model

__all__ = ["PROVIDERS", "open_model"]
