"""Elementary functions from their series, in exact decimals."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext


def exp(x: float) -> float:
    if math.isnan(x) or abs(x) > 1e4:
        return math.nan if math.isnan(x) else math.inf if x > 0 else 0.0
    with localcontext(prec=60, Emin=-99999, Emax=99999):
        return float(Decimal(x).exp())


def log(x: float) -> float:
    if math.isnan(x) or x < 0.0:
        return math.nan
    if x == 0.0 or math.isinf(x):
        return -math.inf if x == 0.0 else math.inf
    with localcontext(prec=60):
        return float(Decimal(x).ln())


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))
