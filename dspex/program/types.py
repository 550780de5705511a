"""Types that schemas of language-model programs need: strict, with the unit in the name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

__all__ = ["ApiKey", "Confidence", "CostUSD", "LatencySeconds", "Probability"]

Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False, description="probability, 0 to 1")]
Confidence = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False, description="confidence, 0 to 1")]
CostUSD = Annotated[float, Field(ge=0.0, allow_inf_nan=False, description="US dollars")]
LatencySeconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False, description="seconds")]


class ApiKey(SecretStr):
    """A secret. It prints, logs and serialises as stars; `get_secret_value()` is the only way to its text."""
