"""Calls, tokens and dollars of a run, before any call is made."""

from dspex.compiler.estimate.estimates import Estimates
from dspex.compiler.estimate.estimating import estimate

__all__ = ["Estimates", "estimate"]
