"""Wire protocols, all behind `dspex.lm.model.LanguageModel`; `open_model` picks one by the prefix of the model's name.

Besides the protocols of services and servers there are ``local``, the real local model in a child process,
``scripted``, a Python function, and ``replay``, a recording. docs/providers.md lists them all.
"""

from __future__ import annotations

from dspex.providers.open import EMBEDDERS, PROVIDERS, open_embedding_model, open_model

__all__ = ["EMBEDDERS", "PROVIDERS", "open_embedding_model", "open_model"]
